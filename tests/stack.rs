//! What a computation with a key leaves on the stack below its caller: nothing of the key, of keys made from it, or of what was sealed.

use claviger::digest::{SealKey, SeededRandom};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    thread::{self, ScopedJoinHandle},
};

/// A computation with a key.
type Act<'a> = &'a (dyn Fn(&SealKey) + Sync);

/// As far down as anything here goes.
const DEPTH: usize = 64 << 10;

/// This thread's stack below this function, read by the kernel, so that reading hardly writes on it.
#[inline(never)]
fn below(memory: &File, into: &mut [u8]) {
    let here = 0u8;
    let at = (&raw const here) as usize;
    memory.read_exact_at(into, (at - into.len()) as u64).unwrap();
}

fn holds(stack: &[u8], needle: &[u8]) -> bool {
    stack.windows(needle.len()).any(|window| window == needle)
}

#[inline(never)]
fn leaves_a_trace(bytes: &[u8; 32]) -> u8 {
    let mut copy = [0u8; 4096];
    copy[100..132].copy_from_slice(bytes);
    std::hint::black_box(&mut copy)[101]
}

#[test]
fn a_computation_with_a_key_leaves_nothing_of_it_below_its_caller() {
    let memory = File::open("/proc/self/mem").unwrap();
    let bytes: [u8; 32] = std::array::from_fn(|n| 0xa1 ^ (n as u8).wrapping_mul(37));
    let plain = [b"a value that is sealed and opened".as_slice(), &[0x5a; 31]].concat();
    let mac = SealKey::from_bytes(&bytes).unwrap().mac(b"a name").expose().to_vec();
    let derived = SealKey::from_bytes(&bytes).unwrap().derive("another use").expose().to_vec();
    let sealed = SealKey::from_bytes(&bytes).unwrap().seal(b"place", &plain, &SeededRandom::new(3));
    // Each on a new stack, with what it must not leave.
    let look = |act: Act| {
        thread::scope(|scope| {
            let run: ScopedJoinHandle<Vec<u8>> = scope.spawn(|| {
                let key = SealKey::from_bytes(&bytes).unwrap();
                let mut stack = vec![0; DEPTH];
                act(&key);
                below(&memory, &mut stack);
                stack
            });
            run.join().unwrap()
        })
    };
    let control = look(&|_| {
        leaves_a_trace(&bytes);
    });
    assert!(holds(&control, &bytes[..16]), "whoever looks sees what was left");
    let random = SeededRandom::new(4);
    let cases: [(&str, Act); 4] = [
        ("sealing", &|key| drop(key.seal(b"place", &plain, &random))),
        ("opening", &|key| drop(key.open(b"place", &sealed).unwrap())),
        ("deriving", &|key| drop(key.derive("another use"))),
        ("a mac", &|key| drop(key.mac(b"a name"))),
    ];
    for (name, act) in cases {
        let stack = look(act);
        for (what, needle) in [("the key", &bytes[..]), ("a derived key", &derived), ("a mac", &mac), ("the value", &plain)] {
            assert!(!holds(&stack, &needle[..16]), "{name} leaves {what}");
        }
    }
}

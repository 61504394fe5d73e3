//! Memory in which keys rest: nobody reads it through the kernel, root and debuggers included, it is in no core file and never swapped.
//!
//! Made of memfd_secret(2) pages where the kernel has them; elsewhere of locked pages that are left out of core files, which is said in
//! `status`. Keys come here as soon as they are read and leave it only into the registers and the stack of who computes with them.
//! While such pages exist the host does not hibernate.

mod arena;

use arena::{Arena, GRANULE, Kind, Slot};
use std::{
    mem::{align_of, size_of},
    ops::Deref,
    ptr::NonNull,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// All arenas of this process; more are made when they are full. They live as long as it does.
static ARENAS: Mutex<Vec<Arena>> = Mutex::new(Vec::new());

fn arenas() -> MutexGuard<'static, Vec<Arena>> {
    // A slot is taken and given back by single steps; whoever panics in between has at most lost one.
    ARENAS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(bytes: usize) -> Slot {
    let mut arenas = arenas();
    let found = arenas.iter_mut().enumerate().find_map(|(index, arena)| arena.take(index, bytes));
    if let Some(slot) = found {
        return slot;
    }
    let mut arena = Arena::new(bytes);
    // A new arena holds at least what it was made for.
    let slot = arena.take(arenas.len(), bytes).expect("a new arena has room");
    arenas.push(arena);
    slot
}

/// What keeps this process's vault from being closed to everybody, in a sentence; `None` where it is. Makes the vault.
pub fn vault_shortfall() -> Option<String> {
    drop(VaultBytes::of(b""));
    let worst = arenas().iter().map(Arena::kind).max();
    match worst {
        None | Some(Kind::Secret) => None,
        Some(Kind::Locked) => Some(
            "this kernel gives no secret memory (memfd_secret: Linux 5.14, not switched off, within LimitMEMLOCK): keys rest in locked \
             memory that root can read"
                .to_owned(),
        ),
        Some(Kind::Plain) => Some(
            "keys rest in ordinary memory, which may be swapped: neither secret nor locked memory can be had (LimitMEMLOCK)".to_owned(),
        ),
    }
}

/// A value that rests in the vault. Dropping it wipes its place.
pub struct Vaulted<T> {
    slot: Slot,
    value: NonNull<T>,
}

// SAFETY: it owns its value, as a `Box` does.
unsafe impl<T: Send> Send for Vaulted<T> {}
// SAFETY: shared, it gives out shared references only.
unsafe impl<T: Sync> Sync for Vaulted<T> {}

impl<T> Vaulted<T> {
    /// Moves the value into the vault. Where it was moved from lies on the stack, so whoever made it there calls
    /// [`scrub_stack`](super::scrub_stack) afterwards.
    pub fn new(value: T) -> Self {
        const { assert!(align_of::<T>() <= GRANULE) };
        let slot = take(size_of::<T>());
        let place = slot.start().cast::<T>();
        // SAFETY: the slot is ours alone, as large as asked for, and aligned to a granule.
        unsafe { place.write(value) };
        Self { slot, value: place }
    }
}

impl<T> Deref for Vaulted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: written in `new`, dropped only in `drop`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Drop for Vaulted<T> {
    fn drop(&mut self) {
        // SAFETY: written in `new`, and nobody uses it after this.
        unsafe { self.value.drop_in_place() };
        give_back(&mut self.slot);
    }
}

/// Bytes that rest in the vault. There is deliberately no `Debug` or `Clone`.
pub struct VaultBytes {
    slot: Slot,
    len: usize,
}

impl VaultBytes {
    /// Copies the bytes into the vault. Wiping where they came from is the caller's.
    pub fn of(bytes: &[u8]) -> Self {
        let mut made = Self { slot: take(bytes.len()), len: bytes.len() };
        made.bytes_mut().copy_from_slice(bytes);
        made
    }

    /// `len` zero bytes, to be filled in place.
    pub fn zeroed(len: usize) -> Self {
        // A slot is wiped when it is given back, and new pages are zero.
        Self { slot: take(len), len }
    }

    /// The bytes themselves. Each call is a place to look at in review.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: the slot is ours, at least so long, and initialised: pages begin as zeros.
        unsafe { std::slice::from_raw_parts(self.slot.start().as_ptr(), self.len) }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// To be filled in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.slot.start().as_ptr(), self.len) }
    }
}

impl Drop for VaultBytes {
    fn drop(&mut self) {
        give_back(&mut self.slot);
    }
}

fn give_back(slot: &mut Slot) {
    slot.wipe();
    if let Some(arena) = arenas().get_mut(slot.arena()) {
        arena.give_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{
        sys::uio::{RemoteIoVec, process_vm_readv},
        unistd::getpid,
    };
    use std::{io::IoSliceMut, os::unix::fs::FileExt};

    #[test]
    fn values_keep_apart_and_are_wiped() {
        let held: Vec<_> = (0..5000u32).map(|n| VaultBytes::of(&[n as u8; 77])).collect();
        assert!(held.iter().enumerate().all(|(n, bytes)| bytes.expose() == [n as u8; 77]));
        let at = held[7].expose().as_ptr();
        let before = arenas().len();
        drop(held);
        // SAFETY: arenas are never unmapped, and this test looks only at a place that nobody is given meanwhile or that is given whole.
        let after: Vec<u8> = (0..77).map(|n| unsafe { at.add(n).read_volatile() }).collect();
        assert!(after != [7; 77], "what was given back is wiped");
        let again: Vec<_> = (0..5000u32).map(|_| Vaulted::new([3u64; 9])).collect();
        assert!(again.iter().all(|value| **value == [3; 9]));
        assert!(arenas().len() <= before + 1, "room is used again");
        assert!(VaultBytes::zeroed(300).expose().iter().all(|byte| *byte == 0));
        let large = VaultBytes::of(&vec![5; 1 << 20]);
        assert_eq!(large.expose().len(), 1 << 20, "an arena of its own");
    }

    #[test]
    fn dropping_drops_the_value() {
        let counted = std::sync::Arc::new(());
        let vaulted = Vaulted::new(counted.clone());
        assert_eq!(std::sync::Arc::strong_count(&vaulted), 2);
        drop(vaulted);
        assert_eq!(std::sync::Arc::strong_count(&counted), 1);
    }

    /// Not even through the kernel by this process itself, which may do all to itself, and as root in these tests all to everybody.
    #[test]
    fn the_kernel_reads_it_for_nobody() {
        if let Some(why) = vault_shortfall() {
            eprintln!("\n*** SKIPPED: {why} ***\n");
            return;
        }
        let secret = VaultBytes::of(b"in the vault");
        let plain = b"not in the vault".to_vec();
        let read = |bytes: &[u8]| {
            let mut into = vec![0; bytes.len()];
            let remote = RemoteIoVec { base: bytes.as_ptr() as usize, len: bytes.len() };
            process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut into)], &[remote]).map(|_| into)
        };
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let through_proc = |bytes: &[u8]| {
            let mut into = vec![0; bytes.len()];
            memory.read_exact_at(&mut into, bytes.as_ptr() as u64).map(|()| into)
        };
        assert_eq!(read(&plain).unwrap(), plain);
        assert_eq!(through_proc(&plain).unwrap(), plain);
        assert_eq!(read(secret.expose()), Err(nix::errno::Errno::EFAULT));
        assert_eq!(through_proc(secret.expose()).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}

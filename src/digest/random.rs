//! Randomness as a parameter.

use super::hash::hmac_sha256;
use ring::rand::SecureRandom;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Where random bytes come from.
pub trait Random: Send + Sync {
    /// Fills `out`. A system without randomness cannot keep secrets, so an implementation may abort but never return less.
    fn fill(&self, out: &mut [u8]);

    /// 128 random bits.
    fn u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_be_bytes(bytes)
    }
}

/// The kernel's generator.
pub struct SystemRandom {
    kernel: ring::rand::SystemRandom,
    numbers: Mutex<Numbers>,
}

/// Bytes for numbers, fetched many at a time: a number for an id is public anyhow.
struct Numbers {
    bytes: [u8; 1024],
    used: usize,
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self { kernel: ring::rand::SystemRandom::new(), numbers: Mutex::new(Numbers { bytes: [0; 1024], used: 1024 }) }
    }
}

impl Random for SystemRandom {
    fn fill(&self, out: &mut [u8]) {
        // getrandom(2) fails only on kernels without it; going on without randomness would be worse than ending.
        self.kernel.fill(out).expect("the kernel's random generator answers");
    }

    fn u128(&self) -> u128 {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.used == numbers.bytes.len() {
            self.fill(&mut numbers.bytes);
            numbers.used = 0;
        }
        let next = numbers.used;
        numbers.used += 16;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&numbers.bytes[next..next + 16]);
        u128::from_be_bytes(bytes)
    }
}

/// A repeatable stream for tests: never used by the binaries.
pub struct SeededRandom {
    seed: u64,
    next: AtomicU64,
}

impl SeededRandom {
    /// The stream of that seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: AtomicU64::new(0) }
    }
}

impl Random for SeededRandom {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            chunk.copy_from_slice(&hmac_sha256(&self.seed.to_be_bytes(), &n.to_be_bytes())[..chunk.len()]);
        }
    }
}

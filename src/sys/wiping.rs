//! Memory that leaves nothing behind: a global allocator that wipes what is freed, and a stack that is wiped below its caller.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    arch::asm,
    hint::black_box,
};

/// Writes zeros that the compiler may not leave out, at the speed of memset(3).
///
/// # Safety
/// `start` must be valid for writing `len` bytes that nobody else uses.
// SAFETY: the caller's, as said above.
pub(super) unsafe fn wipe(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { start.write_bytes(0, len) };
    // SAFETY: no instruction at all. To the compiler it may read all memory that the address leads to, so what was written must be there.
    unsafe { asm!("/* {} */", in(reg) start, options(nostack, preserves_flags, readonly)) };
}

/// The system's allocator, wiping every piece when it is freed. Growing moves to a new piece, so that the old one is wiped as well.
///
/// Values are wiped by whoever holds them; this is for the copies that nobody holds any more: buffers of the HTTP library, of the JSON
/// parser, of libraries for sources, vectors that grew.
pub struct WipingAllocator;

// SAFETY: every call is the system allocator's; wiping touches only a piece that its owner gives back, within its length. `realloc` is
// the trait's own: allocate, copy, deallocate.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if !crate::mutation!("wiping-allocator") {
            // SAFETY: allocated with this layout, and nobody uses it after this.
            unsafe { wipe(start, layout.size()) };
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(start, layout) }
    }
}

/// More than any computation with a key leaves below its caller (the P-256 signature of the crypto library is the deepest).
const DEPTH: usize = 16 << 10;

/// Wipes the stack below the caller: copies of keys and of what was sealed that computing with them left there. The computation itself
/// must be in a function that is not inlined, or its copies lie above.
#[inline(never)]
pub fn scrub_stack() {
    if crate::mutation!("scrub-stack") {
        return;
    }
    let mut below = [0u8; DEPTH];
    // SAFETY: an array of our own.
    unsafe { wipe(below.as_mut_ptr(), DEPTH) };
    black_box(&below);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_is_wiped() {
        let layout = Layout::from_size_align(4096, 16).unwrap();
        // SAFETY: allocated, used and freed as it must be; what lies in a freed piece is looked at through a second one that a freeing
        // system allocator would hand out again, so nothing freed is read.
        unsafe {
            let start = WipingAllocator.alloc(layout);
            start.write_bytes(0xa5, 4096);
            let grown = WipingAllocator.realloc(start, layout, 8192);
            assert!((0..4096).all(|n| *grown.add(n) == 0xa5), "growing keeps what was there");
            wipe(grown, 8192);
            assert!((0..8192).all(|n| *grown.add(n) == 0));
            WipingAllocator.dealloc(grown, Layout::from_size_align(8192, 16).unwrap());
        }
    }
}

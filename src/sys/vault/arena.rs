//! A stretch of closed memory between two pages that nobody may touch, given out in slots.

use nix::errno::Errno;
use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::{NonNull, null_mut},
};

/// Slots begin at multiples of this and are as long: a cache line, so that two keys never share one.
pub(super) const GRANULE: usize = 64;
/// An arena without its guards; room for some four thousand keys.
const SIZE: usize = 256 << 10;
/// A multiple of every page size that Linux has (4, 16 or 64 KiB).
const PAGE: usize = 64 << 10;

/// How closed an arena is, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// memfd_secret(2): not in the kernel's own mapping, so no system call reads it, whoever makes it.
    Secret,
    /// mlock(2) and MADV_DONTDUMP: never swapped and in no core file.
    Locked,
    /// Neither could be had.
    Plain,
}

/// A stretch of memory. It is never given back to the kernel.
pub(super) struct Arena {
    start: NonNull<u8>,
    kind: Kind,
    /// One for each granule, whether it is taken.
    taken: Vec<bool>,
}

// SAFETY: the memory belongs to no thread.
unsafe impl Send for Arena {}

/// A place in an arena that one owner has.
pub(super) struct Slot {
    arena: usize,
    start: NonNull<u8>,
    first: usize,
    granules: usize,
}

// SAFETY: a slot is an address and its owner's right to it; who may read or write there is the owner's business.
unsafe impl Send for Slot {}
// SAFETY: a shared slot gives out its address only.
unsafe impl Sync for Slot {}

impl Arena {
    /// One that has room for `least` bytes. The closest kind of memory that can be had.
    pub(super) fn new(least: usize) -> Arena {
        let size = least.max(SIZE).next_multiple_of(PAGE);
        // A process that cannot have a few pages of memory at all ends, as it does wherever else it wants some.
        let (start, kind) = map(size).expect("memory for keys");
        Arena { start, kind, taken: vec![false; size / GRANULE] }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// A slot of so many bytes, if there is room; `index` says which arena this is.
    pub(super) fn take(&mut self, index: usize, bytes: usize) -> Option<Slot> {
        let granules = bytes.div_ceil(GRANULE).max(1);
        let mut free = 0;
        let last = self.taken.iter().position(|taken| {
            free = if *taken { 0 } else { free + 1 };
            free == granules
        })?;
        let first = last + 1 - granules;
        self.taken[first..=last].fill(true);
        // SAFETY: within this arena's memory.
        let start = unsafe { self.start.add(first * GRANULE) };
        Some(Slot { arena: index, start, first, granules })
    }

    pub(super) fn give_back(&mut self, slot: &Slot) {
        self.taken[slot.first..slot.first + slot.granules].fill(false);
    }
}

impl Slot {
    pub(super) fn arena(&self) -> usize {
        self.arena
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Leaves zeros.
    pub(super) fn wipe(&mut self) {
        // SAFETY: the slot's own memory, which nobody else refers to.
        unsafe { super::super::wiping::wipe(self.start.as_ptr(), self.granules * GRANULE) };
    }
}

fn map(size: usize) -> Result<(NonNull<u8>, Kind), Errno> {
    let inner = reserve(size)?;
    if !crate::mutation!("secret-memory") && secret(inner.as_ptr().cast(), size).is_ok() {
        return Ok((inner, Kind::Secret));
    }
    // Pages of its own: where secret memory was refused the kernel has taken the old ones away, and another thread may have mapped there.
    let inner = reserve(size)?;
    let at = inner.as_ptr().cast();
    // SAFETY: pages of our own, reserved just now; nothing is mapped anew, so there is never a hole.
    unsafe {
        Errno::result(libc::mprotect(at, size, libc::PROT_READ | libc::PROT_WRITE))?;
        let kept_out = libc::madvise(at, size, libc::MADV_DONTDUMP) == 0;
        let locked = libc::mlock(at, size) == 0;
        Ok((inner, if kept_out && locked { Kind::Locked } else { Kind::Plain }))
    }
}

/// So many bytes that nobody may touch yet, between two pages that nobody ever may.
fn reserve(size: usize) -> Result<NonNull<u8>, Errno> {
    let whole = size + 2 * PAGE;
    // SAFETY: a new mapping.
    let outer = unsafe { libc::mmap(null_mut(), whole, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if outer == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: within the mapping made above; the pages on both sides stay closed.
    NonNull::new(unsafe { outer.byte_add(PAGE) }.cast::<u8>()).ok_or(Errno::ENOMEM)
}

/// Puts secret memory over these pages; a limit on locked memory is met here. After an error they may be gone.
fn secret(at: *mut libc::c_void, size: usize) -> Result<(), Errno> {
    // SAFETY: makes a descriptor that nobody else has.
    let fd = unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    nix::unistd::ftruncate(&fd, size as i64)?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    // SAFETY: over pages of our own. The mapping keeps the memory, so the descriptor, by which it could be mapped again, is closed.
    let mapped = unsafe { libc::mmap(at, size, libc::PROT_READ | libc::PROT_WRITE, flags, fd.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // A child would see it. There is none, and if there ever is it does not.
    // SAFETY: our own pages.
    Errno::result(unsafe { libc::madvise(at, size, libc::MADV_DONTFORK) }).map(drop)
}

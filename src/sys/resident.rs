//! What the start needed and serving does not: given back to the kernel.

use std::ffi::c_void;

/// Gives back heap that the start freed, and unmaps the pages of our own program that it ran through (parsers of policy and
/// configuration are large): they stay in the page cache, and those that are needed again are mapped again when they are used.
///
/// madvise(2): for a private mapping of a file that was never written, `MADV_DONTNEED` drops nothing but the mapping.
pub fn release_start_pages() {
    release_free_memory();
    let (Ok(own), Ok(maps)) = (std::fs::read_link("/proc/self/exe"), std::fs::read_to_string("/proc/self/maps")) else { return };
    for (start, end) in maps.lines().filter_map(|line| code_of(line, own.to_str()?)) {
        // SAFETY: the range is a mapping of this program's file that may be read and executed and not written, so every page of it can
        // be read from the file again.
        unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Gives back heap that is free: the C library keeps what a peak took. Takes milliseconds, during which other threads wait for memory.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain call; it only returns memory that is free already.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The range of a line of `/proc/self/maps` (proc(5)) that maps code of the file `own`.
fn code_of(line: &str, own: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    (fields.next()? == "r-xp" && fields.nth(3)? == own).then_some(())?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_code_is_given_back() {
        let line = "55d0c9a00000-55d0c9b00000 r-xp 003ee000 fe:00 5313462                    /usr/bin/clavigerd";
        assert_eq!(code_of(line, "/usr/bin/clavigerd"), Some((0x55d0_c9a0_0000, 0x55d0_c9b0_0000)));
        assert_eq!(code_of(line, "/usr/bin/other"), None);
        assert_eq!(code_of(&line.replace("r-xp", "rw-p"), "/usr/bin/clavigerd"), None);
        assert_eq!(code_of("7ffc0000-7ffd0000 rw-p 00000000 00:00 0   [stack]", "/usr/bin/clavigerd"), None);
        // The test goes on running in what was just given back.
        release_start_pages();
    }
}

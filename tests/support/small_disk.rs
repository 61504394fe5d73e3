//! A small file system in a folder of a test's, which can be filled up. As root only.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

/// Mounted, and gone when this is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(at: PathBuf, mode: u32, bytes: u64) -> Self {
        fs::create_dir(&at).unwrap();
        let options = format!("size={bytes},mode={mode:o}");
        assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "claviger-test"]).arg(&at).status().unwrap().success());
        fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        Self(at)
    }

    /// Free bytes.
    pub fn free(&self) -> u64 {
        let said = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.0).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        said.split_whitespace().map(|n| n.parse::<u64>().unwrap()).product()
    }

    fn filler(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.0.join("fill")).unwrap()
    }

    /// Fills it up until only so many bytes are free; with 0 until nothing more goes in.
    pub fn fill(&self, leave: u64) {
        let (mut file, piece) = (self.filler(), [1; 64 << 10]);
        loop {
            let len = piece.len().min(self.free().saturating_sub(leave) as usize);
            if len == 0 || file.write_all(&piece[..len]).is_err() {
                return;
            }
        }
    }

    /// Fills it to the last byte, quickly.
    pub fn fill_up(&self) {
        let (mut file, piece) = (self.filler(), vec![1; 1 << 20]);
        // The last write takes what is left.
        while file.write(&piece).is_ok_and(|len| len > 0) {}
    }

    pub fn empty(&self) {
        fs::remove_file(self.0.join("fill")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test has not ended yet may have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

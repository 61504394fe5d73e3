//! Append-only files in one folder, behind two small traits so that tests can put a failing disk in their place.

use nix::{fcntl::FallocateFlags, sys::statvfs::statvfs};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::PathBuf,
};

/// One append-only file.
pub trait Storage: Send {
    /// Appends all of it. After an error any prefix may be in the file.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything written is on the disk. After an error nothing unsynced may be relied on, and it must not be asked again:
    /// the kernel reports a lost page once and then calls it clean.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Whether its name no longer leads to it: somebody removed or replaced it.
    fn displaced(&self) -> bool;
}

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process could still write.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// How well a small file must survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// On the disk when the call returns.
    Durably,
    /// Old or new content after a crash, whichever.
    Loosely,
}

/// A folder of append-only files on one file system.
pub trait Volume: Send {
    /// Makes a new file; its name is durable on return. An existing one is an error.
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Storage>>;
    /// Opens an existing file for appending.
    fn open(&mut self, name: &str) -> io::Result<Box<dyn Storage>>;
    /// Writes what stands behind byte `from` of a file once more in its place; it is on the disk on return, also where a sync that failed
    /// had left it in the kernel's memory alone.
    fn refresh(&mut self, name: &str, from: u64) -> io::Result<()>;
    /// Reads a file from its beginning.
    fn read(&self, name: &str) -> io::Result<Box<dyn Read>>;
    /// Every file's name and bytes, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Puts a small whole file in place of an older one: readers see either.
    fn replace(&mut self, name: &str, bytes: &[u8], keep: Keep) -> io::Result<()>;
    /// The room that is left.
    fn space(&self) -> io::Result<Space>;
    /// Whether the ballast file is there. It takes up room that is given back when records of endings need it.
    fn has_ballast(&self) -> bool;
    /// Makes or removes the ballast file.
    fn hold_ballast(&mut self, held: bool) -> io::Result<()>;
}

/// A folder of the host. Files are 0640, whatever the umask.
pub struct DiskVolume {
    folder: PathBuf,
    ballast: u64,
}

const BALLAST: &str = "ballast";

impl DiskVolume {
    /// An existing folder, with a ballast file of so many bytes (0 for none).
    pub fn new(folder: impl Into<PathBuf>, ballast: u64) -> Self {
        Self { folder: folder.into(), ballast }
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl Volume for DiskVolume {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Storage>> {
        let path = self.folder.join(name);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path)?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        self.sync_folder()?;
        Ok(Box::new(DiskFile { file, path }))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn Storage>> {
        let path = self.folder.join(name);
        Ok(Box::new(DiskFile { file: OpenOptions::new().append(true).open(&path)?, path }))
    }

    fn refresh(&mut self, name: &str, from: u64) -> io::Result<()> {
        let path = self.folder.join(name);
        let file = File::open(&path)?;
        if from >= file.metadata()?.len() {
            return file.sync_data();
        }
        // Appending would write behind the end whatever the position.
        let (mut from, file) = (from, OpenOptions::new().read(true).write(true).open(&path)?);
        let mut part = vec![0; 1 << 20];
        loop {
            let read = file.read_at(&mut part, from)?;
            if read == 0 {
                return file.sync_data();
            }
            file.write_all_at(&part[..read], from)?;
            from += read as u64;
        }
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(File::open(self.folder.join(name))?))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.file_type()?.is_file()) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))?;
        self.sync_folder()
    }

    fn replace(&mut self, name: &str, bytes: &[u8], keep: Keep) -> io::Result<()> {
        let new = self.folder.join(format!("{name}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        file.write_all(bytes)?;
        if keep == Keep::Durably {
            file.sync_all()?;
        }
        fs::rename(new, self.folder.join(name))?;
        if keep == Keep::Durably { self.sync_folder() } else { Ok(()) }
    }

    fn space(&self) -> io::Result<Space> {
        let found = statvfs(&self.folder)?;
        let unit = found.fragment_size();
        Ok(Space { free: found.blocks_available() * unit, total: found.blocks() * unit })
    }

    fn has_ballast(&self) -> bool {
        self.ballast == 0 || fs::metadata(self.folder.join(BALLAST)).is_ok_and(|found| found.len() == self.ballast)
    }

    fn hold_ballast(&mut self, held: bool) -> io::Result<()> {
        let path = self.folder.join(BALLAST);
        if !held {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if self.has_ballast() {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        // A hole would give nothing back: the blocks themselves are taken.
        if let Err(error) = nix::fcntl::fallocate(&file, FallocateFlags::empty(), 0, self.ballast as i64) {
            let _ = fs::remove_file(&path);
            return Err(error.into());
        }
        Ok(())
    }
}

struct DiskFile {
    file: File,
    path: PathBuf,
}

impl Storage for DiskFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn displaced(&self) -> bool {
        match (self.file.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) != (named.dev(), named.ino()),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_append_survive_and_notice_displacement() {
        let folder = tempfile::tempdir().unwrap();
        let mut volume = DiskVolume::new(folder.path(), 1 << 16);
        let mut file = volume.create("a").unwrap();
        assert!(volume.create("a").is_err());
        file.write_all(b"one\ntw").unwrap();
        file.sync().unwrap();
        file.truncate(4).unwrap();
        file.write_all(b"two\n").unwrap();
        volume.refresh("a", 2).unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one\ntwo\n");
        assert_eq!(fs::metadata(folder.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!file.displaced());
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert!(file.displaced());
        fs::write(folder.path().join("a"), b"other").unwrap();
        assert!(file.displaced());
        volume.hold_ballast(true).unwrap();
        assert!(volume.has_ballast());
        assert!(fs::metadata(folder.path().join(BALLAST)).unwrap().blocks() * 512 >= 1 << 16);
        volume.hold_ballast(false).unwrap();
        volume.hold_ballast(false).unwrap();
        assert!(!volume.has_ballast());
        volume.replace("c", b"x", Keep::Durably).unwrap();
        assert_eq!(volume.list().unwrap().iter().filter(|(name, len)| name == "c" && *len == 1).count(), 1);
    }
}

//! Whose a file is to be, and whether a folder keeps it in memory.

use nix::{
    errno::Errno,
    sys::statfs::{FsType, TMPFS_MAGIC, statfs},
    unistd::{Gid, Uid, fchown},
};
use std::{fs::File, io, path::Path};

/// Whose a file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOwner {
    uid: u32,
    gid: Option<u32>,
}

impl FileOwner {
    /// `USER` or `USER:GROUP`, by name or number; the text says what is unknown.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let uid = user.parse().ok().or_else(|| super::uid_of(user)).ok_or_else(|| format!("there is no user {user:?}"))?;
        let gid = |group: &str| group.parse().ok().or_else(|| super::gid_of(group)).ok_or_else(|| format!("there is no group {group:?}"));
        Ok(Self { uid, gid: group.map(gid).transpose()? })
    }

    /// Makes it the owner of an open file.
    pub(super) fn give(self, file: &File) -> Result<(), Errno> {
        fchown(file, Some(Uid::from_raw(self.uid)), self.gid.map(Gid::from_raw))
    }
}

/// Whether what is written into this folder stays in memory (tmpfs or ramfs; swap is the host's affair).
pub fn in_memory(folder: &Path) -> io::Result<bool> {
    let kind = statfs(folder)?.filesystem_type();
    Ok([TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind))
}

/// `linux/magic.h`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

//! Folders, files and the room for them.

use super::Findings;
use crate::{
    cli::Desk,
    config::Config,
    sys::{self, DiskVolume, Volume},
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

pub(super) fn look(desk: &Desk, config: &Config, findings: &mut Findings) {
    key(config, findings);
    for (what, path) in [("policy", &config.paths.policy), ("secrets", &config.paths.secrets), ("identities", &config.paths.identities)] {
        match sys::open_trusted_dir(path) {
            Ok(_) => findings.ok(what, path.display().to_string()),
            Err(error) => findings.fail(what, error.to_string(), "only root may write it and the folders above it; 'clav init' makes it"),
        }
    }
    folder("state", &config.paths.state, 0o077, findings);
    folder("audit log", &config.paths.audit, 0o027, findings);
    if let Ok(space) = DiskVolume::new(&config.paths.audit, 0).space() {
        let needed = config.audit.reserve_bytes.max(64 << 20);
        let found = format!("{} MiB free of {} MiB for the audit log", space.free >> 20, space.total >> 20);
        match space.free {
            free if free < config.audit.reserve_bytes => findings.fail("disk", found, "make room: nothing is issued"),
            free if free < needed * 4 => findings.warn("disk", found, "make room before issuing stops, or lower audit.keep_bytes"),
            _ => findings.ok("disk", found),
        }
    }
    for (what, path) in [("workload socket", &desk.workload), ("operator socket", &desk.operator)] {
        socket(what, path, what.starts_with("operator"), findings);
    }
    // Where the service manager holds the doors, this one is optional.
    let credentials = config.sockets.credentials();
    match credentials.exists() {
        true => socket("credentials socket", &credentials, true, findings),
        false => findings.warn(
            "credentials socket",
            format!("{} is not there: no unit can load credentials", credentials.display()),
            "systemctl enable --now clavigerd-credentials.socket, if any is to",
        ),
    }
}

fn key(config: &Config, findings: &mut Findings) {
    let path = &config.local.key_file;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.uid() == 0 && crate::sys::uid_of(&config.attest.daemon_user).is_some_and(|uid| uid != 0) => {
            findings.warn(
                "key",
                format!("{} belongs to root, and the daemon runs as {}", path.display(), config.attest.daemon_user),
                format!("chown {} {}", config.attest.daemon_user, path.display()),
            )
        }
        Ok(meta) if meta.is_file() && meta.mode() & 0o077 == 0 => {
            findings.ok("key", format!("{} ({:04o})", path.display(), meta.mode() & 0o7777))
        }
        Ok(meta) => findings.fail(
            "key",
            format!("{} has mode {:04o}", path.display(), meta.mode() & 0o7777),
            format!("chmod 0400 {}; others may have read it: rotate", path.display()),
        ),
        Err(error) => findings.warn(
            "key",
            format!("{}: {error}", path.display()),
            format!("clav init, unless the unit passes the credential {}", config.local.key_credential),
        ),
    }
}

fn folder(what: &str, path: &Path, forbidden: u32, findings: &mut Findings) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() && meta.mode() & forbidden == 0 => {
            findings.ok(what, format!("{} ({:04o})", path.display(), meta.mode() & 0o7777));
        }
        Ok(meta) => findings.warn(
            what,
            format!("{} has mode {:04o}", path.display(), meta.mode() & 0o7777),
            format!("chmod {:04o} {}", 0o777 & !forbidden, path.display()),
        ),
        Err(error) => findings.fail(what, format!("{}: {error}", path.display()), "clav init"),
    }
}

fn socket(what: &str, path: &Path, private: bool, findings: &mut Findings) {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if let Err(error) = sys::socket_folder_owner(folder) {
        return findings.fail(what, error.to_string(), "clients refuse a socket that others could exchange; start the socket units");
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => findings.fail(what, format!("{} is no socket", path.display()), "move it away"),
        Ok(meta) if private && meta.mode() & 0o007 != 0 => findings.fail(
            what,
            format!("{} has mode {:04o}: everybody is let in", path.display(), meta.mode() & 0o777),
            "SocketMode=0660 in the socket's unit",
        ),
        Ok(meta) => findings.ok(what, format!("{} ({:04o})", path.display(), meta.mode() & 0o777)),
        Err(error) => findings.fail(
            what,
            format!("{}: {error}", path.display()),
            "systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket",
        ),
    }
}

//! Programs of `command` engines: whether the daemon can ask them, and nobody else.

use super::Findings;
use crate::{
    config::{CommandConfig, Config, EngineConfig},
    sys,
};
use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let daemon = sys::uid_of(&config.attest.daemon_user).unwrap_or(0);
    for engine in &config.engines {
        if let EngineConfig::Command(program) = engine {
            socket(program, daemon, findings);
        }
    }
}

fn socket(program: &CommandConfig, daemon: u32, findings: &mut Findings) {
    let (what, path) = (&format!("program {}", program.name), program.socket());
    let unit = format!("claviger-command-{}.socket", program.name);
    if let Err(error) = sys::open_trusted_dir(path.parent().unwrap_or(Path::new("/")))
        && path.exists()
    {
        return findings.fail(
            what,
            error.to_string(),
            "only root may write the folders above its socket: the daemon believes nobody there",
        );
    }
    match fs::symlink_metadata(&path) {
        Err(error) => findings.fail(what, format!("{}: {error}", path.display()), format!("systemctl enable --now {unit}")),
        Ok(meta) if !meta.file_type().is_socket() => findings.fail(what, format!("{} is no socket", path.display()), "move it away"),
        Ok(meta) if meta.mode() & 0o022 != 0 => findings.fail(
            what,
            format!("{} has mode {:04o}: others may have credentials made", path.display(), meta.mode() & 0o777),
            format!("SocketMode=0600 in {unit}, which claviger-command-.socket.d says for every unit of that name"),
        ),
        Ok(meta) if meta.uid() != daemon => findings.fail(
            what,
            format!("{} belongs to uid {}, not to the daemon's user", path.display(), meta.uid()),
            format!("SocketUser= of the daemon in {unit}, which claviger-command-.socket.d says for every unit of that name"),
        ),
        Ok(meta) => findings.ok(what, format!("{} ({:04o})", path.display(), meta.mode() & 0o777)),
    }
}

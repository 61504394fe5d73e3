//! What engines that call others have in common in their rows: whom they trust, and secrets that are read when they are needed.

use super::build::BuildError;
use crate::{
    engine::openbao::Source,
    outbound::{SYSTEM_AUTHORITIES, Trust},
    sys,
};
use std::path::{Path, PathBuf};

/// The longest file of certificates or of a secret to log in with.
const MAX_FILE: usize = 1 << 20;
pub(super) const MAX_SECRET: usize = 16 << 10;

/// Where a URL goes, and to which path there: empty where it has none. The text says what is wrong.
pub(super) fn split_url(url: &str) -> Result<(&str, String), &'static str> {
    let host = url.find("://").map(|at| at + 3).ok_or("https://HOST/PATH")?;
    let path = url[host..].find('/').map_or(url.len(), |at| host + at);
    let sound = url[path..].bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'#');
    if sound { Ok((&url[..path], url[path..].to_owned())) } else { Err("a path without spaces and fragment") }
}

/// The authorities of a file, or the system's; the text says what is wrong.
pub(super) fn authorities(named: Option<&Path>) -> Result<Trust, String> {
    let read = |path: &Path| sys::read_trusted(path, MAX_FILE).map_err(|error| error.to_string());
    match named {
        Some(path) => Trust::named(read(path)?.as_bytes()),
        None => {
            let path = SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
            Trust::system(read(path.ok_or("this system has no list of authorities: name a ca_file")?)?.as_bytes())
        }
    }
    .map_err(|error| error.to_string())
}

/// A secret that is read anew each time it is needed, so that its file may be exchanged.
pub(super) fn secret_source(path: PathBuf) -> Result<Source, BuildError> {
    // Read now too: what is missing stops the start and not the first request.
    sys::read_private(&path, MAX_SECRET)?;
    Ok(Source::new(move || sys::read_private(&path, MAX_SECRET).map_err(|error| error.to_string())))
}

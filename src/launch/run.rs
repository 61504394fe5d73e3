//! `clav-launch`: from its arguments to the program that it becomes.

use super::{
    manifest::{MAX_BYTES, Manifest},
    protocol::{Answer, LaunchName, MAX_MESSAGE, Question},
};
use crate::sys::{self, NotRoots, Packets};
use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Like `clav exec`: the program did not start.
const NOT_STARTED: u8 = 125;
const USAGE: u8 = 2;
const USAGE_TEXT: &str =
    "usage: clav-launch NAME [ARGUMENT...]\nstarts the program of /etc/claviger/launch.d/NAME apart from other programs of the same user";
/// The daemon answers at once or it is busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What a program finds others by; its caller has no say.
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin";

/// Where manifests and the daemon are.
struct Places {
    manifests: PathBuf,
    socket: PathBuf,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{USAGE_TEXT}")]
    Usage,
    #[error("{0:?} is no name of a manifest: lower-case letters, digits, '.', '_', '-'")]
    Name(OsString),
    #[error("there is no manifest {0}")]
    Unknown(PathBuf),
    #[error("manifest {0}")]
    Manifest(NotRoots),
    #[error("manifest {0}: {1}")]
    Line(PathBuf, super::ManifestError),
    #[error("{0}, so what would run is not only what root installed")]
    NotRoots(#[from] NotRoots),
    #[error("the manifest passes on no arguments of the caller's (pass-arguments yes)")]
    Arguments,
    #[error(
        "the launcher has no privilege to give the program a group of its own: it must be root's, with 'setcap cap_setgid=ep' on it, and neither traced nor started with no_new_privs or from a file system that is mounted nosuid"
    )]
    Privilege,
    #[error("{0}: {1}")]
    Daemon(PathBuf, io::Error),
    #[error("the daemon's answer is not understood: it is of another version")]
    Answer,
    #[error("refused: {0}")]
    Refused(String),
    #[error("{0}: {1}")]
    Step(&'static str, io::Error),
}

/// Runs with these arguments, the program's own name first, and these variables. Comes back with an exit code only if nothing was started.
pub fn main(arguments: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> u8 {
    match arguments.get(1).and_then(|first| first.to_str()) {
        Some("--help" | "-h") => {
            println!("{USAGE_TEXT}");
            return 0;
        }
        Some("--version") => {
            println!("clav-launch {}", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        _ => {}
    }
    let failure = launch(arguments, environment);
    eprintln!("clav-launch: {failure}");
    if matches!(failure, Failure::Usage | Failure::Name(_)) { USAGE } else { NOT_STARTED }
}

fn launch(arguments: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> Failure {
    match prepare(arguments, environment) {
        Ok((program, arguments, environment)) => {
            Failure::Step("executing the program", sys::become_program(&program, &arguments, &environment))
        }
        Err(failure) => failure,
    }
}

type Prepared = (CString, Vec<CString>, Vec<CString>);

fn prepare(arguments: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> Result<Prepared, Failure> {
    sys::keep_standard_streams_only().map_err(|error| Failure::Step("closing what is open", error))?;
    let mut arguments = arguments.into_iter().skip(1);
    let name = arguments.next().filter(|name| !name.as_bytes().starts_with(b"-")).ok_or(Failure::Usage)?;
    let name = name.to_str().and_then(LaunchName::parse).ok_or(Failure::Name(name))?;
    if !sys::may_set_groups().map_err(|error| Failure::Step("asking what this process may", error))? {
        return Err(Failure::Privilege);
    }
    let places = places()?;
    let path = places.manifests.join(name.as_str());
    let text = sys::read_roots_file(&path, MAX_BYTES).map_err(|error| match error {
        // Without the folder there is no manifest either.
        NotRoots::Io(_, error) if error.kind() == io::ErrorKind::NotFound => Failure::Unknown(path.clone()),
        error => Failure::Manifest(error),
    })?;
    let manifest = Manifest::parse(&text).map_err(|error| Failure::Line(path, error))?;
    let program = check(&manifest)?;
    let passed: Vec<OsString> = arguments.collect();
    if !passed.is_empty() && !manifest.pass_arguments {
        return Err(Failure::Arguments);
    }
    let group = ask(&places.socket, &Question { name, descendants: manifest.descendants })?;
    sys::settle(group, &manifest.directory).map_err(|error| Failure::Step("giving up privileges", error))?;
    let c = |text: &OsStr| CString::new(text.as_bytes()).map_err(|error| Failure::Step("an argument", error.into()));
    // The name as the manifest has it: some programs find their own files by it.
    let mut argv = vec![c(manifest.program.as_os_str())?];
    argv.extend(manifest.arguments.iter().map(|text| c(text.as_ref())).collect::<Result<Vec<_>, _>>()?);
    argv.extend(passed.iter().map(|text| c(text)).collect::<Result<Vec<_>, _>>()?);
    let mut variables = vec![c(PATH.as_ref())?];
    for (key, value) in environment.into_iter().filter(|(key, _)| manifest.keep.iter().any(|kept| kept.as_bytes() == key.as_bytes())) {
        variables.push(c(&OsString::from_vec([key.as_bytes(), b"=", value.as_bytes()].concat()))?);
    }
    Ok((c(program.as_os_str())?, argv, variables))
}

/// Where the program lies in truth, if it, its trees and every file that an argument names are root's alone.
fn check(manifest: &Manifest) -> Result<PathBuf, Failure> {
    let program = sys::check_roots_file(&manifest.program)?;
    manifest.trees.iter().try_for_each(|tree| sys::check_roots_tree(tree))?;
    manifest.arguments.iter().map(Path::new).filter(|path| path.is_absolute()).try_for_each(sys::check_roots_named)?;
    Ok(program)
}

fn ask(socket: &Path, question: &Question) -> Result<u32, Failure> {
    let daemon = |error| Failure::Daemon(socket.to_owned(), error);
    // Whoever may change the folder decides who answers; the answer is a number within a range, and the daemon's record of it or none.
    let packets = Packets::connect_within(socket, ANSWER_WITHIN).map_err(daemon)?;
    packets.send(&question.encode(), &[]).map_err(daemon)?;
    let mut buffer = [0; MAX_MESSAGE];
    let packet = packets.receive(&mut buffer).map_err(daemon)?.ok_or_else(|| daemon(io::ErrorKind::UnexpectedEof.into()))?;
    match Answer::decode(&buffer[..packet.len]) {
        Some(Answer::Group(group)) => Ok(group),
        Some(Answer::Refused(why)) => Err(Failure::Refused(why)),
        None => Err(Failure::Answer),
    }
}

fn places() -> Result<Places, Failure> {
    #[cfg(feature = "testing")]
    if let Some(places) = beside_itself()? {
        return Ok(places);
    }
    Ok(Places { manifests: "/etc/claviger/launch.d".into(), socket: "/run/claviger/launch.sock".into() })
}

/// A build for tests looks beside itself: two lines, the folder of manifests and the socket. Never where its caller says.
#[cfg(feature = "testing")]
fn beside_itself() -> Result<Option<Places>, Failure> {
    let own = std::fs::read_link("/proc/self/exe").map_err(|error| Failure::Step("finding itself", error))?;
    let path = own.with_file_name("clav-launch.conf");
    if !path.exists() {
        return Ok(None);
    }
    let text = sys::read_roots_file(&path, 4096)?;
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (Some(manifests), Some(socket)) => Ok(Some(Places { manifests: manifests.into(), socket: socket.into() })),
        _ => Err(Failure::Step("clav-launch.conf", io::ErrorKind::InvalidData.into())),
    }
}

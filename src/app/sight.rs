//! Before anybody is served: the daemon attests itself, and as root a child of another user, as it will attest others. What it cannot see
//! now it would not see then, so it does not serve and says why.

use super::attestor::AttestError;
use crate::{
    attest::{Attestor, Eyes, Names, Roll},
    model::Registry,
    sys::{self, Executable, FileId, OVERFLOW_ID, ProcDir, Role},
};
use std::{
    io,
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Child, Command, Stdio},
};

/// The hidden subcommand that the child runs.
pub const PROBE: &str = "probe";
/// The child's user: one that no account has, and not nobody, which is how a user namespace shows those that it does not know.
const PROBE_UID: u32 = 65_533;

/// Attests this process over a connection of its own, and where this process may make one, a child of another user. With an attestor the
/// first is that already: the attestor is another user, and this process can be looked at by nobody without privilege.
pub(super) async fn prove(attestor: &Attestor, probe: Option<io::Result<Probe>>) -> Result<(), AttestError> {
    if crate::mutation!("sight") {
        return Ok(());
    }
    let roll = Roll::new(Registry::default(), Names::default());
    let kernel = |error| AttestError::Kernel(error);
    let me = ProcDir::open(std::process::id()).and_then(|me| Executable::id_of(&me)).map_err(kernel)?;
    let (one, _other) = UnixStream::pair().map_err(kernel)?;
    let blind = |what: String| AttestError::Blind(what, cause(attestor), None);
    let failed = |what: &str, error: io::Error| {
        let cause = if sys::is_passing_io(&error) { "this host is short of something, or a disk failed" } else { cause(attestor) };
        AttestError::Blind(format!("{what}: {error}"), cause, Some(error))
    };
    let seen = attestor.accept(&one, &roll).await.map_err(|error| failed("this daemon cannot be attested", error))?;
    let evidence = &seen.own().evidence;
    same_program("this daemon", me, evidence.process.exe.as_ref().map(|exe| exe.id)).map_err(blind)?;
    if evidence.connect.pid == 0 || evidence.connect.uid == OVERFLOW_ID {
        return Err(blind(format!("this daemon is seen as pid {} of uid {}", evidence.connect.pid, evidence.connect.uid)));
    }
    // A daemon that is an ordinary user's attests that user's processes and says so.
    let Some(probe) = probe else { return Ok(()) };
    let probe = match probe {
        Ok(probe) => probe,
        // It may be confined so that it cannot make one. What it would show can be told apart from it.
        Err(error) if attestor.source().sight().is_some_and(|sight| sight.looks_at_all && !sight.own_users) => {
            tracing::warn!(%error, "no process of another user can be made, so attesting one was not tried");
            return Ok(());
        }
        Err(error) => return Err(failed("no process of another user can be made to try it", error)),
    };
    let subject = attestor.by_pid(probe.0.id(), &roll).await;
    let subject = subject.map_err(|error| failed("a process of another user cannot be attested", error))?;
    let process = &subject.evidence.process;
    same_program("a process of another user", me, process.exe.as_ref().map(|exe| exe.id)).map_err(blind)?;
    match process.uids {
        uids if uids == [PROBE_UID; 4] => Ok(()),
        uids => Err(blind(format!("a process of uid {PROBE_UID} is seen as one of uid {}", uids[1]))),
    }
}

fn same_program(whose: &str, ours: FileId, seen: Option<FileId>) -> Result<(), String> {
    match seen {
        Some(seen) if seen.same_file(&ours) => Ok(()),
        Some(_) => Err(format!("{whose} is seen with another program than it runs")),
        None => Err(format!("the program of {whose} is not seen")),
    }
}

/// What keeps whoever gathers from seeing, as far as it can be told.
fn cause(attestor: &Attestor) -> &'static str {
    let Some(sight) = attestor.source().sight() else { return "the attestor is not there" };
    let own = attestor.source().eyes() == Eyes::Daemon;
    if sight.own_users {
        return if own {
            "this daemon runs in a user namespace of its own (PrivateUsers=, a rootless container): others are nobody there"
        } else {
            "the attestor runs in a user namespace of its own (PrivateUsers=): its capabilities count for nothing outside"
        };
    }
    if !sight.looks_at_all {
        return "CAP_SYS_PTRACE is missing (AmbientCapabilities=, or --cap-add in a container); without it a /proc with hidepid hides the rest";
    }
    "it has CAP_SYS_PTRACE, so something forbids what that allows: Landlock or another security module confines whoever looks, \
     or it is in another pid namespace"
}

/// The child; it ends with this.
pub(super) struct Probe(Child);

impl Probe {
    /// The child of a process that looks at others itself and may make another user's; none for any other.
    pub(super) fn for_role(role: Role) -> Option<io::Result<Self>> {
        (role == Role::Single && sys::euid() == 0).then(Self::start)
    }

    fn start() -> io::Result<Self> {
        // By the link, so that it is this very file whatever its path leads to now; a user without any right can execute it all the same,
        // for the folders on the way are not walked.
        let mut command = Command::new("/proc/self/exe");
        command.arg(PROBE).uid(PROBE_UID).gid(PROBE_UID).env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Its standard input is closed by waiting for it, and with that it ends: this process may send no signal.
        let _ = self.0.wait();
    }
}

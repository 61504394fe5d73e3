//! `clav init`: folders, key and first files of an installation. What is there is never touched.

use super::{Desk, Done, Failure, output::line};
use crate::{
    digest::{Random, SystemRandom},
    model::{SecretBytes, Ttl},
    policy::BASELINE,
    sys::{self, Clock, SystemClock},
};
use clap::Args;
use std::{
    fs::{DirBuilder, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// Put everything below this folder, for packages and images
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// The daemon's user in the shipped unit.
const DAEMON: &str = "claviger";

const CONFIG: &str = include_str!("../../config/clavigerd.toml");

pub(super) fn run(desk: &Desk, arguments: Arguments) -> Done {
    if arguments.root.is_none() && sys::euid() != 0 {
        return Err(Failure::Usage("init makes root's files: run it as root, or with --root DIR".into()));
    }
    if desk.config != Path::new(super::CONFIG) {
        return Err(Failure::Usage(format!(
            "init makes the files of {} and what belongs to it; it takes no --config or CLAVIGER_CONFIG, and --root DIR puts all of it below another folder",
            super::CONFIG
        )));
    }
    let image = arguments.root.is_some();
    let mut work = Work { root: arguments.root.unwrap_or_else(|| "/".into()), made: 0, desk };
    let folders = [
        ("etc/claviger", 0o755, None),
        ("etc/claviger/policy.d", 0o755, None),
        ("etc/claviger/secrets.d", 0o755, None),
        ("etc/claviger/identities.d", 0o755, None),
        ("run/claviger", 0o755, None),
        ("var/lib/claviger", 0o700, None),
        ("var/log/claviger", 0o750, Some("claviger-audit")),
    ];
    for (path, mode, group) in folders {
        work.folder(path, mode, group)?;
    }
    let mut key = zeroize::Zeroizing::new([0u8; 32]);
    SystemRandom::default().fill(&mut *key);
    work.file("etc/claviger/key", SecretBytes::take_from(&mut *key).expose(), 0o400)?;
    if !image {
        work.hand_to_daemon("etc/claviger/key")?;
    }
    work.file("etc/claviger/clavigerd.toml", CONFIG.as_bytes(), 0o644)?;
    work.file("etc/claviger/policy.d/00-baseline.cedar", BASELINE.as_bytes(), 0o644)?;
    let user = first_user();
    work.file("etc/claviger/identities.d/hello.toml", identity(user).as_bytes(), 0o644)?;
    work.file("etc/claviger/secrets.d/hello.toml", SECRET.as_bytes(), 0o644)?;
    work.file("etc/claviger/policy.d/hello.cedar", grant().as_bytes(), 0o644)?;
    for group in ["claviger-operators", "claviger-audit"] {
        if sys::gid_of(group).is_none() {
            line(&desk.style.yellow(&format!("group {group} does not exist: groupadd --system {group}, then run init again")))?;
        }
    }
    if work.made == 0 {
        line("Everything is there already; nothing was changed.")?;
    } else {
        line(&format!("\nNext:\n{}", next_steps(user)))?;
    }
    Ok(0)
}

struct Work<'a> {
    root: PathBuf,
    made: usize,
    desk: &'a Desk,
}

impl Work<'_> {
    fn folder(&mut self, path: &str, mode: u32, group: Option<&str>) -> Result<(), Failure> {
        let at = self.root.join(path);
        let fault = |error: std::io::Error| Failure::fault(format!("{}: {error}", at.display()));
        let new = match DirBuilder::new().mode(0o755).recursive(true).create(at.parent().unwrap_or(&self.root)) {
            Ok(()) => match DirBuilder::new().mode(0o700).create(&at) {
                Ok(()) => true,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && at.is_dir() => false,
                Err(error) => return Err(fault(error)),
            },
            Err(error) => return Err(fault(error)),
        };
        if new {
            if let Some(gid) = group.and_then(sys::gid_of) {
                chown(&at, None, Some(gid)).map_err(fault)?;
            }
            std::fs::set_permissions(&at, Permissions::from_mode(mode)).map_err(fault)?;
        }
        self.tell(&at, new)
    }

    fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let at = self.root.join(path);
        let fault = |error: std::io::Error| Failure::fault(format!("{}: {error}", at.display()));
        // Only ever a new file: what is there, or a link, stays what it is.
        let new = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at) {
            Ok(mut file) => {
                file.write_all(bytes).map_err(fault)?;
                file.set_permissions(Permissions::from_mode(mode)).map_err(fault)?;
                file.sync_all().map_err(fault)?;
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(fault(error)),
        };
        self.tell(&at, new)
    }

    /// The daemon has no privilege: what it is to read must be its user's.
    fn hand_to_daemon(&mut self, path: &str) -> Result<(), Failure> {
        let at = self.root.join(path);
        let fault = |error: std::io::Error| Failure::fault(format!("{}: {error}", at.display()));
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(&at).map_err(fault)?);
        match sys::uid_of(DAEMON) {
            Some(daemon) if owner == 0 => std::os::unix::fs::lchown(&at, Some(daemon), None).map_err(fault),
            Some(_) => Ok(()),
            None => line(&self.desk.style.yellow(&format!("user {DAEMON} does not exist: make it, then chown {DAEMON} {}", at.display()))),
        }
    }

    fn tell(&mut self, at: &Path, new: bool) -> Result<(), Failure> {
        self.made += usize::from(new);
        let style = &self.desk.style;
        let word = if new { style.green("made") } else { style.dim("kept") };
        line(&format!("{word}  {}", at.display()))
    }
}

/// The person who ran sudo, or the first that can log in, or the first that there would be.
fn first_user() -> u32 {
    let sudo = std::env::var("SUDO_UID").ok().and_then(|text| text.parse().ok());
    let person = |uid: &u32| (1000..60_000).contains(uid);
    sudo.filter(person).or_else(|| sys::login_uids().into_iter().find(person)).unwrap_or(1000)
}

fn in_days(days: u32) -> String {
    let ttl = Ttl::from_secs(30 * 86_400).unwrap_or(Ttl::MAX);
    let then = (0..days / 30).fold(SystemClock.wall(), |then, _| then.plus(ttl));
    then.rfc3339()[..10].to_owned()
}

fn identity(uid: u32) -> String {
    format!(
        "# A first identity: everything that user {uid} runs. Good enough for a public secret; 'clav identity try --pid N' names better selectors.\n[[identity]]\nname = \"hello\"\nkind = \"shared\"\nowner = \"whoever-installed-this\"\nenvironment = \"dev\"\npurposes = [\"try-claviger\"]\nmax_sensitivity = \"public\"\nexpires = \"{}\"\nselectors = [\"unix:uid:{uid}\"]\n",
        in_days(90)
    )
}

const SECRET: &str = "# A first secret. Its value comes with: printf %s 'hello, world' | clav secret put hello\n[[secret]]\nname = \"hello\"\nengine = \"local\"\nowner = \"whoever-installed-this\"\nsensitivity = \"public\"\nenvironment = \"dev\"\npurposes = [\"try-claviger\"]\noperation = \"read\"\nttl = { default = \"5m\", max = \"1h\" }\ndescription = \"A greeting, to see that everything works\"\n";

fn grant() -> String {
    format!(
        "// A first grant. Remove it together with identities.d/hello.toml and secrets.d/hello.toml.\n@id(\"grant.hello\") @owner(\"whoever-installed-this\") @purpose(\"try-claviger\") @expires(\"{}\") @lasting(\"yes\")\npermit (principal == Claviger::Shared::\"hello\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"hello\");\n",
        in_days(60)
    )
}

fn next_steps(user: u32) -> String {
    format!(
        "  systemctl enable --now clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket clavigerd.service\n  printf %s 'hello, world' | clav secret put hello\n  clav get hello --purpose try-claviger                               # as user {user}\n  clav audit tail\n  clav doctor\n  Copy /etc/claviger/key to where your other keys are kept: without it the stored values are lost."
    )
}

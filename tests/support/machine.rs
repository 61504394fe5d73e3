//! A machine of its own for a test: the host's systemd as PID 1 in new namespaces, on an overlay of `/` that lives in memory.
//!
//! Nothing of it stays: mounts belong to its mount namespace, processes to its pid namespace, and its control groups are removed.
//! Needs root; [`Machine::possible`] says what else is missing.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Where this repository is.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file among those that are laid over the machine's root.
pub fn put(files: &Path, path: &str, text: impl AsRef<[u8]>, mode: u32) {
    let to = files.join(path);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::write(&to, text).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
}

fn copy_folder(files: &Path, from: &Path, to: &str) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            copy_folder(files, &path, &format!("{to}/{name}"));
        } else {
            put(files, &format!("{to}/{name}"), fs::read(&path).unwrap(), 0o644);
        }
    }
}

/// What the package brings, laid out as it lays it out. A build with a defence taken out stands in when the tests themselves are tested.
pub fn package(files: &Path) {
    let daemon = std::env::var("CLAVIGER_TEST_DAEMON").unwrap_or_else(|_| env!("CARGO_BIN_EXE_clavigerd").to_owned());
    put(files, "usr/bin/clavigerd", fs::read(daemon).unwrap(), 0o755);
    put(files, "usr/bin/clav", fs::read(env!("CARGO_BIN_EXE_clav")).unwrap(), 0o755);
    for entry in fs::read_dir(root().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_file() {
            put(files, &format!("usr/lib/systemd/system/{name}"), fs::read(&path).unwrap(), 0o644);
        }
    }
    if let Ok(removed) = std::env::var("CLAVIGER_MUTATION") {
        let text = format!("[Service]\nEnvironment=CLAVIGER_MUTATION={removed}\n");
        put(files, "etc/systemd/system/clavigerd.service.d/mutation.conf", &text, 0o644);
        put(files, "etc/systemd/system/claviger-attest.service.d/mutation.conf", &text, 0o644);
    }
    for shared in ["claviger-command-.socket.d", "claviger-command-@.service.d"] {
        copy_folder(files, &root().join("systemd").join(shared), &format!("usr/lib/systemd/system/{shared}"));
    }
    copy_folder(files, &root().join("systemd/sysusers.d"), "usr/lib/sysusers.d");
    copy_folder(files, &root().join("systemd/tmpfiles.d"), "usr/lib/tmpfiles.d");
    put(files, "etc/claviger/clavigerd.toml", fs::read(root().join("config/clavigerd.toml")).unwrap(), 0o644);
    copy_folder(files, &root().join("config/policy.d"), "etc/claviger/policy.d");
}

/// $1: a scratch folder, $2: files to lay over the root, $3: a control group (may be empty).
const BOOT: &str = r#"
set -e
work=$1 files=$2 group=$3
mount --make-rprivate /
mkdir -p $work/tm; mount -t tmpfs tmpfs $work/tm; mkdir $work/tm/up $work/tm/work $work/tm/root
R=$work/tm/root
mount -t overlay overlay -o lowerdir=/,upperdir=$work/tm/up,workdir=$work/tm/work $R
cp -a --no-preserve=ownership $files/. $R/
mount -t proc proc $R/proc
mount -t tmpfs -o mode=755 tmpfs $R/run
mount -t tmpfs -o mode=1777 tmpfs $R/tmp
mount -t sysfs -o ro sysfs $R/sys || mount --rbind /sys $R/sys
mount -t tmpfs -o mode=755 tmpfs $R/sys/fs/cgroup
mount --rbind /dev $R/dev
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
# Nothing that reaches through to the real kernel's settings (sysctl, binfmt, udev) is started.
for unit in $R/lib/systemd/system/sysinit.target.wants/* $R/lib/systemd/system/local-fs.target.wants/* $R/etc/systemd/system/*.wants/*; do
    name=$(basename "$unit")
    case "$name" in "*"|systemd-journald*|systemd-tmpfiles-setup.service) ;; *) ln -sf /dev/null "$R/etc/systemd/system/$name" ;; esac
done
ln -sf /dev/null $R/etc/systemd/system/proc-sys-fs-binfmt_misc.automount
# A machine id of its own, and a journal in memory.
tr -d - </proc/sys/kernel/random/uuid >$R/etc/machine-id
mkdir -p $R/etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' >$R/etc/systemd/journald.conf.d/test.conf
cat >$R/etc/systemd/system/test.target <<END
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service systemd-journald.socket
After=systemd-journald.socket
END
cd $R; mkdir -p old; pivot_root . old; umount -l /old; rmdir /old
# Without this, folders of credentials come up empty.
mount --make-rshared /
export container=test
exec /lib/systemd/systemd --system --unit=test.target --log-target=journal --show-status=no
"#;

/// A booted machine; dropping it ends it.
pub struct Machine {
    outer: Child,
    inner: u32,
    work: tempfile::TempDir,
    group: Option<PathBuf>,
}

impl Machine {
    /// What this host lacks, or nothing.
    pub fn possible() -> Result<(), String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("needs root".into());
        }
        for tool in ["/lib/systemd/systemd", "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/setpriv", "/usr/bin/curl"] {
            if !Path::new(tool).exists() {
                return Err(format!("needs {tool}"));
            }
        }
        let mounts = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w /mnt/r && \
                      mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r && mount -t cgroup2 cgroup2 /mnt/w";
        let nested =
            Command::new("unshare").args(["--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "sh", "-c", mounts]).output();
        match nested {
            Ok(done) if done.status.success() => Ok(()),
            _ => Err("namespaces, an overlay or control groups cannot be had here".into()),
        }
    }

    /// Boots with `files` laid over the root folder.
    pub fn boot(files: &Path) -> Machine {
        let work = tempfile::tempdir().unwrap();
        let group = own_group();
        let enter = group.as_ref().map_or_else(|| "true".to_owned(), |group| format!("echo $$ >{}/cgroup.procs", group.display()));
        let log = fs::File::create(work.path().join("boot.log")).unwrap();
        let mut command = Command::new("setpriv");
        // If the test is killed, so is the machine.
        command.args(["--pdeathsig", "KILL", "sh", "-c"]);
        command.arg(format!(
            "{enter}; exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup bash -c \"$BOOT\" boot {} {}",
            work.path().display(),
            files.display()
        ));
        command.env("BOOT", BOOT).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        let mut outer = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let inner = loop {
            if let Some(pid) = child_named(outer.id(), "systemd") {
                break pid;
            }
            let ended = outer.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let _ = outer.kill();
                let _ = outer.wait();
                group.as_deref().map(remove_groups);
                panic!("the machine did not boot: {}", fs::read_to_string(work.path().join("boot.log")).unwrap());
            }
            sleep(Duration::from_millis(50));
        };
        let machine = Machine { outer, inner, work, group };
        machine.until("systemctl is-active test.target && systemctl is-active systemd-journald", Duration::from_secs(20));
        machine
    }

    /// Runs a shell command inside.
    pub fn run(&self, command: &str) -> Output {
        Command::new("nsenter")
            .args(["-t", &self.inner.to_string(), "-a", "--", "/bin/sh", "-c", command])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SYSTEMD_PAGER", "")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs it and takes what it prints; it must succeed.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let done = self.run(command);
        let (out, err) = (String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned());
        assert!(done.status.success(), "{command}: {}\n{out}{err}\n{}", done.status, self.journal());
        out
    }

    /// Runs it again and again until it succeeds.
    #[track_caller]
    pub fn until(&self, command: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            let done = self.run(command);
            if done.status.success() {
                return String::from_utf8_lossy(&done.stdout).into_owned();
            }
            let shown = || format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
            assert!(Instant::now() < deadline, "{command}: not within {within:?}\n{}\n{}", shown(), self.journal());
            sleep(Duration::from_millis(100));
        }
    }

    /// The newest lines of its journal, for a failure's message.
    pub fn journal(&self) -> String {
        String::from_utf8_lossy(&self.run("journalctl --no-pager -o short-monotonic -n 60").stdout).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SIGTERM does not end a PID 1; with it goes every process of its pid namespace.
        let _ = Command::new("kill").args(["-9", &self.inner.to_string()]).status();
        let _ = self.outer.wait();
        if let Some(group) = &self.group {
            for _ in 0..50 {
                remove_groups(group);
                if !group.exists() {
                    break;
                }
                sleep(Duration::from_millis(20));
            }
        }
        let _ = &self.work;
    }
}

/// A control group for the machine, so that what it makes is found and removed again.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|parts| parts.get(2) == Some(&"cgroup2"))?[1].to_owned();
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let group = Path::new(&root).join(own).join(format!("claviger-test-{}-{:?}", std::process::id(), std::thread::current().id()));
    let group = PathBuf::from(group.to_string_lossy().replace(['(', ')'], ""));
    fs::create_dir(&group).ok().map(|()| group)
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn child_named(parent: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
        // The link of an executable names the file, whatever the process calls itself.
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.file_name().is_some_and(|file| file == name))
    })
}

//! The kernel and the system around it.

use super::Findings;
use crate::{
    config::{self, Config, File},
    model::Selector,
    sys::{self, Host, Kernel},
};
use std::process::Command;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    match Kernel::probe() {
        Ok(kernel) if kernel.peer_pidfd => findings.ok("kernel", kernel.tier()),
        Ok(kernel) => findings.warn("kernel", kernel.tier(), "Linux 6.5 or later pins a peer when it connects"),
        Err(error) => findings.fail("kernel", error.to_string(), "processes cannot be attested here"),
    }
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        findings.ok("control groups", "unified hierarchy at /sys/fs/cgroup");
    } else {
        findings.warn(
            "control groups",
            "no unified hierarchy at /sys/fs/cgroup",
            "without it there are no units and containers: boot with systemd.unified_cgroup_hierarchy=1",
        );
    }
    match Host::probe() {
        Ok(host) if host.of_pid_1 => findings.ok("PID 1", "its namespaces and root can be compared with"),
        Ok(_) => findings.warn(
            "PID 1",
            "cannot be looked at from here",
            "run doctor as root, outside containers; whoever attests needs CAP_SYS_PTRACE",
        ),
        Err(error) => findings.fail("PID 1", error.to_string(), "mount /proc"),
    }
    proc_options(findings);
    kernel_settings(findings);
    systemd(findings);
    for group in [&config.sockets.operator_group, &config.audit.group] {
        match sys::gid_of(group) {
            Some(gid) => findings.ok("group", format!("{group} is {gid}")),
            None => findings.warn("group", format!("{group} does not exist"), format!("groupadd --system {group}")),
        }
    }
    shared_uids(config, findings);
    launcher(config, findings);
}

/// Whether programs can be started apart, where somebody wants them to.
fn launcher(config: &Config, findings: &mut Findings) {
    const MANIFESTS: &str = "/etc/claviger/launch.d";
    if !std::fs::read_dir(MANIFESTS).is_ok_and(|mut manifests| manifests.next().is_some()) {
        return findings.ok("launcher", format!("nothing is started apart: {MANIFESTS} is empty"));
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if let Some(taken) = crate::launch::taken(&read("/etc/subgid"), &read("/etc/group")) {
        findings.fail(
            "launcher",
            format!("{taken}, which launches need for themselves"),
            "give it other groups: until then nothing is started apart",
        );
    }
    let path = &config.attest.launcher;
    match sys::launcher_fault(path) {
        None => findings.ok("launcher", path.display().to_string()),
        Some(why) => findings.fail("launcher", why, format!("chown root: {0}; chmod 755 {0}; setcap cap_setgid=ep {0}", path.display())),
    }
}

fn proc_options(findings: &mut Findings) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let proc = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc")).unwrap_or_default();
    match proc.split([',', ' ']).find(|option| option.starts_with("hidepid=")) {
        None | Some("hidepid=0" | "hidepid=off") => {
            findings.warn(
                "hidepid",
                "every user sees the command lines of all processes",
                "mount /proc with hidepid=invisible, if your tools allow it",
            );
        }
        Some(option) => findings.ok("hidepid", option),
    }
}

fn kernel_settings(findings: &mut Findings) {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    match read("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) if scope != "0" => findings.ok("ptrace", format!("kernel.yama.ptrace_scope = {scope}")),
        Ok(_) => findings.warn("ptrace", "any process may read the memory of others of its user", "sysctl kernel.yama.ptrace_scope=1"),
        Err(_) => findings.warn(
            "ptrace",
            "this kernel has no Yama: any process may read the memory of others of its user",
            "give every workload a uid of its own",
        ),
    }
    match read("/proc/sys/kernel/core_pattern") {
        Ok(pattern) if pattern.starts_with('|') => findings.ok("core files", format!("go to {}", pattern.trim_start_matches('|'))),
        Ok(pattern) => findings.warn(
            "core files",
            format!("are written where a process runs ({pattern}), with the secrets it holds"),
            "sysctl kernel.core_pattern='|/bin/false', or LimitCORE=0 in the workloads' units",
        ),
        Err(error) => findings.warn("core files", error.to_string(), "mount /proc"),
    }
    let swaps = read("/proc/swaps").unwrap_or_default().lines().skip(1).filter(|line| !line.contains("zram")).count();
    if swaps > 0 {
        findings.warn("swap", format!("{swaps} swap areas: memory with secrets may be written to disk"), "encrypt the swap, or use zram");
    }
}

fn systemd(findings: &mut Findings) {
    // An absolute path and no shell: doctor is run by root.
    let asked = ["/usr/bin/systemctl", "/bin/systemctl"].iter().find_map(|path| Command::new(path).arg("--version").output().ok());
    let version =
        asked.and_then(|out| String::from_utf8_lossy(&out.stdout).split(' ').nth(1)?.split(['.', '~']).next()?.parse::<u32>().ok());
    match version {
        Some(version) if version >= 250 => findings.ok("systemd", version.to_string()),
        Some(version) => findings.warn("systemd", version.to_string(), "250 or later has encrypted credentials for the key"),
        None => findings.warn("systemd", "not found", "without it there are no units as holders, and no sockets before the daemon"),
    }
}

/// A uid that people log in with is no boundary: whoever has the account is the identity.
fn shared_uids(config: &Config, findings: &mut Findings) {
    let files = match sys::read_trusted_folder(&config.paths.identities, ".toml", 4 << 20) {
        Ok(files) => files,
        Err(error) => return findings.fail("identities", error.to_string(), "only root may write there"),
    };
    let files: Vec<File> = files.into_iter().map(|(path, text)| File { path: path.display().to_string(), text }).collect();
    let registry = match config::identities(&files) {
        Ok(registry) => registry,
        Err(problems) => {
            for problem in problems {
                findings.fail("identities", problem.to_string(), "mend the file, then clav reload");
            }
            return;
        }
    };
    let people = sys::login_uids();
    let uid_of = |selector: &Selector| match selector.kind() {
        "unix:uid" => selector.value().parse().ok(),
        "unix:user" => sys::uid_of(selector.value()),
        _ => None,
    };
    let mut shared = 0;
    for row in registry.iter() {
        for uid in row.selectors.iter().filter_map(uid_of).filter(|uid| people.contains(uid)) {
            shared += 1;
            findings.warn(
                "shared uid",
                format!("identity {} is on uid {uid}, with which people can log in", row.name),
                "give it an account of its own without a shell (/usr/sbin/nologin)",
            );
        }
    }
    if shared == 0 {
        findings.ok("shared uid", format!("{} identities, none on a login account's uid", registry.iter().count()));
    }
}

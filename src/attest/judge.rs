//! Evidence to facts: pure, without privilege, I/O or clock.

use super::{
    evidence::{Evidence, ExeEvidence, ProcessEvidence},
    facts::{Ancestor, Exe, Facts, Login, Unit},
};
use crate::model::{Code, Refusal, Selector};

/// Ids that a user namespace cannot express look like this one.
const OVERFLOW: u32 = 65_534;

/// Refuses what may not be believed and turns the rest into facts. Every doubt refuses.
pub fn judge(evidence: &Evidence) -> Result<Facts, Refusal> {
    let (connect, now) = (&evidence.connect, &evidence.process);
    if connect.pid == 0 || now.pid != connect.pid {
        return Err(Refusal::new(Code::ATTESTATION_FAILED).detail("the peer lies outside this pid namespace"));
    }
    if [connect.uid, connect.gid].contains(&OVERFLOW) {
        return Err(Refusal::new(Code::ATTESTATION_FAILED).detail("the peer's ids are not mapped into this user namespace"));
    }
    let same_ids = now.uids[1] == connect.uid && now.gids[1] == connect.gid && sorted(&now.groups) == sorted(&connect.groups);
    if !same_ids && !crate::mutation!("credentials-changed") {
        return Err(Refusal::new(Code::CREDENTIALS_CHANGED).detail(format!(
            "connected as uid {} gid {}, now uid {} gid {} with other groups or ids",
            connect.uid, connect.gid, now.uids[1], now.gids[1]
        )));
    }
    if now.uids[0] != now.uids[1] {
        return Err(Refusal::new(Code::ATTESTATION_FAILED)
            .detail(format!("real uid {} differs from effective uid {}: a set-user-id program", now.uids[0], now.uids[1])));
    }
    let mut facts = facts_of(now);
    facts.ancestors = evidence
        .ancestors
        .iter()
        .map(|a| Ancestor { pid: a.pid, uid: a.uids[1], exe: a.exe.as_ref().map(|exe| printable(&exe.path)) })
        .collect();
    facts.login = now.login_uid.map(|uid| Login { uid, verified: login_verified(uid, now, &evidence.ancestors) });
    if !evidence.pinned {
        // Only the ids are certain: everything read from /proc may be another process's.
        facts = Facts { pid: facts.pid, uid: facts.uid, gid: facts.gid, groups: facts.groups, start: facts.start, ..Facts::default() };
    }
    Ok(facts)
}

/// The facts of one process, ancestors and login left out.
pub fn facts_of(now: &ProcessEvidence) -> Facts {
    let cgroup = now.cgroup.as_deref().map(crate::sys::printable_group);
    Facts {
        pid: now.pid,
        uid: now.uids[1],
        gid: now.gids[1],
        groups: sorted(&now.groups),
        user: None,
        start: now.start,
        exe: now.exe.as_ref().map(exe_facts),
        unit: cgroup.as_deref().and_then(unit_of).map(|unit| Unit { invocation: now.invocation.clone(), ..unit }),
        container: cgroup.as_deref().and_then(container_of),
        cgroup,
        login: None,
        foreign: now.foreign.clone(),
        tracer: (now.tracer != 0).then_some(now.tracer),
        launch: now.launch.as_ref().map(ToString::to_string),
        ancestors: Vec::new(),
    }
}

fn exe_facts(exe: &ExeEvidence) -> Exe {
    Exe {
        path: printable(&exe.path),
        dev: exe.id.dev,
        ino: exe.id.ino,
        fs: exe.fs.clone(),
        verified: exe.verified && !exe.deleted && exe.trusted_fs,
        root_owned: exe.verified && exe.root_owned && !exe.deleted && exe.trusted_fs,
        sha256: None,
    }
}

/// The facts as selectors: a fact that cannot be written as one can be matched by nothing.
pub fn selectors_of(facts: &Facts, user: Option<&str>, groups: &[(u32, String)]) -> Vec<Selector> {
    let name_of = |gid: u32| groups.iter().find(|(id, _)| *id == gid).map(|(_, name)| name);
    let mut out = vec![Selector::of("unix:uid", facts.uid), Selector::of("unix:gid", facts.gid)];
    out.push(user.and_then(|user| Selector::of("unix:user", user)));
    out.push(name_of(facts.gid).and_then(|name| Selector::of("unix:group", name)));
    for &gid in &facts.groups {
        out.push(Selector::of("unix:supplementary_gid", gid));
        out.push(name_of(gid).and_then(|name| Selector::of("unix:supplementary_group", name)));
    }
    let host_view = !facts.foreign.iter().any(|ns| ns == "user" || ns == "pid" || ns == "root");
    if let Some(exe) = facts.exe.as_ref().filter(|exe| exe.verified && host_view) {
        out.push(Selector::of("unix:path", &exe.path));
        if exe.root_owned {
            out.push(Selector::of("exe:root-owned", &exe.path));
        }
        out.push(exe.sha256.as_ref().and_then(|hash| Selector::of("unix:sha256", hash)));
    }
    if let Some(path) = facts.cgroup.as_ref().filter(|path| path.as_str() != "/" && !in_user_manager(path)) {
        out.push(Selector::of("cgroup:path", path));
    }
    if let Some(unit) = &facts.unit {
        out.push(Selector::of(if unit.system { "systemd:id" } else { "systemd:user-unit" }, &unit.name));
    }
    if facts.foreign.is_empty() {
        out.push(facts.launch.as_ref().and_then(|name| Selector::of("launch:id", name)));
    }
    out.push(facts.container.as_ref().and_then(|id| Selector::of("container:id", id)));
    let mut out: Vec<Selector> = out.into_iter().flatten().collect();
    out.sort();
    out.dedup();
    out
}

/// Below `user@UID.service` control groups are made by that user, so nothing there is root's word.
fn in_user_manager(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with("user@") && part.ends_with(".service"))
}

/// The unit that a control group path belongs to: slices from the root down, then the first service or scope. Below a user's own
/// manager it is the last one, and that user's word.
fn unit_of(path: &str) -> Option<Unit> {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let mut parts = path.split('/').skip(1);
    let name = loop {
        match parts.next()? {
            part if part.ends_with(".slice") => {}
            part if is_unit(&part) => break part,
            _ => return None,
        }
    };
    let unit = |name: &str, system| Unit { name: name.to_owned(), invocation: None, system };
    if in_user_manager(path) {
        return Some(
            path.split('/').rfind(is_unit).filter(|last| *last != name).map_or_else(|| unit(name, true), |last| unit(last, false)),
        );
    }
    Some(unit(name, true))
}

/// The id that container runtimes put into the control group's name: 64 hexadecimal digits, bare or as `RUNTIME-ID.scope`.
fn container_of(path: &str) -> Option<String> {
    if in_user_manager(path) {
        return None;
    }
    // The outermost, and none below a service: what lies there may have been made by those inside.
    path.split('/').take_while(|part| !part.ends_with(".service")).find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit(['-', ':']).next()?;
        (id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then(|| id.to_owned())
    })
}

/// A login uid counts only if the session's root process has it as its real uid and lies in a control group that root made for
/// exactly that uid: a process may write an unset login uid itself.
fn login_verified(uid: u32, process: &ProcessEvidence, ancestors: &[ProcessEvidence]) -> bool {
    let of_session = |p: &&ProcessEvidence| p.cgroup.as_deref().is_some_and(|path| session_cgroup_of(uid, path));
    // The outermost process that still lies in such a control group is the session's root.
    std::iter::once(process).chain(ancestors).take_while(of_session).last().is_some_and(|root| {
        // The login program itself (sshd, login) stays root; what it started for the user has the user's uid.
        root.uids[0] == uid || (root.uids[0] == 0 && root.login_uid == Some(uid))
    })
}

fn session_cgroup_of(uid: u32, path: &[u8]) -> bool {
    let Ok(path) = std::str::from_utf8(path) else { return false };
    let Some(rest) = path.strip_prefix(&format!("/user.slice/user-{uid}.slice/")) else { return false };
    let first = rest.split('/').next().unwrap_or_default();
    (first.starts_with("session-") && first.ends_with(".scope")) || first == format!("user@{uid}.service")
}

fn sorted(ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn printable(bytes: &[u8]) -> String {
    crate::sys::printable(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::evidence::ConnectIds;

    fn process(pid: u32, uid: u32, cgroup: &str) -> ProcessEvidence {
        ProcessEvidence { pid, uids: [uid; 4], gids: [uid; 4], cgroup: Some(cgroup.into()), ..Default::default() }
    }

    fn evidence(process: ProcessEvidence) -> Evidence {
        let connect = ConnectIds { pid: process.pid, uid: process.uids[1], gid: process.gids[1], groups: vec![] };
        Evidence { connect, process, ancestors: vec![], ancestors_in_full: true, pinned: true }
    }

    #[test]
    fn refuses_what_it_cannot_believe() {
        let good = evidence(process(7, 1000, "/system.slice/a.service"));
        assert!(judge(&good).is_ok());
        let mut e = good.clone();
        e.connect.pid = 0;
        assert_eq!(judge(&e).unwrap_err().code, Code::ATTESTATION_FAILED);
        let mut e = good.clone();
        e.process.uids[1] = 0;
        assert_eq!(judge(&e).unwrap_err().code, Code::CREDENTIALS_CHANGED);
        let mut e = good.clone();
        e.process.uids[0] = 1;
        assert_eq!(judge(&e).unwrap_err().code, Code::ATTESTATION_FAILED);
        let mut e = good.clone();
        e.process.groups = vec![5];
        assert_eq!(judge(&e).unwrap_err().code, Code::CREDENTIALS_CHANGED);
        let mut e = good.clone();
        (e.connect.uid, e.process.uids) = (OVERFLOW, [OVERFLOW; 4]);
        assert_eq!(judge(&e).unwrap_err().code, Code::ATTESTATION_FAILED);
        let mut e = good;
        e.pinned = false;
        let facts = judge(&e).unwrap();
        assert!(facts.cgroup.is_none() && facts.unit.is_none() && facts.exe.is_none());
    }

    #[test]
    fn units_and_containers_come_from_roots_part_of_the_path() {
        let unit = |path| unit_of(path).map(|u| (u.name, u.system));
        assert_eq!(unit("/system.slice/orders.service"), Some(("orders.service".into(), true)));
        assert_eq!(unit("/system.slice/system-getty.slice/getty@tty1.service"), Some(("getty@tty1.service".into(), true)));
        assert_eq!(unit("/system.slice/orders.service/evil.service"), Some(("orders.service".into(), true)));
        assert_eq!(unit("/user.slice/user-1000.slice/session-3.scope"), Some(("session-3.scope".into(), true)));
        let nested = "/user.slice/user-1000.slice/user@1000.service/app.slice/orders.service";
        assert_eq!(unit(nested), Some(("orders.service".into(), false)));
        assert_eq!(unit("/a/trusted.service"), None);
        assert_eq!(unit("/"), None);
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(container_of(&format!("/system.slice/docker-{id}.scope")), Some(id.clone()));
        assert_eq!(container_of(&format!("/docker/{id}")), Some(id.clone()));
        assert_eq!(container_of(&format!("/system.slice/evil.service/docker-{id}.scope")), None);
        assert_eq!(container_of(&format!("/user.slice/user-1.slice/user@1.service/user.slice/libpod-{id}.scope")), None);
        let facts = facts_of(&process(7, 1000, nested));
        assert!(selectors_of(&facts, None, &[]).iter().all(|s| s.kind() != "cgroup:path" && s.kind() != "systemd:id"));
    }

    #[test]
    fn a_login_uid_is_only_claimed_outside_its_session() {
        let mut p = process(7, 1000, "/system.slice/a.service");
        p.login_uid = Some(1000);
        assert!(!judge(&evidence(p.clone())).unwrap().login.unwrap().verified);
        p.cgroup = Some("/user.slice/user-1000.slice/session-3.scope".into());
        assert!(judge(&evidence(p.clone())).unwrap().login.unwrap().verified);
        p.login_uid = Some(0);
        assert!(!judge(&evidence(p)).unwrap().login.unwrap().verified);
    }
}

//! A unit that holds a lease while the daemon has no descriptor to watch it with.

use super::{
    host::*,
    site::{Site, setup},
    tracer::{Fault, Tracer},
};
use std::{fs, os::unix::process::CommandExt, path::PathBuf, time::Duration};

/// A control group as systemd makes one for a service, removed when this is dropped.
struct Group {
    path: PathBuf,
    /// Made by this test as well.
    slice: Option<PathBuf>,
}

impl Group {
    fn make(unit: &str) -> Option<Group> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().find(|root| exists(&format!("{root}/cgroup.procs")))?;
        let slice = PathBuf::from(format!("{root}/system.slice"));
        let made = (!slice.exists()).then(|| slice.clone());
        fs::create_dir_all(slice.join(unit)).ok()?;
        Some(Group { path: slice.join(unit), slice: made })
    }

    /// The actor as a process of the unit.
    fn start(&self, host: &Host, arguments: &[&str]) -> Actor {
        let (mut command, procs) = (host.actor(VICTIM, "orders", arguments), self.path.join("cgroup.procs"));
        // SAFETY: before the child runs anything it only writes one file, as whoever starts services does.
        unsafe {
            command.pre_exec(move || fs::write(&procs, "0"));
        }
        Actor::of(command)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
        if let Some(slice) = &self.slice {
            let _ = fs::remove_dir(slice);
        }
    }
}

#[test]
fn a_unit_that_cannot_be_watched_is_asked_now_and_then() {
    if !is_root() {
        return;
    }
    let unit = format!("claviger-faults-{}.service", std::process::id());
    let Some(group) = Group::make(&unit) else {
        eprintln!("\n*** SKIPPED: this needs a control group hierarchy that can be written ***\n");
        return;
    };
    let setup = setup();
    let identities = setup.identities.replace("\"unix:path:$DIR/bin/orders\"", &format!("\"systemd:id:{unit}\""));
    let mut site = Site::prepare(Setup { identities, ..setup });
    site.host.launch();
    site.host.put("app/one", "v");
    let mut first = group.start(&site.host, &["hold", r#"{"secret":"app/one","holder":"unit"}"#]);
    let lease = first.lease();
    let trace = site.host.dir.join("trace");
    let fault = Fault { call: "fcntl", error: "EMFILE", when: "1+", files: Vec::new() };
    let tracer = Tracer::attach(site.host.pid(), &trace, &fault);
    // The unit is empty for a moment, and then it is not: it has to be watched anew.
    let second = {
        first.kill();
        group.start(&site.host, &["wait"])
    };
    std::thread::sleep(Duration::from_millis(1500));
    assert!(tracer.end(), "it was not watched anew");
    let asked = fs::read_to_string(&trace).unwrap().lines().count();
    assert!(asked < 100, "the daemon asked {asked} times, over and over");
    assert!(site.host.live().iter().any(|live| live["id"] == lease.as_str()), "the unit is not empty");
    drop(second);
    assert_eq!(site.host.end_of(&lease)["ended"]["reason"], "holder_gone");
    site.books();
}

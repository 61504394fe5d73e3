//! Executables on a file system whose server lies or never answers: it is not asked for anything, and others are served meanwhile.

use super::{
    host::*,
    siege::{self, Attack, besieged_by, part_of, served},
};
use std::{
    fs,
    process::{Command, Stdio},
};

/// The file system, at `fuse` in the host's folder, until it is dropped.
struct Hostile(Actor);

impl Hostile {
    fn mounted(host: &Host, hang: bool) -> Hostile {
        fs::create_dir(host.dir.join("fuse")).unwrap();
        host.write("fuse.py", include_str!("../support/fuse.py"));
        let mut command = Command::new("/usr/bin/python3");
        command.arg(host.dir.join("fuse.py")).args([host.path("fuse"), host.path("bin/evil"), host.path("asked")]);
        command.arg(host.pid().to_string()).args(host.attestor.as_ref().map(|attestor| attestor.pid().to_string()));
        command.env("HANG", if hang { "1" } else { "0" });
        Hostile(Actor::of({
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        }))
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[test]
fn a_file_system_that_lies_or_hangs_is_asked_for_nothing() {
    if !is_root() {
        return;
    }
    if !exists("/dev/fuse") {
        eprintln!("\n*** SKIPPED: there is no /dev/fuse, so no hostile file system was tried ***\n");
        return;
    }
    for hang in [false, true] {
        // Its path is registered, and with the content that the server shows.
        let sum = String::from_utf8(Command::new("sha256sum").arg("/usr/bin/cat").output().unwrap().stdout).unwrap();
        let registered = identity("far", VICTIM, "")
            .replace("$DIR/bin/far\"", &format!("$DIR/fuse/keeper\", \"unix:sha256:{}\"", sum.split_whitespace().next().unwrap()));
        let host = besieged_by(&[], &registered, &grant("far", "app/one"));
        let server = Hostile::mounted(&host, hang);
        let path = host.path("fuse/keeper");
        let attack = Attack { name: "hostile file system", program: "attacker", verb: &["file", "DAEMON", "$DIR/fuse/keeper"], full: 1000 };
        // It is there, and leads to the bytes that it shows.
        assert_eq!(fs::read(&path).unwrap(), fs::read("/usr/bin/cat").unwrap());
        let arguments =
            Attack { name: "hostile arguments", program: "attacker", verb: &["argv", "DAEMON", "$DIR/fuse/keeper"], full: 1000 };
        for attack in [&attack, &arguments] {
            std::thread::scope(|scope| {
                let run = scope.spawn(|| attack.run(&host, part_of(attack.full)));
                while !run.is_finished() {
                    served(&host);
                }
                let found = run.join().unwrap();
                eprintln!("{} that {}: {found}", attack.name, if hang { "hangs" } else { "lies" });
                siege::holds(attack, &found);
            });
        }
        let asked = fs::read_to_string(host.dir.join("asked")).unwrap_or_default();
        assert_eq!(asked, "", "what the daemon asked of the server, by linux/fuse.h's numbers");
        served(&host);
        drop(server);
    }
}

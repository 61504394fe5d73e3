//! What the kernel writes about processes, and what comes with a message.

use super::{Target, samples};
use crate::{
    attest::{ProcessEvidence, facts_of},
    sys::{MAX_DESCRIPTORS, Packets, file_system_in, parse_cgroup, printable_group},
};
use std::{
    io::Read,
    os::fd::{AsFd, BorrowedFd},
};

pub(super) const PROC_CGROUP: Target = Target {
    name: "proc_cgroup",
    share: 1,
    samples: || {
        samples(&[
            "0::/system.slice/orders.service\n",
            "12:pids:/x\n1:name=systemd:/init.scope\n0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-shop.service/worker\n",
            "0::/kubepods.slice/kubepods-pod0123.slice/cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope\n",
            "0::/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope\n",
        ])
    },
    words: &["0::", "0::/", "\n", "/", "..", ".service", ".scope", ".slice", "user@", "session-", "docker-", "@", "\\x2d", " (deleted)"],
    run: |bytes| {
        let Some(path) = parse_cgroup(bytes) else { return false };
        assert!(!path.contains(&b'\n'), "one line");
        // Lines of other hierarchies before it say nothing.
        assert_eq!(parse_cgroup(&[b"1:name=systemd:/other.service\n", bytes].concat()).as_ref(), Some(&path));
        let facts = facts_of(&ProcessEvidence { pid: 7, uids: [1000; 4], cgroup: Some(path.clone()), ..ProcessEvidence::default() });
        let text = String::from_utf8_lossy(&path);
        if let Some(unit) = &facts.unit {
            assert!(
                path.split(|b| *b == b'/').any(|part| printable_group(part) == unit.name),
                "a unit is a group on the way: {} in {text}",
                unit.name
            );
        }
        facts.unit.is_some()
    },
};

pub(super) const MOUNTINFO: Target = Target {
    name: "mountinfo",
    share: 1,
    samples: || {
        samples(&[
            "31 1 0:26 / / rw - btrfs /dev/vda2 rw\n32 31 0:26 /home /home rw shared:1 - btrfs /dev/vda2 rw\n40 31 0:40 / /f rw - fuse.x x rw\n",
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
        ])
    },
    words: &[" - ", "\n", " ", "40", "0:26", "fuse", "ext4", "\\040", "-"],
    run: |bytes| {
        let found = [(Some("40"), "0:26"), (Some("32"), "0:99"), (None, "98:0"), (Some("36"), "0:40")]
            .map(|(mount, device)| file_system_in(bytes, mount, device));
        for name in found.iter().flatten() {
            assert!(!name.contains([' ', '\n']), "one word");
            // Nobody's line before it with neither that mount nor that device changes it.
            assert!(bytes.windows(name.len().max(1)).any(|part| part == name.as_bytes()) || name.is_empty(), "what stands there");
        }
        let before = [b"7 7 7:7 / / rw - odd odd rw\n", bytes].concat();
        assert_eq!(file_system_in(&before, Some("40"), "0:26"), found[0], "another mount's line says nothing of this one");
        found.iter().any(Option::is_some)
    },
};

/// Each two bytes are one message: how long it is, and how many descriptors come with it.
pub(super) const MESSAGES: Target = Target {
    name: "messages",
    share: 5,
    samples: || vec![vec![1, 0, 200, 1, 17, 3], vec![0, 2, 5, 63, 5, 64], vec![255, 64, 255, 65, 9, 200, 4, 0]],
    words: &["\u{0}", "\u{1}", "@", "A", "\u{7f}"],
    run: |bytes| {
        const ROOM: usize = 240;
        let (near, far) = Packets::pair().expect("a pair of sockets");
        let mut whole = 0;
        for message in bytes.chunks_exact(2).take(12) {
            let (len, count) = (usize::from(message[0]), usize::from(message[1]));
            // The far end of a pipe for each message: while any copy of it is open, its reader sees no end.
            let (mut reader, writer) = std::io::pipe().expect("a pipe");
            let passed: Vec<BorrowedFd<'_>> = std::iter::repeat_n(writer.as_fd(), count).collect();
            let text = vec![message[1]; len];
            if near.send(&text, &passed).is_err() {
                assert!(count > 250, "the kernel passes up to 253 descriptors");
                continue;
            }
            drop(writer);
            let mut buffer = [0; ROOM];
            match far.receive(&mut buffer) {
                Ok(Some(packet)) => {
                    assert!(packet.len <= ROOM && packet.descriptors.len() <= MAX_DESCRIPTORS, "no more than may come");
                    assert_eq!((packet.len, packet.descriptors.len()), (len, count));
                    assert!(buffer[..len] == text[..]);
                    assert_eq!(packet.sender.pid, std::process::id());
                    whole += 1;
                }
                // Nothing in it is how the other end closes.
                Ok(None) => assert_eq!(len, 0),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                    assert!(len > ROOM || count > MAX_DESCRIPTORS, "{len} bytes and {count} descriptors may come");
                }
            }
            // Whatever became of the message, nothing that came with it is open any more.
            assert_eq!(reader.read(&mut [0]).expect("a pipe can be read"), 0);
        }
        whole > 0
    },
};

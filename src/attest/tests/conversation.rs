//! The conversation with the attestor, from both ends: what is said wrongly ends it, denies, and leaves no descriptor open.

use crate::{
    attest::{
        ExeHashes, Gatherer, Remote, Service, Sight, Unavailable, is_unseen,
        protocol::{Answer, MAX_BYTES, Numbered, Request, VERSION, decode_request, encode_answer, encode_request},
    },
    sys::{Host, Kernel, Packets, Pidfd, SystemClock, euid, listen_packets_at},
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

const SIGHT: Sight = Sight { of_pid_1: true, looks_at_all: true, own_users: false, finds_handles: true, pidfd_info: true };
const SOON: Duration = Duration::from_secs(20);

// ---- a false attestor ------------------------------------------------------------------------------------------------------------

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
    listener: OwnedFd,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("attest.sock");
    let listener = listen_packets_at(&path, 0o600, None).unwrap();
    Place { _folder: folder, path, listener }
}

/// The next question on a connection.
fn question(packets: &Packets) -> Numbered<Request> {
    let mut buffer = vec![0; MAX_BYTES];
    let packet = packets.receive(&mut buffer).unwrap().unwrap();
    decode_request(&buffer[..packet.len], packet.descriptors.len()).unwrap()
}

fn say(packets: &Packets, id: u64, body: Answer, beside: &[BorrowedFd<'_>]) {
    packets.send(&encode_answer(&Numbered { id, body }).unwrap(), beside).unwrap();
}

/// Accepts and greets as an attestor does.
fn greeted(listener: &OwnedFd) -> Packets {
    let packets = Packets::accept(listener, SOON).unwrap();
    let hello = question(&packets);
    assert_eq!(hello.body, Request::Hello { version: VERSION });
    say(&packets, hello.id, Answer::Hello { version: VERSION, sight: SIGHT }, &[]);
    packets
}

/// How many descriptors of this process are open on that file: nobody else opens it.
fn open_on(file: &File) -> usize {
    use std::os::unix::fs::MetadataExt;
    let meta = file.metadata().unwrap();
    let of = |entry: io::Result<std::fs::DirEntry>| entry.ok().and_then(|entry| std::fs::metadata(entry.path()).ok());
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    entries.filter_map(of).filter(|found| (found.dev(), found.ino()) == (meta.dev(), meta.ino())).count()
}

/// Asks once while `attestor` answers in its own way; what came back, and whether the descriptor that it passes about was left open.
async fn asked(attestor: impl FnOnce(Packets, Numbered<Request>, BorrowedFd<'_>) + Send + 'static) -> io::Error {
    let place = place();
    let remote = Remote::start(place.path.clone(), euid());
    let listener = place.listener.try_clone().unwrap();
    let marked = tempfile::tempfile().unwrap();
    let passed = marked.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let packets = greeted(&listener);
        let asked = question(&packets);
        attestor(packets, asked, passed.as_fd());
        drop(passed);
        // The daemon comes back after whatever went wrong, and is answered.
        drop(greeted(&listener));
    });
    assert!(remote.reached(SOON).await);
    let me = Pidfd::open(std::process::id()).unwrap();
    let error = remote.ask(Request::Process { pid: 1, full: false }, &[me.as_fd()]).await.unwrap_err();
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    drop(remote);
    for _ in 0..1_000 {
        if open_on(&marked) == 1 {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} descriptors are left of what the attestor passed", open_on(&marked) - 1);
}

fn gathered(files: bool) -> Answer {
    let gathered = crate::attest::Gathered { process: Default::default(), ancestors: Vec::new(), ancestors_in_full: false };
    Answer::Process { gathered: Box::new(gathered), files }
}

#[tokio::test]
async fn an_answer_with_other_descriptors_than_it_should_have_is_none() {
    for (right, sent) in [(1, 0), (1, 2), (3, 1), (3, 2), (3, 4), (1, 60), (1, 200)] {
        let error = asked(move |packets, asked, fd| say(&packets, asked.id, gathered(right == 3), &vec![fd; sent])).await;
        assert!(Unavailable::is(&error), "{right} {sent}: {error}");
    }
}

#[tokio::test]
async fn an_answer_to_nothing_or_to_another_question_is_none() {
    let error = asked(|packets, asked, fd| say(&packets, asked.id + 1, gathered(false), &[fd])).await;
    assert!(Unavailable::is(&error), "{error}");
    let error = asked(|packets, asked, _| say(&packets, asked.id, Answer::File(None), &[])).await;
    assert!(Unavailable::is(&error), "{error}");
    let error = asked(|packets, asked, _| say(&packets, asked.id, Answer::Look(vec![]), &[])).await;
    assert!(Unavailable::is(&error), "{error}");
    let error = asked(|packets, asked, fd| {
        say(&packets, asked.id, Answer::Failed("no".into()), &[]);
        // A second time nobody asked.
        let _ = packets.send(&encode_answer(&Numbered { id: asked.id, body: gathered(false) }).unwrap(), &[fd]);
    })
    .await;
    assert!(!is_unseen(&error) && error.to_string() == "no", "{error}");
}

#[tokio::test]
async fn that_the_attestor_is_short_says_nothing_about_the_process() {
    let error = asked(|packets, asked, _| say(&packets, asked.id, Answer::Short("too many open files".into()), &[])).await;
    assert!(is_unseen(&error) && !Unavailable::is(&error) && error.to_string() == "too many open files", "{error}");
}

#[tokio::test]
async fn garbage_an_end_and_a_message_too_long_deny() {
    let error = asked(|packets, _, fd| packets.send(b"\xff\xff\xff\xff", &[fd]).unwrap()).await;
    assert!(Unavailable::is(&error), "{error}");
    let error = asked(|packets, _, fd| packets.send(&vec![1; MAX_BYTES + 1], &[fd]).unwrap()).await;
    assert!(Unavailable::is(&error), "{error}");
    let error = asked(|packets, _, _| drop(packets)).await;
    assert!(Unavailable::is(&error), "{error}");
}

#[tokio::test]
async fn an_attestor_that_says_nothing_denies_and_a_late_answer_is_heard_and_dropped() {
    let waited = tokio::time::timeout(SOON, async {
        let place = place();
        let remote = Remote::start(place.path.clone(), euid());
        let listener = place.listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let packets = greeted(&listener);
            let first = question(&packets);
            let second = question(&packets);
            say(&packets, first.id, Answer::File(None), &[]);
            say(&packets, second.id, Answer::File(None), &[]);
            // Held until the daemon hangs up.
            let _ = packets.receive(&mut [0; 8]);
        });
        assert!(remote.reached(SOON).await);
        let late = remote.ask(Request::File { path: b"/late".to_vec() }, &[]).await.unwrap_err();
        assert!(Unavailable::is(&late), "{late}");
        let answer = remote.ask(Request::File { path: b"/".to_vec() }, &[]).await.unwrap().0;
        assert_eq!((answer, remote.lost()), (Answer::File(None), 0), "the same conversation goes on");
        drop(remote);
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
    });
    waited.await.unwrap();
}

#[tokio::test]
async fn who_answers_must_be_the_attestors_user_and_of_this_version_and_able() {
    for (uid, hello) in [
        (euid() + 1, Answer::Hello { version: VERSION, sight: SIGHT }),
        (euid(), Answer::Hello { version: VERSION + 1, sight: SIGHT }),
        (euid(), Answer::Hello { version: VERSION, sight: Sight { looks_at_all: false, ..SIGHT } }),
        (euid(), Answer::Failed("not today".into())),
    ] {
        let place = place();
        let remote = Remote::start(place.path.clone(), uid);
        let listener = place.listener.try_clone().unwrap();
        let said = hello.clone();
        let thread = std::thread::spawn(move || {
            for _ in 0..2 {
                let packets = Packets::accept(&listener, SOON).unwrap();
                let asked = question(&packets);
                let _ = packets.send(&encode_answer(&Numbered { id: asked.id, body: said.clone() }).unwrap(), &[]);
            }
        });
        // It was heard and turned away, and heard again.
        tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
        assert!(remote.trouble().is_some(), "{hello:?} of uid {uid} was believed");
        let denied = remote.ask(Request::File { path: b"/".to_vec() }, &[]).await.unwrap_err();
        assert!(Unavailable::is(&denied), "{denied}");
    }
}

// ---- a false daemon --------------------------------------------------------------------------------------------------------------

fn service(daemon: u32) -> Arc<Service> {
    let hashes = ExeHashes::new(1 << 28, 1 << 30, Arc::new(SystemClock));
    Service::new(Gatherer::new(Kernel::probe().unwrap(), Host::probe().unwrap(), hashes, Arc::new(SystemClock)), daemon)
}

/// A conversation that goes on. The places of those before it are free only when their threads have seen their ends.
fn conversation(service: &Arc<Service>) -> Packets {
    let begun = (0..2_000).find_map(|_| {
        let (daemon, attestor) = Packets::pair().unwrap();
        service.converse(attestor);
        let greeted = ask(&daemon, Request::Hello { version: VERSION }, &[]).ok().flatten().is_some();
        if !greeted {
            crate::sys::pause(Duration::from_millis(5));
        }
        greeted.then_some(daemon)
    });
    begun.expect("the attestor answers no more")
}

fn ask(packets: &Packets, body: Request, beside: &[BorrowedFd<'_>]) -> io::Result<Option<(Answer, usize)>> {
    packets.send(&encode_request(&Numbered { id: 7, body }).unwrap(), beside)?;
    let mut buffer = vec![0; MAX_BYTES];
    let Some(packet) = packets.receive(&mut buffer)? else { return Ok(None) };
    let answer = crate::attest::protocol::decode_answer(&buffer[..packet.len], packet.descriptors.len()).map_err(io::Error::other)?;
    assert_eq!(answer.id, 7);
    Ok(Some((answer.body, packet.descriptors.len())))
}

fn hangs_up(packets: &Packets) -> bool {
    !matches!(packets.receive(&mut vec![0; MAX_BYTES]), Ok(Some(_)))
}

#[test]
fn the_attestor_answers_what_it_is_asked() {
    let service = service(euid());
    let packets = conversation(&service);
    let pid = std::process::id();
    let me = Pidfd::open(pid).unwrap();
    let (answer, descriptors) = ask(&packets, Request::Process { pid, full: true }, &[me.as_fd()]).unwrap().unwrap();
    let Answer::Process { gathered, files } = answer else { panic!("{answer:?}") };
    assert_eq!((gathered.process.pid, gathered.process.uids[1], gathered.ancestors_in_full), (pid, euid(), true));
    assert_eq!(descriptors, 1 + 2 * usize::from(files));
    let exe = gathered.process.exe.unwrap();
    let (answer, _) = ask(&packets, Request::Look { pids: vec![pid, pid] }, &[me.as_fd(), me.as_fd()]).unwrap().unwrap();
    let Answer::Look(looks) = answer else { panic!("{answer:?}") };
    assert!(looks.len() == 2 && looks.iter().all(|look| look.unwrap().exe.unwrap().same_file(&exe.id)), "{looks:?}");
    if exe.trusted_fs {
        let (answer, _) = ask(&packets, Request::Measure { pid, uid: euid() }, &[me.as_fd()]).unwrap().unwrap();
        let Answer::Measured(measured) = answer else { panic!("{answer:?}") };
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(measured.sha256, hex::encode(crate::digest::sha256(&[&bytes])));
    }
    // A number that is not the process's own is answered by nobody's evidence.
    let (answer, _) = ask(&packets, Request::Process { pid: 1, full: false }, &[me.as_fd()]).unwrap().unwrap();
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
}

#[test]
fn what_is_asked_wrongly_ends_the_conversation_and_leaves_nothing_open() {
    let service = service(euid());
    let marked = tempfile::tempfile().unwrap();
    let (one, many) = ([marked.as_fd()], vec![marked.as_fd(); 200]);
    let bytes = |body: Request| encode_request(&Numbered { id: 1, body }).unwrap();
    let cases: Vec<(Vec<u8>, &[BorrowedFd<'_>])> = vec![
        (bytes(Request::Process { pid: 1, full: false }), &[]),
        (bytes(Request::Process { pid: 1, full: false }), &many[..2]),
        (bytes(Request::Hello { version: VERSION }), &one),
        (bytes(Request::Look { pids: vec![1, 2] }), &one),
        (bytes(Request::Look { pids: vec![1; 65] }), &many[..65]),
        // One descriptor, and it is no pidfd.
        (bytes(Request::Process { pid: 1, full: false }), &one),
        (bytes(Request::Measure { pid: 1, uid: 0 }), &one),
        (vec![0xff; 40], &one),
        (vec![3; MAX_BYTES + 1], &one),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), &many),
    ];
    for (at, (message, beside)) in cases.iter().enumerate() {
        let packets = conversation(&service);
        packets.send(message, beside).unwrap();
        assert!(hangs_up(&packets), "case {at} was answered");
    }
    let gone = (0..1_000).any(|_| {
        std::thread::yield_now();
        crate::sys::pause(Duration::from_millis(5));
        open_on(&marked) == 1
    });
    assert!(gone, "{} descriptors are left", open_on(&marked) - 1);
}

#[test]
fn arbitrary_bytes_end_a_conversation_and_never_the_attestor() {
    use proptest::{prelude::*, test_runner::TestRunner};
    let service = service(euid());
    let config = ProptestConfig {
        cases: 300,
        rng_seed: proptest::test_runner::RngSeed::Fixed(11),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let file = tempfile::tempfile().unwrap();
    let bytes = (proptest::collection::vec(any::<u8>(), 1..300), 0usize..4);
    TestRunner::new(config)
        .run(&bytes, |(bytes, descriptors)| {
            let packets = conversation(&service);
            packets.send(&bytes, &vec![file.as_fd(); descriptors]).unwrap();
            // A question by chance is answered; all else ends it.
            let sound = decode_request(&bytes, descriptors).is_ok_and(|question| question.body.descriptors() == 0);
            prop_assert!(hangs_up(&packets) || sound);
            Ok(())
        })
        .unwrap();
    let _goes_on = conversation(&service);
}

#[test]
fn nobody_but_the_daemon_is_answered() {
    let (packets, attestor) = Packets::pair().unwrap();
    service(euid() + 1).converse(attestor);
    let _ = packets.send(&encode_request(&Numbered { id: 1, body: Request::Hello { version: VERSION } }).unwrap(), &[]);
    assert!(hangs_up(&packets));
}

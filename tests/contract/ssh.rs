//! User certificates under the contract, as `ssh-keygen` and a real sshd see them.

use crate::{
    sshd::{Sshd, put_key, revocation_list, run, text},
    suite::{Asked, Harness, Probe, now, secret},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Issued, ListPlaces, UpstreamRef,
        local::LocalStore,
        ssh::{SshConfig, SshEngine},
    },
    model::{EngineName, Ttl},
    sys::SystemClock,
};
use serde_json::json;
use std::{fs, path::PathBuf, process::Command, sync::Arc};
use tempfile::TempDir;

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn engine(&self) -> SshEngine {
        let (random, clock) = (Arc::new(SystemRandom::default()), Arc::new(SystemClock));
        let store = LocalStore::open(&self.path("store"), SealKey::from_bytes(&[6; 32]).unwrap(), None, random, clock.clone()).unwrap();
        let config = SshConfig {
            name: EngineName::parse("under-test").unwrap(),
            max_ttl: Ttl::parse("1h").unwrap(),
            public_key: Some(self.path("ca.pub")),
            list: Some(ListPlaces { file: self.path("revoked"), book: self.path("book") }),
        };
        SshEngine::open(config, &store.own_key("ssh").unwrap(), &store, clock).unwrap()
    }

    /// Writes key and certificate as ssh(1) wants them.
    fn put(&self, name: &str, issued: &Issued) -> String {
        put_key(self.0.path(), name, issued.value.expose(), &attribute(issued, "certificate"))
    }
}

fn attribute(issued: &Issued, name: &str) -> String {
    issued.attributes.iter().find(|(known, _)| known == name).unwrap().1.clone()
}

/// A verifier that knows the authority: `ssh-keygen` signs with the credential and checks it, as an allowed signer, at this moment.
struct Verifier(Bench);

#[async_trait]
impl Probe for Verifier {
    async fn works(&self, issued: &Issued) -> bool {
        let key = self.0.put(&attribute(issued, "serial"), issued);
        let (file, signers) = (format!("{key}.message"), format!("{key}.signers"));
        fs::write(&file, "message").unwrap();
        fs::write(&signers, format!("deploy cert-authority {}\n", attribute(issued, "ca"))).unwrap();
        let signed = run("ssh-keygen", &["-q", "-Y", "sign", "-f", &format!("{key}-cert.pub"), "-n", "test", &file]);
        assert!(signed.status.success(), "{}", text(&signed));
        let check = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-f", &signers, "-I", "deploy", "-n", "test", "-s", &format!("{file}.sig")])
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        fs::remove_file(format!("{file}.sig")).unwrap();
        check.status.success()
    }
}

async fn harness() -> Option<Harness> {
    let bench = Bench::new();
    let engine = Arc::new(bench.engine());
    let secret = secret("hosts/deploy", &*engine, json!({"principals": ["deploy"]}));
    Some(Harness { engine, secret, probe: Box::new(Verifier(bench)) })
}

crate::contract!(harness);

#[tokio::test]
async fn a_certificate_says_who_what_and_which_lease_and_is_made_again() {
    let bench = Bench::new();
    let engine = bench.engine();
    let settings = json!({"principals": ["deploy", "{{identity}}"], "force_command": "/usr/bin/true", "source_address": ["127.0.0.0/8"],
                          "extensions": ["permit-pty"]});
    let (secret, asked) = (secret("hosts/deploy", &engine, settings), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let key = bench.put("key", &issued);
    let shown = text(&run("ssh-keygen", &["-L", "-f", &format!("{key}-cert.pub")]));
    let id = format!("claviger lease={} identity=orders-service intent={}", asked.lease, asked.order(&secret).intent_digest());
    for part in
        [&id, "user certificate", "deploy", "orders-service", "force-command /usr/bin/true", "source-address 127.0.0.0/8", "permit-pty"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("permit-port-forwarding") && shown.contains(&format!("Serial: {}", attribute(&issued, "serial"))));
    assert!(asked.expires.unix_secs() > now().unix_secs());
    drop(engine);
    let again = bench.engine().read(&asked.order(&secret), &issued.reference).await.unwrap();
    assert!(again.value.expose() == issued.value.expose() && again.attributes == issued.attributes);
    let engine = bench.engine();
    let other = engine.issue(&Asked::new().order(&secret)).await.unwrap();
    assert!(other.value.expose() != issued.value.expose() && attribute(&other, "serial") != attribute(&issued, "serial"));
}

/// How long it stays there is tried in `x509` and in the code itself.
#[tokio::test]
async fn an_ended_lease_stays_listed_until_its_last_certificate_is_dead() {
    let bench = Bench::new();
    let engine = bench.engine();
    let secret = secret("hosts/deploy", &engine, json!({"principals": ["deploy"]}));
    let (mut made, told) = (Asked::new(), Asked::new());
    let late = now().unix_secs() + 40 * 86_400;
    made.expires = claviger::model::WallTime(late * 1_000_000);
    engine.issue(&made.order(&secret)).await.unwrap();
    engine.issue(&told.order(&secret)).await.unwrap();
    engine.may_last(told.lease, made.expires);
    for asked in [&made, &told] {
        engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
        let book = fs::read_to_string(bench.path("book")).unwrap();
        let row = book.lines().find(|row| row.starts_with(&asked.lease.to_string())).unwrap();
        assert_eq!(row.split(' ').nth(2), Some(late.to_string().as_str()), "{row}");
    }
}

#[test]
fn definitions_that_would_open_too_much_are_refused() {
    let bench = Bench::new();
    let engine = bench.engine();
    for bad in [
        json!({}),
        json!({"principals": []}),
        json!({"principals": [""]}),
        json!({"principals": ["*"]}),
        json!({"principals": ["a,root"]}),
        json!({"principals": ["{{purpose}}"]}),
        json!({"principals": ["a"], "force_command": " "}),
        json!({"principals": ["a"], "force_command": "a\nb"}),
        json!({"principals": ["a"], "source_address": ["host"]}),
        json!({"principals": ["a"], "source_address": ["127.0.0.1/8"]}),
        json!({"principals": ["a"], "source_address": ["10.0.0.0/33"]}),
        json!({"principals": ["a"], "source_address": ["10.0.0.0/08"]}),
        json!({"principals": ["a"], "extensions": ["no-such"]}),
    ] {
        assert!(engine.check(&secret("hosts/deploy", &engine, bad.clone())).is_err(), "{bad}");
    }
    for good in ["0.0.0.0/0", "10.1.0.0/16", "::1", "fd00::/8", "192.0.2.7/32"] {
        engine.check(&secret("hosts/deploy", &engine, json!({"principals": ["a"], "source_address": [good]}))).unwrap();
    }
    let mut long = secret("hosts/deploy", &engine, json!({"principals": ["a"]}));
    long.ttl.max = Ttl::parse("2h").unwrap();
    assert!(engine.check(&long).unwrap_err().contains("max_ttl"));
}

/// What sshd cannot be told of is no end yet, and says what is in the way.
#[tokio::test]
async fn a_list_that_cannot_be_written_is_an_end_that_is_tried_again() {
    let bench = Bench::new();
    let engine = bench.engine();
    let secret = secret("hosts/deploy", &engine, json!({"principals": ["deploy"]}));
    let (asked, other) = (Asked::new(), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let serial = attribute(&issued, "serial");
    let none = UpstreamRef::default();
    let is_listed = || fs::read_to_string(bench.path("revoked")).unwrap().lines().any(|line| line == format!("serial: {serial}"));
    assert!(!is_listed());
    // The list itself, and what the engine remembers.
    for name in ["revoked", "book"] {
        let (place, aside) = (bench.path(name), bench.path("aside"));
        fs::rename(&place, &aside).unwrap();
        fs::create_dir_all(place.join("in the way")).unwrap();
        for lease in [asked.lease, other.lease] {
            let failed = engine.end(lease, &none).await;
            let Err(EngineError::Unreachable(why)) = failed else { panic!("{name}: {failed:?}") };
            assert!(why.starts_with("under-test: ") && why.contains(place.to_str().unwrap()) && why.contains("os error"), "{why}");
        }
        fs::remove_dir_all(&place).unwrap();
        fs::rename(&aside, &place).unwrap();
    }
    assert!(!is_listed());
    engine.end(asked.lease, &none).await.unwrap();
    assert!(is_listed());
    drop(engine);
    drop(bench.engine());
    assert!(is_listed(), "forgotten by a restart");
}

#[tokio::test]
async fn sshd_lets_a_live_lease_run_its_command_and_nothing_else() {
    let bench = Bench::new();
    let engine = bench.engine();
    let forced = json!({"principals": ["root"], "force_command": "echo forced", "source_address": ["127.0.0.0/8"]});
    let forced = secret("hosts/forced", &engine, forced);
    let free = secret("hosts/free", &engine, json!({"principals": ["root"]}));
    let far = secret("hosts/far", &engine, json!({"principals": ["root"], "source_address": ["192.0.2.0/24"]}));
    let other = secret("hosts/other", &engine, json!({"principals": ["nobody"]}));
    let list = || revocation_list(&bench.path("krl"), &bench.path("ca.pub"), &bench.path("revoked"));
    list();
    let revoked = format!("RevokedKeys {}", bench.text("krl"));
    let Some(sshd) = Sshd::start(bench.0.path(), &bench.path("ca.pub"), &revoked) else { return };
    let asked = Asked::new();
    let mine = bench.put("forced", &engine.issue(&asked.order(&forced)).await.unwrap());
    let free = bench.put("free", &engine.issue(&Asked::new().order(&free)).await.unwrap());
    let said = sshd.ask(&mine, "echo asked");
    assert!(said.status.success() && said.stdout == b"forced\n", "{} {}", text(&said), sshd.log());
    sshd.lets_in(&free);
    assert!(sshd.log().contains(&format!("claviger lease={} identity=orders-service", asked.lease)), "the server's log names the lease");
    for (name, secret, why) in [("far", &far, "not from a permitted source address"), ("other", &other, "principal")] {
        let key = bench.put(name, &engine.issue(&Asked::new().order(secret)).await.unwrap());
        sshd.refuses(&key, why);
    }
    engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
    list();
    // sshd reads it at every login.
    sshd.refuses(&mine, "revoked");
    // Another lease goes on.
    sshd.lets_in(&free);
}

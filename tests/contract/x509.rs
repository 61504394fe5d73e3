//! Certificates under the contract, as OpenSSL and a real nginx see them.

use crate::{
    nginx::Nginx,
    sshd::{run, text},
    suite::{Asked, Harness, Probe, secret},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        EndedError, Engine, EngineError, Issued, ListPlaces, UpstreamRef,
        local::LocalStore,
        x509::{GivenAuthority, X509Config, X509Engine, X509Error},
    },
    model::{EngineName, SecretBytes, SecretDefinition, Target, Ttl, WallTime},
    sys::{Clock, ManualClock, SystemClock},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
};
use tempfile::TempDir;

const HOUR: u64 = 3_600_000_000;

/// A folder with the engine's state, so that it can be opened again.
struct Bench {
    folder: TempDir,
    clock: Arc<dyn Clock>,
    max_ttl: &'static str,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(SystemClock), max_ttl: "1h" }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn list(&self) -> PathBuf {
        self.path("list.pem")
    }

    fn open(&self, authority: Option<GivenAuthority>) -> Result<X509Engine, X509Error> {
        let random = Arc::new(SystemRandom::default());
        let key = SealKey::from_bytes(&[5; 32]).unwrap();
        let store = LocalStore::open(&self.path("store"), key, None, random, self.clock.clone()).unwrap();
        let config = X509Config {
            name: EngineName::parse("under-test").unwrap(),
            max_ttl: Ttl::parse(self.max_ttl).unwrap(),
            authority,
            list: Some(ListPlaces { file: self.list(), book: self.path("book") }),
        };
        X509Engine::open(config, &store.own_key("x509").unwrap(), &store, self.clock.clone())
    }

    fn engine(&self) -> X509Engine {
        self.open(None).unwrap()
    }

    /// How many the list has.
    fn listed(&self) -> usize {
        text(&openssl(&["crl", "-noout", "-text", "-in", self.list().to_str().unwrap()])).matches("Serial Number:").count()
    }

    /// Both clocks go on, and the list is looked at every hour.
    fn pass(&self, clock: &ManualClock, hours: u64) {
        for _ in 0..hours {
            clock.advance(HOUR);
            drop(self.engine());
        }
    }

    /// Writes a credential for the programs that read it, and its authority.
    fn put(&self, name: &str, issued: &Issued) -> (PathBuf, PathBuf) {
        let (bundle, ca) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}-ca.pem")));
        fs::write(&bundle, issued.value.expose()).unwrap();
        fs::write(&ca, attribute(issued, "ca")).unwrap();
        (bundle, ca)
    }
}

fn attribute(issued: &Issued, name: &str) -> String {
    issued.attributes.iter().find(|(known, _)| known == name).unwrap().1.clone()
}

fn openssl(arguments: &[&str]) -> Output {
    run("openssl", arguments)
}

/// Whether OpenSSL believes it, with these further words, and the key is the certificate's.
fn verifies(bundle: &Path, ca: &Path, more: &[&str]) -> Result<(), String> {
    let (bundle, ca) = (bundle.to_str().unwrap(), ca.to_str().unwrap());
    // Those between it and the root come with it.
    let verified = openssl(&[&["verify", "-x509_strict", "-CAfile", ca, "-untrusted", bundle], more, &[bundle]].concat());
    let (own, certified) = (openssl(&["pkey", "-pubout", "-in", bundle]), openssl(&["x509", "-pubkey", "-noout", "-in", bundle]));
    assert!(own.status.success() && own.stdout == certified.stdout, "{}", text(&own));
    if verified.status.success() { Ok(()) } else { Err(text(&verified)) }
}

struct Verifier(Bench);

#[async_trait]
impl Probe for Verifier {
    async fn works(&self, issued: &Issued) -> bool {
        let (bundle, ca) = self.0.put(&attribute(issued, "serial"), issued);
        verifies(&bundle, &ca, &["-purpose", "sslclient"]).is_ok()
    }
}

fn harness_of(authority: Option<GivenAuthority>) -> Option<Harness> {
    let bench = Bench::new();
    let engine = Arc::new(bench.open(authority).unwrap());
    let secret = secret("mesh/orders", &*engine, json!({"uri": ["spiffe://example.org/{{identity}}"]}));
    Some(Harness { engine, secret, probe: Box::new(Verifier(bench)) })
}

mod own {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of(None)
    }
    crate::contract!(harness);
}

mod p256_below_a_root {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of(Some(super::below_a_root()))
    }
    crate::contract!(harness);
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2045, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

/// An authority as a company has it: its own certificate, and the root above it.
fn below_a_root() -> GivenAuthority {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = authority_params("Root").self_signed(&root_key).unwrap();
    let issuer = Issuer::new(authority_params("Root"), root_key);
    let own = authority_params("Hosts").signed_by(&key, &issuer).unwrap();
    GivenAuthority { certificates: own.pem() + &root.pem(), key: SecretBytes::new(key.serialize_pem().into_bytes()) }
}

fn both(names: Value) -> Value {
    json!({"dns": names, "usages": ["client", "server"]})
}

async fn issue(engine: &X509Engine, secret: &SecretDefinition, asked: &Asked) -> Issued {
    engine.issue(&asked.order(secret)).await.unwrap()
}

#[tokio::test]
async fn a_certificate_says_who_until_when_and_which_lease() {
    let bench = Bench::new();
    let engine = bench.engine();
    let settings = json!({"uri": ["spiffe://example.org/{{identity}}"], "dns": ["orders.example"], "ip": ["127.0.0.1", "::1"], "usages": ["client", "server"]});
    let (secret, asked) = (secret("mesh/orders", &engine, settings), Asked::new());
    let issued = issue(&engine, &secret, &asked).await;
    let (bundle, ca) = bench.put("one", &issued);
    for purpose in ["sslclient", "sslserver"] {
        verifies(&bundle, &ca, &["-purpose", purpose]).unwrap();
    }
    let shown = text(&openssl(&["x509", "-noout", "-text", "-in", bundle.to_str().unwrap()])).replace(":", "").to_lowercase();
    let serial = attribute(&issued, "serial");
    assert_eq!(serial, hex::encode(asked.lease.to_bytes()));
    for part in [
        serial.as_str(),
        "subject cn = orders-service",
        "urispiffe//example.org/orders-service",
        "dnsorders.example",
        "ip address127.0.0.1",
        "ip address00000001",
        "cafalse",
        "tls web client authentication, tls web server authentication",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // Lease and intent are in the certificate itself.
    let digest = issued.reference.0.get("intent").and_then(|digest| digest.as_str().map(str::to_owned)).unwrap();
    let comment = shown.split("netscape comment").nth(1).and_then(|rest| rest.trim_start().lines().next()).unwrap();
    assert_eq!(comment.trim(), format!("lease={} intent={digest}", asked.lease));
    // Until the lease ends and not a moment longer.
    let left = (asked.expires.unix_secs() - crate::suite::now().unix_secs()).to_string();
    let lives = |seconds: &str| openssl(&["x509", "-noout", "-checkend", seconds, "-in", bundle.to_str().unwrap()]).status.success();
    assert!(lives("200") && !lives(&left));
}

#[tokio::test]
async fn the_same_bytes_are_made_again_after_a_restart_and_no_two_leases_share_a_key() {
    let bench = Bench::new();
    let (asked, other) = (Asked::new(), Asked::new());
    let engine = bench.engine();
    let secret = secret("mesh/orders", &engine, both(json!(["orders.example"])));
    let (first, second) = (issue(&engine, &secret, &asked).await, issue(&engine, &secret, &other).await);
    drop(engine);
    let engine = bench.engine();
    let again = engine.read(&asked.order(&secret), &first.reference).await.unwrap();
    assert!(again.value.expose() == first.value.expose() && again.attributes == first.attributes);
    let key = |issued: &Issued| issued.value.expose().split(|byte| *byte == b'\n').nth(1).unwrap().to_vec();
    assert!(key(&first).len() == 64 && key(&first) != key(&second));
    // Another host's engine of the same name would give another key to the same lease.
    assert!(key(&issue(&Bench::new().engine(), &secret, &asked).await) != key(&first));
}

#[tokio::test]
async fn only_the_targets_that_were_granted_are_in_it() {
    let bench = Bench::new();
    let engine = bench.engine();
    let mut secret = secret("mesh/orders", &engine, both(json!(["a.example", "b.example", "always.example"])));
    let target = |text: &str| Target::parse(text).unwrap();
    secret.hosts = vec![target("a.example:443"), target("b.example")];
    let asked = Asked::new();
    let hosts = [target("a.example:443")];
    let issued = engine.issue(&claviger::engine::Order { hosts: &hosts, ..asked.order(&secret) }).await.unwrap();
    let (bundle, _) = bench.put("one", &issued);
    let shown = text(&openssl(&["x509", "-noout", "-ext", "subjectAltName", "-in", bundle.to_str().unwrap()]));
    assert!(shown.contains("DNS:a.example, DNS:always.example") && !shown.contains("b.example"), "{shown}");
    secret.settings = both(json!(["b.example"])).as_object().unwrap().clone();
    let none = engine.issue(&claviger::engine::Order { hosts: &hosts, ..asked.order(&secret) }).await;
    assert!(matches!(none, Err(EngineError::Refused(_))));
}

#[tokio::test]
async fn an_ended_lease_is_on_the_revocation_list_and_stays_there() {
    for given in [false, true] {
        let bench = Bench::new();
        let authority = given.then(below_a_root);
        let again = authority
            .as_ref()
            .map(|a| GivenAuthority { certificates: a.certificates.clone(), key: SecretBytes::new(a.key.expose().to_vec()) });
        let engine = bench.open(authority).unwrap();
        let secret = secret("mesh/orders", &engine, both(json!(["orders.example"])));
        let (mut asked, kept, late) = (Asked::new(), Asked::new(), Asked::new());
        let list = bench.list().display().to_string();
        let check = ["-crl_check", "-CRLfile", list.as_str()];
        let place = |name: &str, issued: &Issued| bench.put(name, issued);
        let (bundle, ca) = place("ended", &issue(&engine, &secret, &asked).await);
        let (other, _) = place("kept", &issue(&engine, &secret, &kept).await);
        verifies(&bundle, &ca, &check).unwrap();
        asked.expires = WallTime(asked.expires.0 + 300_000_000);
        let (renewed, _) = place("renewed", &engine.read(&asked.order(&secret), &UpstreamRef::default()).await.unwrap());
        verifies(&renewed, &ca, &check).unwrap();
        engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
        for dead in [&bundle, &renewed] {
            assert!(verifies(dead, &ca, &check).unwrap_err().contains("certificate revoked"));
        }
        verifies(&other, &ca, &check).unwrap();
        drop(engine);
        let engine = bench.open(again).unwrap();
        assert!(verifies(&bundle, &ca, &check).unwrap_err().contains("certificate revoked"), "forgotten by a restart");
        // Many at once, and one of them twice.
        let leases: Vec<Asked> = (0..16).map(|_| Asked::new()).collect();
        let none = UpstreamRef::default();
        futures_util::future::try_join_all(leases.iter().chain([&late]).chain(&leases).map(|asked| engine.end(asked.lease, &none)))
            .await
            .unwrap();
        let shown = text(&openssl(&["crl", "-noout", "-text", "-in", &list]));
        assert_eq!(shown.matches("Serial Number:").count(), 18, "{shown}");
    }
}

#[tokio::test]
async fn the_list_counts_up_is_never_too_old_and_forgets_what_is_dead() {
    let start = crate::suite::now().0;
    let clock = Arc::new(ManualClock::new(0, start));
    let bench = Bench { clock: clock.clone(), ..Bench::new() };
    let shown = || text(&openssl(&["crl", "-noout", "-text", "-in", bench.list().to_str().unwrap()]));
    let number = || -> u64 {
        let shown = shown();
        let after = shown.split("CRL Number:").nth(1).unwrap_or_else(|| panic!("{shown}"));
        after.split_whitespace().next().unwrap().parse().unwrap()
    };
    let engine = bench.engine();
    let first = number();
    let asked = Asked::new();
    engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
    assert!(number() > first && shown().contains("Serial Number:"));
    let before = number();
    drop(engine);
    let engine = bench.engine();
    assert!(number() > before, "a restart goes on counting");
    drop(engine);
    bench.pass(&clock, 23);
    let engine = bench.engine();
    engine.end(Asked::new().lease, &UpstreamRef::default()).await.unwrap();
    assert_eq!(bench.listed(), 2);
    drop(engine);
    // An hour of life, and a day for clocks that are late.
    bench.pass(&clock, 3);
    let engine = bench.engine();
    engine.end(Asked::new().lease, &UpstreamRef::default()).await.unwrap();
    assert_eq!(bench.listed(), 2, "the first is dead");
    // A list that cannot be written is an end that has to be tried again, and then is done.
    let lease = Asked::new().lease;
    fs::remove_file(bench.list()).unwrap();
    fs::create_dir_all(bench.list().join("in the way")).unwrap();
    let failed = engine.end(lease, &UpstreamRef::default()).await;
    // In the engine's name, with the file that is in the way.
    let Err(EngineError::Unreachable(why)) = failed else { panic!("{failed:?}") };
    assert!(why.starts_with("under-test: ") && why.contains(bench.list().to_str().unwrap()) && why.contains("os error"), "{why}");
    fs::remove_dir_all(bench.list()).unwrap();
    engine.end(lease, &UpstreamRef::default()).await.unwrap();
    assert!(shown().to_lowercase().contains(&hex::encode(lease.to_bytes())));
    drop(engine);
    fs::write(bench.path("book"), "something else\n").unwrap();
    assert!(matches!(bench.open(None), Err(X509Error::Ended(EndedError::Book(_)))), "nothing is forgotten silently");
}

/// The list is all that stands between a copy and whoever reads it: no clock and no setting of a moment takes a certificate off it that
/// lives.
#[tokio::test]
async fn no_clock_and_no_setting_takes_a_live_certificate_off_the_list() {
    let clock = Arc::new(ManualClock::new(0, crate::suite::now().0));
    let bench = Bench { clock: clock.clone(), max_ttl: "30d", ..Bench::new() };
    let end = async |bench: &Bench, asked: &Asked| {
        bench.engine().end(asked.lease, &UpstreamRef::default()).await.unwrap();
    };
    end(&bench, &Asked::new()).await;
    // Ten years ahead at a start, and set right after some hours; then one that begins at 1970.
    let right = clock.wall().0;
    for wrong in [right + 10 * 365 * 24 * HOUR, HOUR] {
        clock.step_wall(wrong);
        drop(bench.engine());
        bench.pass(&clock, 5);
        clock.step_wall(right + 5 * HOUR);
        drop(bench.engine());
        assert_eq!(bench.listed(), 1);
    }
    // Certificates of before are alive when they have shorter lives from now on.
    let bench = Bench { max_ttl: "1h", ..bench };
    end(&bench, &Asked::new()).await;
    bench.pass(&clock, 26);
    assert_eq!(bench.listed(), 2);
    // Two that were made while the clock was two months ahead: one ends at the daemon that made it and gave it again since, one later, by the
    // word of the books.
    let bench = Bench { clock: clock.clone(), ..Bench::new() };
    let engine = bench.engine();
    let secret = secret("mesh/orders", &engine, both(json!(["orders.example"])));
    let (mut made, told, ordinary, right) = (Asked::new(), Asked::new(), Asked::new(), clock.wall().0);
    let late = WallTime(right + 24 * 60 * HOUR);
    for expires in [late, WallTime(right + HOUR)] {
        made.expires = expires;
        engine.read(&made.order(&secret), &UpstreamRef::default()).await.unwrap();
    }
    engine.end(made.lease, &UpstreamRef::default()).await.unwrap();
    drop(engine);
    let engine = bench.engine();
    engine.may_last(told.lease, late);
    for asked in [&told, &ordinary] {
        engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
    }
    assert_eq!(bench.listed(), 3);
    drop(engine);
    bench.pass(&clock, 26);
    assert_eq!(bench.listed(), 2);
}

#[test]
fn what_cannot_sign_or_would_say_too_much_is_refused() {
    let bench = Bench::new();
    let key = KeyPair::generate().unwrap();
    let pem = |key: &KeyPair| SecretBytes::new(key.serialize_pem().into_bytes());
    let given =
        |params: CertificateParams, own: &KeyPair| GivenAuthority { certificates: params.self_signed(&key).unwrap().pem(), key: pem(own) };
    let why = |given: GivenAuthority| bench.open(Some(given)).err().unwrap().to_string();
    let (mut no_authority, mut no_lists) = (authority_params("x"), authority_params("x"));
    no_authority.is_ca = IsCa::ExplicitNoCa;
    no_lists.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    assert!(why(given(authority_params("x"), &KeyPair::generate().unwrap())).contains("not that of the certificate"));
    assert!(why(given(no_authority, &key)).contains("no authority's"));
    assert!(why(given(no_lists, &key)).contains("may not sign"));
    let nothing = || SecretBytes::new(b"nothing".to_vec());
    assert!(why(GivenAuthority { certificates: "x".into(), key: pem(&key) }).contains("ca_cert_file"));
    assert!(why(GivenAuthority { key: nothing(), ..given(authority_params("x"), &key) }).contains("ca_key_file"));

    let engine = bench.engine();
    for bad in [
        json!({}),
        json!({"dns": []}),
        json!({"dns": ["*.example"]}),
        json!({"dns": ["a.example:443"]}),
        json!({"dns": ["A.example"]}),
        json!({"ip": ["10.0.0.0/8"]}),
        json!({"uri": ["no scheme"]}),
        json!({"uri": ["spiffe:///x"]}),
        json!({"uri": ["spiffe://example.org/{{purpose}}"]}),
        json!({"dns": ["a.example"], "usages": []}),
        json!({"dns": ["a.example"], "usages": ["ca"]}),
    ] {
        assert!(engine.check(&secret("mesh/orders", &engine, bad.clone())).is_err(), "{bad}");
    }
    let mut long = secret("mesh/orders", &engine, json!({"dns": ["a.example"]}));
    long.ttl.max = Ttl::parse("2h").unwrap();
    assert!(engine.check(&long).unwrap_err().contains("max_ttl"));
}

/// An authority of that name as somebody makes it by hand. OpenSSL writes Ed25519 keys without their public half.
fn by_hand(bench: &Bench, subject: &str) -> GivenAuthority {
    let (key, certificate) = (bench.path("k.pem"), bench.path("c.pem"));
    let (made_key, made) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let usage = "keyUsage=keyCertSign,cRLSign";
    let words = ["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1", "-subj", subject, "-addext", usage];
    let said = openssl(&[&words[..], &["-keyout", made_key, "-out", made]].concat());
    assert!(said.status.success(), "{}", text(&said));
    GivenAuthority { certificates: fs::read_to_string(&certificate).unwrap(), key: SecretBytes::new(fs::read(&key).unwrap()) }
}

#[tokio::test]
async fn an_authority_made_by_openssl_signs_and_nothing_outlives_it() {
    let bench = Bench::new();
    let refused = bench.open(Some(by_hand(&bench, "/DC=com/DC=example/CN=by hand"))).err().unwrap();
    assert!(refused.to_string().contains("cannot be repeated"), "{refused}");
    let given = by_hand(&bench, "/C=DE/O=Example/CN=by hand");
    let engine = bench.open(Some(given)).unwrap();
    let secret = secret("mesh/orders", &engine, both(json!(["orders.example"])));
    let mut asked = Asked::new();
    let (bundle, ca) = bench.put("one", &issue(&engine, &secret, &asked).await);
    verifies(&bundle, &ca, &["-crl_check", "-CRLfile", bench.list().to_str().unwrap()]).unwrap();
    asked.expires = WallTime(asked.expires.0 + 2 * 86_400_000_000);
    assert!(matches!(engine.issue(&asked.order(&secret)).await, Err(EngineError::Setup(_))));
}

#[tokio::test]
async fn nginx_lets_a_live_lease_in_and_nobody_else() {
    let bench = Bench::new();
    let engine = bench.engine();
    let server = secret("mesh/server", &engine, json!({"dns": ["localhost"], "usages": ["server"]}));
    let client = secret("mesh/client", &engine, json!({"uri": ["spiffe://example.org/{{identity}}"]}));
    let (asked, other) = (Asked::new(), Asked::new());
    let (server, ca) = bench.put("server", &issue(&engine, &server, &Asked::new()).await);
    let issued = issue(&engine, &client, &asked).await;
    let (mine, _) = bench.put("client", &issued);
    let (kept, _) = bench.put("kept", &issue(&engine, &client, &other).await);
    let stranger = Bench::new();
    let (foreign, _) = stranger.put("foreign", &issue(&stranger.engine(), &client, &asked).await);
    let Some(nginx) = Nginx::start(bench.folder.path(), &server, &ca, &bench.list()) else { return };
    assert_eq!(nginx.ask(&ca, Some(&mine)).to_lowercase(), format!("{} cn=orders-service", attribute(&issued, "serial")));
    assert!(nginx.ask(&ca, None).contains("No required SSL certificate was sent"));
    for bad in [&foreign, &server] {
        let said = nginx.ask(&ca, Some(bad));
        assert!(said.contains("The SSL certificate error"), "{said}");
    }
    engine.end(asked.lease, &issued.reference).await.unwrap();
    drop(nginx);
    // nginx reads the list when it starts and when it is reloaded.
    let Some(nginx) = Nginx::start(bench.folder.path(), &server, &ca, &bench.list()) else { return };
    let said = nginx.ask(&ca, Some(&mine));
    assert!(said.contains("The SSL certificate error"), "{said}");
    assert!(nginx.ask(&ca, Some(&kept)).to_lowercase().contains("cn=orders-service"));
}

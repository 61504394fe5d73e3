//! Bad weather for the `postgres` engine: a hand between it and a real server does what a server should not, at each of the calls.

use crate::{
    between::{Between, Mischief, STARTUP, message, refusal},
    postgres::{Door, build, config, log_in, reader},
    stand_in::{CANARY, until_settled},
    suite::Asked,
    support::{BROKER, BROKER_PASSWORD, Postgres},
};
use claviger::{
    engine::{
        Engine, EngineError, Issued,
        postgres::{PostgresConfig, PostgresEngine, Server},
    },
    model::{EndResult, SecretDefinition, WallTime},
};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// For a call; the machine may be busy with a build, and what hangs is waited for so long.
const LIMIT: Duration = Duration::from_secs(3);
/// More than a message or an answer may have, with what lies in buffers on the way.
const MOST_TAKEN: u64 = 48 << 20;

struct Site {
    cluster: Postgres,
    between: Between,
    door: Door,
}

impl Site {
    async fn new(door: Door) -> Option<Self> {
        let cluster = Postgres::start().await?;
        let between = Between::start(cluster.socket_folder(), cluster.port).await;
        Some(Self { cluster, between, door })
    }

    /// An engine that has no connection yet.
    fn engine(&self) -> (PostgresEngine, SecretDefinition) {
        let mut config = PostgresConfig { call_timeout: LIMIT, connect_timeout: LIMIT, ..config(&self.cluster, self.door) };
        config.server = match config.server {
            Server::Unix { .. } => Server::Unix { folder: self.between.socket_folder(), port: self.between.port },
            Server::Tls { host, ca_pem, .. } => Server::Tls { host, port: self.between.port, ca_pem, server_name: None },
        };
        let engine = build(config);
        let secret = reader(&engine);
        (engine, secret)
    }

    fn clear(&self) {
        self.between.set(None);
    }

    /// Roles of ours that are at the server.
    async fn roles(&self) -> usize {
        let sql = "SELECT 1 FROM pg_roles WHERE starts_with(rolname::text, 'clv_')";
        self.cluster.superuser("app").await.query(sql, &[]).await.unwrap().len()
    }
}

fn row(fields: &[&[u8]]) -> Vec<u8> {
    let field = |field: &&[u8]| [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat();
    let fields_of = fields.iter().flat_map(field);
    message(b'D', &u16::try_from(fields.len()).unwrap().to_be_bytes().into_iter().chain(fields_of).collect::<Vec<u8>>())
}

/// One column of text.
fn columns() -> Vec<u8> {
    message(b'T', &[&1u16.to_be_bytes()[..], b"name\0", &[0; 6], &25u32.to_be_bytes(), &[255; 6], &[0; 2]].concat())
}

fn notice(text: &str) -> Vec<u8> {
    message(b'N', format!("SNOTICE\0VNOTICE\0C00000\0M{text}\0\0").as_bytes())
}

/// What comes, and what is said of it.
fn weathers() -> Vec<(&'static str, Mischief, &'static str)> {
    let beginning = |kind: &[u8], length: u32| [kind, &length.to_be_bytes()].concat();
    let canary = row(&[CANARY.as_bytes()]);
    vec![
        ("a giant row", Mischief::Floods(beginning(b"D", 0x7fff_ffff), b"x".to_vec()), "a message of 2147483647 bytes"),
        ("a giant no", Mischief::Floods(beginning(b"E", 1 << 30), b"SERROR ".to_vec()), "a message of 1073741824 bytes"),
        ("beyond what there is", Mischief::Floods(beginning(b"N", u32::MAX), b"x".to_vec()), "a message of 4294967295 bytes"),
        ("rows without end", Mischief::Floods(columns(), canary.clone()), "more than 16777216 bytes"),
        ("tiny rows without end", Mischief::Floods(columns(), row(&[b""])), "more than 16777216 bytes"),
        ("notices without end", Mischief::Floods(Vec::new(), notice(CANARY)), "more than 16777216 bytes"),
        ("notifications without end", Mischief::Floods(Vec::new(), message(b'A', b"\0\0\0\x01a\0b\0")), "more than 16777216 bytes"),
        ("settings without end", Mischief::Floods(Vec::new(), message(b'S', b"a\0b\0")), "more than 65536 bytes about its settings"),
        ("a notice now and then", Mischief::Drips(Vec::new(), notice("on it")), " ms"),
        ("a row now and then", Mischief::Drips(columns(), canary.clone()), " ms"),
        ("silence", Mischief::Says(Vec::new()), " ms"),
        ("half a message", Mischief::BreaksOff(canary[..canary.len() - 3].to_vec()), "broke off"),
        ("half a message and silence", Mischief::Says(canary[..canary.len() - 3].to_vec()), " ms"),
        ("nothing", Mischief::BreaksOff(Vec::new()), "connection closed"),
        ("another protocol", Mischief::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), "a message of 1414811695 bytes"),
        ("no such message", Mischief::Says(message(b'?', CANARY.as_bytes())), "unknown message tag"),
        ("no length", Mischief::Says(beginning(b"D", 3)), "invalid message length"),
        ("a copy", Mischief::Says(message(b'H', &[0; 3])), "unexpected message"),
        ("a row of nothing", Mischief::Says(canary), "unexpected message"),
        ("columns that lie", Mischief::Says([columns(), message(b'D', &[0, 9, 0, 0])].concat()), ""),
        ("a no without reason", Mischief::Says(message(b'E', b"\0")), ""),
    ]
}

/// A call fails in every weather: with a cause, without a byte of what the server said, in time, and with little of what it sends taken.
async fn fails_in_every_weather<T: std::fmt::Debug>(site: &Site, at: &'static str, call: impl AsyncFnMut(&str) -> Result<T, EngineError>) {
    fails_behind(site, at, b"", call).await;
}

/// The same where these bytes come first.
async fn fails_behind<T: std::fmt::Debug>(
    site: &Site,
    at: &'static str,
    first: &[u8],
    mut call: impl AsyncFnMut(&str) -> Result<T, EngineError>,
) {
    for (weather, mischief, wanted) in weathers() {
        let what = format!("{at:?}, {weather}");
        let (taken, done, begun) = (site.between.taken(), site.between.done(), Instant::now());
        site.between.set(Some((at, mischief.behind(first))));
        let error = call(&what).await.err().unwrap_or_else(|| panic!("{what}: it went through"));
        assert!(site.between.done() > done, "{what}: nothing happened: {error}");
        assert!(matches!(error, EngineError::Unreachable(_)), "{what}: {error:?}");
        let text = error.to_string();
        let also = match (at, weather) {
            // Most of what comes then does not belong there.
            (STARTUP, _) => "unexpected message",
            // Two other questions wait for answers as well.
            ("NOLOGIN", "no such message" | "a copy" | "a row of nothing") => " ms",
            // Rows are passed over there.
            ("VALID UNTIL", "a row of nothing") => " ms",
            _ => wanted,
        };
        assert!(text.starts_with("under-test: ") && (text.contains(wanted) || text.contains(also)), "{what}: {text}");
        assert!(!text.contains(CANARY) && text.len() < 500, "{what}: {text}");
        // With what is done after it.
        assert!(begun.elapsed() < LIMIT * 10, "{what}: {:?}", begun.elapsed());
        assert!(site.between.taken() - taken < MOST_TAKEN, "{what}: {} bytes were taken", site.between.taken() - taken);
        site.clear();
    }
}

async fn issuing(door: Door, at: &'static str, first: &[u8]) {
    let Some(site) = Site::new(door).await else { return };
    fails_behind(&site, at, first, async |what| {
        let ((engine, secret), asked) = (site.engine(), Asked::new());
        let issued = engine.issue(&asked.order(&secret)).await;
        site.clear();
        let passing = |error: &EngineError| matches!(error, EngineError::Unreachable(_));
        let settled = until_settled(async || engine.settle(asked.lease, Some(&secret)).await, passing).await;
        assert_eq!(site.roles().await, 0, "{what}: settled as {settled:?}");
        let good = until_settled(async || engine.issue(&asked.order(&secret)).await, passing).await;
        assert_eq!(engine.end(asked.lease, &good.reference).await.unwrap(), EndResult::Revoked);
        issued.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_to_a_login_nothing_is_made() {
    issuing(Door::Tls, STARTUP, b"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_to_a_login_on_the_socket_nothing_is_made() {
    // Which lets anybody in.
    issuing(Door::Socket, STARTUP, &message(b'R', &[0; 4])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_to_the_first_question_nothing_is_made() {
    issuing(Door::Tls, "rolsuper", b"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_while_a_role_is_made_none_stays() {
    issuing(Door::Tls, "CREATE ROLE", b"").await;
}

/// A live credential with whoever made it.
async fn live(site: &Site) -> (PostgresEngine, SecretDefinition, Asked, Issued) {
    let ((engine, secret), asked) = (site.engine(), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    (engine, secret, asked, issued)
}

/// Nothing is said to be longer than it is, and the credential is as good as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_in_bad_weather_is_an_error_and_can_be_repeated() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    fails_in_every_weather(&site, "VALID UNTIL", async |what| {
        let mischief = site.between.take();
        let (engine, secret, mut asked, issued) = live(&site).await;
        asked.expires = WallTime(asked.expires.0 + 300_000_000);
        site.between.set(mischief);
        let renewed = engine.renew(&asked.order(&secret), &issued.reference).await;
        site.clear();
        log_in(&site.cluster, &issued, "app").await.unwrap_or_else(|error| panic!("{what}: {error}"));
        engine.renew(&asked.order(&secret), &issued.reference).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        renewed
    })
    .await;
    assert_eq!(site.roles().await, 0);
}

async fn ending(at: &'static str) {
    let Some(site) = Site::new(Door::Tls).await else { return };
    fails_in_every_weather(&site, at, async |what| {
        let mischief = site.between.take();
        let (engine, _, asked, issued) = live(&site).await;
        site.between.set(mischief);
        let ended = engine.end(asked.lease, &issued.reference).await;
        site.clear();
        assert_eq!(site.roles().await, 1, "{what}: it is said to be there still, and it is");
        let passing = |error: &EngineError| matches!(error, EngineError::Unreachable(_));
        let over = until_settled(async || engine.end(asked.lease, &issued.reference).await, passing).await;
        assert_eq!((over.result, site.roles().await), (EndResult::Revoked, 0), "{what}");
        ended
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_cannot_forbid_logins_is_not_done() {
    ending("NOLOGIN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_cannot_drop_the_role_is_not_done() {
    ending("DROP ROLE").await;
}

/// What cannot be listed is not said to be nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_in_bad_weather_is_an_error() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    let (_, _, asked, _) = live(&site).await;
    fails_in_every_weather(&site, "SELECT rolname FROM", async |what| {
        let (engine, _) = site.engine();
        let listed = engine.inventory().await;
        site.clear();
        assert_eq!(engine.inventory().await.unwrap_or_else(|error| panic!("{what}: {error}")), [asked.lease]);
        listed
    })
    .await;
}

/// What the server did and could not say is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_leaves_nothing() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    for at in ["CREATE ROLE", "COMMENT ON ROLE"] {
        let ((engine, secret), asked) = (site.engine(), Asked::new());
        site.between.set(Some((at, Mischief::DoneAndClosed)));
        let error = engine.issue(&asked.order(&secret)).await.err().unwrap();
        assert!(matches!(error, EngineError::Unreachable(_)), "{at}: {error:?}");
        assert_eq!(site.roles().await, 1, "{at}: it was made");
        site.clear();
        assert_eq!(engine.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Revoked);
        assert_eq!(site.roles().await, 0, "{at}");
    }
    for at in ["NOLOGIN", "DROP ROLE"] {
        let (engine, _, asked, issued) = live(&site).await;
        site.between.set(Some((at, Mischief::DoneAndClosed)));
        assert!(engine.end(asked.lease, &issued.reference).await.is_err(), "{at}");
        site.clear();
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        assert_eq!(site.roles().await, 0, "{at}");
    }
}

/// The server's words: whose turn it is follows from its code, and they are cut to a line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_of_the_server_is_told_with_its_reason() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    let long = format!("it rains\n\x1b[31mlevel=error {}", "x".repeat(900_000));
    for (code, text, passing) in [
        ("53300", "sorry, too many clients already", true),
        ("57P01", "terminating connection due to administrator command", true),
        ("57P03", "the database system is shutting down", true),
        ("25006", "cannot execute CREATE ROLE in a read-only transaction", true),
        ("53100", "No space left on device", true),
        ("42501", "permission denied to create role", false),
        ("28000", "role is not permitted to log in", false),
        ("XX000", &long, true),
    ] {
        let ((engine, secret), asked) = (site.engine(), Asked::new());
        site.between.set(Some(("CREATE ROLE", Mischief::Answers(refusal(code, text)))));
        let error = if code == "XX000" {
            // It is asked again for a while: somebody else may have changed the same.
            site.between.set(Some((STARTUP, Mischief::Says(refusal(code, text)))));
            engine.issue(&asked.order(&secret)).await.err().unwrap()
        } else {
            engine.issue(&asked.order(&secret)).await.err().unwrap()
        };
        site.clear();
        assert_eq!(matches!(error, EngineError::Unreachable(_)), passing, "{code}: {error:?}");
        assert!(passing || matches!(error, EngineError::Setup(_)), "{code}: {error:?}");
        let said = error.to_string();
        assert!(said.contains(&format!("({code})")) && said.contains(&text[..8]) && said.len() < 500, "{said}");
        assert!(!said.contains('\n') && !said.contains('\x1b'), "{said:?}");
        // The connection is as good as before: it was an answer.
        let good = until_settled(async || engine.issue(&asked.order(&secret)).await, |_| true).await;
        assert_eq!(engine.end(asked.lease, &good.reference).await.unwrap(), EndResult::Revoked);
    }
}

/// A server that talks while nobody asks is let go of, and the next call has another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_while_nobody_asks_is_bounded() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    for piece in [notice(CANARY), message(b'A', b"\0\0\0\x01a\0b\0"), message(b'S', b"a\0b\0")] {
        let (engine, _) = site.engine();
        let taken = site.between.taken();
        // Behind the answer to a list, which is a good one.
        let answer = [columns(), message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
        site.between.set(Some(("SELECT rolname FROM", Mischief::Floods(answer, piece))));
        let listed = engine.inventory().await;
        assert!(listed.is_ok() || listed.as_ref().is_err_and(|error| error.to_string().contains(" bytes ")), "{listed:?}");
        site.clear();
        until_settled(async || if site.between.open() == 0 { Ok(()) } else { Err("it is kept") }, |_| true).await;
        assert!(site.between.taken() - taken < MOST_TAKEN);
        assert_eq!(engine.inventory().await.unwrap(), []);
    }
}

/// Whoever keeps silent after a login is not listened to for ever: descriptors would run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_let_go_of() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    for mischief in [Mischief::Says(Vec::new()), Mischief::Drips(Vec::new(), notice("on it"))] {
        let (engine, secret) = site.engine();
        engine.inventory().await.unwrap();
        site.between.set(Some(("ROLE", mischief)));
        for _ in 0..3 {
            assert!(engine.issue(&Asked::new().order(&secret)).await.is_err());
        }
        let before = site.between.open();
        site.clear();
        drop(engine);
        let gone = async || if site.between.open() == 0 { Ok(()) } else { Err(site.between.open()) };
        let until = Instant::now() + LIMIT * 10;
        while let Err(left) = gone().await {
            assert!(Instant::now() < until, "{left} of {before} connections are kept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whoever answers there and does not speak TLS is told neither who we are nor our password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_speak_tls_hears_nothing() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    for (answer, stays, wanted) in [
        (&b"N"[..], true, "the server offers no TLS"),
        (b"E\0\0\0\x0aC28000\0\0", true, "the server offers no TLS"),
        (b"Sit is no TLS at all, whatever it is", true, "what answers there does not speak TLS"),
        (b"S", false, "error performing TLS handshake"),
        (b"S", true, " ms"),
        (b"", false, "error communicating with the server"),
        (b"", true, " ms"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut config, port) = (config(&site.cluster, Door::Tls), listener.local_addr().unwrap().port());
        (config.call_timeout, config.connect_timeout) = (LIMIT, LIMIT);
        let Server::Tls { ca_pem, host, .. } = config.server else { panic!("by TLS") };
        config.server = Server::Tls { host, port, ca_pem, server_name: None };
        let said = tokio::spawn(async move {
            let mut all = Vec::new();
            if let Ok((mut stream, _)) = listener.accept().await {
                let mut piece = [0; 4096];
                let heard = stream.read(&mut piece).await.unwrap_or(0);
                all.extend_from_slice(&piece[..heard]);
                let _ = stream.write_all(answer).await;
                while stays && let Ok(more @ 1..) = stream.read(&mut piece).await {
                    all.extend_from_slice(&piece[..more]);
                }
            }
            all
        });
        let error = build(config).inventory().await.unwrap_err();
        // Somebody else is there, or it is away.
        let (EngineError::Setup(why) | EngineError::Unreachable(why)) = &error else { panic!("{answer:?}: {error:?}") };
        assert!(why.contains(wanted) && error.is_passing() != wanted.ends_with(" TLS"), "{answer:?}: {error:?}");
        let said = tokio::time::timeout(LIMIT * 4, said).await.expect("the connection is let go of").unwrap();
        for word in [BROKER, BROKER_PASSWORD, "user\0"] {
            assert!(!said.windows(word.len()).any(|window| window == word.as_bytes()), "{answer:?}: {}", String::from_utf8_lossy(&said));
        }
        assert!(!said.is_empty());
    }
}

/// A login with more rounds than anybody has: nobody could interrupt them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_of_endless_rounds_is_not_begun() {
    let Some(site) = Site::new(Door::Tls).await else { return };
    let (engine, _) = site.engine();
    let rounds = message(b'R', b"\0\0\0\x0br=abc,s=c2FsdA==,i=4294967295");
    site.between.set(Some(("SCRAM-SHA-256", Mischief::Says(rounds))));
    let error = engine.inventory().await.unwrap_err().to_string();
    assert!(error.starts_with("under-test: connecting to app: ") && error.contains("4294967295 rounds of SCRAM"), "{error}");
    site.clear();
    assert_eq!(until_settled(async || engine.inventory().await, |_| true).await, []);
}

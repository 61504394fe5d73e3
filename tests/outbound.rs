//! The outbound client against stand-in servers that answer as badly as servers can. They are scripts of bytes, not a real source.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

use claviger::{
    model::SecretBytes,
    outbound::{Address, Answer, Call, CallError, Client, ClientCertificate, Limits, Method, TlsReason, Trust},
    sys::SystemClock,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};

const LIMITS: Limits = Limits { connect: Duration::from_secs(5), call: Duration::from_secs(10), answer_bytes: 4096, connections: 4 };

/// What a connection does for each request that it reads: the bytes to answer with, and whether it closes then.
type Script = Arc<dyn Fn(usize, &str) -> Act + Send + Sync>;

enum Act {
    Answer(Vec<u8>),
    AnswerAndClose(Vec<u8>),
    Close,
    Stall,
}

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn server(&self, name: &str, years: (i32, i32), wants: Option<&Authority>) -> Arc<ServerConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(years.0, 1, 1), rcgen::date_time_ymd(years.1, 1, 1));
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let config = match wants {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(rcgen_der(&authority.pem)).unwrap();
                config.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }

    fn client(&self, algorithm: &'static rcgen::SignatureAlgorithm) -> ClientCertificate {
        let (chain, key) = self.client_pem(algorithm);
        ClientCertificate::new(chain.as_bytes(), &SecretBytes::new(key.into_bytes())).unwrap()
    }

    /// A certificate and its key.
    fn client_pem(&self, algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["host.test".to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn rcgen_der(pem: &str) -> tokio_rustls::rustls::pki_types::CertificateDer<'static> {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    tokio_rustls::rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Reads whole requests and answers as the script says.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, connection: usize, script: Script) {
    loop {
        let (mut text, mut byte) = (Vec::new(), [0u8; 1]);
        while !text.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => text.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(text).unwrap();
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.trim().parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        match script(connection, &(head + &String::from_utf8(body).unwrap())) {
            Act::Answer(bytes) => drop(stream.write_all(&bytes).await),
            Act::AnswerAndClose(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Act::Close => return,
            Act::Stall => std::future::pending().await,
        }
    }
}

/// A server on a free port of the loopback; it ends with the test's runtime.
async fn serve(tls: Option<Arc<ServerConfig>>, script: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script: Script = Arc::new(script);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (script, tls) = (script.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => converse(stream, connection, script).await,
                    Some(config) => {
                        if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                            converse(stream, connection, script).await;
                        }
                    }
                }
            });
        }
    });
    port
}

fn plain(port: u16, limits: Limits) -> Client {
    let address = Address::parse(&format!("http://127.0.0.1:{port}"), true).unwrap();
    Client::new(address, None, || unreachable!("no TLS"), None, limits, Arc::new(SystemClock)).unwrap()
}

fn secure(port: u16, host: &str, name: Option<&str>, ca: &str, own: Option<ClientCertificate>) -> Client {
    let address = Address::parse(&format!("https://{host}:{port}"), false).unwrap();
    Client::new(address, name, || Trust::named(ca.as_bytes()), own, LIMITS, Arc::new(SystemClock)).unwrap()
}

async fn get(client: &Client) -> Result<Answer, CallError> {
    client.call(Call { method: Method::Get, path: "/v1/x", headers: &[], body: None, repeatable: true }).await
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn tls_says_what_is_wrong() {
    let (ours, other) = (Authority::new(), Authority::new());
    let reason = async |config: Arc<ServerConfig>, host: &str, name: Option<&str>, own: Option<ClientCertificate>| {
        let port = serve(Some(config), |_, _| Act::Answer(ok("{}"))).await;
        match get(&secure(port, host, name, &ours.pem, own)).await {
            Ok(answer) => Ok(answer.status),
            Err(CallError::Tls(reason)) => Err(reason),
            Err(error) => panic!("{error}"),
        }
    };
    let good = || ours.server("localhost", (2020, 2099), None);
    assert_eq!(reason(good(), "localhost", None, None).await, Ok(200));
    assert_eq!(reason(good(), "127.0.0.1", Some("localhost"), None).await, Ok(200));
    assert_eq!(reason(good(), "127.0.0.1", None, None).await, Err(TlsReason::WrongName));
    assert_eq!(reason(ours.server("localhost", (2020, 2021), None), "localhost", None, None).await, Err(TlsReason::Expired));
    assert_eq!(reason(ours.server("localhost", (2098, 2099), None), "localhost", None, None).await, Err(TlsReason::NotYetValid));
    assert_eq!(reason(other.server("localhost", (2020, 2099), None), "localhost", None, None).await, Err(TlsReason::UnknownAuthority));
    let wants = || ours.server("localhost", (2020, 2099), Some(&other));
    assert_eq!(reason(wants(), "localhost", None, None).await, Err(TlsReason::OurCertificate));
    assert_eq!(reason(wants(), "localhost", None, Some(ours.client(&rcgen::PKCS_ED25519))).await, Err(TlsReason::OurCertificate));
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        assert_eq!(reason(wants(), "localhost", None, Some(other.client(algorithm))).await, Ok(200));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let talks = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&ok("not TLS")).await.unwrap();
        std::future::pending::<()>().await;
    });
    let client = secure(talks, "localhost", None, &ours.pem, None);
    assert!(matches!(get(&client).await, Err(CallError::Tls(TlsReason::NotTls))));
    // Whoever comes right after it is told the same.
    let waiting = get(&client).await.err().unwrap();
    assert!(matches!(&waiting, CallError::Waiting(why) if matches!(**why, CallError::Tls(TlsReason::NotTls))) && waiting.is_setup());
}

#[tokio::test]
async fn a_certificate_that_is_exchanged_is_shown_from_the_next_call_on() {
    let (ours, other) = (Authority::new(), Authority::new());
    // It keeps connections open, and so does the client while it has calls to make.
    let port = serve(Some(ours.server("localhost", (2020, 2099), Some(&ours))), |_, _| Act::Answer(ok("{}"))).await;
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (folder.path().join("svid.pem"), folder.path().join("svid_key.pem"));
    // As spiffe-helper does: written in place, one after the other.
    let put = |path: &std::path::Path, text: &str| {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    let (good, wrong) = (ours.client_pem(&rcgen::PKCS_ECDSA_P256_SHA256), other.client_pem(&rcgen::PKCS_ECDSA_P256_SHA256));
    put(&chain, &good.0);
    put(&key, &wrong.1);
    assert!(ClientCertificate::of_files(chain.clone(), key.clone()).is_err(), "not with the key of another");
    put(&key, &good.1);
    let client = secure(port, "localhost", None, &ours.pem, Some(ClientCertificate::of_files(chain.clone(), key.clone()).unwrap()));
    let answers = async || loop {
        match get(&client).await {
            Ok(answer) => return Ok(answer.status),
            Err(CallError::Tls(reason)) => return Err(reason),
            // After a failure it waits before it tries again.
            Err(CallError::Waiting(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(answers().await, Ok(200));
    put(&key, &wrong.1);
    assert_eq!(answers().await, Ok(200), "between the two files the pair before holds");
    put(&chain, &wrong.0);
    assert_eq!(
        answers().await,
        Err(TlsReason::OurCertificate),
        "neither on a connection that was kept nor in a session that could be resumed"
    );
    std::fs::remove_file(&key).unwrap();
    assert_eq!(answers().await, Err(TlsReason::OurCertificate));
    put(&chain, &good.0);
    put(&key, &good.1);
    assert_eq!(answers().await, Ok(200));
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(ClientCertificate::of_files(chain, key).is_err(), "a key that others can read");
}

#[tokio::test]
async fn nothing_but_the_address_is_called() {
    let reached = Arc::new(AtomicUsize::new(0));
    let counted = reached.clone();
    let elsewhere = serve(None, move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Act::Answer(ok("{\"stolen\":true}"))
    })
    .await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let answer = format!("HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
        let port = serve(None, move |_, _| Act::Answer(answer.clone().into_bytes())).await;
        assert!(matches!(get(&plain(port, LIMITS)).await, Err(CallError::Redirect(300..400))), "{status}");
    }
    let port = serve(None, |_, _| Act::Answer(ok("{}"))).await;
    let client = plain(port, LIMITS);
    for path in [format!("http://127.0.0.1:{elsewhere}/"), "v1/x".into(), String::new(), "/a b".into(), "/a\r\nb: c".into()] {
        let call = Call { method: Method::Get, path: &path, headers: &[], body: None, repeatable: true };
        assert!(matches!(client.call(call).await, Err(CallError::Request(_))), "{path:?}");
    }
    let call = Call { method: Method::Get, path: "/", headers: &[("x-vault-token", b"a\r\nb: c")], body: None, repeatable: true };
    assert!(matches!(client.call(call).await, Err(CallError::Request(_))));
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn answers_have_a_size_an_end_and_a_form() {
    let large = "x".repeat(5000);
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let long_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(200_000));
    for (answer, wanted) in [
        (ok(&large), "more than 4096 bytes"),
        (chunked.into_bytes(), "more than 4096 bytes"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n".to_vec(), "cannot be read"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec(), "broke off"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(), "broke off"),
        (b"\x00\x01\x02 not http\r\n\r\n".to_vec(), "cannot be read"),
        (long_head.into_bytes(), "cannot be read"),
        (Vec::new(), "broke"),
    ] {
        let said = answer.clone();
        let port = serve(None, move |_, _| Act::AnswerAndClose(said.clone())).await;
        let error = get(&plain(port, LIMITS)).await.err().unwrap().to_string();
        assert!(error.contains(wanted), "{:?}: {error}", String::from_utf8_lossy(&answer[..answer.len().min(60)]));
    }
    let port = serve(None, |_, _| Act::Answer(b"HTTP/1.1 429 Too Many\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}".to_vec())).await;
    let answer = get(&plain(port, LIMITS)).await.unwrap();
    assert_eq!((answer.status, answer.retry_after, answer.body.as_slice()), (429, Some(Duration::from_secs(7)), &b"{}"[..]));
}

#[tokio::test]
async fn every_wait_has_a_deadline() {
    let limits = Limits { connect: Duration::from_millis(100), call: Duration::from_millis(200), ..LIMITS };
    let port = serve(None, |_, _| Act::Stall).await;
    assert!(matches!(get(&plain(port, limits)).await, Err(CallError::Late(200))));
    // Half a head, half a body.
    for part in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"] {
        let port = serve(None, move |_, _| Act::Answer(part.into())).await;
        assert!(matches!(get(&plain(port, limits)).await, Err(CallError::Late(200))));
    }
    // The handshake is answered by nobody.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::parse(&format!("https://{}", deaf.local_addr().unwrap()), false).unwrap();
    let trust = Authority::new().pem;
    let client = Client::new(address, None, || Trust::named(trust.as_bytes()), None, limits, Arc::new(SystemClock)).unwrap();
    assert!(matches!(get(&client).await, Err(CallError::Unreachable(_))));
    let waiting = get(&client).await.err().unwrap();
    assert!(matches!(waiting, CallError::Waiting(_)) && !waiting.is_setup(), "nobody tries again at once: {waiting}");
}

/// Whoever has all turns by asking for what is never answered keeps nobody from taking something back.
#[tokio::test]
async fn what_takes_something_back_waits_for_nobody_who_wants_something_made() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let port = serve(None, move |_, head| match head.starts_with("DELETE") {
        true => Act::Answer(ok("{}")),
        false => {
            counted.fetch_add(1, Ordering::SeqCst);
            Act::Stall
        }
    })
    .await;
    let client = Arc::new(plain(port, LIMITS));
    let makings: Vec<_> = (0..3 * LIMITS.connections)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { get(&client).await.is_ok() })
        })
        .collect();
    while asked.load(Ordering::SeqCst) < LIMITS.connections {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let take_back = || Call { method: Method::Delete, path: "/", headers: &[], body: None, repeatable: true };
    // More at a time than have turns: each comes to its own.
    let endings = (0..40).map(|_| client.ending(async { client.call(take_back()).await.is_ok() }));
    assert!(futures_util::future::join_all(endings).await.into_iter().all(|done| done));
    assert!(makings.iter().all(|making| !making.is_finished()), "it was done while they waited");
    assert_eq!(asked.load(Ordering::SeqCst), LIMITS.connections, "and those that make something have no more than before");
    makings.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_opened_again_for_what_may_be_repeated() {
    // The first request of each connection is answered, the second is read and the connection closed.
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let answered = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let port = serve(None, move |connection, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        if answered.lock().unwrap().insert(connection) { Act::Answer(ok("{}")) } else { Act::Close }
    })
    .await;
    let client = plain(port, LIMITS);
    get(&client).await.unwrap();
    get(&client).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 3, "read twice, answered once");
    let once = Call { method: Method::Post, path: "/", headers: &[], body: Some(b"{}".to_vec().into()), repeatable: false };
    assert!(matches!(client.call(once).await, Err(CallError::Unreachable(_))), "it may have happened");
    assert_eq!(seen.load(Ordering::SeqCst), 4);
}

/// A source that says when it may be asked again is not asked before, for the same thing; for another it may be.
#[tokio::test]
async fn a_source_that_asks_to_wait_is_left_alone_for_so_long() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let port = serve(None, move |_, request| {
        counted.fetch_add(1, Ordering::SeqCst);
        let busy = request.starts_with("GET /v1/x") && counted.load(Ordering::SeqCst) == 1;
        let head = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: 0\r\n\r\n";
        Act::Answer(if busy { head.as_bytes().to_vec() } else { ok("{}") })
    })
    .await;
    let client = plain(port, LIMITS);
    assert_eq!(get(&client).await.unwrap().status, 429);
    let Err(CallError::AskedToWait(left)) = get(&client).await else { panic!("it was asked") };
    assert!(left <= Duration::from_secs(2));
    // What takes something back waits as well: whoever ends it comes again.
    assert!(matches!(client.ending(get(&client)).await, Err(CallError::AskedToWait(_))));
    let tried = client.try_call(Call { method: Method::Get, path: "/v1/x", headers: &[], body: None, repeatable: true }).await;
    assert!(tried.is_err_and(|unanswered| !unanswered.sent), "nothing went out");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let other = Call { method: Method::Get, path: "/v1/y", headers: &[], body: None, repeatable: true };
    assert_eq!(client.call(other).await.unwrap().status, 200);
    tokio::time::sleep(left + Duration::from_millis(50)).await;
    assert_eq!(get(&client).await.unwrap().status, 200);
}

/// What may have been done although nobody answered, and what certainly was not.
#[tokio::test]
async fn what_was_never_sent_is_told_apart() {
    let limits = Limits { connect: Duration::from_millis(300), call: Duration::from_millis(600), ..LIMITS };
    let sent = async |client: &Client| {
        let call = Call { method: Method::Post, path: "/", headers: &[], body: Some(b"{}".to_vec().into()), repeatable: false };
        client.try_call(call).await.map(|answer| answer.status).map_err(|unanswered| unanswered.sent)
    };
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let client = plain(unused, limits);
    assert_eq!((sent(&client).await, sent(&client).await), (Err(false), Err(false)), "nobody listens, and nobody tries so soon again");
    let (ours, other) = (Authority::new(), Authority::new());
    let port = serve(Some(other.server("localhost", (2020, 2099), None)), |_, _| Act::Answer(ok("{}"))).await;
    assert_eq!(sent(&secure(port, "localhost", None, &ours.pem, None)).await, Err(false), "not who it should be");
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::parse(&format!("https://{}", deaf.local_addr().unwrap()), false).unwrap();
    let client = Client::new(address, None, || Trust::named(ours.pem.as_bytes()), None, limits, Arc::new(SystemClock)).unwrap();
    assert_eq!(sent(&client).await, Err(false), "the handshake is answered by nobody");
    let scripts: [fn() -> Act; 4] = [
        || Act::Close,
        || Act::Stall,
        || Act::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()),
        || Act::Answer(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".to_vec()),
    ];
    for script in scripts {
        let port = serve(None, move |_, _| script()).await;
        assert_eq!(sent(&plain(port, limits)).await, Err(true));
    }
    // A kept connection that the server closes when it is used again leaves no doubt, as it is not used.
    let answered = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let port = serve(None, move |connection, _| match answered.lock().unwrap().insert(connection) {
        true => Act::Answer(ok("{}")),
        false => Act::Close,
    })
    .await;
    let client = plain(port, limits);
    get(&client).await.unwrap();
    assert_eq!(sent(&client).await, Ok(200));
}

#[tokio::test]
async fn requests_say_what_they_should_and_use_one_connection() {
    let log = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, folder) = (log.clone(), tempfile::tempdir().unwrap());
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            let script: Script = Arc::new(move |connection, text: &str| {
                seen.lock().unwrap().push((connection, text.to_owned()));
                Act::Answer(ok("{}"))
            });
            tokio::spawn(converse(stream, connection, script));
        }
    });
    let address = Address::parse(&format!("unix:{}", path.display()), false).unwrap();
    let client = Client::new(address, None, || unreachable!("no TLS"), None, LIMITS, Arc::new(SystemClock)).unwrap();
    for _ in 0..3 {
        let headers: &[(&str, &[u8])] = &[("x-vault-token", b"t")];
        let body = Some(br#"{"a":1}"#.to_vec().into());
        let answer = client.call(Call { method: Method::Put, path: "/v1/a?b=c", headers, body, repeatable: false }).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let log = log.lock().unwrap();
    assert_eq!(log.len(), 3);
    for (connection, text) in log.iter() {
        assert_eq!(*connection, 0);
        assert!(text.starts_with("PUT /v1/a?b=c HTTP/1.1\r\nhost: localhost\r\n") && text.ends_with("\r\n\r\n{\"a\":1}"), "{text}");
        assert!(text.contains("x-vault-token: t\r\n") && text.contains("content-type: application/json\r\n"), "{text}");
    }
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = plain(listener.local_addr().unwrap().port(), LIMITS);
    let (call, closed) = tokio::join!(get(&client), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(&ok("{}")).await.unwrap();
        // Its buffers would keep what passed for as long as it is open.
        tokio::time::timeout(Duration::from_secs(20), stream.read(&mut request)).await
    });
    assert_eq!(call.unwrap().status, 200);
    assert!(matches!(closed, Ok(Ok(0))), "{closed:?}");
}

//! A hand between claviger and a real PostgreSQL: it passes on what both say, until it is told to do what servers must not. What it does then
//! is what a server that was taken over could do.

#![allow(dead_code, reason = "each suite uses a part")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf},
    net::{TcpListener, UnixListener, UnixStream},
};
use tokio_rustls::{TlsAcceptor, rustls};

/// What comes in place of the server's answer.
#[derive(Clone, Debug)]
pub enum Mischief {
    /// These bytes, and what comes after that is passed on again.
    Answers(Vec<u8>),
    /// These bytes, and nothing more; the connection stays.
    Says(Vec<u8>),
    /// These bytes, and the connection is closed.
    BreaksOff(Vec<u8>),
    /// These bytes, and then others again and again, as fast as they are taken.
    Floods(Vec<u8>, Vec<u8>),
    /// These bytes, and then others every few milliseconds.
    Drips(Vec<u8>, Vec<u8>),
    /// The statement is carried out, and its answer is lost with the connection.
    DoneAndClosed,
}

/// A message as the server sends it: its kind and what is in it.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
}

/// A "no" of the server's, ready for the next question.
pub fn refusal(code: &str, text: &str) -> Vec<u8> {
    [message(b'E', format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes()), message(b'Z', b"I")].concat()
}

impl Mischief {
    /// The same behind these bytes.
    pub fn behind(self, first: &[u8]) -> Self {
        let joined = |bytes: Vec<u8>| [first, &bytes].concat();
        match self {
            Mischief::Answers(bytes) => Mischief::Answers(joined(bytes)),
            Mischief::Says(bytes) => Mischief::Says(joined(bytes)),
            Mischief::BreaksOff(bytes) => Mischief::BreaksOff(joined(bytes)),
            Mischief::Floods(bytes, then) => Mischief::Floods(joined(bytes), then),
            Mischief::Drips(bytes, then) => Mischief::Drips(joined(bytes), then),
            Mischief::DoneAndClosed => Mischief::DoneAndClosed,
        }
    }
}

/// What a connection says first.
pub const STARTUP: &str = "\0application_name\0";

#[derive(Default)]
struct Shared {
    mischief: Mutex<Option<(&'static str, Mischief)>>,
    /// Connections that the other side has not closed.
    open: AtomicUsize,
    /// Bytes that were taken of what nobody should send.
    taken: AtomicU64,
    /// How often it did it.
    done: AtomicUsize,
}

/// It listens until the runtime ends, on a socket in a folder of its own and, with TLS, on a port.
pub struct Between {
    folder: TempDir,
    pub port: u16,
    shared: Arc<Shared>,
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Both for S {}

impl Between {
    /// Before the server whose socket of that number is in this folder.
    pub async fn start(cluster: &Path, number: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = UnixListener::bind(folder.path().join(format!(".s.PGSQL.{port}"))).unwrap();
        let (shared, server) = (Arc::<Shared>::default(), cluster.join(format!(".s.PGSQL.{number}")));
        let acceptor = acceptor(cluster);
        let (for_tls, at) = (shared.clone(), server.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (shared, at, acceptor) = (for_tls.clone(), at.clone(), acceptor.clone());
                tokio::spawn(async move {
                    // The request for TLS, which has no kind.
                    if stream.read_exact(&mut [0; 8]).await.is_ok() && stream.write_all(b"S").await.is_ok() {
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        converse(Box::new(stream), &at, &shared).await;
                    }
                });
            }
        });
        let on_socket = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (shared, at) = (on_socket.clone(), server.clone());
                tokio::spawn(async move { converse(Box::new(stream), &at, &shared).await });
            }
        });
        Self { folder, port, shared }
    }

    pub fn socket_folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// From now on, in answer to whatever holds this text.
    pub fn set(&self, mischief: Option<(&'static str, Mischief)>) {
        *self.shared.mischief.lock().unwrap() = mischief;
    }

    /// What is to come, which then does not.
    pub fn take(&self) -> Option<(&'static str, Mischief)> {
        self.shared.mischief.lock().unwrap().take()
    }

    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::SeqCst)
    }

    pub fn done(&self) -> usize {
        self.shared.done.load(Ordering::SeqCst)
    }
}

/// With the server's own certificate.
fn acceptor(folder: &Path) -> TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificates = CertificateDer::pem_file_iter(folder.join("server.crt")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

type Writer = Arc<tokio::sync::Mutex<WriteHalf<Box<dyn Both>>>>;

async fn converse(stream: Box<dyn Both>, server: &Path, shared: &Shared) {
    shared.open.fetch_add(1, Ordering::SeqCst);
    if let Ok(server) = UnixStream::connect(server).await {
        pass_on(stream, server, shared).await;
    }
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

async fn pass_on(stream: Box<dyn Both>, server: UnixStream, shared: &Shared) {
    let (mut from_client, to_client) = tokio::io::split(stream);
    let (mut from_server, mut to_server) = server.into_split();
    let (to_client, lost): (Writer, _) = (Arc::new(tokio::sync::Mutex::new(to_client)), Arc::new(AtomicBool::new(false)));
    let (back, is_lost) = (to_client.clone(), lost.clone());
    let backwards = tokio::spawn(async move {
        let mut piece = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut piece).await {
            // The server has answered, so it is done.
            if is_lost.load(Ordering::SeqCst) || back.lock().await.write_all(&piece[..count]).await.is_err() {
                break;
            }
        }
        // Whoever waits for the rest hears that there is none.
        let _ = back.lock().await.shutdown().await;
    });
    let mut kind = false;
    while let Some(said) = next(&mut from_client, kind).await {
        kind = true;
        let mischief = shared.mischief.lock().unwrap().clone();
        let meant = |text: &str| said.windows(text.len().max(1)).any(|window| window == text.as_bytes());
        match mischief.filter(|(text, _)| meant(text)) {
            None => {
                if to_server.write_all(&said).await.is_err() {
                    break;
                }
            }
            Some((_, Mischief::Answers(bytes))) => {
                shared.done.fetch_add(1, Ordering::SeqCst);
                let _ = to_client.lock().await.write_all(&bytes).await;
            }
            Some((_, Mischief::DoneAndClosed)) => {
                shared.done.fetch_add(1, Ordering::SeqCst);
                lost.store(true, Ordering::SeqCst);
                let _ = to_server.write_all(&said).await;
                let _ = backwards.await;
                return;
            }
            Some((_, mischief)) => {
                shared.done.fetch_add(1, Ordering::SeqCst);
                let mut to_client = to_client.lock().await;
                let closes = matches!(mischief, Mischief::BreaksOff(_));
                tokio::select! {
                    () = play(&mut to_client, mischief, shared) => {}
                    () = until_it_goes(&mut from_client), if !closes => {}
                }
                let _ = to_client.shutdown().await;
                break;
            }
        }
    }
    backwards.abort();
}

async fn play(to_client: &mut WriteHalf<Box<dyn Both>>, mischief: Mischief, shared: &Shared) {
    match mischief {
        Mischief::BreaksOff(bytes) => drop(to_client.write_all(&bytes).await),
        Mischief::Says(bytes) => {
            let _ = to_client.write_all(&bytes).await;
            let _ = to_client.flush().await;
            std::future::pending::<()>().await;
        }
        Mischief::Floods(first, then) => {
            let mut piece = then.repeat((64 << 10) / then.len() + 1);
            let mut taken = to_client.write_all(&first).await;
            if !first.is_empty() {
                // What is an answer is heard as one before the rest comes.
                let _ = to_client.flush().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            while taken.is_ok() {
                taken = to_client.write_all(&piece).await;
                shared.taken.fetch_add(piece.len() as u64, Ordering::SeqCst);
                // A limit that is taken out must fail a test and not the machine.
                if shared.taken.load(Ordering::SeqCst) > 256 << 20 {
                    piece.clear();
                    std::future::pending::<()>().await;
                }
            }
        }
        Mischief::Drips(first, bytes) => {
            let _ = to_client.write_all(&first).await;
            while to_client.write_all(&bytes).await.is_ok() && to_client.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Mischief::Answers(_) | Mischief::DoneAndClosed => {}
    }
}

async fn until_it_goes(from: &mut (impl AsyncRead + Unpin)) {
    while let Ok(1..) = from.read(&mut [0; 4096]).await {}
}

/// The next that the client says; its first message has no kind.
async fn next(from: &mut (impl AsyncRead + Unpin), kind: bool) -> Option<Vec<u8>> {
    let mut said = vec![0; if kind { 5 } else { 4 }];
    from.read_exact(&mut said).await.ok()?;
    let length = u32::from_be_bytes(said[said.len() - 4..].try_into().unwrap()) as usize;
    let head = said.len();
    said.resize(head + length - 4, 0);
    from.read_exact(&mut said[head..]).await.ok()?;
    Some(said)
}

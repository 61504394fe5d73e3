//! A stand-in for an HTTP source: it answers as it is told, until it is told to do what servers must not. It is no such source: what a real
//! one does is tested elsewhere.

#![allow(dead_code, reason = "each suite uses a part")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// In what comes when an answer breaks off.
pub const CANARY: &str = "canary-of-the-weather";

/// What happens to calls whose path, or method and path, begins so.
#[derive(Clone, Debug)]
pub enum Weather {
    /// Status and further headers, with a body that says nothing.
    Status(u16, &'static str),
    /// The same with this body.
    Reply(u16, &'static str, &'static str),
    Body(&'static str),
    Giant,
    Truncated,
    Redirect(u16),
    Stall,
    Close,
    /// It is done, and the answer does not come.
    DoneAndClosed,
}

/// One call.
pub struct Request {
    pub method: String,
    /// Without its query.
    pub path: String,
    /// With it.
    pub target: String,
    head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

type Answer = dyn Fn(&Request) -> (u16, String) + Send + Sync;

/// It listens on loopback until the runtime ends, or until it is stopped.
#[derive(Clone)]
pub struct StandIn {
    pub port: u16,
    weather: Arc<Mutex<Option<(&'static str, Weather)>>>,
    answer: Arc<Answer>,
    listening: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl StandIn {
    pub async fn start(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stand_in = Self { port, weather: Arc::default(), answer: Arc::new(answer), listening: Arc::default() };
        stand_in.listen(listener);
        stand_in
    }

    fn listen(&self, listener: TcpListener) {
        let shared = self.clone();
        let task = tokio::spawn(async move {
            // They end with this task.
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                conversations.spawn(converse(stream, shared.clone(), shared.answer.clone()));
            }
        });
        *self.listening.lock().unwrap() = Some(task);
    }

    /// Nobody listens any more, and whoever was connected is cut off.
    pub async fn stop(&self) {
        let task = self.listening.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
    }

    /// At the same place.
    pub async fn start_again(&self) {
        self.listen(TcpListener::bind(("127.0.0.1", self.port)).await.unwrap());
    }

    /// From now on; `None` for a clear sky.
    pub fn set(&self, weather: Option<(&'static str, Weather)>) {
        *self.weather.lock().unwrap() = weather;
    }
}

/// A port where calls are counted and nobody answers.
pub async fn counted_port() -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, reached) = (listener.local_addr().unwrap().port(), Arc::<std::sync::atomic::AtomicUsize>::default());
    let counted = reached.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    (port, reached)
}

/// Tries as often as the broker would, until it is no longer said that another try may help.
pub async fn until_settled<T, E: std::fmt::Debug>(mut attempt: impl AsyncFnMut() -> Result<T, E>, passing: impl Fn(&E) -> bool) -> T {
    for _ in 0..100 {
        match attempt().await {
            Ok(done) => return done,
            Err(error) if passing(&error) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("does not come through")
}

async fn converse(mut stream: TcpStream, sky: StandIn, answer: Arc<Answer>) {
    loop {
        let (mut head, mut byte) = (Vec::new(), [0u8; 1]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split(' ');
        let method = words.next().unwrap().to_owned();
        let target = words.next().unwrap().to_owned();
        let path = target.split('?').next().unwrap().to_owned();
        let mut request = Request { method, path, target, head, body: Vec::new() };
        request.body = vec![0; request.header("content-length").map_or(0, |length| length.trim().parse().unwrap())];
        stream.read_exact(&mut request.body).await.unwrap();
        let line = format!("{} {}", request.method, request.path);
        let is_meant = |begins: &str| request.path.starts_with(begins) || line.starts_with(begins);
        let weather = sky.weather.lock().unwrap().clone().filter(|(begins, _)| is_meant(begins)).map(|(_, weather)| weather);
        let whole = |status: u16, more: &str, body: &str| {
            format!("HTTP/1.1 {status} x\r\n{more}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let (bytes, close) = match weather {
            None => {
                let (status, body) = answer(&request);
                (whole(status, "", &body), false)
            }
            Some(Weather::Status(status, more)) => (whole(status, more, r#"{"errors":["it rains"]}"#), false),
            Some(Weather::Reply(status, more, body)) => (whole(status, more, body), false),
            Some(Weather::Body(body)) => (whole(200, "", body), false),
            Some(Weather::Giant) => {
                (format!("HTTP/1.1 200 x\r\ncontent-length: 9000000\r\n\r\n{}", "x".repeat(9_000_000)).into_bytes(), true)
            }
            Some(Weather::Truncated) => {
                (format!("HTTP/1.1 200 x\r\ncontent-length: 500\r\n\r\n{{\"data\":{{\"password\":\"{CANARY}").into_bytes(), true)
            }
            Some(Weather::Redirect(port)) => (whole(307, &format!("location: http://127.0.0.1:{port}{}\r\n", request.path), ""), false),
            Some(Weather::Stall) => std::future::pending().await,
            Some(Weather::Close) => return,
            Some(Weather::DoneAndClosed) => {
                answer(&request);
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() || close {
            return;
        }
    }
}

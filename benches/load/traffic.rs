//! Clients: one thread with an event loop keeps each of N connections busy with one request at a time, so that what is measured is the
//! server and not the scheduler's way with N threads. `Clients::Blocking` is one thread for each connection, as N small programs would be.

use mio::{Events, Interest, Poll, Token, event::Source};
use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// What is asked where.
#[derive(Clone)]
pub struct Target {
    /// As the table names it.
    pub name: String,
    /// `unix:PATH` or `tcp:ADDRESS`.
    pub at: String,
    /// Requests, taken in turn.
    pub requests: Vec<String>,
    /// The server's process, for its CPU time; 0 when unknown.
    pub server: u32,
    /// Every request comes on a connection of its own.
    pub fresh: bool,
    /// How its clients wait.
    pub clients: Clients,
}

/// How clients wait for answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// One event loop for all connections.
    Events,
    /// A thread for each.
    Blocking,
}

/// What came out for one target.
pub struct Row {
    pub name: String,
    pub connections: usize,
    /// Answers a second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
    /// Microseconds of the server's CPU time for each answer.
    pub cpu: f64,
}

/// Takes turns, so that what else the machine does meanwhile falls on all of them.
pub fn measure(targets: &[Target], connections: usize, seconds: f64) -> Vec<Row> {
    const TURNS: usize = 5;
    let mut samples: Vec<(Vec<u32>, f64)> = targets.iter().map(|_| Default::default()).collect();
    for _ in 0..TURNS {
        for (target, (latencies, used)) in targets.iter().zip(&mut samples) {
            let (more, cpu) = turn(target, connections, seconds / TURNS as f64);
            latencies.extend(more);
            *used += cpu;
        }
    }
    let rows = targets.iter().zip(samples).map(|(target, (mut latencies, used))| {
        latencies.sort_unstable();
        let at = |q: f64| {
            latencies.get((latencies.len().max(1) - 1) * (q * 1000.0) as usize / 1000).map_or(f64::NAN, |n| f64::from(*n) / 1000.0)
        };
        let count = latencies.len() as f64;
        Row { name: target.name.clone(), connections, rate: count / seconds, p50: at(0.5), p99: at(0.99), cpu: used * 1e6 / count }
    });
    rows.collect()
}

/// Answers a second in one turn.
pub fn rate(target: &Target, connections: usize, seconds: f64) -> f64 {
    turn(target, connections, seconds).0.len() as f64 / seconds
}

/// The latencies of one turn in nanoseconds, and the seconds of CPU that the server used.
fn turn(target: &Target, connections: usize, seconds: f64) -> (Vec<u32>, f64) {
    let begin = Instant::now() + Duration::from_millis(100);
    let end = begin + Duration::from_secs_f64(seconds);
    let before = std::cell::Cell::new(0.0);
    let latencies = match target.clients {
        Clients::Events => events(target, connections, begin, end, || before.set(cpu(target.server))),
        Clients::Blocking => blocking(target, connections, begin, end, || before.set(cpu(target.server))),
    };
    (latencies, cpu(target.server) - before.get())
}

enum Socket {
    Unix(mio::net::UnixStream),
    Tcp(mio::net::TcpStream),
}

impl Socket {
    fn connect(to: &str) -> Self {
        match to.split_once(':') {
            Some(("unix", path)) => {
                let stream = UnixStream::connect(path).expect("a Unix socket");
                stream.set_nonblocking(true).expect("a socket");
                Self::Unix(mio::net::UnixStream::from_std(stream))
            }
            Some(("tcp", address)) => {
                let stream = TcpStream::connect(address).expect("a loopback port");
                stream.set_nodelay(true).expect("TCP");
                stream.set_nonblocking(true).expect("a socket");
                Self::Tcp(mio::net::TcpStream::from_std(stream))
            }
            _ => panic!("an address is unix:PATH or tcp:HOST:PORT"),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Unix(stream) => stream,
            Self::Tcp(stream) => stream,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let sent = match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        };
        assert_eq!(sent.expect("the server reads"), bytes.len(), "a request fits into a socket's buffer");
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

struct Client {
    socket: Socket,
    sent: Instant,
    buffer: Vec<u8>,
    have: usize,
    next: usize,
}

fn events(target: &Target, connections: usize, begin: Instant, end: Instant, at_begin: impl Fn()) -> Vec<u32> {
    let mut poll = Poll::new().expect("epoll");
    let mut ready = Events::with_capacity(connections);
    let mut latencies = Vec::with_capacity(1 << 20);
    let open = |poll: &Poll, n: usize| {
        let mut socket = Socket::connect(&target.at);
        poll.registry().register(socket.source(), Token(n), Interest::READABLE).expect("epoll");
        socket
    };
    let mut clients: Vec<Client> = (0..connections)
        .map(|n| Client { socket: open(&poll, n), sent: Instant::now(), buffer: vec![0; 16 << 10], have: 0, next: n })
        .collect();
    let step = connections;
    for client in &mut clients {
        client.socket.send(target.requests[client.next % target.requests.len()].as_bytes());
    }
    let (mut begun, mut busy) = (false, connections);
    while busy > 0 {
        poll.poll(&mut ready, Some(Duration::from_secs(30))).expect("epoll");
        assert!(!ready.is_empty(), "{} does not answer", target.name);
        for event in &ready {
            let n = event.token().0;
            let client = &mut clients[n];
            let done = loop {
                match client.socket.read(&mut client.buffer[client.have..]) {
                    Ok(0) => panic!("the server closed: {}", String::from_utf8_lossy(&client.buffer[..client.have])),
                    Ok(more) => client.have += more,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                    Err(error) => panic!("{error}"),
                }
                if is_whole(&client.buffer[..client.have]) {
                    break true;
                }
            };
            if !done {
                continue;
            }
            let now = Instant::now();
            if now >= begin && !begun {
                (begun, _) = (true, at_begin());
            }
            if now >= begin && now < end {
                latencies.push((now - client.sent).as_nanos() as u32);
            }
            if now >= end {
                busy -= 1;
                continue;
            }
            client.have = 0;
            client.next += step;
            client.sent = now;
            if target.fresh {
                // The old one is closed by this; epoll forgets it.
                client.socket = open(&poll, n);
            }
            client.socket.send(target.requests[client.next % target.requests.len()].as_bytes());
        }
    }
    latencies
}

fn blocking(target: &Target, connections: usize, begin: Instant, end: Instant, at_begin: impl Fn()) -> Vec<u32> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections)
            .map(|n| {
                let path = target.at.strip_prefix("unix:").expect("blocking clients use Unix sockets");
                let mut stream = UnixStream::connect(path).expect("a Unix socket");
                let request = target.requests[n % target.requests.len()].as_bytes();
                scope.spawn(move || {
                    let mut latencies = Vec::with_capacity(1 << 16);
                    let mut buffer = vec![0; 16 << 10];
                    loop {
                        let sent = Instant::now();
                        if sent >= end {
                            return latencies;
                        }
                        stream.write_all(request).expect("the server reads");
                        let mut have = 0;
                        while !is_whole(&buffer[..have]) {
                            let more = stream.read(&mut buffer[have..]).expect("an answer");
                            assert!(more > 0, "the server closed: {}", String::from_utf8_lossy(&buffer[..have]));
                            have += more;
                        }
                        if sent >= begin {
                            latencies.push(sent.elapsed().as_nanos() as u32);
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(begin.saturating_duration_since(Instant::now()));
        at_begin();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

/// Whether these bytes are one whole answer, looked at with as little work as will do; anything but a success ends the run.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&bytes[..end]).expect("text");
    assert!(head.starts_with("HTTP/1.1 20"), "{}", String::from_utf8_lossy(bytes));
    const LENGTH: &str = "content-length: ";
    let at = head.find(LENGTH).or_else(|| head.find("Content-Length: ")).expect("a length") + LENGTH.len();
    let digits = head[at..].split('\r').next().unwrap_or_default();
    bytes.len() >= end + 4 + digits.parse::<usize>().expect("a length")
}

/// Seconds of CPU that a process has used.
pub fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().filter_map(|f| f.parse().ok()).collect()).unwrap_or_default();
    // After the name and the state letter: user and system time are fields 14 and 15 of stat, in hundredths.
    fields.get(10).zip(fields.get(11)).map_or(0.0, |(user, system)| (user + system) / 100.0)
}

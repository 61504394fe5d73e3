//! A child process of the demo: asks once, prints the answer, holds its lease until it is told to go.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

/// Runs as a child: `SOCKET BODY`. Prints one line of JSON and waits for standard input to close.
pub fn act(socket: &Path, body: &str) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let answer = exchange(&mut stream, "POST", "/v1/leases", body)?;
    println!("{answer}");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map(drop)
}

/// One request and its answer as `{"status":..., "body":...}`; answers a nonce challenge.
pub fn exchange(stream: &mut UnixStream, method: &str, path: &str, body: &str) -> std::io::Result<Value> {
    let first = once(stream, method, path, body, "")?;
    match first["body"]["error"]["nonce"].as_str() {
        Some(nonce) => once(stream, method, path, body, &format!("{}: {nonce}\r\n", crate::wire::NONCE_HEADER)),
        None => Ok(first),
    }
}

fn once(stream: &mut UnixStream, method: &str, path: &str, body: &str, more: &str) -> std::io::Result<Value> {
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: claviger\r\n{more}content-length: {}\r\n\r\n{body}", body.len())?;
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((name, value)) = head[before..].split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer)?;
    let status: u16 = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok(json!({"status": status, "body": serde_json::from_slice::<Value>(&answer).unwrap_or_default()}))
}

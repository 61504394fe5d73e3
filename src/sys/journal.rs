//! One line to journald or syslog over their datagram sockets: no library, no buffer, never waits.

use std::{io, os::unix::net::UnixDatagram, path::Path};

/// Where journald listens.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Where syslog listens.
pub const SYSLOG_SOCKET: &str = "/dev/log";

/// Sends `fields` as one entry of journald's native protocol. Errors when nobody listens or the receiver's queue is full.
///
/// Values that hold a line break are framed with their length, as the protocol asks.
pub fn send_journal(socket: &Path, fields: &[(&str, &str)]) -> io::Result<()> {
    let mut datagram = Vec::with_capacity(512);
    for (name, value) in fields {
        datagram.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            datagram.push(b'\n');
            datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            datagram.push(b'=');
        }
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    }
    send(socket, &datagram)
}

/// Sends `message` with facility `authpriv`, severity `notice` in the old BSD form that every local syslog takes.
pub fn send_syslog(socket: &Path, identifier: &str, message: &str) -> io::Result<()> {
    const AUTHPRIV_NOTICE: u8 = (10 << 3) | 5;
    send(socket, format!("<{AUTHPRIV_NOTICE}>{identifier}: {message}").as_bytes())
}

fn send(socket: &Path, datagram: &[u8]) -> io::Result<()> {
    // A new socket each time: the receiver may have been restarted since, and heads are rare.
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    let sent = sender.send_to(datagram, socket)?;
    if sent == datagram.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_arrive_framed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        send_journal(&path, &[("MESSAGE", "a b"), ("TWO", "x\ny")]).unwrap();
        let mut buffer = [0; 256];
        let n = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"MESSAGE=a b\nTWO\n\x03\0\0\0\0\0\0\0x\ny\n");
        send_syslog(&path, "claviger", "m").unwrap();
        let n = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"<85>claviger: m");
        assert!(send_journal(&folder.path().join("nobody"), &[]).is_err());
    }
}

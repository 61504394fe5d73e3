//! Where a source listens.

use std::{fmt, net::IpAddr, path::PathBuf};

/// One place to call. There is no TCP without TLS, but for a listener on this very host where the operator says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) place: Place,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tls {
        host: String,
        port: u16,
    },
    /// Loopback only.
    Plain {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither `https://` nor `unix:`.
    #[error("must be https://HOST, https://HOST:PORT or unix:/PATH")]
    Kind,
    /// Something beside host and port.
    #[error("must name a host, and a port if it is not the usual one, and nothing else")]
    More,
    /// `http://` to another host.
    #[error("http:// goes to this host only (127.0.0.1, [::1] or localhost)")]
    Far,
    /// `http://` without the operator's word.
    #[error("http:// is not encrypted: say plain_loopback = true if that is meant")]
    Plain,
    /// Not a path from the root.
    #[error("the path of a Unix socket must be absolute")]
    Relative,
}

impl Address {
    /// Reads `https://HOST[:PORT]` (443 without a port), `unix:/PATH`, and with `plain_loopback` also `http://` to this host.
    pub fn parse(text: &str, plain_loopback: bool) -> Result<Self, AddressError> {
        let place = if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            if !path.is_absolute() {
                return Err(AddressError::Relative);
            }
            Place::Unix(path)
        } else if let Some(rest) = text.strip_prefix("https://") {
            let (host, port) = host_and_port(rest, 443)?;
            Place::Tls { host, port }
        } else if let Some(rest) = text.strip_prefix("http://") {
            let (host, port) = host_and_port(rest, 80)?;
            if host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
                return Err(AddressError::Far);
            }
            if !plain_loopback {
                return Err(AddressError::Plain);
            }
            Place::Plain { host, port }
        } else {
            return Err(AddressError::Kind);
        };
        Ok(Self { place, text: text.to_owned() })
    }

    /// The TCP port that is dialled, if it is not a Unix socket.
    pub fn port(&self) -> Option<u16> {
        match &self.place {
            Place::Tls { port, .. } | Place::Plain { port, .. } => Some(*port),
            Place::Unix(_) => None,
        }
    }

    /// The Unix socket, if it is one.
    pub fn socket(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Unix(path) => Some(path),
            _ => None,
        }
    }

    /// Whether calls are encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.place, Place::Tls { .. })
    }

    /// For the `Host` header.
    pub(super) fn authority(&self) -> String {
        match &self.place {
            Place::Tls { host, port } | Place::Plain { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Place::Tls { host, port } | Place::Plain { host, port } => format!("{host}:{port}"),
            Place::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

fn host_and_port(rest: &str, usual: u16) -> Result<(String, u16), AddressError> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']').ok_or(AddressError::More)?;
            if !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
                return Err(AddressError::More);
            }
            (host, after.strip_prefix(':').or(after.is_empty().then_some("")).ok_or(AddressError::More)?)
        }
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let port = match port {
        "" if !rest.ends_with(':') => usual,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0).ok_or(AddressError::More)?
        }
        _ => return Err(AddressError::More),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host.is_empty() || host.len() > 253 || !(host.chars().all(is_name) || host.parse::<IpAddr>().is_ok()) {
        return Err(AddressError::More);
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_and_nothing_else() {
        let place = |text: &str| Address::parse(text, true).map(|address| address.place);
        let tls = |host: &str, port| Ok(Place::Tls { host: host.into(), port });
        assert_eq!(place("https://bao.example.com"), tls("bao.example.com", 443));
        assert_eq!(place("https://bao.example.com:8200/"), tls("bao.example.com", 8200));
        assert_eq!(place("https://[::1]:8200"), tls("::1", 8200));
        assert_eq!(place("https://[2001:db8::7]"), tls("2001:db8::7", 443));
        assert_eq!(place("unix:/run/bao.sock"), Ok(Place::Unix("/run/bao.sock".into())));
        assert_eq!(place("unix:///run/bao.sock"), Ok(Place::Unix("/run/bao.sock".into())));
        assert_eq!(place("http://127.0.0.1:8200"), Ok(Place::Plain { host: "127.0.0.1".into(), port: 8200 }));
        assert_eq!(Address::parse("http://localhost:8200", false), Err(AddressError::Plain));
        assert_eq!(place("http://bao.example.com:8200"), Err(AddressError::Far));
        assert_eq!(place("http://127.0.0.1.example.com"), Err(AddressError::Far));
        assert_eq!(place("unix:bao.sock"), Err(AddressError::Relative));
        for bad in ["", "bao.example.com", "ftp://x", "file:///x"] {
            assert_eq!(place(bad), Err(AddressError::Kind), "{bad}");
        }
        for bad in [
            "https://",
            "https://x/v1",
            "https://user@x",
            "https://x:",
            "https://x:0",
            "https://x:65536",
            "https://x:+1",
            "https://x?y",
            "https://x#y",
            "https://x y",
            "https://[::1",
            "https://[x]",
            "https://[::1]8",
            "https://x\r\ny",
        ] {
            assert_eq!(place(bad), Err(AddressError::More), "{bad:?}");
        }
        assert_eq!(Address::parse("https://[::1]:8200", false).unwrap().authority(), "[::1]:8200");
    }
}

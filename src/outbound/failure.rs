//! What can go wrong with a call, and whose turn it then is.

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use std::{error::Error, fmt, io, time::Duration};

/// Why a call got no answer. None holds a byte of a request or an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens, or the connection broke. Another try may help.
    #[error("{0}")]
    Unreachable(String),
    /// Nobody tries so soon after a failed connection, which was this.
    #[error("could not be reached a moment ago; waiting before the next try ({0})")]
    Waiting(Box<CallError>),
    /// The source asked not to be asked this for so long yet (`Retry-After`).
    #[error("asked us to wait, for {} s more", .0.as_secs().max(1))]
    AskedToWait(Duration),
    /// The call took longer than it may.
    #[error("no answer within {0} ms")]
    Late(u128),
    /// The server is not who it should be, or does not believe that we are. An operator has to look.
    #[error("TLS: {0}")]
    Tls(TlsReason),
    /// The server sends us elsewhere, where we do not go.
    #[error("answered with a redirect (status {0}), which is never followed")]
    Redirect(u16),
    /// More than an answer may have.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// Not HTTP, or cut off.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    /// Not a request that can be sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

impl CallError {
    /// Whether nothing but an operator can mend it.
    pub fn is_setup(&self) -> bool {
        match self {
            CallError::Tls(_) | CallError::Redirect(_) | CallError::Request(_) => true,
            // Whose turn it is has not changed.
            CallError::Waiting(why) => why.is_setup() && !crate::mutation!("setback-cause"),
            _ => false,
        }
    }
}

/// Why two sides of TLS do not get on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsReason {
    /// Its certificate is signed by none of the authorities that are trusted here.
    UnknownAuthority,
    /// Its certificate is over.
    Expired,
    /// Its certificate is not yet valid, or this host's clock is wrong.
    NotYetValid,
    /// Its certificate is for another name.
    WrongName,
    /// Its certificate was revoked.
    Revoked,
    /// It wants a certificate from us, or another one.
    OurCertificate,
    /// What answers does not speak TLS.
    NotTls,
    /// It is asked for TLS in a protocol of its own, and offers none.
    NotOffered,
    /// It broke off for a reason of its own, which may pass: a proxy whose server is not there yet says so.
    BrokenOff(String),
    /// Anything else, in the library's words.
    Other(String),
}

impl fmt::Display for TlsReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsReason::UnknownAuthority => "the server's certificate is signed by no authority that is trusted here (ca_file)",
            TlsReason::Expired => "the server's certificate has expired, or this host's clock is wrong",
            TlsReason::NotYetValid => "the server's certificate is not valid yet, or this host's clock is wrong",
            TlsReason::WrongName => "the server's certificate is for another name (server_name)",
            TlsReason::Revoked => "the server's certificate was revoked",
            TlsReason::OurCertificate => "the server wants a client certificate, or does not accept ours",
            TlsReason::NotTls => "what answers there does not speak TLS",
            TlsReason::NotOffered => "the server offers no TLS",
            TlsReason::BrokenOff(alert) => return write!(f, "the server broke off: {alert}"),
            TlsReason::Other(text) => text,
        })
    }
}

/// What the TLS library says, if it is behind this error at all: hyper and the runtime wrap it.
pub fn tls_reason(error: &(dyn Error + 'static)) -> Option<TlsReason> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(reason(found));
        }
        // `source` of an I/O error skips the error that it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn reason(error: &rustls::Error) -> TlsReason {
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsReason::UnknownAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsReason::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsReason::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsReason::WrongName,
            CertificateError::Revoked => TlsReason::Revoked,
            other => TlsReason::Other(format!("the server's certificate: {other}")),
        },
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied
            // It cannot make anything of our signature.
            | AlertDescription::DecryptError,
        ) => TlsReason::OurCertificate,
        rustls::Error::AlertReceived(alert @ (AlertDescription::InternalError | AlertDescription::UserCanceled | AlertDescription::CloseNotify)) => {
            TlsReason::BrokenOff(format!("{alert:?}"))
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => TlsReason::NotTls,
        other => TlsReason::Other(other.to_string()),
    }
}

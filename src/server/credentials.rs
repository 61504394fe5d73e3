//! The door for `LoadCredential=NAME:/run/claviger/credentials.sock`: systemd connects, and what it reads until the end is the credential.
//!
//! systemd takes an end without a byte for an empty credential and starts the unit with it, so *no* is said by more bytes than a credential
//! may have: the unit then fails with 243/CREDENTIALS before its program runs.

use super::Server;
use crate::{
    broker::Broker,
    model::{Code, CredentialName, Refusal, RequestId},
    sys::peer_name,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Units that are answered at once; the others wait in the kernel's queue, for a connection that is turned away would be a "no".
const AT_ONCE: usize = 64;
/// For the answer to be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// And for a refusal: longer than a start waits, as a rule. Only systemd asks here, so nobody else can make us wait.
const REFUSED_WITHIN: Duration = Duration::from_secs(600);
/// More than any credential may have (systemd: 1 MiB, and 128 KiB more for encrypted ones).
const TOO_MUCH: usize = 2 << 20;

impl Server {
    /// Answers on every connection until stopped.
    pub async fn serve_credentials(&self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Some(stream) = self.next(&listener, "credentials").await else { return };
            let (broker, open) = (self.broker().clone(), self.opened());
            tokio::spawn(async move {
                answer(stream, &broker).await;
                drop((place, open));
            });
        }
    }
}

async fn answer(mut stream: UnixStream, broker: &Arc<Broker>) {
    let id = broker.request_id();
    let asked = peer_name(&stream).and_then(|name| Asked::parse(&name));
    let answered = match &asked {
        Some(asked) => give(&mut stream, asked, broker, id).await,
        None => Err(refuse_unnamed(&stream, broker, id).await),
    };
    let Err(refusal) = answered else { return };
    let (unit, credential) = asked.as_ref().map_or(("?", "?"), |asked| (asked.unit.as_str(), asked.credential.as_str()));
    let (code, message) = (&refusal.code, &refusal.message);
    // In the text too: it is what "journalctl -u clavigerd" shows.
    tracing::warn!(unit, credential, %code, request = %id, detail = refusal.detail, "{unit} gets no credential {credential}: {code}: {message} (clav why {id})");
    let sentence = format!("claviger refuses {credential} to {unit}: {} (clav why {id})\n", refusal.code);
    let some = sentence.repeat(64);
    let no = async {
        for _ in 0..TOO_MUCH.div_ceil(some.len()) {
            stream.write_all(some.as_bytes()).await?;
        }
        std::io::Result::Ok(())
    };
    // It hangs up when it has had more than enough. Until then: the beginning of it would be a credential.
    let _ = timeout(REFUSED_WITHIN, no).await;
}

async fn give(stream: &mut UnixStream, asked: &Asked, broker: &Arc<Broker>, id: RequestId) -> Result<(), Refusal> {
    let caller = match broker.accept(stream).await {
        Ok(caller) => caller,
        Err(error) => {
            let refusal = Refusal::new(Code::ATTESTATION_FAILED).detail(error.to_string());
            return Err(broker.record_cut(id, 0, None, refusal).await);
        }
    };
    let delivery = broker.credential(caller, &asked.unit, asked.credential.clone(), id).await?;
    // What is not taken whole is not a value: the unit fails on its own account, and with it the lease ends.
    if !matches!(timeout(TAKEN_WITHIN, stream.write_all(delivery.value().expose())).await, Ok(Ok(()))) {
        tracing::warn!(unit = asked.unit, request = %id, "a credential was not taken");
    }
    Ok(())
}

/// Somebody connected who is not systemd loading a credential.
async fn refuse_unnamed(stream: &UnixStream, broker: &Arc<Broker>, id: RequestId) -> Refusal {
    let refusal = Refusal::new(Code::NOT_SERVICE_MANAGER).detail("the peer's address names no unit and credential");
    match broker.accept(stream).await {
        Ok(caller) => broker.no_credential(&caller, None, id, refusal).await,
        Err(_) => broker.record_cut(id, 0, None, refusal).await,
    }
}

/// What systemd says about itself by the name it binds its end to: an abstract one, `HEX/unit/UNIT/CREDENTIAL` with a random number
/// (systemd.exec(5), `LoadCredential=`).
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The unit's name as systemd writes it; anybody may bind any name, so it says nothing by itself.
    pub unit: String,
    /// Which credential.
    pub credential: CredentialName,
}

impl Asked {
    /// Parses the name; `None` for every other.
    pub fn parse(name: &[u8]) -> Option<Asked> {
        let mut parts = std::str::from_utf8(name).ok()?.splitn(4, '/');
        let (random, what, unit, credential) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = (1..=16).contains(&random.len()) && random.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        // systemd.unit(5): letters, digits and ":-_.\@", at most 255 of them.
        let is_unit = (1..256).contains(&unit.len()) && unit.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
        let credential = CredentialName::parse(credential).ok()?;
        (is_hex && what == "unit" && is_unit).then(|| Asked { unit: unit.to_owned(), credential })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_one_unit_and_one_credential() {
        let asked = Asked::parse(b"ff8da756aa2b3eb9/unit/app@x\\x2dy.service/db-password").unwrap();
        assert_eq!((asked.unit.as_str(), asked.credential.as_str()), ("app@x\\x2dy.service", "db-password"));
        for other in [
            "",
            "ff8da756aa2b3eb9/unit/a.service",
            "ff8da756aa2b3eb9/unit/a.service/",
            "ff8da756aa2b3eb9/unit//x",
            "ff8da756aa2b3eb9/unit/a.service/x/y",
            "ff8da756aa2b3eb9/unit/a.service/..",
            "ff8da756aa2b3eb9/user/a.service/x",
            "FF/unit/a.service/x",
            "/unit/a.service/x",
            "ff8da756aa2b3eb90/unit/a.service/x",
            "ff/unit/a b.service/x",
        ] {
            assert_eq!(Asked::parse(other.as_bytes()), None, "{other}");
        }
    }
}

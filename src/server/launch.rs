//! The launcher's door: one question and one answer on each connection, in messages (`launch`).

use super::{Server, limits::Place};
use crate::{
    broker::Broker,
    launch::{Answer, MAX_MESSAGE},
    model::{Code, Refusal},
    sys::{self, Packets},
};
use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::{runtime::Handle, time::timeout};

/// The launcher asks at once.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// For the answer to be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// Pause after the kernel had no descriptor or memory for one more connection.
const BREATHER: Duration = Duration::from_millis(50);

impl Server {
    /// Answers on every connection to `listener`, in a thread that waits for them. Call within a runtime.
    pub fn serve_launches(self: &Arc<Self>, listener: OwnedFd) -> io::Result<()> {
        let (server, runtime) = (self.clone(), Handle::current());
        let work = move || {
            loop {
                match Packets::accept(&listener, TAKEN_WITHIN) {
                    Ok(packets) => server.let_in(packets, &runtime),
                    Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                    Err(error) => {
                        tracing::warn!(%error, door = "launch", "a connection could not be accepted");
                        sys::pause(BREATHER);
                    }
                }
            }
        };
        std::thread::Builder::new().name("launch".to_owned()).spawn(work).map(drop)
    }

    fn let_in(&self, packets: Packets, runtime: &Handle) {
        let Ok(cred) = packets.peer() else { return };
        let Some(place) = self.launches().connect(cred.uid) else {
            return tracing::debug!(uid = cred.uid, "too many connections from one uid");
        };
        let broker = self.broker().clone();
        runtime.spawn(async move {
            if let Err(error) = converse(packets, &broker, cred.uid, &place).await {
                tracing::debug!(%error, uid = cred.uid, "a launch was not asked for to the end");
            }
        });
    }
}

async fn converse(packets: Packets, broker: &Arc<Broker>, uid: u32, place: &Place) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let packets = packets.for_tasks()?;
    let mut buffer = [0; MAX_MESSAGE];
    let asked = timeout(ASKED_WITHIN, packets.receive(&mut buffer)).await.map_err(late)??;
    let Some(packet) = asked else { return Ok(()) };
    let answered = if !place.request() {
        Err(Refusal::new(Code::LIMIT))
    } else {
        match broker.accept(&packets).await {
            Ok(caller) if packet.descriptors.is_empty() => broker.launch(&caller, &buffer[..packet.len], packet.sender).await,
            Ok(_) => Err(Refusal::new(Code::MALFORMED)),
            Err(error) => {
                let refusal = Refusal::new(Code::ATTESTATION_FAILED).detail(error.to_string());
                Err(broker.record_cut(broker.request_id(), uid, None, refusal).await)
            }
        }
    };
    let answer = match answered {
        Ok(group) => Answer::Group(group),
        Err(refusal) => Answer::Refused(format!("{} ({})", refusal.message, refusal.code)),
    };
    timeout(TAKEN_WITHIN, packets.send(&answer.encode(), &[])).await.map_err(late)?
}

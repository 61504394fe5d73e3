//! Letting connections in. The loop never ends by an error: it waits and goes on.

use super::{
    connection::{self, Context},
    limits::{LimitSettings, Limits},
};
use crate::{
    broker::Broker,
    sys::{Clock, peer_cred},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// One of the two front doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// For workloads: everybody on the host may knock.
    Workload,
    /// For operators: the socket's mode lets only them in, and more is asked inside.
    Operator,
}

impl Door {
    pub(super) fn name(self) -> &'static str {
        match self {
            Door::Workload => "workload",
            Door::Operator => "operator",
        }
    }
}

/// What the doors share.
pub struct Server {
    broker: Arc<Broker>,
    workloads: Arc<Limits>,
    operators: Arc<Limits>,
    launches: Arc<Limits>,
    audit_folder: PathBuf,
    stop: watch::Receiver<bool>,
    open: Arc<AtomicUsize>,
}

/// An open connection, counted.
pub(super) struct Opened {
    open: Arc<AtomicUsize>,
    broker: Arc<Broker>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.broker.metrics().connections(-1);
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Pause after the kernel had no descriptor or memory for one more connection.
const BREATHER: Duration = Duration::from_millis(50);

impl Server {
    /// `stop` turns true when no more connections are to be taken and open ones are to finish.
    pub fn new(
        broker: Arc<Broker>,
        settings: LimitSettings,
        clock: Arc<dyn Clock>,
        audit_folder: PathBuf,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let registry = broker.clone();
        let named = Box::new(move |uid| registry.governance().roll.names_uid(uid));
        let workloads = Limits::new(settings.clone(), clock.clone(), named);
        // Whoever the socket's mode lets in is no stranger, and no flood at the other door keeps them out.
        let operators = Limits::new(settings.clone(), clock.clone(), Box::new(|_| true));
        // A launch costs a group and two syncs, and people start programs more slowly than this.
        let slow = LimitSettings { connections: 16, connections_total: 256, connections_per_second: 10, ..settings };
        let launches = Limits::new(slow, clock, Box::new(|_| true));
        Self { broker, workloads, operators, launches, audit_folder, stop, open: Arc::default() }
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// One more open connection, until this is dropped.
    pub(super) fn opened(&self) -> Opened {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.broker.metrics().connections(1);
        Opened { open: self.open.clone(), broker: self.broker.clone() }
    }

    pub(super) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// What one uid may at the launcher's door.
    pub(super) fn launches(&self) -> &Arc<Limits> {
        &self.launches
    }

    fn limits(&self, door: Door) -> &Arc<Limits> {
        match door {
            Door::Workload => &self.workloads,
            Door::Operator => &self.operators,
        }
    }

    /// The next connection at a door, however long it takes; `None` when no more are to be taken.
    pub(super) async fn next(&self, listener: &UnixListener, door: &'static str) -> Option<UnixStream> {
        let mut stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            match accepted {
                Ok((stream, _)) => return Some(stream),
                Err(error) => {
                    // EMFILE and ENFILE stay until something closes; ECONNABORTED is the peer's affair. Neither ends the daemon.
                    tracing::warn!(%error, door, "a connection could not be accepted");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    /// Serves one listener until stopped.
    pub async fn serve(&self, listener: UnixListener, door: Door) {
        while let Some(stream) = self.next(&listener, door.name()).await {
            let Ok(cred) = peer_cred(&stream) else { continue };
            let limits = self.limits(door);
            let Some(place) = limits.connect(cred.uid) else {
                tracing::debug!(uid = cred.uid, "too many connections from one uid");
                continue;
            };
            let context = Context {
                broker: self.broker.clone(),
                limits: limits.clone(),
                audit_folder: self.audit_folder.clone(),
                door,
                stop: self.stop.clone(),
            };
            let open = self.opened();
            tokio::spawn(async move {
                connection::serve(stream, cred, place, &context).await;
                drop(open);
            });
        }
    }
}

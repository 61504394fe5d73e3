//! Connections that are kept open between calls, for a moment only.
//!
//! Buffers of an open connection (the HTTP and the TLS library's) hold what passed last, in ordinary memory, until they are freed and so
//! wiped. A burst of calls shares connections; when nobody calls they are closed, and nothing is left.

use super::connection::Connection;
use crate::{model::BootTime, sys::Clock};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(1);
/// How often idle ones are looked for.
const SWEEP: Duration = Duration::from_millis(500);

pub(super) struct Pool(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<(Connection, BootTime)>,
    /// Somebody will look for those that have been idle.
    swept: bool,
}

impl Pool {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared { clock, idle: Mutex::default() }))
    }

    /// The connection that was used last, if one can be used again.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.0.idle();
        self.0.close_idle(&mut idle);
        idle.connections.pop().map(|(connection, _)| connection)
    }

    /// Keeps it for the next call.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut idle = self.0.idle();
        idle.connections.push((connection, self.0.clock.boot()));
        if !std::mem::replace(&mut idle.swept, true) && !crate::mutation!("idle-connections") {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }
}

impl Shared {
    fn close_idle(&self, idle: &mut Idle) {
        let now = self.clock.boot();
        let keep = u64::try_from(IDLE.as_micros()).unwrap_or(u64::MAX);
        idle.connections.retain(|(connection, since)| !connection.is_closed() && now.0.saturating_sub(since.0) < keep);
    }

    /// Held for a few lines that cannot leave the list half changed.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what is idle until nothing is kept.
async fn sweep(pool: Weak<Shared>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        pool.close_idle(&mut idle);
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
    }
}

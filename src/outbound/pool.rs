//! Connections that are kept open between calls.

use super::connection::Connection;
use crate::{model::BootTime, sys::Clock};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longer than this nobody's connection is kept idle: servers and what is between close them sooner or later.
const IDLE_MICROS: u64 = 30_000_000;

pub(super) struct Pool {
    clock: Arc<dyn Clock>,
    idle: Mutex<Vec<(Connection, BootTime)>>,
}

impl Pool {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, idle: Mutex::default() }
    }

    /// The connection that was used last, if one can be used again.
    pub(super) fn take(&self) -> Option<Connection> {
        let now = self.clock.boot();
        let mut idle = self.idle();
        idle.retain(|(connection, since)| !connection.is_closed() && now.0.saturating_sub(since.0) < IDLE_MICROS);
        idle.pop().map(|(connection, _)| connection)
    }

    /// Keeps it for the next call.
    pub(super) fn give_back(&self, connection: Connection) {
        self.idle().push((connection, self.clock.boot()));
    }

    /// Held for a few lines that cannot leave the list half changed.
    fn idle(&self) -> MutexGuard<'_, Vec<(Connection, BootTime)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Signals that are for the command and come to us.

use super::Failure;
use crate::sys;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// One signal.
#[derive(Clone, Copy)]
pub(super) struct Received {
    /// Its number.
    pub(super) number: i32,
    /// It is from the terminal's keys, so the child has it too.
    pub(super) shared: bool,
}

/// Signals for the child, and the news that it has ended.
pub(super) struct Signals {
    child: Signal,
    passed: Vec<(SignalKind, Signal)>,
    foreground: bool,
}

impl Signals {
    /// Those that are for ourselves, the terminal's keys included.
    pub(super) fn own() -> Result<Self, Failure> {
        Ok(Self { foreground: false, ..Self::new()? })
    }

    pub(super) fn new() -> Result<Self, Failure> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ];
        let mut passed = Vec::new();
        for kind in kinds {
            passed.push((kind, signal(kind)?));
        }
        Ok(Self { child: signal(SignalKind::child())?, passed, foreground: sys::in_foreground() })
    }

    /// The next signal, or none when the child should be looked at.
    pub(super) async fn next(&mut self) -> Option<Received> {
        let foreground = self.foreground;
        let (child, passed) = (&mut self.child, &mut self.passed);
        std::future::poll_fn(move |context| {
            if child.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(None);
            }
            for (kind, signal) in passed.iter_mut() {
                if signal.poll_recv(context).is_ready() {
                    let shared = foreground && [SignalKind::interrupt(), SignalKind::quit()].contains(kind);
                    return std::task::Poll::Ready(Some(Received { number: kind.as_raw_value(), shared }));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

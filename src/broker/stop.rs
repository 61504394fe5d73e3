//! Why a pipeline stopped: a refusal for the workload, or a fault of ours.

use crate::{
    audit::AuditError,
    engine::EngineError,
    lease::{CommitError, ReserveError},
    model::{Code, Refusal},
    sys::append::AppendError,
};

/// Our own failure. The caller hears "internal error"; everything else is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The lease journal.
    #[error("lease journal: {0}")]
    Journal(AppendError),
    /// The audit log.
    #[error("audit log: {0}")]
    Audit(AuditError),
    /// A value for the record could not be written down.
    #[error("a record could not be built: {0}")]
    Record(String),
    /// A task ended before its time.
    #[error("a pipeline ended before its time")]
    Task,
    /// The local store.
    #[error("local store: {0}")]
    Store(String),
}

/// Why a pipeline stopped.
#[derive(Debug)]
pub enum Stop {
    /// A *no* that the caller may read.
    Refused(Refusal),
    /// Our own failure.
    Fault(Fault),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::NoValue => Code::NO_VALUE,
            EngineError::Unreachable(_) | EngineError::Busy(..) => Code::ENGINE_UNAVAILABLE,
            EngineError::Setup(_) | EngineError::Refused(_) => Code::ENGINE_REFUSED,
        };
        let retry_after = if let EngineError::Busy(_, after) = &error { Some(after.as_secs().max(1)) } else { None };
        // The engine's words are for operators: they hold no secret, by its contract, but names of its upstream.
        Stop::Refused(Refusal { retry_after, ..Refusal::new(code).detail(error.to_string()) })
    }
}

impl From<AppendError> for Stop {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace => Refusal::new(Code::NO_SPACE).detail(error.to_string()).into(),
            AppendError::Full => Refusal::new(Code::LIMIT).detail(error.to_string()).into(),
            AppendError::Io { .. } | AppendError::Closed => Stop::Fault(Fault::Journal(error)),
        }
    }
}

impl From<ReserveError> for Stop {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::KeyTaken => {
                Refusal::new(Code::IDEMPOTENCY).message("A request with this idempotency key is being answered.").into()
            }
            ReserveError::Journal(error) => error.into(),
        }
    }
}

impl From<CommitError> for Stop {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Withdrawn => Refusal::new(Code::LEASE_ENDED).into(),
            CommitError::Journal(error) => error.into(),
        }
    }
}

impl From<AuditError> for Stop {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Budget => Refusal::new(Code::AUDIT_BUDGET).into(),
            error => Refusal::new(Code::AUDIT_UNAVAILABLE).detail(error.to_string()).into(),
        }
    }
}

impl Stop {
    /// What the caller is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Stop::Refused(refusal) => refusal.clone(),
            Stop::Fault(fault) => Refusal::new(Code::INTERNAL).detail(fault.to_string()),
        }
    }
}

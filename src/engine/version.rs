//! Values that last, as engines tell of them: which version there is, and which are taken back.

use super::EngineError;
use crate::model::{SecretName, WallTime};

/// A version of a value that lasts: what [`Engine::rotate`] makes a new one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its number; a later one is greater.
    pub number: u64,
    /// When it was made.
    pub made: WallTime,
}

/// What an engine keeps of a value that lasts, as it knows without asking its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The version that an issue now would give.
    pub version: Option<Version>,
    /// Whether a change was begun and its end is not known: another one settles it.
    pub cut_short: bool,
}

/// Gives the names of all secrets whose values last, whatever their engine, as they are defined at that moment.
pub type Defined<'a> = &'a (dyn Fn() -> Vec<SecretName> + Send + Sync);

/// A version of a value that lasts and that no definition names any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leftover {
    /// How it is called at the source.
    pub name: String,
    /// Its secret's name, if that is known still.
    pub secret: Option<SecretName>,
    /// Its number.
    pub version: u64,
}

/// A version that is given no more, and what became of it at its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Its secret's name, if that is known still.
    pub secret: Option<SecretName>,
    /// Its number.
    pub version: u64,
    /// How it is called at the source.
    pub name: String,
    /// Whether anything was there; or why it may be there still.
    pub found: Result<bool, String>,
}

impl Leftover {
    /// What became of it.
    pub fn taken(&self, done: Result<bool, EngineError>) -> TakenBack {
        TakenBack::of(self.secret.clone(), self.version, self.name.clone(), done)
    }
}

impl TakenBack {
    /// What became of it.
    pub fn of(secret: Option<SecretName>, version: u64, name: String, done: Result<bool, EngineError>) -> Self {
        Self { secret, version, name, found: done.map_err(|why| why.to_string()) }
    }
}

//! How a verb fails: what people read, and the exit code that scripts read.

use super::output::Style;
use crate::{
    client::ClientError,
    model::{Class, Code},
    wire::{ErrorBody, ErrorView},
};
use std::fmt::Display;

/// Why a verb did not do what it was asked to.
#[derive(Debug)]
pub enum Failure {
    /// The daemon, or the way to it.
    Client(ClientError),
    /// The command line, or what was typed.
    Usage(String),
    /// This host or we.
    Fault(String),
    /// Whoever read our output has gone.
    Pipe,
    /// A command that did not start.
    NotStarted(String),
}

/// Exit codes of `clav`.
pub(super) mod code {
    pub const FAULT: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const REFUSED: u8 = 10;
    pub const NEEDS: u8 = 11;
    pub const UNREACHABLE: u8 = 12;
    pub const ATTESTATION: u8 = 13;
    pub const UNPROVEN: u8 = 14;
    pub const NOT_STARTED: u8 = 125;
}

impl Failure {
    /// Something on this host.
    pub fn fault(error: impl Display) -> Self {
        Failure::Fault(error.to_string())
    }

    /// Says on standard error what happened and returns the exit code.
    pub(super) fn tell(&self, style: &Style) -> u8 {
        match self {
            Failure::Pipe => {}
            Failure::Usage(why) | Failure::Fault(why) | Failure::NotStarted(why) => say(style, "error", why),
            Failure::Client(ClientError::Refused(body, _)) => tell_refusal(style, body),
            Failure::Client(ClientError::Unreachable(path, why)) => {
                say(style, "daemon unreachable", &format!("{}: {why}", path.display()));
                eprintln!("  Does clavigerd run, and may you open its socket? 'clav doctor' looks.");
            }
            Failure::Client(ClientError::Untrusted(path, why)) => {
                say(style, "socket not trusted", &format!("{}: {why}", path.display()));
            }
            Failure::Client(error @ ClientError::Protocol(_)) => say(style, "error", &error.to_string()),
        }
        self.exit()
    }

    fn exit(&self) -> u8 {
        match self {
            Failure::Pipe => 0,
            Failure::Usage(_) => code::USAGE,
            Failure::Fault(_) | Failure::Client(ClientError::Protocol(_)) => code::FAULT,
            Failure::NotStarted(_) => code::NOT_STARTED,
            Failure::Client(ClientError::Unreachable(..) | ClientError::Untrusted(..)) => code::UNREACHABLE,
            Failure::Client(ClientError::Refused(body, status)) => exit_of(&body.error.code, *status),
        }
    }
}

/// The exit code of a refusal.
pub(super) fn exit_of(name: &str, status: u16) -> u8 {
    let known = Code::ALL.iter().find(|(code, _)| code.as_str() == name).map(|(code, _)| code);
    match known.map(Code::class) {
        Some(Class::Malformed) => code::USAGE,
        Some(Class::Attestation) => code::ATTESTATION,
        Some(Class::Needs) => code::NEEDS,
        Some(Class::Unavailable) if name != Code::FROZEN.as_str() && name != Code::READ_ONLY.as_str() => code::FAULT,
        Some(_) => code::REFUSED,
        None if status >= 500 => code::FAULT,
        None => code::REFUSED,
    }
}

/// What a refusal says, indented below its first line.
pub(super) fn describe(error: &ErrorView) -> Vec<String> {
    let mut lines: Vec<String> = error.needs.iter().map(|need| format!("needs {}: {}", need.require, need.sentence)).collect();
    lines.extend(error.needs.iter().filter_map(|need| need.ticket.as_ref()).map(|ticket| format!("such as {}", ticket.as_str())));
    lines
}

fn tell_refusal(style: &Style, body: &ErrorBody) {
    let word = match exit_of(&body.error.code, 0) {
        code::NEEDS => "evidence is missing",
        code::ATTESTATION => "not attested",
        code::USAGE => "not understood",
        _ => "refused",
    };
    // Lines after the first are to be typed as they are.
    let (first, rest) = body.error.message.split_once('\n').unwrap_or((&body.error.message, ""));
    say(style, word, &format!("{first} {}", style.dim(&format!("({})", body.error.code))));
    rest.lines().for_each(|line| eprintln!("{line}"));
    for line in describe(&body.error) {
        eprintln!("  {line}");
    }
    if body.error.recorded {
        eprintln!("  {}", style.dim(&format!("operators: clav why {}", body.request)));
    }
}

fn say(style: &Style, word: &str, text: &str) {
    eprintln!("clav: {}: {text}", style.red(word));
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::Client(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_exit_of_its_kind() {
        for (name, exit) in [
            ("malformed", code::USAGE),
            ("foreign_writer", code::ATTESTATION),
            ("attestation_failed", code::ATTESTATION),
            ("needs", code::NEEDS),
            ("no_identity", code::REFUSED),
            ("no_lease", code::REFUSED),
            ("lease_ended", code::REFUSED),
            ("limit", code::REFUSED),
            ("frozen", code::REFUSED),
            ("internal_error", code::FAULT),
            ("engine_unavailable", code::FAULT),
            ("engine_refused", code::FAULT),
            ("a_policys_own_word", code::REFUSED),
        ] {
            assert_eq!(exit_of(name, 403), exit, "{name}");
        }
        assert_eq!(exit_of("from_a_later_version", 503), code::FAULT);
    }
}

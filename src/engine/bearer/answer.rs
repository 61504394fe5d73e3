//! What is to be made of a source's answer, or of none.

use super::{super::EngineError, NotGiven};
use crate::outbound::{Answer, CallError, TlsReason, Unanswered};

/// The source's words are cut to this: they are for one line of a log.
const MAX_WORDS: usize = 300;

/// A call without an answer.
pub(in super::super) fn unheard(doing: &str, Unanswered { error, sent }: Unanswered) -> NotGiven {
    // Who redirects or does not accept our certificate has done nothing.
    let certain = matches!(error, CallError::Redirect(_) | CallError::Tls(TlsReason::OurCertificate));
    let text = format!("{doing}: {error}");
    let failed = match error {
        CallError::AskedToWait(after) => EngineError::Busy(text, after),
        error if error.is_setup() => EngineError::Setup(text),
        _ => EngineError::Unreachable(text),
    };
    NotGiven { error: failed, may_exist: sent && !certain }
}

/// A source that says "not now", and for how long if it does.
pub(in super::super) fn not_now(text: String, answer: &Answer) -> EngineError {
    match answer.retry_after {
        Some(after) => EngineError::Busy(text, after),
        None => EngineError::Unreachable(text),
    }
}

/// Another's words on one line, or none of them if they hold a secret.
pub(in super::super) fn line(words: &str, secrets: &[&[u8]]) -> String {
    let holds = |secret: &&[u8]| !secret.is_empty() && words.as_bytes().windows(secret.len()).any(|window| window == *secret);
    if secrets.iter().any(holds) {
        return "a reason that repeats a secret and is left out".into();
    }
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}

/// The parser would take a list for an object whose members are all missing.
pub(in super::super) fn is_object(answer: &Answer) -> bool {
    answer.body.trim_ascii_start().starts_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_no_secret() {
        assert_eq!(line(" no\n such  thing\u{7}", &[b"other", b""]), "no such thing");
        assert!(!line("it was hunter2, was it", &[b"hunter2"]).contains("hunter2"));
    }
}

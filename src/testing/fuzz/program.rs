//! What programs of `command` engines answer.

use super::Target;
use crate::{engine::command, model::LeaseId};

pub(super) const ANSWER: Target = Target {
    name: "program_answer",
    share: 1,
    samples: || {
        let lease = LeaseId::from_parts(1_700_000_000_000, 7);
        let about = |members: &str| format!(r#"{{"version":1,"lease":"{lease}",{members}}}"#).into_bytes();
        vec![
            about(r#""value":"v","attributes":{"user":"u"},"reference":{"id":[1,{"a":null}]},"expires":1700000300"#),
            about(r#""value_base64":"dg==""#),
            about(r#""found":true"#),
            about(r#""alive":false"#),
            br#"{"version":1,"names":["clv_0123456789abcdef_01hf7yat0000000000000000007"]}"#.to_vec(),
            br#"{"version":1,"error":{"kind":"no-value","message":"a\u001b[31mb"}}"#.to_vec(),
        ]
    },
    words: &["\"value\":", "\"error\":", "\"found\":", "{", "}", "[", "]", "null", "1e309", "\"\\u0000\"", "\"\\ud800\"", "\u{202e}", ","],
    run: |bytes| {
        let said = command::answers(bytes);
        for error in said.iter().filter_map(|said| said.as_ref().err()) {
            let text = error.to_string();
            assert!(
                text.len() < 1000 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "what operators read is one line: {text:?}"
            );
        }
        let taken = said.iter().filter(|said| said.is_ok()).count();
        // Renewing says nothing that another call might not.
        assert!(taken <= 2, "an answer belongs to one call");
        taken > 0
    },
};

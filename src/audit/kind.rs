//! The closed lists of the record: its kinds and outcomes.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)*
        }

        impl $type {
            /// Every one of them.
            pub const ALL: &'static [$type] = &[$($type::$variant),*];

            /// The stable word in records.
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// What a record is about.
    Kind {
        /// The daemon started.
        Start = "start",
        /// The daemon stops.
        Stop = "stop",
        /// A lease was issued.
        Issue = "issue",
        /// The value of a live lease was read again.
        Read = "read",
        /// A lease was renewed.
        Renew = "renew",
        /// A request was refused.
        Refuse = "refuse",
        /// A request lacks evidence.
        Needs = "needs",
        /// A lease ended.
        End = "end",
        /// The source did not confirm an ending; it is tried again.
        Retry = "retry",
        /// Ending was given up; somebody must look.
        Irrevocable = "irrevocable",
        /// Policy, secrets, identities and people were loaded.
        Reload = "reload",
        /// A person did something on the operator socket.
        Operator = "operator",
        /// Issuing was stopped or allowed again.
        Freeze = "freeze",
        /// A program was started apart, in a group of its own.
        Launch = "launch",
        /// A value that lasts was changed at its source, or should have been, or does not work.
        Rotate = "rotate",
        /// A version of a value that lasts was taken back at its source, or should have been.
        Retire = "retire",
        /// Policies in shadow mode would have refused.
        Shadow = "shadow",
        /// Further equal events, counted.
        Fold = "fold",
        /// A signed head.
        Head = "head",
        /// The old key signs the new one.
        Key = "key",
        /// Something is missing from the log, or a file of it was given up.
        Gap = "gap",
        /// Old segments were removed.
        Prune = "prune",
        /// Heads do not reach the outside, or do again.
        Anchor = "anchor",
    }
}

words! {
    /// How it went.
    Outcome {
        /// A person asked for it; how it went is in the record that follows, with the same request id.
        Asked = "asked",
        /// It is about to be done because it is due or was asked for; how it went is in the record that follows, with the same request id.
        Begun = "begun",
        /// What was asked was done.
        Done = "done",
        /// It was refused.
        Refused = "refused",
        /// Evidence is missing.
        Needs = "needs",
        /// It was tried and did not work.
        Failed = "failed",
    }
}

//! The vocabulary of policies: the schema, and the Cedar names of our words.

use crate::model::{Assurance, Channel, EndsBy, IdentityKind, Operation, Sensitivity};
use cedar_policy::{EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};
use std::{str::FromStr, sync::LazyLock};

/// What policies may speak about, as text.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// The same, parsed.
pub(super) static PARSED: LazyLock<Schema> = LazyLock::new(|| {
    // The text is part of the binary, and every test of this module goes through here.
    Schema::from_cedarschema_str(SCHEMA).expect("the built-in schema is well formed").0
});

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident;)*) => {
        /// The entity types that the broker itself names.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $($kind,)* }

        impl Kind {
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// The name without its namespace.
            pub const fn as_str(self) -> &'static str {
                match self { $(Kind::$kind => stringify!($kind),)* }
            }
        }
    };
}

kinds! {
    Action;
    Agent;
    Assurance;
    EndsBy;
    Folder;
    Group;
    Operation;
    Secret;
    Sensitivity;
    Shared;
    Source;
    Stakes;
    Workload;
}

static TYPES: LazyLock<Vec<EntityTypeName>> = LazyLock::new(|| {
    let name = |kind: &Kind| {
        // Two identifiers joined by `::` are a type name.
        EntityTypeName::from_str(&format!("Claviger::{}", kind.as_str())).expect("a well-formed type name")
    };
    Kind::ALL.iter().map(name).collect()
});

/// `Claviger::KIND`.
pub(super) fn type_name(kind: Kind) -> &'static EntityTypeName {
    &TYPES[kind as usize]
}

/// `Claviger::KIND::"name"`.
pub(super) fn uid(kind: Kind, name: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name(kind).clone(), EntityId::new(name))
}

/// The same as an expression.
pub(super) fn entity(kind: Kind, name: &str) -> RestrictedExpression {
    RestrictedExpression::new_entity_uid(uid(kind, name))
}

/// The type of an identity of this kind.
pub(super) const fn principal(kind: IdentityKind) -> Kind {
    match kind {
        IdentityKind::Workload => Kind::Workload,
        IdentityKind::Agent => Kind::Agent,
        IdentityKind::Shared => Kind::Shared,
    }
}

/// The closed members of a type, or `None` where the type has no closed set.
pub(super) fn members(kind: Kind) -> Option<Vec<&'static str>> {
    match kind {
        Kind::Sensitivity | Kind::Stakes => Some(Sensitivity::ALL.iter().map(|level| level.as_str()).collect()),
        Kind::Assurance => Some(Assurance::ALL.iter().map(|level| level.as_str()).collect()),
        Kind::Operation => Some(Operation::ALL.iter().map(|operation| operation.as_str()).collect()),
        Kind::EndsBy => Some([EndsBy::Upstream, EndsBy::ShortLife, EndsBy::None].map(EndsBy::as_str).to_vec()),
        Kind::Source => Some(vec!["registry", "caller", "adapter"]),
        Kind::Action => Some(Channel::ALL.iter().map(|channel| channel.as_str()).chain(["use"]).collect()),
        Kind::Agent | Kind::Folder | Kind::Group | Kind::Secret | Kind::Shared | Kind::Workload => None,
    }
}

/// The column of the baseline's tables: the sensitivity, one to the right when the credential can admin or destroy.
pub(super) fn stakes(sensitivity: Sensitivity, operation: Operation) -> Sensitivity {
    match (operation, sensitivity) {
        (Operation::Read | Operation::Write, same) => same,
        (_, Sensitivity::Public) => Sensitivity::Internal,
        (_, Sensitivity::Internal) => Sensitivity::Confidential,
        (_, Sensitivity::Confidential) => Sensitivity::Restricted,
        (_, Sensitivity::Restricted | Sensitivity::Critical) => Sensitivity::Critical,
    }
}

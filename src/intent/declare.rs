//! From what was asked to an intent: a declared use fills what was not said, and nothing more.

use super::{Ask, Claimed, Intent, Source};
use crate::{
    attest::Workload,
    model::{Catalogue, Channel, Code, CredentialName, DeclaredUse, Refusal, SecretDefinition, SecretName},
};
use std::sync::Arc;

impl Intent {
    /// Turns an ask into an intent. A secret alone takes the one declared use that fits; with a purpose it stands on its own.
    ///
    /// An unknown secret is answered like one that nothing grants.
    pub fn declare(ask: &Ask, workload: &Workload, catalogue: &Catalogue) -> Result<Intent, Refusal> {
        if let Some(credential) = &ask.credential {
            let declared = use_of_credential(credential, &workload.identity().uses)?;
            let claimed = fill(ask, declared)?;
            return found(&declared.secret, catalogue)
                .map(|secret| Intent::new(secret.clone(), Channel::Deliver, Source::Adapter, claimed));
        }
        let name = ask.secret.as_ref().ok_or_else(|| Refusal::field("secret", "must be given"))?;
        let (claimed, source) = match &ask.purpose {
            Some(purpose) => {
                let claimed = Claimed {
                    purpose: purpose.clone(),
                    operation: ask.operation,
                    targets: ask.targets.clone(),
                    ttl: ask.ttl,
                    uses: ask.uses,
                    reason: ask.reason.clone(),
                    tickets: ask.tickets.clone(),
                };
                (claimed, Source::Caller)
            }
            None => {
                let source = if ask.adapter.is_some() { Source::Adapter } else { Source::Registry };
                (fill(ask, declared_use(ask, name, &workload.identity().uses)?)?, source)
            }
        };
        let secret = found(name, catalogue)?;
        Ok(Intent::new(secret.clone(), ask.channel.unwrap_or(Channel::Deliver), source, claimed))
    }
}

fn found<'a>(name: &SecretName, catalogue: &'a Catalogue) -> Result<&'a Arc<SecretDefinition>, Refusal> {
    catalogue.find(name).ok_or_else(|| Refusal::new(Code::NO_GRANT).detail(format!("there is no secret {name} in the catalogue")))
}

/// The one declared use that a unit's credential of that name is.
fn use_of_credential<'a>(name: &CredentialName, uses: &'a [DeclaredUse]) -> Result<&'a DeclaredUse, Refusal> {
    let mut fit = uses.iter().filter(|row| row.is_credential(name));
    match (fit.next(), fit.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Refusal::new(Code::NO_DECLARED_USE)
            .message("No single declared use is the credential of that name.")
            .detail(format!("the identity must have exactly one [[identity.use]] with credential = \"{}\"", name.as_str()))),
    }
}

/// The one declared use that agrees with everything that was said.
fn declared_use<'a>(ask: &Ask, name: &SecretName, uses: &'a [DeclaredUse]) -> Result<&'a DeclaredUse, Refusal> {
    let of_secret: Vec<&DeclaredUse> = uses.iter().filter(|row| row.secret == *name).collect();
    let fits: Vec<&DeclaredUse> = of_secret
        .iter()
        .copied()
        .filter(|row| ask.operation.is_none_or(|said| row.operation.is_none_or(|declared| declared == said)))
        .collect();
    match (fits.as_slice(), of_secret.as_slice()) {
        ([one], _) => Ok(one),
        (_, []) => Err(Refusal::field("purpose", "must be given: no use of this secret is declared for the calling identity")
            .code(Code::NO_DECLARED_USE)),
        _ => {
            let purposes: Vec<&str> = of_secret.iter().map(|row| row.purpose.as_str()).collect();
            Err(Refusal::field("purpose", format_args!("must be given; declared uses: {}", purposes.join(", ")))
                .code(Code::NO_DECLARED_USE))
        }
    }
}

/// What was said wins where it is narrower; what was not said comes from the declared use.
fn fill(ask: &Ask, declared: &DeclaredUse) -> Result<Claimed, Refusal> {
    let targets = match (ask.targets.as_slice(), declared.targets.as_slice()) {
        ([], _) => declared.targets.clone(),
        (said, []) => said.to_vec(),
        (said, reviewed) if said.iter().all(|target| reviewed.contains(target)) => said.to_vec(),
        _ => return Err(Refusal::field("targets", "go beyond the declared use; say the purpose yourself")),
    };
    Ok(Claimed {
        purpose: declared.purpose.clone(),
        operation: ask.operation.or(declared.operation),
        targets,
        ttl: shorter(ask.ttl, declared.ttl),
        uses: shorter(ask.uses, declared.uses),
        reason: ask.reason.clone().or_else(|| declared.reason.clone()),
        tickets: ask.tickets.clone(),
    })
}

fn shorter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

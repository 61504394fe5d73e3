//! One identity and one secret as Cedar entities, with the ladders and groups above them. Built once per slice, never per request.

use super::words::{Kind, PARSED, entity, principal, stakes, uid};
use crate::model::{Assurance, EndsBy, Identity, Operation, SecretDefinition, Sensitivity, WallTime};
use cedar_policy::{Entities, Entity, EntityAttrEvaluationError, EntityUid, RestrictedExpression, entities_errors::EntitiesError};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

/// Why entities could not be made: a row that the schema does not admit.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntitiesFault {
    #[error(transparent)]
    Attribute(#[from] Box<EntityAttrEvaluationError>),
    #[error(transparent)]
    Set(#[from] Box<EntitiesError>),
}

/// The entities that a decision about these two may look at.
pub(super) fn entities(identity: &Identity, secret: &SecretDefinition, operation: Operation) -> Result<Entities, EntitiesFault> {
    let mut all = ladder(Kind::Sensitivity, Sensitivity::ALL.map(Sensitivity::as_str));
    all.extend(ladder(Kind::Stakes, Sensitivity::ALL.map(Sensitivity::as_str)));
    all.extend(ladder(Kind::Assurance, Assurance::ALL.map(Assurance::as_str)));
    all.extend(identity.groups.iter().map(|group| Entity::new_no_attrs(uid(Kind::Group, group.as_str()), HashSet::new())));
    let mut above: HashSet<EntityUid> = HashSet::new();
    for folder in secret.name.folders() {
        let folder = uid(Kind::Folder, folder);
        all.push(Entity::new_no_attrs(folder.clone(), above));
        above = HashSet::from([folder]);
    }
    all.push(asking(identity)?);
    all.push(asked_for(secret, operation, above)?);
    Ok(Entities::from_entities(all, Some(&PARSED)).map_err(Box::new)?)
}

/// Each rung lies in the one below it, so that `in` reads "at least".
fn ladder<const N: usize>(kind: Kind, rungs: [&str; N]) -> Vec<Entity> {
    let below = |at: usize| at.checked_sub(1).map(|below| uid(kind, rungs[below])).into_iter().collect();
    rungs.iter().enumerate().map(|(at, rung)| Entity::new_no_attrs(uid(kind, rung), below(at))).collect()
}

fn asking(identity: &Identity) -> Result<Entity, Box<EntityAttrEvaluationError>> {
    let attributes = HashMap::from([
        ("owner".to_owned(), text(identity.owner.as_str())),
        ("environment".to_owned(), text(identity.environment.as_str())),
        ("purposes".to_owned(), texts(identity.purposes.iter().map(|purpose| purpose.as_str()))),
        ("maxSensitivity".to_owned(), entity(Kind::Sensitivity, identity.max_sensitivity.as_str())),
        ("suspended".to_owned(), RestrictedExpression::new_bool(identity.suspended)),
        ("expires".to_owned(), datetime(identity.expires)),
    ]);
    let groups = identity.groups.iter().map(|group| uid(Kind::Group, group.as_str())).collect();
    Ok(Entity::new(uid(principal(identity.kind), identity.name.as_str()), attributes, groups)?)
}

fn asked_for(
    secret: &SecretDefinition,
    operation: Operation,
    mut above: HashSet<EntityUid>,
) -> Result<Entity, Box<EntityAttrEvaluationError>> {
    let stakes = stakes(secret.sensitivity, operation);
    above.insert(uid(Kind::Sensitivity, secret.sensitivity.as_str()));
    above.insert(uid(Kind::Stakes, stakes.as_str()));
    let attributes = HashMap::from([
        ("owner".to_owned(), text(secret.owner.as_str())),
        ("environment".to_owned(), text(secret.environment.as_str())),
        ("purposes".to_owned(), texts(secret.purposes.iter().map(|purpose| purpose.as_str()))),
        ("sensitivity".to_owned(), entity(Kind::Sensitivity, secret.sensitivity.as_str())),
        ("stakes".to_owned(), entity(Kind::Stakes, stakes.as_str())),
        ("operation".to_owned(), entity(Kind::Operation, secret.operation.as_str())),
        ("hosts".to_owned(), texts(secret.hosts.iter().map(|host| host.as_str()))),
        ("endsBy".to_owned(), entity(Kind::EndsBy, secret.ends_by.as_str())),
        ("dynamic".to_owned(), RestrictedExpression::new_bool(secret.ends_by != EndsBy::None)),
        ("scoped".to_owned(), RestrictedExpression::new_bool(!secret.hosts.is_empty())),
        ("quarantined".to_owned(), RestrictedExpression::new_bool(secret.quarantined)),
    ]);
    Ok(Entity::new(uid(Kind::Secret, secret.name.as_str()), attributes, above)?)
}

/// A string.
pub(super) fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

/// A set of strings.
pub(super) fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> RestrictedExpression {
    RestrictedExpression::new_set(texts.map(text))
}

/// An instant, to the second. One that Cedar cannot write fails where it is used, and that denies.
///
/// The last one is kept: Cedar parses the name of its own function each time, which takes a tenth of a whole decision, and most decisions
/// of one second ask for the same instant.
pub(super) fn datetime(at: WallTime) -> RestrictedExpression {
    static LAST: Mutex<Option<(u64, RestrictedExpression)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((second, expression)) if *second == at.unix_secs() => expression.clone(),
        _ => last.insert((at.unix_secs(), written(at))).1.clone(),
    }
}

fn written(at: WallTime) -> RestrictedExpression {
    let text = at.rfc3339();
    RestrictedExpression::new_datetime(format!("{}Z", text.get(.."YYYY-MM-DDThh:mm:ss".len()).unwrap_or(&text)))
}

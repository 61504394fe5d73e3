//! Operations for which less is made than for a secret's own: they have rows of their own in its settings, or a row says so where the engine
//! cannot see that by itself, as a program makes it, or a verifier keeps to it.

use crate::model::{Operation, SecretDefinition};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A setting that is the same whatever is asked for, or goes by the operation.
#[derive(Clone, Debug)]
pub(super) enum ByOperation<T> {
    Same(T),
    Each(BTreeMap<Operation, T>),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for ByOperation<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // By what it looks like, so that what is wrong in it is named.
        match Value::deserialize(from)? {
            rows @ Value::Object(_) => serde_json::from_value(rows).map(ByOperation::Each),
            one => serde_json::from_value(one).map(ByOperation::Same),
        }
        .map_err(D::Error::custom)
    }
}

impl<T> ByOperation<T> {
    /// There is a row for the worst that the secret allows, and none for what it does not: that would be given as the one below it.
    pub(super) fn check(&self, worst: Operation) -> Result<(), String> {
        let ByOperation::Each(rows) = self else { return Ok(()) };
        match rows.keys().next_back() {
            Some(last) if *last > worst => Err(format!("has a row for {last}, which is above {worst}, the secret's own operation")),
            Some(last) if *last == worst => Ok(()),
            _ => Err(format!("has no row for the operation {worst}, which the secret allows")),
        }
    }

    /// The row for what the holder will do: that of the operation, or of the least harmful one above it.
    pub(super) fn at(&self, operation: Operation) -> Option<&T> {
        match self {
            ByOperation::Same(one) => Some(one),
            ByOperation::Each(rows) => rows.range(operation..).next().map(|(_, row)| row),
        }
    }

    /// Every row.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        let (one, rows) = match self {
            ByOperation::Same(one) => (Some(one), None),
            ByOperation::Each(rows) => (None, Some(rows.values())),
        };
        one.into_iter().chain(rows.into_iter().flatten())
    }

    /// The operations below the worst that have a row of their own: one that is not the worst's as well.
    pub(super) fn narrows(&self, worst: Operation) -> Vec<Operation>
    where
        T: PartialEq,
    {
        let (ByOperation::Each(rows), all) = (self, self.at(worst)) else { return Vec::new() };
        rows.iter().filter(|(operation, row)| **operation < worst && Some(*row) != all).map(|(operation, _)| *operation).collect()
    }

    /// The same with something else in each row.
    pub(super) fn map<'a, U>(&'a self, to: impl Fn(&'a T) -> U) -> ByOperation<U> {
        match self {
            ByOperation::Same(one) => ByOperation::Same(to(one)),
            ByOperation::Each(rows) => ByOperation::Each(rows.iter().map(|(operation, row)| (*operation, to(row))).collect()),
        }
    }
}

impl<S: AsRef<str> + Ord> ByOperation<BTreeSet<S>> {
    /// The more harmful an operation, the more it may: each row has what the one below it has.
    pub(super) fn check_growth(&self) -> Result<(), String> {
        let ByOperation::Each(rows) = self else { return Ok(()) };
        for ((low, less), (high, more)) in rows.iter().zip(rows.iter().skip(1)) {
            if let Some(beyond) = less.difference(more).next() {
                return Err(format!("{low} has {:?}, which the more harmful {high} has not", beyond.as_ref()));
            }
        }
        Ok(())
    }
}

/// Operations for which a row says that less is made. They are below the secret's own; the text names what is wrong. Sorted, each once.
pub(super) fn said(mut narrows: Vec<Operation>, secret: &SecretDefinition) -> Result<Vec<Operation>, String> {
    if let Some(wrong) = narrows.iter().find(|operation| **operation >= secret.operation) {
        return Err(format!("{}: narrows: {wrong} is not below {}, the secret's own operation", secret.name, secret.operation));
    }
    narrows.sort_unstable();
    narrows.dedup();
    Ok(narrows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::{Admin, Destroy, Read, Write};
    use serde_json::json;

    fn of(value: Value) -> Result<ByOperation<BTreeSet<String>>, String> {
        serde_json::from_value(value).map_err(|why| why.to_string())
    }

    #[test]
    fn each_operation_has_its_row_or_the_next_and_nobody_the_row_of_what_is_not_allowed() {
        let rows = of(json!({"read": ["a"], "admin": ["a", "b"]})).unwrap();
        let at = |operation| rows.at(operation).map(BTreeSet::len);
        assert_eq!([at(Read), at(Write), at(Admin), at(Destroy)], [Some(1), Some(2), Some(2), None]);
        assert_eq!(rows.narrows(Admin), [Read]);
        assert_eq!((rows.check(Admin), rows.check_growth()), (Ok(()), Ok(())));
        assert!(rows.check(Destroy).unwrap_err().contains("no row for the operation destroy"));
        assert!(rows.check(Write).unwrap_err().contains("has a row for admin, which is above write"));
        assert!(of(json!({})).unwrap().check(Read).is_err());
        let same = of(json!(["a"])).unwrap();
        assert_eq!((same.check(Write), same.narrows(Write), same.at(Destroy).map(BTreeSet::len)), (Ok(()), vec![], Some(1)));
        assert_eq!(of(json!({"read": ["a", "b"], "write": ["b", "a"]})).unwrap().narrows(Write), [], "the same is not less");
        assert!(of(json!({"read": ["c"], "write": ["a"]})).unwrap().check_growth().unwrap_err().contains("read has \"c\""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, named) in [
            (json!({"reed": ["a"]}), "`reed`, expected one of `read`"),
            (json!({"read": [7]}), "integer `7`"),
            (json!("a"), "string \"a\""),
        ] {
            let said = of(wrong.clone()).unwrap_err();
            assert!(said.contains(named), "{wrong}: {said}");
        }
    }
}

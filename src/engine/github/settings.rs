//! What an operator sets for each secret, and what of it goes with an order.

use super::super::{EngineError, Order, bearer::ByTarget};
use crate::model::{Operation, SecretDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// GitHub takes no more in one request.
const REPOSITORIES_MAX: usize = 500;
/// Permissions that cannot be had for reading: who may only look gets none.
const WRITE_ONLY: [&str; 1] = ["workflows"];

/// How much of a permission. `Ord` is by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Read,
    Write,
    Admin,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::Read => "read",
            Level::Write => "write",
            Level::Admin => "admin",
        }
    }
}

/// The settings of one secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    repositories: BTreeSet<String>,
    permissions: BTreeMap<String, Level>,
    #[serde(default)]
    targets: ByTarget,
}

/// What is asked for, as GitHub wants it.
#[derive(Debug, Serialize)]
pub(super) struct Wanted<'a> {
    pub(super) repositories: BTreeSet<&'a str>,
    pub(super) permissions: BTreeMap<&'a str, Level>,
}

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let settings: Settings =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        settings.check(secret).map_err(|what| format!("{}: {what}", secret.name))?;
        Ok(settings)
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        // A token for no repository in particular is one for all of them.
        if self.repositories.is_empty() || self.repositories.len() > REPOSITORIES_MAX {
            return Err(format!("repositories: 1 to {REPOSITORIES_MAX} names"));
        }
        if let Some(wrong) = self.repositories.iter().find(|name| !is_repository(name)) {
            return Err(format!("repositories: {wrong:?} is no name of a repository: without its owner, who is the installation's"));
        }
        let is_permission = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if let Some(wrong) = self.permissions.keys().find(|name| !is_permission(name)) {
            return Err(format!("permissions: {wrong:?} is none: a-z and _, such as pull_requests"));
        }
        if self.permissions.is_empty() {
            return Err("permissions: at least one, such as contents = \"read\"".into());
        }
        let all = self.repositories.iter().map(String::as_str).collect();
        self.targets.check(secret, &all, "repositories")
    }

    /// The operations below the worst that leave a permission, and fewer than the worst has: with what is the same nobody is kept to less.
    pub(super) fn narrows(&self, worst: Operation) -> Vec<Operation> {
        let (all, less) = (self.permissions(worst), |operation: &Operation| *operation < worst);
        let left = |operation: &Operation| !self.permissions(*operation).is_empty() && self.permissions(*operation) != all;
        Operation::ALL.into_iter().filter(less).filter(left).collect()
    }

    fn permissions(&self, operation: Operation) -> BTreeMap<&str, Level> {
        let most = match operation {
            Operation::Read => Level::Read,
            Operation::Write => Level::Write,
            Operation::Admin | Operation::Destroy => Level::Admin,
        };
        self.permissions
            .iter()
            .filter(|(name, _)| most > Level::Read || !WRITE_ONLY.contains(&name.as_str()))
            .map(|(name, level)| (name.as_str(), (*level).min(most)))
            .collect()
    }

    /// What goes with the operation and the targets that were granted; never more than the settings say.
    pub(super) fn wanted<'a>(&'a self, order: &Order<'_>) -> Result<Wanted<'a>, EngineError> {
        let repositories: BTreeSet<&str> =
            self.repositories.iter().map(String::as_str).filter(|name| self.targets.grants(name, order.hosts)).collect();
        let permissions = self.permissions(order.operation);
        if repositories.is_empty() || permissions.is_empty() {
            let what = if repositories.is_empty() { "repositories" } else { "permissions" };
            return Err(EngineError::Refused(format!(
                "{}: none of its {what} goes with the operation and the targets that were granted",
                order.secret.name
            )));
        }
        Ok(Wanted { repositories, permissions })
    }
}

fn is_repository(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=100).contains(&name.len()) && name.bytes().all(sound) && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ROW: &str = "[[secret]]\nname = \"ci/source\"\nengine = \"gh\"\nowner = \"team\"\nsensitivity = \"internal\"\nenvironment = \"prod\"\n\
                       purposes = [\"build\"]\noperation = \"write\"\nhosts = [\"github.com\"]\nttl = { max = \"1h\" }\ndescription = \"d\"\n";

    fn row(settings: Value) -> SecretDefinition {
        crate::config::one_with(ROW, &settings)
    }

    fn problem(settings: Value) -> String {
        Settings::parse(&row(settings)).err().unwrap_or_else(|| "none".into())
    }

    #[test]
    fn it_is_kept_to_less_where_a_permission_is_left() {
        use Operation::{Admin, Destroy, Read, Write};
        let narrows = |permissions: Value, worst| {
            Settings::parse(&row(json!({"repositories": ["shop"], "permissions": permissions}))).unwrap().narrows(worst)
        };
        let all = json!({"contents": "write", "workflows": "write"});
        assert_eq!(narrows(all.clone(), Read), []);
        assert_eq!(narrows(all.clone(), Write), [Read]);
        assert_eq!(narrows(all.clone(), Admin), [Read]);
        assert_eq!(narrows(all, Destroy), [Read], "for write it would be the same token as for destroy");
        let level = json!({"contents": "write", "organization_projects": "admin"});
        assert_eq!(narrows(level.clone(), Admin), [Read, Write]);
        assert_eq!(narrows(level, Destroy), [Read, Write], "for admin the same as for destroy");
        assert_eq!(narrows(json!({"contents": "read"}), Write), [], "for read the same as for write");
        assert_eq!(narrows(json!({"workflows": "write"}), Write), [], "nothing could be read with it");
    }

    #[test]
    fn repositories_and_permissions_are_named() {
        assert_eq!(problem(json!({"repositories": ["Shop.web_1"], "permissions": {"contents": "read", "pull_requests": "write"}})), "none");
        let read = json!({"contents": "read"});
        for (bad, wanted) in [
            (json!({"permissions": read}), "repositories"),
            (json!({"repositories": [], "permissions": read}), "repositories: 1 to 500"),
            (json!({"repositories": ["octo/shop"], "permissions": read}), "without its owner"),
            (json!({"repositories": [".."], "permissions": read}), "no name of a repository"),
            (json!({"repositories": ["shop"]}), "permissions"),
            (json!({"repositories": ["shop"], "permissions": {}}), "permissions: at least one"),
            (json!({"repositories": ["shop"], "permissions": {"Contents": "read"}}), "permissions: \"Contents\" is none"),
            (json!({"repositories": ["shop"], "permissions": {"contents": "all"}}), "settings"),
            (json!({"repositories": ["shop"], "permissions": read, "targets": {"gitlab.com": ["shop"]}}), "not among the secret's hosts"),
            (json!({"repositories": ["shop"], "permissions": read, "targets": {"github.com": ["web"]}}), "not among repositories"),
            (json!({"repositories": ["shop"], "permissions": read, "owner": "octo"}), "owner"),
        ] {
            let said = problem(bad.clone());
            assert!(said.starts_with("ci/source: ") && said.contains(wanted), "{bad}: {said}");
        }
    }
}

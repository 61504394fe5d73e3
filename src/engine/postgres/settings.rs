//! What an operator sets once per secret: what the role of a lease may do, or which roles are there.

use super::{
    super::{EngineError, Order, narrows::ByOperation},
    config::is_name,
    scram,
};
use crate::model::{Operation, SecretDefinition};
use serde::Deserialize;
use std::{collections::BTreeSet, num::NonZeroU32};

/// The settings of one secret.
pub(super) enum Settings {
    /// A role for each lease.
    Own(OwnRole),
    /// Roles that are there, whose password is changed now and then.
    Static(StaticRoles),
}

/// A role for each lease.
pub(super) struct OwnRole {
    grants: ByOperation<Vec<String>>,
    pub(super) database: Option<String>,
    pub(super) connection_limit: u32,
    pub(super) reassign_to: Option<String>,
    pub(super) scram_iterations: NonZeroU32,
}

/// One role, or two whose passwords are changed in turn.
pub(super) struct StaticRoles {
    pub(super) roles: Vec<String>,
    pub(super) database: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    grants: Option<ByOperation<Vec<String>>>,
    static_role: Option<String>,
    static_roles: Option<[String; 2]>,
    database: Option<String>,
    connection_limit: Option<u32>,
    reassign_to: Option<String>,
    scram_iterations: Option<NonZeroU32>,
}

const CONNECTIONS: u32 = 20;
const ROLE: &str = "{{role}}";

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let raw: Raw = serde_json::from_value(serde_json::Value::Object(secret.settings.clone()))
            .map_err(|why| format!("{}: settings: {why}", secret.name))?;
        Self::of(raw, secret.operation).map_err(|what| format!("{}: {what}", secret.name))
    }

    fn of(raw: Raw, worst: Operation) -> Result<Self, String> {
        if [&raw.database, &raw.reassign_to].into_iter().flatten().any(|name| !is_name(name)) {
            return Err("database and reassign_to must be names of 1 to 63 bytes".into());
        }
        let roles: Vec<String> = match (raw.grants, raw.static_role, raw.static_roles) {
            (Some(grants), None, None) => {
                let connection_limit = raw.connection_limit.unwrap_or(CONNECTIONS);
                let scram_iterations = raw.scram_iterations.unwrap_or(scram::ITERATIONS);
                return OwnRole { grants, database: raw.database, connection_limit, reassign_to: raw.reassign_to, scram_iterations }
                    .checked(worst)
                    .map(Settings::Own);
            }
            (None, Some(role), None) => vec![role],
            (None, None, Some([one, other])) if one != other => vec![one, other],
            (None, None, Some(_)) => return Err("static_roles must be two roles".into()),
            _ => return Err("needs exactly one of grants, static_role and static_roles".into()),
        };
        if raw.connection_limit.is_some() || raw.reassign_to.is_some() || raw.scram_iterations.is_some() {
            return Err("connection_limit, reassign_to and scram_iterations go with grants, not with a static role".into());
        }
        if roles.iter().any(|role| !is_name(role)) {
            return Err("static_role and static_roles must be names of 1 to 63 bytes".into());
        }
        if roles.iter().any(|role| role.starts_with("clv_")) {
            return Err("roles whose names begin with clv_ are made for leases and dropped with them".into());
        }
        Ok(Settings::Static(StaticRoles { roles, database: raw.database }))
    }
}

impl StaticRoles {
    /// One password: while it is being changed, no value is known to work.
    pub(super) fn is_alone(&self) -> bool {
        self.roles.len() == 1
    }
}

impl OwnRole {
    fn checked(self, worst: Operation) -> Result<Self, String> {
        self.check_grants(worst).map_err(|what| format!("grants: {what}"))?;
        if !(1..=10_000).contains(&self.connection_limit) {
            return Err("connection_limit must be 1 to 10000".into());
        }
        if self.scram_iterations > scram::ITERATIONS_MAX {
            return Err(format!("scram_iterations must be 1 to {}", scram::ITERATIONS_MAX));
        }
        Ok(self)
    }

    fn check_grants(&self, worst: Operation) -> Result<(), String> {
        for grants in self.grants.all() {
            if grants.is_empty() {
                return Err("at least one statement, or the role may do nothing".into());
            }
            grants.iter().try_for_each(|grant| check_template(grant).map_err(|what| format!("{grant:?} {what}")))?;
        }
        self.grants.check(worst)?;
        self.grants.map(|grants| grants.iter().collect::<BTreeSet<_>>()).check_growth()?;
        // So that fewer statements are fewer rights.
        if let ByOperation::Each(rows) = &self.grants
            && let Some(wrong) = rows.values().flatten().find(|grant| !only_gives(grant))
        {
            return Err(format!("{wrong:?}: where they go by the operation, each is a GRANT, without FALSE"));
        }
        Ok(())
    }

    /// The operations below the worst that have a row of their own, with fewer statements. Two that differ in case and spaces alone may be one.
    pub(super) fn narrows(&self, worst: Operation) -> Vec<Operation> {
        let plain = |grant: &String| grant.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
        self.grants.map(|grants| grants.iter().map(plain).collect::<BTreeSet<_>>()).narrows(worst)
    }

    /// What goes with the operation that was granted.
    pub(super) fn rights(&self, order: &Order<'_>) -> Result<Rights<'_>, EngineError> {
        let operation = if crate::mutation!("postgres-rights") { order.secret.operation } else { order.operation };
        let missing = || EngineError::Setup(format!("{}: grants has no row for the operation {operation}", order.secret.name));
        let connections = self.connection_limit;
        self.grants.at(operation).map(|grants| Rights { grants, connections }).ok_or_else(missing)
    }
}

/// What the role of one lease may.
pub(super) struct Rights<'a> {
    /// The statements that give it its rights.
    grants: &'a [String],
    /// How many connections it may have.
    pub(super) connections: u32,
}

impl Rights<'_> {
    /// Whether a statement changes a row that the server has once for all roles: the rights of a table, a schema, a database. Becoming a
    /// member of another role does not; of anything else it is believed.
    pub(super) fn change_shared(&self) -> bool {
        let is_membership = |grant: &String| {
            let mut words = grant.split_whitespace();
            words.next().is_some_and(|verb| verb.eq_ignore_ascii_case("GRANT")) && !words.any(|word| word.eq_ignore_ascii_case("ON"))
        };
        !self.grants.iter().all(is_membership)
    }

    /// The statements with the role's name, quoted, in its place.
    pub(super) fn of_role(&self, quoted_role: &str) -> impl Iterator<Item = String> {
        self.grants.iter().map(move |grant| grant.replace(ROLE, quoted_role))
    }
}

/// Whether a statement can only add rights. `GRANT x TO y WITH INHERIT FALSE` may take away what one before it gave; so may `CREATE POLICY`.
fn only_gives(template: &str) -> bool {
    let mut words = template.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
    verb(template) == "GRANT" && !words.any(|word| word.eq_ignore_ascii_case("FALSE"))
}

fn verb(template: &str) -> String {
    template.split_whitespace().next().unwrap_or_default().to_ascii_uppercase()
}

/// A template is an operator's, so this is no defence against malice: it keeps every one a single statement inside the transaction that
/// also makes the role, so that a failure leaves nothing.
fn check_template(template: &str) -> Result<(), &'static str> {
    if !["GRANT", "REVOKE", "ALTER", "CREATE"].contains(&verb(template).as_str()) {
        return Err("must begin with GRANT, REVOKE, ALTER or CREATE");
    }
    if !template.contains(ROLE) {
        return Err("must name {{role}}");
    }
    if template.replace(ROLE, "").contains("{{") {
        return Err("has a placeholder other than {{role}}");
    }
    if [";", "--", "/*", "\0"].iter().any(|bad| template.contains(bad)) {
        return Err("must be one statement without ';' and without comments");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_for_each_lease_or_roles_that_are_there() {
        use serde_json::json;
        let parse =
            |settings| Settings::of(serde_json::from_value(settings).map_err(|why: serde_json::Error| why.to_string())?, Operation::Write);
        let grants = ["GRANT app_ro TO {{role}}"];
        assert!(matches!(parse(json!({ "grants": grants, "reassign_to": "app_owner" })), Ok(Settings::Own(_))));
        for (given, wanted) in [(json!({ "grants": grants }), 4096), (json!({ "grants": grants, "scram_iterations": 1 }), 1)] {
            assert!(matches!(parse(given), Ok(Settings::Own(row)) if row.scram_iterations.get() == wanted));
        }
        assert!(matches!(parse(json!({ "static_role": "app", "database": "app" })), Ok(Settings::Static(row)) if row.is_alone()));
        assert!(matches!(parse(json!({ "static_roles": ["a", "b"] })), Ok(Settings::Static(row)) if !row.is_alone()));
        for bad in [
            json!({}),
            json!({ "grants": [] }),
            json!({ "grants": grants, "static_role": "app" }),
            json!({ "static_role": "app", "static_roles": ["a", "b"] }),
            json!({ "static_roles": ["a", "a"] }),
            json!({ "static_roles": ["a", "b", "c"] }),
            json!({ "static_role": "app", "connection_limit": 3 }),
            json!({ "static_role": "app", "reassign_to": "x" }),
            json!({ "static_role": "app", "scram_iterations": 1 }),
            json!({ "grants": grants, "scram_iterations": 0 }),
            json!({ "grants": grants, "scram_iterations": 1_000_001 }),
            json!({ "static_role": "clv_0123456789abcdef_x" }),
            json!({ "static_role": "" }),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn rights_go_by_the_operation_and_less_is_seen_to_be_less() {
        use serde_json::json;
        let parse = |grants| {
            let raw = serde_json::from_value(json!({ "grants": grants })).map_err(|why: serde_json::Error| why.to_string())?;
            match Settings::of(raw, Operation::Write)? {
                Settings::Own(row) => Ok(row.narrows(Operation::Write)),
                Settings::Static(_) => Err("static".to_owned()),
            }
        };
        let (ro, rw) = ("GRANT app_ro TO {{role}}", "GRANT app_rw TO {{role}}");
        assert_eq!(parse(json!([ro])), Ok(vec![]));
        assert_eq!(parse(json!({"write": [rw, "GRANT SELECT ON fraud.false_positives TO {{role}}"]})), Ok(vec![]));
        assert_eq!(parse(json!({"read": [ro], "write": [ro, rw]})), Ok(vec![Operation::Read]));
        for same in [json!([ro, rw]), json!([rw, ro, ro]), json!([ro, rw, "grant  app_rw to {{role}}"])] {
            assert_eq!(parse(json!({"read": [rw, ro], "write": same})), Ok(vec![]), "the same is not less: {same}");
        }
        for (bad, why) in [
            (json!({}), "no row for the operation write"),
            (json!({"read": [ro]}), "no row for the operation write"),
            (json!({"read": [ro], "write": [ro], "admin": [ro, rw]}), "a row for admin, which is above write"),
            (json!({"read": [], "write": [ro]}), "at least one"),
            (json!({"read": [ro], "write": [rw]}), "which the more harmful write has not"),
            (json!({"read": [ro], "write": [ro, "REVOKE app_ro FROM {{role}}"]}), "each is a GRANT"),
            (json!({"read": [ro], "write": [ro, "ALTER GROUP app_ro DROP USER {{role}}"]}), "each is a GRANT"),
            (json!({"read": [ro], "write": [ro, "CREATE POLICY p ON app.t AS RESTRICTIVE TO {{role}} USING (false)"]}), "each is a GRANT"),
            (json!({"read": [ro], "write": [ro, "GRANT app_ro TO {{role}} WITH INHERIT\nfalse"]}), "without FALSE"),
            (json!({"reed": [ro], "write": [ro]}), "unknown variant `reed`"),
            (json!(ro), "expected a sequence"),
            (json!({"read": ["GRANT app_ro TO PUBLIC"], "write": [ro]}), "must name"),
        ] {
            let said = parse(bad.clone()).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn what_others_have_to_wait_for_is_told_from_what_they_need_not() {
        let changes = |grants: &[&str]| {
            let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
            Rights { grants: &grants, connections: 1 }.change_shared()
        };
        assert!(!changes(&["GRANT app_ro TO {{role}}", "grant a, b to {{role}} WITH INHERIT TRUE"]));
        for grant in [
            "GRANT SELECT ON app.orders TO {{role}}",
            "GRANT USAGE\nON\tSCHEMA app TO {{role}}",
            "grant a on b to {{role}}",
            "ALTER ROLE {{role}} SET a = 1",
        ] {
            assert!(changes(&["GRANT app_ro TO {{role}}", grant]), "{grant}");
        }
    }

    #[test]
    fn templates_are_single_statements_about_the_role() {
        for good in ["GRANT SELECT ON app.orders TO {{role}}", "alter role {{role}} set work_mem = '8MB'", "GRANT app_ro TO {{role}}"] {
            assert_eq!(check_template(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "DROP TABLE orders",
            "GRANT SELECT ON orders TO PUBLIC",
            "GRANT app TO {{role}}; COMMIT",
            "GRANT app TO {{role}} -- why",
            "GRANT app TO {{role}} /* why",
            "GRANT {{group}} TO {{role}}",
            "COMMIT {{role}}",
        ] {
            assert!(check_template(bad).is_err(), "{bad}");
        }
    }
}

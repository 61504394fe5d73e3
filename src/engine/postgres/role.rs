//! The role of one lease: its name, its password, and the statements that make it and prolong it.

use super::{
    super::{Mark, Order},
    settings::Rights,
};
use crate::{
    digest::SealKey,
    model::{LeaseId, SecretBytes, WallTime},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use zeroize::Zeroizing;

/// The role of a lease, found again from the lease alone.
pub(super) struct Role {
    pub(super) name: String,
    pub(super) lease: LeaseId,
}

impl Role {
    /// `clv_`, the daemon's mark, the lease: 47 bytes, below PostgreSQL's 63.
    pub(super) fn of(mark: &Mark, lease: LeaseId) -> Self {
        Self { name: format!("{}{}", Self::prefix(mark), lease.bare()), lease }
    }

    /// How every role of this daemon begins.
    pub(super) fn prefix(mark: &Mark) -> String {
        format!("clv_{mark}_")
    }

    /// How this role's name and those of all others of its daemon begin.
    pub(super) fn prefix_of_its_own(&self) -> &str {
        self.name.strip_suffix(self.lease.bare().as_str()).unwrap_or(&self.name)
    }

    /// The lease a role of that name belongs to, if it is one of ours.
    pub(super) fn lease_of(mark: &Mark, name: &str) -> Option<LeaseId> {
        LeaseId::parse(&format!("lease-{}", name.strip_prefix(&Self::prefix(mark))?)).ok()
    }

    /// The name as an SQL identifier.
    pub(super) fn quoted(&self) -> String {
        escape_identifier(&self.name)
    }

    /// The name as an SQL string.
    pub(super) fn literal(&self) -> String {
        escape_literal(&self.name)
    }

    /// The password follows from the lease and the engine's key, so that it is stored nowhere and can be made again.
    pub(super) fn password(&self, key: &SealKey) -> SecretBytes {
        let mac = key.mac(&self.lease.to_bytes());
        // 32 bytes are 43 characters of base64; the buffer is exact, so nothing moves and leaves a copy.
        let mut text = Zeroizing::new(vec![0; 43]);
        URL_SAFE_NO_PAD.encode_slice(mac.expose(), &mut text).expect("43 bytes hold 32 in base64");
        SecretBytes::take_from(&mut text)
    }

    /// Waits until no other claviger changes rights in this database; such locks hold within one. It answers with what is asked `beside` it, if anything.
    /// Anybody who may connect can take that lock and keep it: whoever does not get it goes on without.
    pub(super) fn rights_turn(beside: &str) -> String {
        // "clav" and 1.
        format!("SELECT {beside}pg_advisory_xact_lock(1668047222, 1)")
    }

    /// Everything that makes the role, to be sent as one message, which the server runs as one transaction and answers with the role's
    /// number. Where others have to wait for their turn, it does not wait for the server's disk, or they would wait for that too:
    /// [`Role::describe`] follows. Without `waits` it takes no turn.
    /// Of the password it holds a verifier only: 256 random bits stand behind it, so what a server's log may show of it cannot be guessed back.
    pub(super) fn create(&self, order: &Order<'_>, rights: &Rights<'_>, verifier: &str, join: bool, waits: bool) -> Zeroizing<String> {
        let (role, turns) = (self.quoted(), rights.change_shared());
        let mut sql = Zeroizing::new(String::with_capacity(4096));
        let mut add = |statement: &str| {
            sql.push_str(statement);
            sql.push_str(";\n");
        };
        if turns {
            add("SET LOCAL synchronous_commit = off");
        }
        add(&Zeroizing::new(format!(
            "CREATE ROLE {role} LOGIN PASSWORD {} VALID UNTIL {} CONNECTION LIMIT {}",
            escape_literal(verifier),
            moment(order.expires),
            rights.connections
        )));
        if join {
            // Only a member may end the role's sessions and reassign what it owns.
            add(&format!("GRANT {role} TO CURRENT_USER"));
        }
        let oid = format!("{}::regrole::oid", self.literal());
        if !turns {
            add(&self.comment(order));
        }
        // As late as can be: what stands above meets nobody else's changes.
        add(&if turns && waits { Self::rights_turn(&format!("{oid}, ")) } else { format!("SELECT {oid}") });
        for grant in rights.of_role(&role) {
            add(&grant);
        }
        sql
    }

    /// What is left to do after [`Role::create`], if anything: the comment. Its commit returns when it, and with it everything that was
    /// committed before it, is as durable as the server makes things; several at a time share one wait for the disk.
    pub(super) fn describe(&self, order: &Order<'_>, rights: &Rights<'_>) -> Option<String> {
        let lasting = if crate::mutation!("postgres-durable") { "SET LOCAL synchronous_commit = off;\n" } else { "" };
        rights.change_shared().then(|| format!("{lasting}{}", self.comment(order)))
    }

    fn comment(&self, order: &Order<'_>) -> String {
        format!("COMMENT ON ROLE {} IS {}", self.quoted(), escape_literal(&comment(order)))
    }

    /// Lets the role log in until then.
    pub(super) fn prolong(&self, until: WallTime) -> String {
        format!("ALTER ROLE {} VALID UNTIL {}", self.quoted(), moment(until))
    }
}

fn moment(at: WallTime) -> String {
    escape_literal(&at.rfc3339())
}

/// What a database administrator sees beside the role (`\du+`): enough to find the lease in the audit log.
fn comment(order: &Order<'_>) -> String {
    serde_json::json!({
        "claviger": order.lease.to_string(),
        "request": order.request.to_string(),
        "secret": order.secret.name.as_str(),
        "identity": order.identity.as_str(),
        "purpose": order.purpose.as_str(),
        "operation": order.operation.as_str(),
        "intent": order.intent_digest(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_leads_back_to_its_lease_and_only_to_ours() {
        let (mark, other) = (Mark::new(b"machine", b"state"), Mark::new(b"machine", b"another"));
        let lease = LeaseId::from_parts(1_700_000_000_000, 7);
        let role = Role::of(&mark, lease);
        assert!(role.name.len() <= 63 && role.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert_eq!(Role::lease_of(&mark, &role.name), Some(lease));
        assert_eq!(Role::lease_of(&other, &role.name), None);
        for name in ["postgres", "clv_", &format!("{}x", role.name), &role.name.to_uppercase()] {
            assert_eq!(Role::lease_of(&mark, name), None, "{name}");
        }
    }

    #[test]
    fn a_password_is_made_again_and_differs_by_lease_and_engine() {
        let root = SealKey::from_bytes(&[7; 32]).unwrap();
        let mark = Mark::new(b"machine", b"state");
        let password = |key: &SealKey, n| Role::of(&mark, LeaseId::from_parts(1, n)).password(key).expose().to_vec();
        assert_eq!(password(&root, 1), password(&root, 1));
        assert_ne!(password(&root, 1), password(&root, 2));
        assert_ne!(password(&root, 1), password(&root.derive("other"), 1));
        assert_eq!(password(&root, 1).len(), 43);
    }
}

//! Static roles: whose password is given to every lease, and changed now and then.
//!
//! Changing has four steps. The new password is kept, durably, as pending; the server is told its verifier, in one transaction with the mark
//! that says whose role it is; a login with it is tried; only then it is given, and the one before forgotten. After a crash in between a
//! login says which of both holds. The role's row is locked from the statement on, so a change of ours that is still under way at the
//! server comes to its end, or is undone, before the next.

use super::{
    super::{EngineError, Issued, Order, Standing, UpstreamRef, Version, lasting::random_value},
    PostgresEngine,
    kept::{Kept, Value},
    link::{Link, Trouble, fault},
    scram,
    settings::StaticRoles,
};
use crate::model::{SecretBytes, SecretDefinition, SecretName};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use zeroize::Zeroizing;

/// Begins and ends our mark in a role's comment; what else stands there is somebody else's and stays.
const MARK: (&str, &str) = ("[claviger ", "]");
/// Tries to lock a role's row that somebody else changes at the same moment.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(25);

impl PostgresEngine {
    /// A lease's credential: the password that is given now.
    pub(super) async fn issue_static(&self, order: &Order<'_>, row: &StaticRoles) -> Result<Issued, EngineError> {
        // Nothing at the server is the lease's, whatever is asked there: until it is given a value it owes nothing.
        let quiet = self.unsent.begin(order.lease);
        let name = &order.secret.name;
        let kept = self.settled(name, row).await?;
        let value = kept.current.as_ref().filter(|value| row.roles.contains(&value.role)).ok_or(EngineError::NoValue)?;
        quiet.owes();
        let database = self.database_of(row);
        let mut reference = UpstreamRef::default();
        reference.0.insert("static", true);
        reference.0.insert("role", value.role.as_str());
        reference.0.insert("version", value.version);
        reference.0.insert("database", database);
        Ok(self.credential(value, reference, database))
    }

    /// The same again, as long as that password holds.
    pub(super) fn again_static(&self, secret: &SecretName, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        let text = |name: &str| reference.0.get(name).and_then(|value| value.as_str());
        let version = reference.0.get("version").and_then(serde_json::Value::as_u64);
        let (Some(role), Some(version)) = (text("role"), version) else { return Err(EngineError::NoValue) };
        let kept = self.passwords.load(secret)?;
        let value = kept.find(role, version).ok_or(EngineError::NoValue)?;
        Ok(self.credential(value, reference.clone(), text("database").unwrap_or(&self.config.database)))
    }

    fn credential(&self, value: &Value, reference: UpstreamRef, database: &str) -> Issued {
        let mut issued = self.issued(&value.role, SecretBytes::new(value.password.expose().to_vec()), reference, database);
        issued.attributes.push(("version".into(), value.version.to_string()));
        issued
    }

    fn database_of<'a>(&'a self, row: &'a StaticRoles) -> &'a str {
        row.database.as_deref().unwrap_or(&self.config.database)
    }

    /// What is kept, in a moment in which it is known what holds. With two roles nothing about the one in use is ever uncertain.
    async fn settled(&self, name: &SecretName, row: &StaticRoles) -> Result<Kept, EngineError> {
        if !row.is_alone() {
            return self.passwords.load(name);
        }
        let turn = self.passwords.turn(name);
        {
            let _nobody_changes_it = turn.read().await;
            let kept = self.passwords.load(name)?;
            if kept.pending.is_none() || crate::mutation!("static-settled") {
                return Ok(kept);
            }
        }
        let _turn = turn.write().await;
        self.settle_pending(name, self.passwords.load(name)?, row).await
    }

    /// Finds out whether a change that was cut short came about.
    async fn settle_pending(&self, name: &SecretName, mut kept: Kept, row: &StaticRoles) -> Result<Kept, EngineError> {
        let Some(pending) = &kept.pending else { return Ok(kept) };
        // Nor may it come about once this has been found out.
        let session = self.pool.take(&self.config.database).await?;
        self.pool.end_lost(session.link()).await?;
        self.pool.give_back(session);
        if self.pool.lets_in(&pending.role, &pending.password, self.database_of(row)).await? {
            kept.promote();
            self.passwords.save(name, &kept)?;
        }
        Ok(kept)
    }

    /// The version that is given, with which a login was tried.
    pub(super) async fn newest_static(&self, secret: &SecretDefinition, row: &StaticRoles) -> Result<Option<Version>, EngineError> {
        // A change that was cut short may have come about.
        drop(self.settled(&secret.name, row).await?);
        let turn = self.passwords.turn(&secret.name);
        // Others may be given it meanwhile: a server that hangs holds up nobody.
        let _nobody_changes_it = turn.read().await;
        let kept = self.passwords.load(&secret.name)?;
        let Some(value) = kept.current.as_ref().filter(|value| row.roles.contains(&value.role)) else { return Ok(None) };
        if !self.pool.lets_in(&value.role, &value.password, self.database_of(row)).await? && !crate::mutation!("static-looked") {
            return Err(EngineError::Refused(format!(
                "the server does not let {} in with version {}: somebody else has changed its password",
                value.role, value.version
            )));
        }
        Ok(Some(Version { number: value.version, made: value.made }))
    }

    /// Which version is kept, and whether a change of it was cut short. Asks nobody.
    pub(super) fn standing_static(&self, secret: &SecretName) -> Standing {
        let kept = self.passwords.load(secret).unwrap_or_default();
        let version = kept.current.map(|value| Version { number: value.version, made: value.made });
        Standing { version, cut_short: kept.pending.is_some() }
    }

    /// Whether a lease has the password that is given now.
    pub(super) fn is_newest_static(&self, secret: &SecretName, reference: &UpstreamRef) -> bool {
        let version = reference.0.get("version").and_then(serde_json::Value::as_u64);
        let newest = self.passwords.load(secret).ok().and_then(|kept| Some(kept.current?.version));
        version.is_some() && version == newest
    }

    /// Changes the password of the role, or of the one of two that is not in use, and gives it from then on.
    pub(super) async fn rotate_static(&self, secret: &SecretDefinition, row: &StaticRoles) -> Result<Version, EngineError> {
        let name = &secret.name;
        let turn = self.passwords.turn(name);
        // With one role, whoever asks for its password waits meanwhile: the old one dies before the new one is known to work.
        let _turn = turn.write().await;
        self.within(self.examine(name, row)).await?;
        let mut kept = self.passwords.load(name)?;
        let in_use = kept.current.as_ref().map(|value| value.role.as_str());
        // One that was to be set, and may have been, is set again before any other: nobody has it, and it may be the only one that works.
        let undecided = kept.pending.as_ref().map(|pending| pending.role.clone()).filter(|role| row.roles.contains(role));
        let fresh = undecided.is_none();
        let next = || row.roles.iter().find(|role| in_use != Some(role)).unwrap_or(&row.roles[0]).clone();
        let role = undecided.unwrap_or_else(next);
        if fresh {
            kept.begin(&role, self.clock.wall(), &*self.random);
        }
        let Some(pending) = &kept.pending else { return Err(EngineError::NoValue) };
        if !crate::mutation!("static-kept-first") {
            self.passwords.save(name, &kept)?;
        }
        crate::failpoint!("rotate-kept");
        match self.within(self.set_password(name, pending)).await {
            Ok(()) => {}
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => {
                // The server said no, and undid what there was: the one before holds. That says nothing of a try before this one, whose
                // answer was not heard.
                if fresh {
                    kept.pending = None;
                    self.passwords.save(name, &kept)?;
                }
                return Err(error);
            }
        }
        crate::failpoint!("rotate-set");
        if !crate::mutation!("static-tried") {
            let tried = self.pool.lets_in(&role, &pending.password, self.database_of(row));
            if !self.within(tried).await? {
                let what = format!("{role} has a new password and is not let in with it: somebody else changes it as well");
                return Err(self.name(EngineError::Refused(what)));
            }
        }
        crate::failpoint!("rotate-tried");
        kept.promote();
        self.passwords.save(name, &kept)?;
        crate::failpoint!("rotate-given");
        // It was promoted a line above.
        kept.current.map(|value| Version { number: value.version, made: value.made }).ok_or(EngineError::NoValue)
    }

    /// Whether the roles are there, can log in and are nobody else's, before anything is changed.
    async fn examine(&self, name: &SecretName, row: &StaticRoles) -> Result<(), EngineError> {
        let database = self.database_of(row);
        let session = self.pool.take(&self.config.database).await?;
        let roles: Vec<String> = row.roles.iter().map(|role| escape_literal(role)).collect();
        let sql = format!(
            "SELECT rolname, rolcanlogin AND coalesce(rolvaliduntil > now(), true), has_database_privilege(oid, {}, 'CONNECT'), \
             shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname IN ({})",
            escape_literal(database),
            roles.join(", ")
        );
        let found = session.link().rows(&sql).await.map_err(|why| fault("looking at the roles", &why))?;
        self.pool.give_back(session);
        for role in &row.roles {
            let wrong = |what: &str| Err(EngineError::Setup(format!("role {role} {what}")));
            match found.iter().find(|row| row.text(0) == Some(role)) {
                None => return wrong("is not there; it is not made here"),
                Some(found) if !found.is(1) => return wrong("may not log in (NOLOGIN, or its VALID UNTIL has passed)"),
                Some(found) if !found.is(2) => return wrong(&format!("may not connect to the database {database}")),
                Some(found) => drop(self.marked(name, role, found.text(3))?),
            }
            // Where any password does, a login proves nothing.
            let any = random_value(&*self.random);
            if self.pool.lets_in(role, &any, database).await? && !crate::mutation!("static-any-password") {
                return wrong("is let in whatever its password is (trust in pg_hba.conf): nothing would be changed by changing it");
            }
        }
        Ok(())
    }

    /// Sets the password and marks the role as ours, both or neither.
    async fn set_password(&self, name: &SecretName, value: &Value) -> Result<(), EngineError> {
        let role = escape_identifier(&value.role);
        let session = self.pool.take(&self.config.database).await?;
        let link = session.link();
        let verifier = scram::verifier(&value.password, scram::ITERATIONS, &*self.random);
        // Outside a transaction ROLLBACK only warns; after a failed try it ends that one.
        let alter = Zeroizing::new(format!("ROLLBACK; BEGIN; ALTER ROLE {role} PASSWORD {}", escape_literal(&verifier)));
        self.locking(link, &alter).await.map_err(|why| self.denied(&value.role, &why))?;
        // Its row is locked now, also against another daemon that would do the same: whoever comes second finds the mark of the first.
        let look = format!("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = {}", escape_literal(&value.role));
        let found = link.row(&look).await.map_err(|why| fault("reading the role's comment", &why))?;
        let mark = match self.marked(name, &value.role, found.text(0))? {
            Some(comment) => format!("COMMENT ON ROLE {role} IS {}; ", escape_literal(&comment)),
            None => String::new(),
        };
        // On every way out before this the connection is closed, and the server undoes it.
        link.run(&format!("{mark}COMMIT")).await.map_err(|why| self.denied(&value.role, &why))?;
        self.pool.give_back(session);
        Ok(())
    }

    /// PostgreSQL answers two changes of one role at the same moment with an internal error, once the first is done.
    async fn locking(&self, link: &Link, sql: &str) -> Result<(), Trouble> {
        for _ in 0..TRIES {
            match link.run(sql).await {
                Err(why) if why.code() == Some(&SqlState::INTERNAL_ERROR) => tokio::time::sleep(BETWEEN_TRIES).await,
                done => return done,
            }
        }
        link.run(sql).await
    }

    fn denied(&self, role: &str, why: &Trouble) -> EngineError {
        match (fault(&format!("setting the password of {role}"), why), why.code()) {
            (EngineError::Setup(text), Some(&SqlState::INSUFFICIENT_PRIVILEGE)) => {
                let (us, role) = (escape_identifier(&self.config.user), escape_identifier(role));
                EngineError::Setup(format!(
                    "{text}; {us} needs CREATEROLE, and from PostgreSQL 16 on: GRANT {role} TO {us} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
                ))
            }
            (error, _) => error,
        }
    }

    /// The comment with our mark; `None` where it is there already. Another's mark is refused: two that change one password in turn lock
    /// each other's holders out.
    fn marked(&self, name: &SecretName, role: &str, comment: Option<&str>) -> Result<Option<String>, EngineError> {
        let mark = format!("{}{} {name}{}", MARK.0, self.mark, MARK.1);
        let Some(comment) = comment else { return Ok(Some(mark)) };
        let Some((before, rest)) = comment.split_once(MARK.0) else { return Ok(Some(format!("{comment} {mark}"))) };
        let whose = rest.split(MARK.1).next().unwrap_or_default();
        match comment[before.len()..].starts_with(&mark) || crate::mutation!("static-mark") {
            true => Ok(None),
            false => Err(EngineError::Setup(format!(
                "role {role} is kept by another secret or another daemon ({whose}); if that is so no more, take the mark out of the role's \
                 comment: COMMENT ON ROLE {} IS ...",
                escape_identifier(role)
            ))),
        }
    }
}

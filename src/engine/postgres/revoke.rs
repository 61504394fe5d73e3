//! Ending a role so that nothing of it lives on: no login, no open session, nothing owned, no role.
//!
//! `DROP ROLE` alone ends nothing: sessions that are open go on. So first, and in one round trip: end the sessions (one may hold a lock
//! on the role's own row), forbid logins, end the sessions that came in between. From there on the credential is dead; the rest
//! tidies up. Every step may be repeated, and a role that is already gone is looked for before it is said to be.

use super::{
    super::EngineError,
    link::{Link, Trouble, fault},
    pool::{Pool, Session, none_left},
    role::Role,
    run_apart,
};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use std::{sync::OnceLock, time::Duration};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

/// From where a role is ended.
pub(super) struct Places<'a> {
    pub(super) pool: &'a Pool,
    /// Connections that are there for making credentials dead.
    pub(super) silencers: &'a Pool,
    /// The database from which it is ended.
    pub(super) home: &'a str,
}

/// What is to be ended, and where what it made goes.
pub(super) struct Ending<'a> {
    at: Places<'a>,
    role: &'a Role,
    oid: Option<u32>,
    server: Option<&'a str>,
    heir: &'a str,
    /// The number of a server that is not the one where the role was made.
    elsewhere: OnceLock<String>,
}

/// Whether there was anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Role,
    Nothing,
}

impl<'a> Ending<'a> {
    /// Of a role whose number is known (it finds sessions of a role that somebody else dropped), and the server that it was made at
    /// ([`Session::server`]; what is so at another proves nothing), or not. What it owned goes to the heir.
    pub(super) fn new(at: Places<'a>, role: &'a Role, oid: Option<u32>, server: Option<&'a str>, heir: &'a str) -> Self {
        Self { at, role, oid, server, heir, elsewhere: OnceLock::new() }
    }

    /// After this nobody can log in, and every session was told to end: the credential is dead, but for what its sessions still do until they
    /// notice. Takes no longer than `limit`, if the server answers, so that others have their turn and the connection is kept.
    pub(super) async fn silence(&self, limit: Duration) -> Result<Found, EngineError> {
        let session = self.take(self.at.silencers, self.at.home).await?;
        let found = self.kill(session.link(), Instant::now() + limit).await;
        self.at.silencers.give_back(session);
        found
    }

    /// After this no session of it is left, nor the role.
    pub(super) async fn tidy_up(&self, found: Found) -> Result<(), EngineError> {
        let session = self.take(self.at.pool, self.at.home).await?;
        self.await_silence(session.link()).await?;
        match found {
            Found::Role => self.remove(session).await,
            Found::Nothing => {
                self.at.pool.give_back(session);
                Ok(())
            }
        }
    }

    /// What was found, if it was where the role had been made.
    pub(super) fn verdict(self, found: Found) -> Result<Found, EngineError> {
        match (self.server, self.elsewhere.into_inner()) {
            (Some(made_at), Some(here)) if !crate::mutation!("postgres-elsewhere") => Err(EngineError::Unreachable(format!(
                "role {} was made at another server (system_identifier {made_at}) than this one ({here}), where it is not any more",
                self.role.name
            ))),
            _ => Ok(found),
        }
    }

    /// A session, at whatever server it is; that it is another one is noted.
    async fn take(&self, pool: &'a Pool, database: &str) -> Result<Session<'a>, EngineError> {
        let session = pool.take(database).await?;
        if let Some(here) = session.server().filter(|here| self.server.is_some_and(|made_at| made_at != *here)) {
            let _first_seen = self.elsewhere.set(here.to_owned());
        }
        Ok(session)
    }

    /// After this nobody can log in, and every session was told to end.
    async fn kill(&self, link: &Link, until: Instant) -> Result<Found, EngineError> {
        let terminate = self.terminate();
        let forbid = format!("ALTER ROLE {} NOLOGIN", self.role.quoted());
        let (mut pause, mut looked) = (Duration::from_millis(1), false);
        loop {
            // Polled in this order, so sent in this order, without waiting in between. Two messages: the second is committed, and
            // so seen by every login, before the third looks.
            let (_, forbidden, after) = tokio::join!(link.rows(&terminate), link.run(&forbid), link.rows(&terminate));
            match forbidden {
                Ok(()) => return after.map(|_| Found::Role).map_err(|why| fault("ending sessions", &why)),
                // After a lost answer it must not be missed only because the server has not done, or not even read, what it was told.
                Err(why) if why.code() == Some(&SqlState::UNDEFINED_OBJECT) && !looked => {
                    self.at.pool.end_lost(link).await?;
                    looked = true;
                }
                Err(why) if why.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(Found::Nothing),
                // A session that came in between holds the role's row, or somebody else changed it in the same moment: once more.
                Err(why) if is_busy(&why) && Instant::now() < until => {
                    if why.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                        self.end_blockers(link).await?;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Err(why) => return Err(fault("forbidding logins", &why)),
            }
        }
    }

    /// Returns when no session of the role is left. Asking again also tells those to end that had passed the login check before it was
    /// closed and showed up only now.
    async fn await_silence(&self, link: &Link) -> Result<(), EngineError> {
        none_left(link, || self.terminate(), "ending sessions").await
    }

    /// Ends sessions of our other leases, and of members of this role, that keep it from being ended, which they do by an open transaction: up
    /// to PostgreSQL 15 a role may let others act as it, and change its row; and whoever names a role in rights on things of its own holds
    /// a lock on it. Nobody has business with a holder's role.
    async fn end_blockers(&self, link: &Link) -> Result<(), EngineError> {
        if crate::mutation!("postgres-blockers") {
            return Ok(());
        }
        let (ours, role) = (escape_literal(self.role.prefix_of_its_own()), self.role.literal());
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename <> session_user AND (\
             starts_with(usename::text, {ours}) OR usesysid IN (SELECT member FROM pg_auth_members WHERE roleid = \
             (SELECT oid FROM pg_roles WHERE rolname = {role}))) AND pid IN (SELECT pid FROM pg_locks WHERE granted AND (\
             (relation = 'pg_authid'::regclass AND mode NOT IN ('AccessShareLock', 'RowShareLock')) \
             OR (locktype = 'object' AND classid = 'pg_authid'::regclass AND objid = (SELECT oid FROM pg_roles WHERE rolname = {role}))))"
        );
        none_left(link, || sql.clone(), "ending sessions that are in the way").await
    }

    /// One row for each session that is still there, each told to end.
    fn terminate(&self) -> String {
        let orphans = self.oid.map_or_else(String::new, |oid| format!(" OR (usesysid = {oid} AND usename IS NULL)"));
        let role = self.role.literal();
        if crate::mutation!("open-session") {
            return "SELECT 1 WHERE false".to_owned();
        }
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (usename = {role}{orphans})")
    }

    /// Hands on what the role owns, takes back what it was granted, in every database that knows it, and drops it.
    async fn remove(&self, mut session: Session<'a>) -> Result<(), EngineError> {
        // A second round only if a database came into play meanwhile; the role itself can do nothing any more.
        for _ in 0..3 {
            let holdings = self.holdings(session.link()).await?;
            let heir = if holdings.owns { Some(self.prepare_heir(&session).await?) } else { None };
            let heir = heir.as_deref();
            if !holdings.elsewhere.is_empty() {
                // Given back first: with a single connection, waiting for a second one would wait for ever.
                self.at.pool.give_back(session);
                for database in &holdings.elsewhere {
                    let there = self.take(self.at.pool, database).await?;
                    self.disown(there.link(), heir, "").await.map_err(|why| fault(&format!("tidying up in {database}"), &why))?;
                    self.at.pool.give_back(there);
                }
                session = self.take(self.at.pool, self.at.home).await?;
            }
            match self.disown(session.link(), heir, &format!(";\nDROP ROLE {}", self.role.quoted())).await {
                Ok(()) => return self.confirm(session).await,
                Err(why) if why.code() == Some(&SqlState::UNDEFINED_OBJECT) => return self.confirm(session).await,
                Err(why) if why.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {}
                Err(why) => return Err(fault("dropping the role", &why)),
            }
        }
        Err(EngineError::Refused(format!("role {} can no longer log in, but something still depends on it", self.role.name)))
    }

    /// Hands on what the role owns in this database and takes back its rights; `then` follows in the same transaction.
    async fn disown(&self, link: &Link, heir: Option<&str>, then: &str) -> Result<(), Trouble> {
        let role = self.role.quoted();
        let reassign = heir.map_or_else(String::new, |heir| format!("REASSIGN OWNED BY {role} TO {};\n", escape_identifier(heir)));
        let disown = format!("{reassign}DROP OWNED BY {role}{then}");
        match run_apart(link, &format!("{};\n{disown}", Role::rights_turn(""))).await {
            // Somebody keeps the turn, or the role itself.
            Err(why) if why.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                // If this does not come through, neither does what follows.
                let _ = self.end_blockers(link).await;
                run_apart(link, &disown).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    /// Looks, once more, before anybody is told that it is done.
    async fn confirm(&self, session: Session<'_>) -> Result<(), EngineError> {
        let look = format!("SELECT 1 FROM pg_roles WHERE rolname = {}", self.role.literal());
        let rows = session.link().rows(&look).await.map_err(|why| fault("looking for the role", &why))?;
        self.await_silence(session.link()).await?;
        self.at.pool.give_back(session);
        if rows.is_empty() { Ok(()) } else { Err(EngineError::Refused(format!("role {} is still there", self.role.name))) }
    }

    async fn holdings(&self, link: &Link) -> Result<Holdings, EngineError> {
        // `pg_shdepend` is shared: one look tells for all databases. Database 0 stands for what belongs to none.
        let sql = format!(
            "SELECT coalesce(base.datname, '')::text, bool_or(link.deptype = 'o') FROM pg_shdepend link \
             LEFT JOIN pg_database base ON base.oid = link.dbid JOIN pg_roles role ON role.oid = link.refobjid \
             WHERE link.refclassid = 'pg_authid'::regclass AND role.rolname = {} GROUP BY 1",
            self.role.literal()
        );
        let rows = link.rows(&sql).await.map_err(|why| fault("looking what the role owns", &why))?;
        let mut holdings = Holdings { owns: false, elsewhere: Vec::new() };
        for row in rows {
            let (database, owns) = (row.text(0).unwrap_or_default().to_owned(), row.is(1));
            holdings.owns |= owns;
            if !database.is_empty() && database != self.at.home {
                holdings.elsewhere.push(database);
            }
        }
        Ok(holdings)
    }

    /// The role that gets what was made, made itself if it is not there. One with more rights than the leases had is refused: a view or
    /// a function that a holder left behind runs with the rights of its owner.
    async fn prepare_heir(&self, session: &Session<'_>) -> Result<String, EngineError> {
        let link = session.link();
        let what = format!("reassign_to {:?}", self.heir);
        let look = format!("SELECT rolsuper OR rolname = current_user FROM pg_roles WHERE rolname = {}", escape_literal(self.heir));
        let rows = link.rows(&look).await.map_err(|why| fault(&what, &why))?;
        match rows.first() {
            Some(row) if row.is(0) => Err(EngineError::Setup(format!(
                "{what} is a superuser or the engine's own role: what a holder leaves behind would run with its rights"
            ))),
            Some(_) => Ok(self.heir.into()),
            None => {
                let heir = escape_identifier(self.heir);
                let join = if session.is_superuser() { String::new() } else { format!(";\nGRANT {heir} TO CURRENT_USER") };
                let comment = "COMMENT ON ROLE";
                let about = "owns what leases of claviger made";
                let make = format!("CREATE ROLE {heir} NOLOGIN{join};\n{comment} {heir} IS {}", escape_literal(about));
                match link.run(&make).await {
                    Ok(()) => Ok(self.heir.into()),
                    // Another ending was faster.
                    Err(why) if matches!(why.code(), Some(&SqlState::DUPLICATE_OBJECT | &SqlState::UNIQUE_VIOLATION)) => {
                        Ok(self.heir.into())
                    }
                    Err(why) => Err(fault(&what, &why)),
                }
            }
        }
    }
}

/// Whether somebody else held what was needed.
fn is_busy(why: &Trouble) -> bool {
    matches!(why.code(), Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::INTERNAL_ERROR))
}

struct Holdings {
    owns: bool,
    elsewhere: Vec<String>,
}

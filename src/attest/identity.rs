//! Facts to identity: which registered row a process is, and what its attestation is worth.

use super::{
    facts::Facts,
    workload::{Basis, Workload},
};
use crate::model::{Assurance, Code, Identity, IdentityKind, Refusal, Registry, Selector};
use std::{collections::HashMap, sync::Arc};

/// Names of uids and gids as the host knew them when the registry was loaded: no look-up happens on the request path.
#[derive(Clone, Debug, Default)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: Vec<(u32, String)>,
    login_accounts: Vec<u32>,
}

impl Names {
    /// `users` and `groups` for those that the registry names; `login_accounts` are the uids that a person can log in as.
    pub fn new(users: HashMap<u32, String>, groups: Vec<(u32, String)>, login_accounts: Vec<u32>) -> Self {
        Self { users, groups, login_accounts }
    }

    fn uid_of(&self, user: &str) -> Option<u32> {
        self.users.iter().find(|(_, name)| *name == user).map(|(uid, _)| *uid)
    }
}

/// The registry with what matching needs worked out once per load.
pub struct Roll {
    registry: Registry,
    names: Names,
    agents: bool,
    hashes: bool,
}

/// A process and an ancestor as matching sees them.
pub struct Candidate {
    /// The judged facts.
    pub facts: Facts,
    /// The same as selectors.
    pub selectors: Arc<[Selector]>,
}

impl Roll {
    /// Prepares a registry for matching.
    pub fn new(registry: Registry, names: Names) -> Self {
        let agents = registry.iter().any(|row| row.kind == IdentityKind::Agent);
        let hashes = registry.iter().any(|row| row.selectors.iter().any(|s| s.kind() == "unix:sha256"));
        Self { registry, names, agents, hashes }
    }

    /// The rows.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether any row is an agent's, so that ancestors must be matched.
    pub fn has_agents(&self) -> bool {
        self.agents
    }

    /// Whether any row pins the content of an executable.
    pub fn needs_hash(&self) -> bool {
        self.hashes
    }

    /// Whether a row that pins content could match if the content did: only then is it worth hashing.
    pub fn wants_hash_of(&self, candidate: &Candidate) -> bool {
        // Content is no fact about a file that is not the host's own, and a strange file system may never give it.
        self.hashes
            && candidate.facts.exe.as_ref().is_some_and(|exe| exe.verified)
            && self.registry.iter().any(|row| {
                let (hash, rest): (Vec<&Selector>, Vec<&Selector>) = row.selectors.iter().partition(|s| s.kind() == "unix:sha256");
                !hash.is_empty() && rest.iter().all(|s| candidate.selectors.contains(s))
            })
    }

    /// Facts with their selectors.
    pub fn candidate(&self, facts: Facts) -> Candidate {
        let user = self.names.users.get(&facts.uid).map(String::as_str);
        let selectors = super::judge::selectors_of(&facts, user, &self.names.groups).into();
        Candidate { facts: Facts { user: user.map(str::to_owned), ..facts }, selectors }
    }

    /// The workload that a lease remembers, for deciding again about a unit or container whose asking process may be gone. Never for
    /// issuing: nothing is attested here.
    pub fn remembered(&self, name: &crate::model::IdentityName, assurance: Assurance) -> Option<Workload> {
        let row = self.registry.find(name)?.clone();
        Some(Workload::new(row, assurance, Basis::Program, Arc::new(Facts::default()), Arc::from([]), None))
    }

    /// Every row whose selectors all hold.
    pub fn matches(&self, selectors: &[Selector]) -> Vec<&Arc<Identity>> {
        self.registry.iter().filter(|row| row.selectors.iter().all(|s| selectors.binary_search(s).is_ok())).collect()
    }

    /// The agents that a process may be. What its executable holds is measured for nobody but who asks, so whoever may be an agent but for
    /// that is taken for one.
    fn agents_of(&self, candidate: &Candidate) -> impl Iterator<Item = &Arc<Identity>> {
        let measured = |selector: &Selector| selector.kind() == "unix:sha256";
        let holds = move |selector: &Selector| measured(selector) || candidate.selectors.binary_search(selector).is_ok();
        self.registry.iter().filter(move |row| row.kind == IdentityKind::Agent && row.selectors.iter().all(holds))
    }

    /// Decides who the process is.
    ///
    /// Agent-ness is contagious: below a registered agent everything is that agent, whatever else it matches. On a uid where an agent
    /// is registered nothing below `isolated` is anything else, so that leaving the agent's tree gains nothing.
    pub fn identify(&self, subject: &Candidate, ancestors: &[Candidate], client: Option<&Candidate>) -> Result<Workload, Refusal> {
        let mut own = self.matches(&subject.selectors);
        if self.agents && !crate::mutation!("contagion") {
            let above: Vec<&Arc<Identity>> = ancestors.iter().flat_map(|a| self.agents_of(a)).collect();
            if !above.is_empty() {
                own = above;
                own.dedup();
            }
        }
        let row = narrowest(&own)?;
        let Some(row) = row else {
            let code = if self.agent_on(subject.facts.uid) { Code::LEFT_AGENT_SESSION } else { Code::NO_IDENTITY };
            return Err(Refusal::new(code).detail(self.near_misses(&subject.selectors)));
        };
        let (mut assurance, mut basis) = self.assurance(row, subject);
        // What our client hands on is worth no more than the client itself where it runs.
        if let Some((of_client, its_basis)) = client.map(|client| self.assurance(row, client)).filter(|(its, _)| *its < assurance) {
            (assurance, basis) = (of_client, its_basis);
        }
        if row.kind != IdentityKind::Agent
            && assurance < Assurance::Isolated
            && self.agent_on(subject.facts.uid)
            && !crate::mutation!("left-session")
        {
            return Err(Refusal::new(Code::LEFT_AGENT_SESSION)
                .detail(format!("matches {} at {assurance}, but an agent is registered on uid {}", row.name, subject.facts.uid)));
        }
        let facts = Arc::new(subject.facts.clone());
        let client = client.map(|client| Arc::new(client.facts.clone()));
        Ok(Workload::new(row.clone(), assurance, basis, facts, subject.selectors.clone(), client))
    }

    /// Decides who a unit is that PID 1 is about to start. Its user is not known, so where agents are registered an operator must have said
    /// that nothing else runs on it: what is loaded lies in a file that its user can read.
    pub fn identify_unit(&self, unit: &Candidate) -> Result<Workload, Refusal> {
        let own = self.matches(&unit.selectors);
        let Some(row) = narrowest(&own)? else {
            let selector = unit.selectors.first().map_or("systemd:loads", Selector::as_str);
            return Err(Refusal::new(Code::NO_IDENTITY).detail(format!(
                "before a unit's program runs nothing but its name is known: its identity has selectors = [\"{selector}\"]"
            )));
        };
        if self.agents && row.kind != IdentityKind::Agent && !row.exclusive_uid && !crate::mutation!("credentials-agent") {
            return Err(Refusal::new(Code::LEFT_AGENT_SESSION).detail(format!(
                "an agent is registered on this host and the unit's user is not known: if nothing else runs on it, say exclusive_uid = true in {}",
                row.name
            )));
        }
        let facts = Arc::new(unit.facts.clone());
        Ok(Workload::new(row.clone(), Assurance::Program, Basis::ServiceManager, facts, unit.selectors.clone(), None))
    }

    /// What the attestation of `subject` as `row` is worth, and what that rests on.
    pub fn assurance(&self, row: &Identity, subject: &Candidate) -> (Assurance, Basis) {
        let facts = &subject.facts;
        let contained = facts.foreign.iter().any(|ns| ns != "mnt");
        let known_program = facts.exe.as_ref().is_some_and(|exe| exe.verified) && facts.cgroup.is_some() && !contained;
        if !known_program {
            return (Assurance::Uid, Basis::Ids);
        }
        if facts.uid == 0 {
            return (Assurance::Program, Basis::Program);
        }
        let basis = if is_launched(row, facts) {
            Basis::Launch
        } else if self.uid_is_of_unit(row, facts) {
            Basis::SystemUnit
        } else if row.exclusive_uid && !self.others_on(row, facts.uid) {
            Basis::ExclusiveUid
        } else {
            return (Assurance::Program, Basis::Program);
        };
        let measured = row.selectors.iter().any(|s| s.kind() == "unix:sha256") && facts.exe.as_ref().is_some_and(|exe| exe.root_owned);
        (if measured { Assurance::Measured } else { Assurance::Isolated }, basis)
    }

    /// The assurance of a process that is no registered identity.
    pub fn bare_assurance(&self, subject: &Candidate) -> Assurance {
        let facts = &subject.facts;
        let contained = facts.foreign.iter().any(|ns| ns != "mnt");
        let known_program = facts.exe.as_ref().is_some_and(|exe| exe.verified) && facts.cgroup.is_some() && !contained;
        if known_program { Assurance::Program } else { Assurance::Uid }
    }

    /// A unit directly below `system.slice`, named by the row, whose uid belongs to no other identity and to no person.
    fn uid_is_of_unit(&self, row: &Identity, facts: &Facts) -> bool {
        let Some(unit) = facts.unit.as_ref().filter(|unit| unit.system) else { return false };
        let direct = facts.cgroup.as_ref().is_some_and(|path| {
            let place = format!("/system.slice/{}", unit.name);
            *path == place || path.starts_with(&(place + "/"))
        });
        let named = row.selectors.iter().any(|s| s.kind() == "systemd:id" && s.value() == unit.name);
        direct && named && !self.names.login_accounts.contains(&facts.uid) && !self.others_on(row, facts.uid)
    }

    /// Whether another row may select this uid.
    fn others_on(&self, row: &Identity, uid: u32) -> bool {
        self.registry.iter().any(|other| other.name != row.name && self.uid_of_row(other).is_none_or(|other| other == uid))
    }

    /// Whether an agent may run on this uid.
    fn agent_on(&self, uid: u32) -> bool {
        self.agents
            && self.registry.iter().any(|row| row.kind == IdentityKind::Agent && self.uid_of_row(row).is_none_or(|agent| agent == uid))
    }

    /// Whether a process matches any agent's row.
    pub fn is_agent(&self, candidate: &Candidate) -> bool {
        self.agents && self.agents_of(candidate).next().is_some()
    }

    /// Whether an agent is registered on exactly this uid.
    pub fn is_agents_uid(&self, uid: u32) -> bool {
        self.registry.iter().any(|row| row.kind == IdentityKind::Agent && self.uid_of_row(row) == Some(uid))
    }

    /// Whether any row names exactly this uid.
    pub fn names_uid(&self, uid: u32) -> bool {
        self.registry.iter().any(|row| self.uid_of_row(row) == Some(uid))
    }

    /// The one uid a row selects; `None` when it says none and so may be any.
    fn uid_of_row(&self, row: &Identity) -> Option<u32> {
        row.selectors.iter().find_map(|s| match s.kind() {
            "unix:uid" => s.value().parse().ok(),
            // No process is that, whatever its uid.
            "systemd:loads" => Some(u32::MAX),
            // A user that the host does not know matches nobody: no uid, but not any uid either.
            "unix:user" => Some(self.names.uid_of(s.value()).unwrap_or(u32::MAX)),
            _ => None,
        })
    }

    /// For operators: the rows that came nearest and what they missed.
    pub fn near_misses(&self, selectors: &[Selector]) -> String {
        let mut rows: Vec<(usize, &Arc<Identity>, Vec<&Selector>)> = self
            .registry
            .iter()
            .map(|row| {
                let missing: Vec<&Selector> = row.selectors.iter().filter(|s| selectors.binary_search(s).is_err()).collect();
                (missing.len(), row, missing)
            })
            .filter(|(missing, row, _)| *missing < row.selectors.len())
            .collect();
        rows.sort_by_key(|(missing, ..)| *missing);
        let lines: Vec<String> = rows
            .iter()
            .take(3)
            .map(|(_, row, missing)| {
                let missing: Vec<&str> = missing.iter().map(|s| s.as_str()).collect();
                format!("{} lacks {}", row.name, missing.join(", "))
            })
            .collect();
        if lines.is_empty() { "no identity shares a selector with it".to_owned() } else { lines.join("; ") }
    }
}

/// Started by the launcher as what the row names, on the host itself, and traced by nobody.
fn is_launched(row: &Identity, facts: &Facts) -> bool {
    let named = |name: &String| row.selectors.iter().any(|s| s.kind() == "launch:id" && s.value() == name);
    facts.launch.as_ref().is_some_and(named) && facts.foreign.is_empty() && facts.tracer.is_none()
}

/// The row whose selectors strictly include every other's; an error when there is none such among several.
fn narrowest<'a>(rows: &[&'a Arc<Identity>]) -> Result<Option<&'a Arc<Identity>>, Refusal> {
    let includes =
        |a: &Identity, b: &Identity| b.selectors.iter().all(|s| a.selectors.contains(s)) && a.selectors.len() > b.selectors.len();
    match rows {
        [] => Ok(None),
        [row] => Ok(Some(row)),
        rows => rows
            .iter()
            .find(|row| rows.iter().all(|other| other.name == row.name || includes(row, other)))
            .map(|row| Some(*row))
            .ok_or_else(|| {
                let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
                Refusal::new(Code::AMBIGUOUS_IDENTITY).detail(format!("matches {}", names.join(" and ")))
            }),
    }
}

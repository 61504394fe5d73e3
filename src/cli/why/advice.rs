//! What to do about a refusal, by its codes: all of them at once, each with the file and line that it is about.

use super::{
    ask::Ask,
    at, found,
    host::{Host, list},
    needs, nobody,
    plan::{Edit, Plan},
};
use crate::{
    audit::Record,
    config::RowPlace,
    model::{Class, Code},
    policy::{Blocker, Told},
};

/// A refusal beside the files as they are now, and the plan that grows.
pub(super) struct Case<'a> {
    pub(super) host: &'a Host,
    pub(super) record: &'a Record,
    pub(super) told: Told,
    pub(super) ask: Ask,
    pub(super) plan: Plan,
    /// As it stands nothing lifts it: only less sensitivity does.
    pub(super) hopeless: bool,
    /// Codes that what is planned already settles.
    pub(super) settled: Vec<&'static str>,
    /// What the covering grant lacks.
    pub(super) annotations: Vec<(&'static str, String)>,
}

/// The ways out of a refusal.
pub(super) fn advise(host: &Host, record: &Record) -> Plan {
    // A source's own words are no decision, whatever they look like.
    let decided = !matches!(record.code.as_deref(), Some("engine_unavailable" | "engine_refused"));
    let told = if decided { Told::read(&found(record, "/detail")) } else { Told::default() };
    let (ask, plan) = (Ask::of(record), Plan::default());
    let (blockers, code) = (told.blockers.clone(), record.code.clone().unwrap_or_default());
    // What neither the program nor an operator can bring about in this version.
    let hopeless = blockers.iter().map(|one| one.word.as_str()).chain([code.as_str()]).any(needs::is_hopeless);
    let mut case = Case { host, record, told, ask, plan, hopeless, settled: Vec::new(), annotations: Vec::new() };
    if !blockers.iter().any(|one| one.word == code) && code != "needs" && code != "cannot_be_met" {
        case.code(&code);
    }
    let (needed, refusing): (Vec<&Blocker>, Vec<&Blocker>) = blockers.iter().partition(|one| one.requires);
    for blocker in refusing {
        if !case.settled.contains(&blocker.word.as_str()) {
            case.code(&blocker.word);
        }
    }
    let deeds = case.plan.deeds();
    needed.iter().for_each(|blocker| needs::need(&mut case, &blocker.word));
    needs::annotate(&mut case);
    if hopeless {
        case.plan.only_words(&deeds);
    } else if blockers.len() > 1 {
        case.plan.rest_as_above();
    }
    case.plan
}

impl<'a> Case<'a> {
    pub(super) fn get(&self, path: &str) -> String {
        found(self.record, path)
    }

    pub(super) fn identity(&self) -> String {
        self.record.identity.as_ref().map_or_else(String::new, |identity| identity.name.clone())
    }

    pub(super) fn secret(&self) -> String {
        self.ask.secret.clone().unwrap_or_default()
    }

    /// The identity's row and the secret's, where their files can be read.
    pub(super) fn rows(&self) -> (Option<&'a RowPlace>, Option<&'a RowPlace>) {
        (self.host.identity(&self.identity()), self.host.secret(&self.secret()))
    }

    /// What to change in the row of the identity.
    pub(super) fn set_identity(&mut self, key: &str, value: &str) {
        let (row, host) = (self.rows().0, self.host);
        match row {
            Some(row) => host.set(&mut self.plan, row, key, value),
            None => self.blind("identity", &self.identity(), key, value),
        }
    }

    /// The same for the secret.
    pub(super) fn set_secret(&mut self, key: &str, value: &str) {
        let (row, host) = (self.rows().1, self.host);
        match row {
            Some(row) => host.set(&mut self.plan, row, key, value),
            None => self.blind("secret", &self.secret(), key, value),
        }
    }

    fn blind(&mut self, kind: &str, name: &str, key: &str, value: &str) {
        let paths = &self.host.config.paths;
        let folder = if kind == "identity" { &paths.identities } else { &paths.secrets };
        self.plan.say(format!("In {}, the row of {kind} {name}: {key} = {value}", folder.display()));
    }

    pub(super) fn ask_again(&mut self, ask: &Ask) {
        if let Some(command) = ask.command() {
            self.plan.ask(command);
        }
    }

    fn code(&mut self, code: &str) {
        if super::door::code(self, code) {
            return;
        }
        match code {
            "no_identity" | "ambiguous_identity" | "left_agent_session" | "agent_descendant" => nobody::code(self, code),
            "no_grant" => nobody::no_grant(self),
            "no_declared_use" => self.no_declared_use(),
            "identity_inactive" => self.inactive(),
            "purpose_not_allowed" => self.purpose(),
            "environment" => self.environment(),
            "target_not_allowed" => self.target(),
            "above_identity" => {
                let (name, needed) = (self.identity(), needs::level(self));
                let most = self.rows().0.map_or_else(String::new, |row| {
                    format!("{} ({})", row.values("max_sensitivity").join(""), row.place_of("max_sensitivity"))
                });
                self.plan.say(format!("{} is {}; {name} may have at most {most}.", self.secret(), self.get("/secret/sensitivity")));
                self.set_identity("max_sensitivity", &format!("{needed:?}"));
            }
            "shared_identity" | "injected_only" | "value_outlives_lease" => needs::too_sensitive(self, code),
            "secret_quarantined" => {
                self.plan.say("An operator took the secret out of use. When it is safe again:");
                self.set_secret("quarantined", "false");
            }
            "pinned_required" => {
                self.plan.say("The secret is given only sealed to a key of the process's own: 'clav get' and 'clav exec' ask so by themselves, others send the header claviger-pinned. Or, in its row:");
                self.set_secret("pinned", "false");
            }
            "agent_must_declare" => {
                self.plan.say("What an agent wants has to be said in the request: a declared use of its row does not count.");
                let ask = self.ask.clone();
                self.ask_again(&ask);
            }
            "traced" => {
                let tracer = self.get("/attested/tracer");
                self.plan.say(format!("Process {tracer} traces the program: end it, or detach it, and let the program ask again."));
                self.plan.run(format!("ps -o pid,user,args -p {tracer}"));
            }
            "no_value" if self.get("/secret/engine") != "local" => {
                self.plan.say("Its source has no value for it yet, or that version was changed meanwhile: then the program asks for a new lease. Where claviger changes the value, this makes the first:");
                self.plan.run(format!("clav secret rotate {}", self.secret()));
            }
            "no_value" => {
                self.plan.say(
                    "The secret is defined and granted; its value was never stored, or was removed. It is typed or comes from a pipe.",
                );
                self.plan.run(format!("clav secret put {}", self.secret()));
            }
            "frozen" if self.get("/detail").contains("ask again") => {
                let ask = self.ask.clone();
                self.ask_again(&ask);
            }
            "frozen" => {
                self.plan.say("Somebody stopped issuing on this host; the record of the freeze says who and why. When it is over:");
                self.plan.run("clav freeze --off");
            }
            "limit" => self.limit(),
            "reads_exceeded" | "used_up" | "lease_ended" | "no_lease" | "not_renewable" | "idempotency_conflict" => {
                self.plan.say("That lease gives nothing more: the program asks for another.");
                let ask = self.ask.clone();
                self.ask_again(&ask);
            }
            "engine_unavailable" => self.engine(false),
            "engine_refused" => self.engine(true),
            "not_operator" => {
                self.plan.say("An agent must not lift its own limits, so no operator shares its uid or runs below it.");
                self.plan.say("From a login that no agent runs below, as root or in the operators' group:");
                self.plan.run("clav status");
            }
            "malformed" | "too_large" => self.malformed(),
            "read_only" | "no_space" | "audit_unavailable" | "audit_budget" | "internal_error" => self.host_trouble(code),
            "channel_unavailable" => {
                self.plan.say("Policy allows the channel; this version has nothing that injects or signs, so only 'deliver' is answered.");
                let ask = self.ask.clone();
                self.ask_again(&ask);
            }
            other => self.other(other),
        }
    }

    fn no_declared_use(&mut self) {
        let (identity, secret) = self.rows();
        if secret.is_none() && !self.host.secrets.is_empty() {
            return nobody::unknown_secret(self, &self.secret());
        }
        let purposes = nobody::common(identity, secret);
        match purposes.first() {
            Some(purpose) => {
                self.plan.say(format!(
                    "Both {} and {} allow: {}. Say which it is for.",
                    self.identity(),
                    self.secret(),
                    purposes.join(", ")
                ));
                let ask = self.ask.with_purpose(purpose);
                self.ask_again(&ask);
            }
            None => self.purpose(),
        }
        let declared = identity.zip(purposes.first()).filter(|_| !self.get("/detail").contains("declared uses:"));
        if let Some((row, purpose)) = declared {
            let mut plan = Plan::default();
            let text = format!("\n[[identity.use]]\nsecret = {:?}\npurpose = {purpose:?}\n", self.secret());
            plan.edit(Edit::Insert { path: row.path.clone(), after: row.last, text });
            self.plan.or("so that the program need not say it, a declared use:", plan);
        }
    }

    fn inactive(&mut self) {
        let Some(row) = self.rows().0 else {
            return self.plan.say(format!("The row of {} in identities.d: suspended = true, or expires has passed.", self.identity()));
        };
        let expires = row.values("expires").join("");
        if crate::model::WallTime::parse(&expires).is_some_and(|at| at <= self.host.now) {
            self.plan.say(format!(
                "{} expired on {expires} ({}); whoever answers for it says until when it is needed:",
                row.name,
                row.place_of("expires")
            ));
            self.set_identity("expires", &format!("{:?}", self.host.later()));
        }
        if row.values("suspended") == ["true"] {
            self.plan.say(format!("{} is suspended ({}); when it may go on:", row.name, row.place_of("suspended")));
            self.set_identity("suspended", "false");
        }
        if self.plan.is_empty() {
            self.plan.say(format!("The row of {} ({}) is active now: let the program ask again.", row.name, row.place()));
        }
    }

    fn purpose(&mut self) {
        let (identity, secret) = self.rows();
        let purpose = self.ask.purpose.clone().unwrap_or_default();
        for (kind, row) in [("identity", identity), ("secret", secret)] {
            if let Some(row) = row {
                self.plan.say(format!("{kind} {} allows: {} ({})", row.name, row.values("purposes").join(", "), row.place_of("purposes")));
            }
        }
        let mut wider = Plan::default();
        for row in [identity, secret].into_iter().flatten().filter(|row| !row.values("purposes").contains(&purpose)) {
            let all = row.values("purposes").iter().map(String::as_str).chain([purpose.as_str()]);
            self.host.set(&mut wider, row, "purposes", &list(all));
        }
        match nobody::common(identity, secret).first() {
            Some(common) => {
                let ask = self.ask.with_purpose(common);
                self.ask_again(&ask);
                self.plan.or(format!("if {purpose} is a purpose of both:"), wider);
            }
            None if purpose.is_empty() => self.plan.say("The two have no purpose in common, so nothing can be asked."),
            None => {
                self.plan.say(format!("The two have no purpose in common; for {purpose}:"));
                for row in [identity, secret].into_iter().flatten().filter(|row| !row.values("purposes").contains(&purpose)) {
                    let all = row.values("purposes").iter().map(String::as_str).chain([purpose.as_str()]);
                    self.host.set(&mut self.plan, row, "purposes", &list(all));
                }
            }
        }
    }

    fn environment(&mut self) {
        let (identity, secret) = self.rows();
        let (of_identity, of_secret) = (self.get("/identity/environment"), self.get("/secret/environment"));
        let place = |row: Option<&RowPlace>| row.map_or_else(String::new, |row| format!(" ({})", row.place_of("environment")));
        self.plan.say(format!(
            "{}{} belongs to {of_identity}, {}{} to {of_secret}: one of the two is wrong, or the program asked for the wrong secret.",
            self.identity(),
            place(identity),
            self.secret(),
            place(secret),
        ));
        self.plan.say(format!("If {} belongs to {of_secret}:", self.identity()));
        self.set_identity("environment", &format!("{of_secret:?}"));
        let mut other = Plan::default();
        if let Some(row) = secret {
            self.host.set(&mut other, row, "environment", &format!("{of_identity:?}"));
            self.plan.or(format!("if {} belongs to {of_identity}:", self.secret()), other);
        }
    }

    fn target(&mut self) {
        let Some(row) = self.rows().1 else { return self.plan.say("The target is not among the hosts of the secret's row in secrets.d.") };
        let hosts = row.values("hosts");
        let (good, bad): (Vec<String>, Vec<String>) = self.ask.targets.iter().cloned().partition(|target| hosts.contains(target));
        let listed = if hosts.is_empty() { "no hosts at all".to_owned() } else { hosts.join(", ") };
        let place = row.place_of("hosts");
        self.plan.say(format!("{} is for {listed} ({place}), not for {}.", row.name, bad.join(", ")));
        let ask = Ask { targets: if good.is_empty() { hosts.first().cloned().into_iter().collect() } else { good }, ..self.ask.clone() };
        self.ask_again(&ask);
        let mut wider = Plan::default();
        let all = list(hosts.iter().chain(&bad).map(String::as_str));
        self.host.set(&mut wider, row, "hosts", &all);
        self.plan.or("if the credential is good there too:", wider);
    }

    fn limit(&mut self) {
        let identity = self.identity();
        if !self.get("/detail").contains("live leases") {
            self.plan.say("The next second may do. The limits of a uid are below [limits] in clavigerd.toml.");
            return;
        }
        let now = self.host.config.leases.per_identity;
        self.plan.say("A program that asks anew instead of reading its lease again fills them up: look with 'clav leases --all'.");
        self.plan.say(format!("If {identity} needs more than {now}:"));
        self.plan.edit(self.host.setting("leases", "per_identity", &(now.saturating_mul(2).max(now + 1)).to_string()));
        let mut end = Plan::default();
        end.run(format!("clav revoke --identity {identity}"));
        self.plan.or("to end them all now:", end);
    }

    fn engine(&mut self, refuses: bool) {
        let what = if refuses { "refuses, or is not set up for what was asked" } else { "does not answer" };
        let name = self.get("/secret/engine");
        self.plan.say(format!("Engine {name} ({}): its source {what}. See 'because' above.", self.host.config_path));
        self.host.look_at(&mut self.plan, &name, refuses);
        let ask = self.ask.clone();
        self.ask_again(&ask);
    }

    fn malformed(&mut self) {
        let wrong = self.get("/detail");
        let mut ask = self.ask.clone();
        if wrong.starts_with("ttl") {
            ask.ttl = Some("15m".to_owned());
        }
        if ask.secret.is_none() {
            let granted = self.host.granted(&self.identity());
            let Some((secret, purpose)) = granted.first() else {
                self.plan.say("Names hold a-z, 0-9, '-', '_', '.' and '/'; the program's own list:");
                return self.plan.run("clav secrets");
            };
            let names: Vec<&str> = granted.iter().map(|(name, _)| name.as_str()).collect();
            self.plan.say(format!("{} is granted: {}. For instance:", self.identity(), names.join(", ")));
            ask = ask.about(secret).with_purpose(purpose);
        }
        self.ask_again(&ask);
    }

    fn host_trouble(&mut self, code: &str) {
        self.plan.say(match code {
            "read_only" => "The state does not fit this machine: what is needed is said by",
            "audit_budget" => {
                "The identity's records fill the log: it may go on within the hour, or with more of [audit] hourly_bytes_per_identity."
            }
            "internal_error" => "A failure of our own: the daemon's log has more of it.",
            _ => "The log or the journal has no room, or its disk fails: nothing is issued without a record.",
        });
        self.plan.run(match code {
            "internal_error" => "journalctl -t claviger -p err -n 50",
            "read_only" | "audit_budget" => "clav status",
            _ => "clav doctor",
        });
    }

    fn other(&mut self, code: &str) {
        let known = Code::ALL.iter().find(|(known, _)| known.as_str() == code);
        match known {
            Some((known, _)) if known.class() == Class::Attestation => {
                self.plan
                    .say("The process was not, or no longer, the one that connected: it asks again on a new connection, from one program.");
                let ask = self.ask.clone();
                self.ask_again(&ask);
            }
            Some((known, _)) if *known == Code::POLICY_ERROR => {
                self.plan.say("A policy could not be evaluated, so nothing it might have refused is allowed; 'because' says which. Mend it, then reload.");
                self.plan.run("clav policy check && clav reload");
            }
            Some((_, sentence)) => {
                self.plan.say(*sentence);
                let ask = self.ask.clone();
                self.ask_again(&ask);
            }
            None => {
                let rules: Vec<String> = match at(self.record, "/policy/determining") {
                    Some(serde_json::Value::Array(ids)) => ids.iter().filter_map(|id| Some(self.host.policy(id.as_str()?))).collect(),
                    _ => Vec::new(),
                };
                self.plan
                    .say(format!("A rule of this host's own refuses with {code}: {}. Nothing lifts it; read it there.", rules.join(", ")));
            }
        }
    }
}

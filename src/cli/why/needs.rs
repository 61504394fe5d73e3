//! Evidence that is missing, and what is too sensitive for who asks.

use super::{
    advice::Case,
    host::list,
    plan::{Edit, Plan},
};
use crate::{digest::sha256, model::Sensitivity};

/// The most of an executable that is read to name its hash.
const MEASURED_MAX: u64 = 256 << 20;

/// What a requirement asks for.
pub(super) fn need(case: &mut Case<'_>, word: &str) {
    match word {
        "grant_ticket" => {
            let ticket = case.ticket();
            case.annotations.push(("ticket", ticket));
        }
        "grant_lasting" => {
            case.plan.say(
                "A value once delivered stays valid after its lease, until it is changed at its source; the grant has to accept that.",
            );
            case.annotations.push(("lasting", "yes".to_owned()));
        }
        "assurance" => assurance(case),
        // Neither signatures nor approvals nor anything else about a request can be collected by this version.
        _ => {
            case.plan.say(format!("{word}: this version cannot collect it, so nothing the program does or a grant says will do."));
            lower(case);
        }
    }
}

impl Case<'_> {
    /// The ticket that a grant should name: the one that was claimed, or an example of the form.
    pub(super) fn ticket(&mut self) -> String {
        match super::at(self.record, "/claimed/tickets/0") {
            Some(serde_json::Value::String(ticket)) => ticket,
            _ => {
                self.plan.say("The ticket is the one that justifies the grant: put it in place of ops:1.");
                "ops:1".to_owned()
            }
        }
    }
}

/// Writes what was collected into the covering grant, all of it at once.
pub(super) fn annotate(case: &mut Case<'_>) {
    let annotations = std::mem::take(&mut case.annotations);
    // Without a covering grant one is to be written anew, with all that it needs.
    let Some(grant) = case.told.covering.clone().filter(|_| !annotations.is_empty()) else { return };
    if !case.host.annotate(&mut case.plan, &grant, &annotations) {
        let all: Vec<String> = annotations.iter().map(|(key, value)| format!("@{key}(\"{value}\")")).collect();
        case.plan.say(format!("Add {} to {} ({}:{}).", all.join(" "), grant.id, grant.file, grant.line));
    }
}

fn assurance(case: &mut Case<'_>) {
    let (row, host) = (case.rows().0, case.host);
    let foreign = case.get("/attested/foreign");
    match case.get("/assurance").as_str() {
        "uid" if !foreign.is_empty() => {
            case.plan.say(format!("The program runs in namespaces of its own ({foreign}), where its path says nothing. Outside of them:"));
            let ask = case.ask.clone();
            case.ask_again(&ask);
        }
        "uid" => {
            let path = case.get("/attested/exe/path");
            case.plan.say(format!("The executable {path} could not be attested: it was removed or replaced since it was started, or lies where it cannot be trusted. Start the program anew from a file system of this host."));
            let ask = case.ask.clone();
            case.ask_again(&ask);
        }
        "program" => {
            case.plan.say(format!("{} shares its uid with other code, as far as is known. A system unit with a user of its own, or, if nothing else runs on that uid, saying so:", case.identity()));
            match row {
                Some(row) => host.set(&mut case.plan, row, "exclusive_uid", "true"),
                None => case.set_identity("exclusive_uid", "true"),
            }
        }
        _ => {
            let path = case.get("/attested/exe/path");
            let measured = std::fs::metadata(&path).ok().filter(|meta| meta.len() <= MEASURED_MAX).and_then(|_| std::fs::read(&path).ok());
            match (row, measured) {
                (Some(row), Some(bytes)) => {
                    let hash = format!("unix:sha256:{}", hex::encode(sha256(&[&bytes])));
                    let all = row.values("selectors").iter().map(String::as_str).chain([hash.as_str()]);
                    case.plan.say(format!("The content of {path} has to be pinned; each upgrade of it changes this line."));
                    host.set(&mut case.plan, row, "selectors", &list(all));
                }
                _ => case.plan.say(format!("The row of {} has to pin the content of its executable (unix:sha256).", case.identity())),
            }
        }
    }
}

/// What this kind of identity is never handed.
pub(super) fn too_sensitive(case: &mut Case<'_>, code: &str) {
    case.plan.say(match code {
        "shared_identity" => "Several programs share the identity, so it never has more than internal secrets: give this one a user and a row of its own.",
        "value_outlives_lease" => "A value that stays valid after its lease is not delivered at this sensitivity: let a postgres or jwt engine make it for each lease.",
        _ => "An agent is handed only what is made for its lease and bound to hosts (a postgres or jwt engine, and hosts in the secret's row). This version injects nothing: let a workload that is no agent make the call.",
    });
    lower(case);
}

/// What nothing lifts in this version, however much evidence there is.
pub(super) fn is_hopeless(word: &str) -> bool {
    let collected = ["grant_signature", "user", "confirmation", "ticket", "change_window", "approval", "control"];
    collected.contains(&word) || ["shared_identity", "injected_only", "value_outlives_lease"].contains(&word)
}

/// How sensitive the secret is; where nothing lifts a refusal, how sensitive it could be for this kind of identity.
pub(super) fn level(case: &Case<'_>) -> String {
    let now = case.get("/secret/sensitivity");
    let most = match case.get("/identity/kind").as_str() {
        "agent" => Sensitivity::Public,
        "shared" => Sensitivity::Internal,
        _ => Sensitivity::Confidential,
    };
    let above = Sensitivity::ALL.into_iter().any(|known| known.as_str() == now && known > most);
    if case.hopeless && above { most.as_str().to_owned() } else { now }
}

/// The honest way down: if the secret is less than its row says, the row is wrong.
fn lower(case: &mut Case<'_>) {
    let (now, most) = (case.get("/secret/sensitivity"), level(case));
    let Some(row) = case.rows().1.filter(|_| now != most) else { return };
    let mut plan = Plan::default();
    case.host.set(&mut plan, row, "sensitivity", &format!("{most:?}"));
    if most == Sensitivity::Confidential.as_str()
        && let Some(grant) = case.told.covering.clone()
    {
        let ticket = case.ticket();
        case.host.annotate(&mut plan, &grant, &[("ticket", ticket), ("lasting", "yes".to_owned())]);
    }
    case.plan.or(format!("if {} is really no more than {most}, its row says too much:", row.name), plan);
}

/// A grant as it has to be for this secret: ticket and consent from `confidential` on.
pub(super) fn new_grant(case: &mut Case<'_>, identity: (&str, &str), purpose: &str) -> Edit {
    let (kind, name) = identity;
    let secret = case.secret();
    let row = case.host.secret(&secret);
    let said = |key: &str| row.map_or_else(String::new, |row| row.values(key).join(""));
    let level = said("sensitivity");
    let owner = || case.host.identity(name).map(|row| row.values("owner").join("")).filter(|owner| !owner.is_empty());
    let owner = if said("owner").is_empty() { owner().unwrap_or_else(|| "operators".to_owned()) } else { said("owner") };
    let base = format!("grant.{name}.{}", secret.replace('/', "-"));
    let id = (1..).map(|n| if n == 1 { base.clone() } else { format!("{base}.{n}") }).find(|id| !case.host.has_policy(id)).unwrap_or(base);
    // From `confidential` on a grant names its ticket, and accepts a value that stays valid.
    let strict = !matches!(level.as_str(), "" | "public" | "internal") || matches!(said("operation").as_str(), "admin" | "destroy");
    let more = if strict { format!(" @ticket(\"{}\")\n@lasting(\"yes\")", case.ticket()) } else { String::new() };
    let channel = Some(case.get("/channel")).filter(|channel| !channel.is_empty()).unwrap_or_else(|| "deliver".to_owned());
    let text = format!(
        "@id(\"{id}\") @owner(\"{owner}\") @purpose(\"{purpose}\") @expires(\"{}\"){more}\n\
         permit (principal == Claviger::{kind}::\"{name}\", action == Claviger::Action::\"{channel}\", resource == Claviger::Secret::\"{secret}\");",
        case.host.later()
    );
    Edit::Append { path: case.host.grants_file(name), text }
}

//! Who is asking, where that is the trouble; and requests that nothing grants.

use super::{
    advice::Case,
    at,
    host::list,
    needs,
    plan::{Edit, Plan, quoted},
};
use crate::{
    config::{RowPlace, is_interpreter},
    policy::Misfit,
    sys,
};
use serde_json::Value;

pub(super) fn code(case: &mut Case<'_>, code: &str) {
    match code {
        "ambiguous_identity" => ambiguous(case),
        "no_identity" => nobody(case),
        _ => of_an_agent(case),
    }
}

/// The purposes that both rows list, in the order of the identity's.
pub(super) fn common(identity: Option<&RowPlace>, secret: Option<&RowPlace>) -> Vec<String> {
    let (Some(identity), Some(secret)) = (identity, secret) else { return Vec::new() };
    identity.values("purposes").iter().filter(|purpose| secret.values("purposes").contains(purpose)).cloned().collect()
}

fn ambiguous(case: &mut Case<'_>) {
    let detail = case.get("/detail");
    let names: Vec<&str> = detail.strip_prefix("matches ").unwrap_or_default().split(" and ").collect();
    let rows: Vec<&RowPlace> = names.iter().filter_map(|name| case.host.identity(name)).collect();
    for row in &rows {
        case.plan.say(format!("{} ({}): {}", row.name, row.place_of("selectors"), row.values("selectors").join(", ")));
    }
    case.plan.say("All selectors of each hold for the process. Where one row has every selector of the others and more, it is taken.");
    let attested = selectors(case);
    let narrowed = |row: &RowPlace| {
        let mut all: Vec<String> = rows.iter().flat_map(|row| row.values("selectors")).cloned().collect();
        all.sort();
        all.dedup();
        // Equal rows: one more fact of this very process.
        if rows.iter().any(|other| other.name != row.name && all.iter().all(|one| other.values("selectors").contains(one))) {
            all.extend(attested.iter().find(|one| !all.contains(one)).cloned());
        }
        let mut plan = Plan::default();
        case.host.set(&mut plan, row, "selectors", &list(all.iter().map(String::as_str)));
        plan
    };
    let plans: Vec<(String, Plan)> = rows.iter().map(|row| (row.name.clone(), narrowed(row))).collect();
    for (n, (name, plan)) in plans.into_iter().enumerate() {
        if n == 0 {
            case.plan.say(format!("If the process is {name}:"));
            case.plan.absorb(plan);
        } else {
            case.plan.or(format!("if it is {name}:"), plan);
        }
    }
}

/// The attested facts that a row would name, the strongest first.
fn selectors(case: &Case<'_>) -> Vec<String> {
    let get = |path: &str| Some(case.get(path)).filter(|text| !text.is_empty());
    if case.get("/adapter") == "systemd" {
        return get("/attested/unit/name").map(|unit| format!("systemd:loads:{unit}")).into_iter().collect();
    }
    let system = matches!(at(case.record, "/attested/unit/system"), Some(Value::Bool(true)));
    let uid = get("/attested/uid").or_else(|| get("/uid")).map(|uid| format!("unix:uid:{uid}"));
    let unit = get("/attested/unit/name").filter(|name| system && name.ends_with(".service")).map(|name| format!("systemd:id:{name}"));
    // What is not the host's own file at that path matches no row that names it.
    let verified = matches!(at(case.record, "/attested/exe/verified"), Some(Value::Bool(true)));
    let path = get("/attested/exe/path").filter(|path| verified && !is_interpreter(path)).map(|path| format!("unix:path:{path}"));
    [uid, unit, path].into_iter().flatten().collect()
}

fn nobody(case: &mut Case<'_>) {
    let (detail, uid) = (case.get("/detail"), case.get("/attested/uid"));
    let nearest = detail.split("; ").next().and_then(|first| first.split_once(" lacks "));
    let near = nearest.and_then(|(name, missing)| Some((case.host.identity(name)?, missing.to_owned())));
    if let Some((row, missing)) = near.or_else(|| meant(case)) {
        case.plan.say(format!("The nearest row is {} ({}): the process lacks {missing}.", row.name, row.place_of("selectors")));
        // Of several missing facts, changing one would not do.
        let single = if missing.contains(", ") { "" } else { missing.as_str() };
        let user =
            single.strip_prefix("unix:uid:").map(|uid| (uid.to_owned(), format!("setpriv --reuid={uid} --regid={uid} --clear-groups")));
        let user =
            user.or_else(|| single.strip_prefix("unix:user:").map(|user| (user.to_owned(), format!("runuser -u {} --", quoted(user)))));
        if let (Some((user, by)), Some(ask)) = (user, case.ask.command()) {
            case.plan.say(format!("It ran as uid {uid}. If it is {}, root has to start it as {user}.", row.name));
            case.plan.ask(format!("{by} {ask}"));
        } else if single.starts_with("unix:path:") && !is_interpreter(&case.get("/attested/exe/path")) {
            let path = case.get("/attested/exe/path");
            case.plan.say(format!(
                "If {path} is where {} is installed now, change the row; any other program of that user is refused just so, and rightly.",
                row.name
            ));
            let kept = row.values("selectors").iter().filter(|one| **one != missing).cloned().chain([format!("unix:path:{path}")]);
            let all: Vec<String> = kept.collect();
            case.host.set(&mut case.plan, row, "selectors", &list(all.iter().map(String::as_str)));
        }
    }
    case.plan.say(format!("While it runs, 'clav identity try --pid {}' shows all that a row could name.", case.get("/attested/pid")));
    let known = case.plan.has_deeds();
    let plan = new_identity(case);
    if !known {
        case.plan.say("A row of its own; owner, purposes and the rest are for a reviewer to settle.");
        case.plan.absorb(plan);
    } else {
        case.plan.or("if it is somebody new, a row of its own; owner, purposes and the rest are for a reviewer to settle:", plan);
    }
}

/// The identity to which the secret is granted, and what the process lacks of it: most likely it was meant.
fn meant<'a>(case: &Case<'a>) -> Option<(&'a RowPlace, String)> {
    let secret = case.secret();
    let (known, gid) = (selectors(case), format!("unix:gid:{}", case.get("/attested/gid")));
    let rows = case.host.identities.iter().filter(|row| case.host.granted(&row.name).iter().any(|(name, _)| *name == secret));
    let lacking = rows.map(|row| {
        let missing: Vec<&str> =
            row.values("selectors").iter().filter(|one| !known.contains(one) && **one != gid).map(String::as_str).collect();
        (row, missing)
    });
    lacking.min_by_key(|(_, missing)| missing.len()).map(|(row, missing)| (row, missing.join(", ")))
}

/// A row for the process as it was attested, and a grant for what it asked for.
pub(super) fn new_identity(case: &mut Case<'_>) -> Plan {
    let secret = case.host.secret(&case.secret());
    let said = |key: &str, otherwise: &str| {
        let found = secret.map_or_else(String::new, |row| row.values(key).first().cloned().unwrap_or_default());
        if found.is_empty() { otherwise.to_owned() } else { found }
    };
    let (path, uid) = (case.get("/attested/exe/path"), case.get("/attested/uid"));
    let loads = case.get("/adapter") == "systemd";
    let path = if loads { case.get("/attested/unit/name").trim_end_matches(".service").to_owned() } else { path };
    let base: String =
        path.rsplit('/').next().unwrap_or_default().chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).collect();
    let base = format!("{}-{}", if base.is_empty() { "program" } else { &base }, if loads { "loads" } else { &uid });
    let mut names = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}-{n}")));
    let name = names.find(|name| case.host.identity(name).is_none()).unwrap_or(base);
    let purpose = case.ask.purpose.clone().unwrap_or_else(|| said("purposes", "serve"));
    let found = selectors(case);
    let mut text = format!(
        "[[identity]]\nname = {name:?}\nkind = \"workload\"\nowner = {:?}\nenvironment = {:?}\npurposes = [{purpose:?}]\nmax_sensitivity = {:?}\n\
         expires = {:?}\nselectors = {}\n",
        said("owner", "operators"),
        said("environment", "prod"),
        said("sensitivity", "internal"),
        case.host.later(),
        list(found.iter().map(String::as_str)),
    );
    if case.ask.purpose.is_none() && secret.is_some() {
        text.push_str(&format!("[[identity.use]]\nsecret = {:?}\npurpose = {purpose:?}\n", case.secret()));
    }
    let mut plan = Plan::default();
    if uid == "0" && found.len() == 1 && !loads {
        plan.say("Root in a shell or in an interpreter is nobody's identity: let it run as a unit, or as a user of its own.");
        return plan;
    }
    let file = case.host.config.paths.identities.join(format!("{name}.toml"));
    plan.edit(Edit::Append { path: file.display().to_string(), text });
    if secret.is_some() {
        plan.edit(needs::new_grant(case, ("Workload", &name), &purpose));
    }
    plan
}

fn of_an_agent(case: &mut Case<'_>) {
    let detail = case.get("/detail");
    let uid = case.get("/attested/uid");
    let agents: Vec<String> = case
        .host
        .identities
        .iter()
        .filter(|row| row.values("kind") == ["agent"] && row.values("selectors").contains(&format!("unix:uid:{uid}")))
        .map(|row| format!("{} ({})", row.name, row.place()))
        .collect();
    let agents = if agents.is_empty() { "an agent".to_owned() } else { agents.join(", ") };
    case.plan.say(format!("On uid {uid} runs {agents}: whatever else is started there cannot be told from a process that left it."));
    let row = detail.strip_prefix("matches ").and_then(|rest| rest.split(' ').next()).and_then(|name| case.host.identity(name));
    let Some(row) = row else {
        return case.plan.say("Start the program below the agent, as the agent; or give it a user and a row of its own.");
    };
    let user = row.name.clone();
    case.plan.say(format!("{} needs a user of its own:", row.name));
    if sys::uid_of(&user).is_none() {
        case.plan.run(format!("useradd --system --no-create-home --shell /usr/sbin/nologin {user}"));
    }
    let kept = row.values("selectors").iter().filter(|one| !one.starts_with("unix:uid:") && !one.starts_with("unix:user:")).cloned();
    let all: Vec<String> = [format!("unix:user:{user}")].into_iter().chain(kept).collect();
    case.host.set(&mut case.plan, row, "selectors", &list(all.iter().map(String::as_str)));
    if let Some(ask) = case.ask.command() {
        case.plan.ask(format!("runuser -u {user} -- {ask}"));
    }
}

pub(super) fn no_grant(case: &mut Case<'_>) {
    let name = case.secret();
    if case.record.secret.is_none() {
        return unknown_secret(case, &name);
    }
    let (identity, secret) = case.rows();
    let kind = match case.get("/identity/kind").as_str() {
        "agent" => "Agent",
        "shared" => "Shared",
        _ => "Workload",
    };
    let purpose = case.ask.purpose.clone().unwrap_or_default();
    let allowed = common(identity, secret);
    // The grants that miss by one thing only: that is most likely the mistake.
    for (grant, misfits) in case.told.near.clone() {
        let place = format!("{} ({}:{})", grant.id, grant.file, grant.line);
        match misfits.as_slice() {
            [Misfit::Expired] => {
                case.plan.say(format!(
                    "{place} has expired. If it is needed still, whoever answers for it says until when, 90 days ahead at most:"
                ));
                let later = case.host.later();
                if case.host.annotate(&mut case.plan, &grant, &[("expires", later)]) {
                    return;
                }
            }
            [Misfit::Purpose] => {
                let granted = case.host.purposes_of(&grant);
                case.plan.say(format!("{place} is for {}, not for {purpose}.", granted.join(", ")));
                for (whose, row) in [("identity", identity), ("secret", secret)] {
                    if let Some(row) = row {
                        case.plan.say(format!(
                            "{whose} {} allows: {} ({})",
                            row.name,
                            row.values("purposes").join(", "),
                            row.place_of("purposes")
                        ));
                    }
                }
                let mut wider = Plan::default();
                let all = granted.iter().map(String::as_str).chain([purpose.as_str()]).collect::<Vec<_>>().join(", ");
                case.host.annotate(&mut wider, &grant, &[("purpose", all)]);
                if let Some(one) = granted.iter().find(|one| allowed.contains(one)) {
                    let ask = case.ask.with_purpose(one);
                    // What the rules say about the purpose that was asked for is said about another then.
                    case.settled.push("purpose_not_allowed");
                    case.ask_again(&ask);
                    return case.plan.or(format!("if {purpose} is to be granted as well:"), wider);
                }
                return case.plan.absorb(wider);
            }
            [Misfit::Channel] => {
                case.plan.say(format!("{place} is for another channel."));
                let ask = case.ask.clone();
                return case.ask_again(&ask);
            }
            [Misfit::Condition] => case.plan.say(format!("{place} has a condition that does not hold: read it there. A grant without it:")),
            _ => {}
        }
    }
    if case.plan.is_empty() {
        let owner = case.get("/secret/owner");
        case.plan.say(format!("Nothing grants {name} to {} for {purpose}. If {owner}, who answers for it, agrees:", case.identity()));
    }
    let who = case.identity();
    let edit = needs::new_grant(case, (kind, &who), &purpose);
    case.plan.edit(edit);
}

pub(super) fn unknown_secret(case: &mut Case<'_>, name: &str) {
    if name.is_empty() {
        return case.plan.say("The record does not say which secret was asked for.");
    }
    let folder = case.host.config.paths.secrets.display().to_string();
    case.plan.say(format!("No file in {folder} defines {name}."));
    let nearest = case.host.secrets.iter().map(|row| (strsim::damerau_levenshtein(&row.name, name), row)).min_by_key(|(far, _)| *far);
    let identity = case.rows().0;
    if let Some((far, row)) = nearest
        && far <= name.len().div_ceil(2)
    {
        case.plan.say(format!("The nearest name is {} ({}):", row.name, row.place()));
        let mut ask = case.ask.about(&row.name);
        let allowed = common(identity, Some(row));
        if let Some(purpose) = allowed.first().filter(|_| ask.purpose.as_ref().is_none_or(|purpose| !allowed.contains(purpose))) {
            ask = ask.with_purpose(purpose);
        }
        case.ask_again(&ask);
    }
    let said =
        |key: &str, otherwise: &str| identity.and_then(|row| row.values(key).first()).map_or_else(|| otherwise.to_owned(), Clone::clone);
    let purpose = case.ask.purpose.clone().unwrap_or_else(|| said("purposes", "serve"));
    let text = format!(
        "[[secret]]\nname = {name:?}\nengine = \"local\"\nowner = {:?}\nsensitivity = \"internal\"\nenvironment = {:?}\npurposes = [{purpose:?}]\n\
         operation = \"read\"\nttl = {{ max = \"1h\" }}\ndescription = {:?}\n",
        said("owner", "operators"),
        said("environment", "prod"),
        format!("Asked for by {}", case.identity()),
    );
    let mut plan = Plan::default();
    plan.edit(Edit::Append { path: format!("{folder}/{}.toml", name.replace('/', "-")), text });
    let who = case.identity();
    plan.edit(needs::new_grant(case, ("Workload", &who), &purpose));
    plan.run(format!("clav secret put {name}"));
    if case.plan.asks() {
        case.plan.or("if it is to be a new secret; whoever answers for it settles what its row says:", plan);
    } else {
        case.plan.absorb(plan);
    }
}

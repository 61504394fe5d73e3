//! What was refused to a program of another protocol, which can declare nothing.

use super::{
    advice::Case,
    nobody,
    plan::{Edit, quoted},
};

/// What to do, where a code means something else at such a door; false says that it does not.
pub(super) fn code(case: &mut Case<'_>, code: &str) -> bool {
    match (case.get("/adapter").as_str(), code) {
        ("systemd", code) => unit(case, code),
        ("vault", "no_declared_use") => undeclared(case),
        ("vault", "pinned_required") => {
            case.plan.say(
                "Vault's clients cannot open what is sealed. Let the program ask by itself ('clav exec' seals), or in the secret's row:",
            );
            case.set_secret("pinned", "false");
            true
        }
        _ => false,
    }
}

/// Of a Vault client nothing is known but the secret's name, so exactly one use must say why it is wanted.
fn undeclared(case: &mut Case<'_>) -> bool {
    let (Some(row), Some(secret)) = case.rows() else { return false };
    let purposes = nobody::common(Some(row), Some(secret));
    let Some(purpose) = purposes.first() else { return false };
    if case.get("/detail").contains("declared uses:") {
        case.plan.say(format!(
            "Vault's clients can say no purpose, and {} ({}) declares several uses of {}: leave one of them, or give the program a row of its own.",
            row.name,
            row.place(),
            secret.name
        ));
    } else {
        case.plan.say(format!("Vault's clients can say no purpose. Both {} and {} allow: {}.", row.name, secret.name, purposes.join(", ")));
        let text = format!("\n[[identity.use]]\nsecret = {:?}\npurpose = {purpose:?}\n", secret.name);
        case.plan.edit(Edit::Insert { path: row.path.clone(), after: row.last, text });
    }
    true
}

/// A credential that a unit did not get.
fn unit(case: &mut Case<'_>, code: &str) -> bool {
    let (unit, credential) = (case.get("/attested/unit/name"), case.get("/claimed/credential"));
    match code {
        "no_identity" => {
            case.plan.say(format!(
                "Before its program runs nothing but the name of {unit} is known, so what it loads is for a row of its own; owner, purposes and \
                 the rest are for a reviewer to settle."
            ));
            let plan = nobody::new_identity(case);
            case.plan.absorb(plan);
            declare(case, "the row", &credential);
        }
        "no_declared_use" => {
            let row = case.identity();
            declare(case, &row, &credential);
        }
        "left_agent_session" => {
            case.plan
                .say("On this host an agent is registered, and which user the unit will have is not known when it loads the credential.");
            case.plan.say("Anybody with the unit's user can read what it loaded. If nothing else runs as that user, its row says so:");
            let row = case.get("/detail").rsplit(' ').next().and_then(|name| case.host.identity(name));
            match row {
                Some(row) => case.host.set(&mut case.plan, row, "exclusive_uid", "true"),
                None => case.plan.say("exclusive_uid = true"),
            }
        }
        "pinned_required" => {
            case.plan.say("Units load plain values. Let the program ask by itself ('clav exec' seals), or in the secret's row:");
            case.set_secret("pinned", "false");
        }
        _ => return false,
    }
    if !unit.is_empty() {
        case.plan.ask(format!("systemctl restart {}", quoted(&unit)));
    }
    true
}

fn declare(case: &mut Case<'_>, row: &str, credential: &str) {
    case.plan.say(format!(
        "In {row}, the secret that it is, with a purpose that both allow: [[identity.use]] with credential = {credential:?}."
    ));
}

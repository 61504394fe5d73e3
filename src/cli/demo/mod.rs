//! `clav demo`: the story of claviger in a temporary folder, with a real daemon, real child processes and, where they are installed, real
//! servers. Every line it prints comes from a real answer; if one is not as it should be, it says so and exits with 1.

mod actor;
mod database;
mod keeper;
mod openbao;
mod stage;

pub use actor::act;
pub use keeper::keep;

use super::Failure;
use crate::model::WallTime;
use serde_json::Value;
use stage::{Stage, Trouble};
use std::{io::Write, path::PathBuf};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A server that must take part; without, PostgreSQL does where it is installed
    #[arg(long, value_name = "SERVER")]
    with: Vec<With>,
}

/// A server that the demo starts for itself.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum With {
    /// A login for a database, made for one process
    Postgres,
    /// A token of OpenBao, made for one process
    Openbao,
}

/// The programs of the servers that take part.
struct Servers {
    postgres: Option<PathBuf>,
    openbao: Option<PathBuf>,
}

impl Servers {
    fn find(with: &[With]) -> Result<Servers, Failure> {
        let wanted = |server, found: Option<PathBuf>, missing: &str| match (with.contains(&server), found) {
            (true, None) => Err(Failure::Fault(missing.to_owned())),
            (true, found) => Ok(found),
            (false, _) => Ok(None),
        };
        Ok(Servers {
            postgres: match with.is_empty() {
                true => database::programs(),
                false => wanted(With::Postgres, database::programs(), database::MISSING)?,
            },
            openbao: wanted(With::Openbao, openbao::program(), openbao::MISSING)?,
        })
    }
}

/// Plays the whole story: 0 when everything was as it should be.
pub(super) fn play(arguments: &Arguments) -> Result<u8, Failure> {
    let servers = Servers::find(&arguments.with)?;
    let mut told = Told::default();
    match story(&mut told, servers) {
        Ok(()) => {}
        Err(trouble) => told.line(false, &format!("the demo could not go on: {trouble}")),
    }
    Ok(u8::from(!told.end()))
}

fn story(told: &mut Told, servers: Servers) -> Result<(), Trouble> {
    told.say("claviger keeps the keys of one host: it finds out which process is asking, weighs what that process says it wants");
    told.say("against policy, makes a short-lived secret for exactly that, and takes it back when its time is up or its holder is gone.\n");
    let mut stage = Stage::build()?;
    let status = stage.operator("GET", "/v1/status", "")?;
    told.line(status["kernel"].is_string(), &format!("a real clavigerd runs; this kernel gives: {}", text(&status["kernel"])));

    told.head("Granted by a declared use");
    let mut orders = stage.actor("orders-api", r#"{"secret":"shop/orders-key"}"#)?;
    let granted = orders.first.clone();
    let lease = text(&granted["body"]["lease"]["id"]);
    told.line(
        granted["status"] == 201 && granted["body"]["secret"]["value"] == stage::ORDERS_KEY,
        &format!(
            "orders-api (pid {}) asked for shop/orders-key with no token and no password: granted for {} s, {}",
            orders.pid(),
            granted["body"]["lease"]["ttl"],
            lease
        ),
    );
    let record = stage.record(&text(&granted["body"]["request"]), "issue")?;
    told.line(
        record["attested"]["pid"] == orders.pid()
            && record["claimed"]["purpose"] == "serve-orders"
            && record["policy"]["grant"].is_string(),
        &format!(
            "one record joins them: attested {} at {}, declared purpose {}, credential {}, decided by {} ({})",
            text(&record["attested"]["exe"]["path"]),
            text(&record["assurance"]),
            text(&record["claimed"]["purpose"]),
            record["credential"],
            text(&record["policy"]["grant"]),
            text(&record["policy"]["ticket"]),
        ),
    );

    told.head("Refused, and why");
    let refused = stage.once("stranger", r#"{"secret":"shop/orders-key","purpose":"serve-orders"}"#)?;
    told.line(
        refused["body"]["error"]["code"] == "no_identity",
        &format!(
            "another program asked for the same secret: {} ({})",
            text(&refused["body"]["error"]["message"]),
            text(&refused["body"]["error"]["code"])
        ),
    );
    let why = stage.record(&text(&refused["body"]["request"]), "refuse")?;
    told.line(
        why["detail"].is_string(),
        &format!("`clav why {}` tells the operator: {}", text(&refused["body"]["request"]), text(&why["detail"])),
    );

    told.head("Clamped");
    let clamped = stage.once("orders-api", r#"{"secret":"shop/orders-key","purpose":"serve-orders","ttl":"12h"}"#)?;
    told.line(
        clamped["body"]["lease"]["ttl"] == 3600,
        &format!("it asked for 12 h and got {} s: {}", clamped["body"]["lease"]["ttl"], text(&clamped["body"]["clamped"][0])),
    );

    told.head("What an agent would lack");
    if crate::sys::euid() == 0 {
        let agent = stage.once("robot", r#"{"secret":"shop/customer-data","purpose":"answer-customers","channel":"inject"}"#)?;
        let needs = agent["body"]["error"]["needs"].as_array().into_iter().flatten();
        let needs: Vec<String> = needs.map(|need| format!("{} ({})", text(&need["require"]), text(&need["sentence"]))).collect();
        told.line(
            agent["body"]["error"]["code"] == "needs" && needs.len() > 1,
            &format!(
                "an AI agent asked for confidential data and was told all that is missing at once:\n         {}",
                needs.join("\n         ")
            ),
        );
    } else {
        told.skip("an agent runs under a uid of its own, which takes root");
    }

    told.head("The holder is killed");
    let killed = stage.now();
    orders.kill();
    let end = stage.ended(&lease)?;
    told.line(
        end["ended"]["reason"] == "holder_gone",
        &format!(
            "kill -9 of orders-api: lease ended after {} us, {}",
            stage.micros_after(killed, &end["ended"]["ended"]),
            text(&end["ended"]["result"])
        ),
    );

    match (servers.postgres, &servers.openbao) {
        (Some(programs), _) => database::play(&mut stage, told, programs)?,
        (None, None) => {
            told.head("A database login that dies with its holder");
            told.skip(database::MISSING);
        }
        (None, Some(_)) => {}
    }
    if let Some(program) = servers.openbao {
        openbao::play(&mut stage, told, program)?;
    }

    told.head("The audit log");
    let sound = stage.verify()?;
    told.line(sound.is_empty(), "every record is in its place: the chain and its signed heads verify");
    stage.tamper()?;
    let found = stage.verify()?;
    told.line(!found.is_empty(), &format!("one byte was changed in a copy of it: {}", found.first().map_or("not noticed", String::as_str)));
    Ok(())
}

/// What was said so far.
#[derive(Default)]
pub(super) struct Told {
    wrong: usize,
    right: usize,
}

impl Told {
    fn say(&self, text: &str) {
        // A closed pipe is the reader's wish.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    pub(super) fn head(&self, text: &str) {
        self.say(&format!("\n{text}"));
    }

    /// One line of the story, and whether it is as it should be.
    pub(super) fn line(&mut self, right: bool, text: &str) {
        if right {
            self.right += 1;
        } else {
            self.wrong += 1;
        }
        self.say(&format!("  {} {text}", if right { "ok   " } else { "WRONG" }));
    }

    /// The record of a credential: who, why, what, and by whose leave.
    pub(super) fn joined(&mut self, record: &Value) {
        self.line(
            record["claimed"]["purpose"] == "serve-orders" && record["credential"].is_object() && record["policy"]["grant"].is_string(),
            &format!(
                "one record has its intent and its credential: purpose {} ({}), {}, decided by {}",
                text(&record["claimed"]["purpose"]),
                text(&record["source"]),
                record["credential"],
                text(&record["policy"]["grant"]),
            ),
        );
    }

    /// The record of its end, with the source's word.
    pub(super) fn dead(&mut self, stage: &Stage, what: &str, killed: WallTime, end: &Value) {
        let dead = stage.micros_after(killed, &end["ended"]["dead"]);
        self.line(
            end["ended"]["result"] == "revoked" && dead > 0,
            &format!("{what} after {:.1} ms, and that is on the record ({})", dead as f64 / 1000.0, text(&end["ended"]["reason"])),
        );
    }

    /// A part that was left out.
    pub(super) fn skip(&self, text: &str) {
        self.say(&format!("  left out: {text}"));
    }

    fn end(&self) -> bool {
        self.say(&format!("\n{} as it should be, {} not.", self.right, self.wrong));
        self.wrong == 0
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

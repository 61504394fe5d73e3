//! `clav demo`: the story of claviger in a temporary folder, with a real daemon, real child processes and, where its server is installed,
//! a real PostgreSQL. Every line it prints comes from a real answer; if one is not as it should be, it says so and exits with 1.

mod actor;
mod database;
mod stage;

pub use actor::act;

use serde_json::Value;
use stage::{Stage, Trouble};
use std::io::Write;

/// Plays the whole story. `true` when everything was as it should be.
pub fn play() -> bool {
    let mut told = Told::default();
    match story(&mut told) {
        Ok(()) => {}
        Err(trouble) => told.line(false, &format!("the demo could not go on: {trouble}")),
    }
    told.end()
}

fn story(told: &mut Told) -> Result<(), Trouble> {
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

    database::play(&mut stage, told)?;

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

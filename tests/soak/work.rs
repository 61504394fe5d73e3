//! Workloads: each thread drives one process after another, of one identity, and knows what it was given.

use super::{chance::Chance, host::*};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Uids that no account has; each has several identities.
pub const UIDS: [u32; 4] = [61_021, 61_022, 61_023, 61_024];
pub const IDENTITIES: usize = 12;
pub const SECRETS: [&str; 5] = ["app/one", "app/two", "app/three", "tok/partner", "db/orders"];

pub fn uid_of(identity: usize) -> u32 {
    UIDS[identity % UIDS.len()]
}

pub fn name_of(identity: usize) -> String {
    format!("svc-{identity}")
}

/// Leases that a live process should still have, with what it was given.
const MOST_HELD: usize = 6;

/// What the workers and the checks tell each other.
#[derive(Default)]
pub struct Board {
    /// Workers hold it to read during each step; whoever wants quiet takes it to write.
    pub gate: RwLock<()>,
    pub stop: AtomicBool,
    pub told: Mutex<Told>,
    /// What a worker found that must not be.
    pub wrong: Mutex<Vec<String>>,
}

#[derive(Default)]
pub struct Told {
    /// Lease ids that were answered with a value, since the last check.
    pub answered: Vec<String>,
    /// By worker: what its live process holds as far as it knows.
    pub held: BTreeMap<usize, Vec<String>>,
    /// What a live process found to be over, since the last check.
    pub lost: Vec<String>,
    /// What was given back, or whose holder has gone: it must end.
    pub over: Vec<String>,
    pub issued: u64,
    pub read: u64,
    pub renewed: u64,
    pub given_back: u64,
    pub refused: BTreeMap<String, u64>,
    pub unanswered: u64,
    pub exits: u64,
    pub kills: u64,
}

impl Board {
    pub fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// How a worker's process is started, for every identity: programs are laid out before, so that no thread copies one while another forks.
pub fn command(host: &Host, identity: usize) -> (String, Vec<String>) {
    let (uid, program) = (uid_of(identity), host.program(&name_of(identity)));
    let script = host.path("worker.py");
    if !exists(&script) {
        for (name, text) in [("exchange.py", include_str!("../support/exchange.py")), ("worker.py", include_str!("worker.py"))] {
            host.write(name, text);
            std::fs::set_permissions(host.path(name), std::fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
    let [reuid, regid] = ids;
    let rest = [reuid, regid, "--clear-groups".into(), "--".into(), program, "-B".into(), script, host.path("workload.sock")];
    ("setpriv".to_owned(), rest.to_vec())
}

pub struct Worker {
    number: usize,
    identities: Vec<usize>,
    commands: Arc<Vec<(String, Vec<String>)>>,
    board: Arc<Board>,
    chance: Chance,
    actor: Option<Actor>,
    held: Vec<Held>,
}

struct Held {
    id: String,
    token: bool,
    /// What it was given, to be given again; `None` where that is not known any more.
    value: Option<String>,
}

impl Worker {
    /// Begins with processes of these identities, one after the other.
    pub fn start(
        number: usize,
        identities: Vec<usize>,
        commands: Arc<Vec<(String, Vec<String>)>>,
        board: Arc<Board>,
        seed: u64,
    ) -> JoinHandle<()> {
        let mut worker = Worker { number, identities, commands, board, chance: Chance(seed), actor: None, held: Vec::new() };
        std::thread::spawn(move || {
            while !worker.board.stop.load(Ordering::Relaxed) {
                let board = worker.board.clone();
                {
                    let _open = board.gate.read().unwrap_or_else(PoisonError::into_inner);
                    worker.step();
                    let ids = worker.held.iter().map(|held| held.id.clone()).collect();
                    board.told().held.insert(worker.number, ids);
                }
                std::thread::sleep(Duration::from_millis(worker.chance.draw() % 80));
            }
        })
    }

    fn step(&mut self) {
        if self.actor.is_none() {
            let identity = *self.chance.of(&self.identities);
            let (program, arguments) = &self.commands[identity];
            let mut command = Command::new(program);
            command.args(arguments).env_clear().env("PYTHONHOME", "/usr").stdin(std::process::Stdio::piped());
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            self.actor = Some(Actor::of(command));
        }
        match self.chance.below(100) {
            0..40 if self.held.len() < MOST_HELD => self.issue(),
            0..70 => self.read(),
            70..80 => self.renew(),
            80..96 => self.give_back(),
            96..98 => self.leave(false),
            _ => self.leave(true),
        }
    }

    fn call(&mut self, line: &str) -> (u64, Value) {
        let Some(actor) = &mut self.actor else { return (0, Value::Null) };
        actor.say(line);
        let mut answer = actor.line();
        let (status, body) = (answer["status"].as_u64().unwrap_or(0), answer["body"].take());
        let mut told = self.board.told();
        if status == 0 {
            told.unanswered += 1;
        } else if status >= 300 {
            *told.refused.entry(body["error"]["code"].as_str().unwrap_or("?").to_owned()).or_default() += 1;
        }
        drop(told);
        // What is refused must not come with a value, nor be a fault that nobody explains.
        if status >= 300 && !body["secret"].is_null() {
            self.board.complain(format!("a refusal came with a value: {line}"));
        }
        (status, body)
    }

    fn issue(&mut self) {
        let secret = *self.chance.of(&SECRETS);
        let ttl = *self.chance.of(&["3s", "30s", "5m", "1h"]);
        let (status, body) = self.call(&format!(r#"POST /v1/leases {{"secret":"{secret}","ttl":"{ttl}"}}"#));
        if status != 201 {
            return;
        }
        let (Some(id), Some(value)) = (body["lease"]["id"].as_str(), body["secret"]["value"].as_str()) else {
            return self.board.complain(format!("an issue without a lease or a value: {}", body["lease"]));
        };
        self.held.push(Held { id: id.to_owned(), token: secret.starts_with("tok/"), value: Some(comparable(value)) });
        let mut told = self.board.told();
        told.answered.push(id.to_owned());
        told.issued += 1;
    }

    fn some(&mut self) -> Option<usize> {
        (!self.held.is_empty()).then(|| self.chance.below(self.held.len()))
    }

    fn read(&mut self) {
        let Some(at) = self.some() else { return };
        let id = self.held[at].id.clone();
        match self.call(&format!("GET /v1/leases/{id}/secret")) {
            (200, body) => {
                let value = body["secret"]["value"].as_str().map(comparable);
                if value.is_none() || self.held[at].value.as_ref().is_some_and(|before| Some(before) != value.as_ref()) {
                    self.board.complain(format!("{id} was read again with another value"));
                }
                self.held[at].value = value;
                self.board.told().read += 1;
            }
            answer => self.gone(at, &answer),
        }
    }

    fn renew(&mut self) {
        let Some(at) = self.some() else { return };
        let id = self.held[at].id.clone();
        let answer = self.call(&format!("POST /v1/leases/{id}/renew"));
        if self.held[at].token {
            // It says another date of expiry from now on.
            self.held[at].value = None;
        }
        match answer {
            (200, _) => self.board.told().renewed += 1,
            answer => self.gone(at, &answer),
        }
    }

    fn give_back(&mut self) {
        let Some(at) = self.some() else { return };
        let id = self.held[at].id.clone();
        match self.call(&format!("DELETE /v1/leases/{id}")) {
            (200, _) => {
                let mut told = self.board.told();
                told.over.push(self.held.swap_remove(at).id);
                told.given_back += 1;
            }
            // It may be ending by now.
            (0, _) => drop(self.held.swap_remove(at)),
            answer => self.gone(at, &answer),
        }
    }

    /// A lease that is over is forgotten; why it is over is on the record, and looked at there.
    fn gone(&mut self, at: usize, (status, body): &(u64, Value)) {
        let code = body["error"]["code"].as_str().unwrap_or_default();
        if *status == 404 || *status == 410 || matches!(code, "no_lease" | "lease_ended") {
            self.board.told().lost.push(self.held.swap_remove(at).id);
        }
    }

    fn leave(&mut self, killed: bool) {
        let Some(mut actor) = self.actor.take() else { return };
        // Dropping it kills it, unless it has gone by itself.
        if !killed {
            actor.say("leave");
            let _ = actor.line();
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(actor);
        let mut told = self.board.told();
        told.over.extend(self.held.drain(..).map(|held| held.id));
        *(if killed { &mut told.kills } else { &mut told.exits }) += 1;
    }
}

/// A token is signed anew each time it is read, over the same claims; every other value is the same to the last byte.
fn comparable(value: &str) -> String {
    let parts: Vec<&str> = value.split('.').collect();
    if parts.len() == 3 && value.starts_with("ey") { parts[1].to_owned() } else { value.to_owned() }
}

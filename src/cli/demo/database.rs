//! The part of the story that needs PostgreSQL's server: a login that dies with its holder.

use super::{
    Told,
    stage::{Stage, Trouble, While, secret},
    text,
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A temporary cluster. Dropping it ends the server; the stage removes its folder.
struct Cluster {
    dir: PathBuf,
    /// psql's file with the password, in the stage's own folder: nothing is written where the server's user could have put a link.
    pass: PathBuf,
    server: Child,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGINT is the server's fast shutdown.
        let told = crate::sys::Pidfd::open(self.server.id()).and_then(|pidfd| pidfd.signal(2));
        if told.is_err() {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}

/// What a missing program is called, for those who look for it.
pub(super) const MISSING: &str = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)";

/// Plays it.
pub(super) fn play(stage: &mut Stage, told: &mut Told, programs: PathBuf) -> Result<(), Trouble> {
    told.head("A database login that dies with its holder");
    let cluster = start(stage, &programs)?;
    let engine = format!(
        "[[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\ndatabase = \"postgres\"\nuser = \"claviger\"\n",
        cluster.dir.display()
    );
    stage.write(
        "secrets.d/database.toml",
        &secret("shop/database", "pg", "confidential", "\"serve-orders\"", "settings = { grants = [\"GRANT app_ro TO {{role}}\"] }"),
    )?;
    stage.restart(&engine)?;
    let mut holder = stage.actor("orders-api", r#"{"secret":"shop/database"}"#)?;
    let answer = holder.first.clone();
    let user = text(&answer["body"]["attributes"]["username"]);
    stage.must_be_issued("shop/database", &answer)?;
    told.line(user.starts_with("clv"), &format!("orders-api asked for shop/database and got a role of its own: {user}"));
    let mut session = Session::open(&cluster, &programs, &answer)?;
    told.line(session.ask("SELECT count(*) FROM orders")? == "3", "it logs in (psql) and reads its table");
    told.joined(&stage.record(&text(&answer["body"]["request"]), "issue")?);
    let killed = stage.now();
    holder.kill();
    let end = stage.ended(&text(&answer["body"]["lease"]["id"]))?;
    told.dead(stage, "kill -9 of orders-api: the server confirmed the login dead", killed, &end);
    told.line(session.ask("SELECT 1").is_err(), "the session that was open is closed");
    let again = Session::open(&cluster, &programs, &answer).and_then(|mut session| session.ask("SELECT 1"));
    told.line(again.is_err(), "the same password opens nothing any more");
    Ok(())
}

/// The folder with the newest server's programs.
pub(super) fn programs() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    found.sort();
    found.pop().filter(|_| Path::new("/usr/bin/psql").exists())
}

/// PostgreSQL refuses to run as root: as root it runs as the user that its package made.
fn as_server(program: PathBuf) -> (Command, Option<u32>) {
    match crate::sys::uid_of("postgres").filter(|_| crate::sys::euid() == 0) {
        Some(uid) => {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={uid}"), "--regid=postgres", "--clear-groups", "--"]).arg(program);
            (command, Some(uid))
        }
        None => (Command::new(program), None),
    }
}

fn start(stage: &mut Stage, programs: &Path) -> Result<Cluster, Trouble> {
    let dir = stage.folder("pg")?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).doing("making a folder for PostgreSQL")?;
    let (mut initdb, uid) = as_server(programs.join("initdb"));
    if let Some(uid) = uid {
        chown(&dir, Some(uid), None).doing("making a folder for PostgreSQL")?;
    }
    let data = dir.join("data");
    let initdb = initdb
        .args(["-A", "scram-sha-256", "--auth-local=peer", "--no-sync", "-U", "postgres", "-D"])
        .arg(&data)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing("running initdb")?;
    stage.keeper.process(&initdb, 15)?;
    let done = initdb.wait_with_output().doing("running initdb")?;
    if !done.status.success() {
        return Err(Trouble::Answer(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    // The daemon and the demo come in by name of their system user; everybody else needs a password.
    let me = if crate::sys::euid() == 0 { "root".to_owned() } else { std::env::var("USER").unwrap_or_default() };
    let trust = "local all postgres peer map=demo\nlocal all claviger peer map=demo\nlocal all all scram-sha-256\n";
    let map = format!("demo {me} postgres\ndemo {me} claviger\n");
    // In the stage's own folder: the other one is the server's user's, who may put links there.
    let (hba, ident) = ("pg_hba.conf", "pg_ident.conf");
    for (file, text) in [(hba, trust), (ident, map.as_str())] {
        stage.write(file, text)?;
        fs::set_permissions(stage.dir.join(file), fs::Permissions::from_mode(0o644)).doing("configuring PostgreSQL")?;
    }
    let (mut server, _) = as_server(programs.join("postgres"));
    let server = server
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"])
        .arg(format!("hba_file={}", stage.dir.join(hba).display()))
        .arg("-c")
        .arg(format!("ident_file={}", stage.dir.join(ident).display()))
        .arg("-c")
        .arg(format!("unix_socket_directories={}", dir.display()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing("starting PostgreSQL")?;
    let cluster = Cluster { dir, pass: stage.dir.join("pass"), server };
    stage.keeper.process(&cluster.server, 2)?;
    // What docs/engines/postgres.md asks an operator to do.
    let setup = "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1), (2), (3); CREATE ROLE app_ro; GRANT SELECT ON orders TO app_ro; \
                 CREATE ROLE claviger LOGIN CREATEROLE; GRANT app_ro TO claviger WITH ADMIN OPTION";
    stage.wait("PostgreSQL's first answer", |_| {
        let psql =
            Command::new("/usr/bin/psql").args(["-qXh"]).arg(&cluster.dir).args(["-U", "postgres", "-c", setup, "postgres"]).output();
        psql.ok().filter(|done| done.status.success()).map(drop)
    })?;
    Ok(cluster)
}

/// An open `psql`.
struct Session {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Session {
    fn open(cluster: &Cluster, _programs: &Path, answer: &Value) -> Result<Session, Trouble> {
        // The password goes through a file that only this user can read, never through an argument.
        let pass = &cluster.pass;
        let line = format!("*:*:*:*:{}\n", text(&answer["body"]["secret"]["value"]));
        let mut file = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(file.write(true).create(true).truncate(true), 0o600)
            .open(pass)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .doing("handing the password to psql")?;
        let mut child = Command::new("/usr/bin/psql")
            .args(["-qXAtw", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(&cluster.dir)
            .args(["-U", &text(&answer["body"]["attributes"]["username"]), "postgres"])
            .env("PGPASSFILE", pass)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing("starting psql")?;
        let output = child.stdout.take().ok_or_else(|| Trouble::Answer("psql has no output".into()))?;
        Ok(Session { child, output: std::io::BufReader::new(output) })
    }

    /// One statement, one line of answer; an error when the session is closed.
    fn ask(&mut self, statement: &str) -> Result<String, Trouble> {
        use std::io::BufRead;
        let input = self.child.stdin.as_mut().ok_or_else(|| Trouble::Answer("psql has no input".into()))?;
        writeln!(input, "{statement};").doing("asking psql")?;
        let mut line = String::new();
        self.output.read_line(&mut line).doing("reading psql")?;
        if line.is_empty() { Err(Trouble::Answer("the session is closed".into())) } else { Ok(line.trim().to_owned()) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

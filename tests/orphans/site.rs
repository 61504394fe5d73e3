//! Two hosts, the two sources that both use, and what of each host is there.

use super::{
    chance::Chance,
    host::*,
    openbao_server::OpenBao,
    postgres::*,
    small_disk::SmallDisk,
    wall::{self, Wall},
};
use claviger::{engine::Mark, outbound::Method};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

pub const HOLDER: u32 = 61_001;
/// Requests of each host that are under way at once.
pub const AT_ONCE: usize = 4;
/// Holders that live on into the next round, at most.
pub const KEPT: usize = 12;
/// A role of PostgreSQL's, a login there that OpenBao makes, a token of OpenBao's.
const SECRETS: [(&str, &str, &str); 3] = [
    ("pg/orders", "pg", r#"grants = ["GRANT USAGE ON SCHEMA app TO {{role}}", "GRANT SELECT ON app.orders TO {{role}}"]"#),
    ("bao/orders", "bao", r#"read = "database/creds/ro", field = "password", attributes = ["username"]"#),
    ("bao/token", "bao", r#"token = { policies = ["app"] }"#),
];
/// How long everything may take to agree after a fault. Nothing is asserted of less: OpenBao tries a login that the database did not let it end again
/// after ten seconds, then twenty and so on, and what a lost call left is over only then.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is leased at a source: the source's name and the lease.
pub type Leased = BTreeSet<(String, String)>;

/// The sources.
pub struct Sources {
    pub cluster: Postgres,
    pub bao: OpenBao,
    /// The wall clocks that hosts run by.
    wall: String,
    folder: tempfile::TempDir,
}

impl Sources {
    pub async fn start() -> Option<Self> {
        let (cluster, bao) = (Postgres::start_for(200).await?, OpenBao::start().await?);
        bao.prepare().await;
        bao.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let wall = wall::library(folder.path());
        Some(Self { cluster, bao, wall, folder })
    }

    /// Roles of ours, of all hosts: their marks and leases.
    async fn roles(&self) -> Vec<(String, String)> {
        let client = self.cluster.superuser("app").await;
        let rows = client.query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'clv_')", &[]).await;
        let rows = rows.expect("the superuser may list roles");
        let names = rows.iter().map(|row| row.get::<_, String>(0));
        names
            .map(|name| name[4..].split_once('_').map(|(mark, lease)| (mark.to_owned(), format!("lease-{lease}"))).expect("a role of ours"))
            .collect()
    }

    /// Logins that OpenBao made in the database and that let anybody in. One that it was making for a caller who went away it may leave there
    /// without a lease of its own: it is over when its first minute is.
    async fn logins(&self) -> usize {
        let client = self.cluster.superuser("app").await;
        let rows = client.query("SELECT 1 FROM pg_roles WHERE starts_with(rolname::text, 'v-') AND rolvaliduntil > now()", &[]).await;
        rows.expect("the superuser may list roles").len()
    }

    /// Tokens of ours, of all hosts, fences not counted: their marks and leases.
    async fn tokens(&self) -> Vec<(String, String)> {
        let (_, listed) = self.bao.call(Method::Get, "auth/token/accessors?list=true", Value::Null).await;
        // What is being made must not be looked at: the server would end it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut found = Vec::new();
        for accessor in listed["data"]["keys"].as_array().into_iter().flatten() {
            let (_, looked) = self.bao.call(Method::Put, "auth/token/lookup-accessor", json!({"accessor": accessor})).await;
            let meta = &looked["data"]["meta"];
            if let (Some(mark), Some(lease), true) =
                (meta["claviger_mark"].as_str(), meta["claviger_lease"].as_str(), meta["claviger_settled"].is_null())
            {
                found.push((mark.to_owned(), lease.to_owned()));
            }
        }
        found
    }
}

/// One host with those who hold leases on it.
pub struct Side {
    /// Of state and log; let go of before the host's folder is removed.
    pub disks: [SmallDisk; 2],
    pub host: Host,
    pub holders: Vec<Actor>,
    mark: String,
    wall: Wall,
}

impl Side {
    /// `megabytes` are for its log.
    pub async fn start(sources: &Sources, megabytes: u64) -> Self {
        let (cluster, bao) = (&sources.cluster, &sources.bao);
        let (role_id, secret_id) = bao.approle(json!({"token_policies": "claviger", "token_ttl": "20m"})).await;
        let config = format!(
            "[limits]\nconnections_per_second = 100000\n[audit]\nhourly_bytes_per_identity = 1073741824\nanchors = []\n\
             [[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"postgres\"\n\
             [[engine]]\nkind = \"openbao\"\nname = \"bao\"\naddress = \"https://localhost:{}\"\nca_file = \"$DIR/bao-ca.pem\"\n\
             login = {{ method = \"approle\", role_id = \"{role_id}\", secret_id_file = \"$DIR/secret-id\" }}\n",
            cluster.socket_folder().display(),
            cluster.port,
            bao.port
        );
        let row = |(name, engine, settings): &(&str, &str, &str)| {
            let row = secret(name, "internal", &format!("settings = {{ {settings} }}"));
            row.replace("\"local\"", &format!("\"{engine}\""))
        };
        let mut host = Host::prepare(Setup {
            config,
            identities: identity("orders", HOLDER, &SECRETS.map(|(name, ..)| declared(name)).concat()),
            secrets: SECRETS.iter().map(row).collect(),
            policy: SECRETS.map(|(name, ..)| grant("orders", name)).concat(),
            ..Setup::default()
        });
        host.write("bao-ca.pem", &bao.ca_pem);
        host.write("secret-id", &secret_id);
        fs::set_permissions(host.path("secret-id"), fs::Permissions::from_mode(0o400)).expect("a mode");
        // Root's alone, as everything that the daemon loads.
        let wall = Wall::new(&sources.wall, &sources.folder.path().join(host.dir.file_name().expect("a name")));
        host.environment = wall.environment();
        let disks = [("state", 0o700, 32), ("audit", 0o750, megabytes)];
        let disks = disks.map(|(name, mode, megabytes)| SmallDisk::mount(host.dir.join(name), mode, megabytes << 20));
        host.launch();
        let head: Value = serde_json::from_slice(&fs::read(host.dir.join("state/state.json")).expect("a state")).expect("JSON");
        let text = |name: &str| head[name].as_str().expect("a text").as_bytes().to_vec();
        let mark = Mark::new(&text("machine"), &text("state")).to_string();
        Self { host, holders: Vec::new(), disks, mark, wall }
    }

    /// Lets those ask who are under way in a round.
    pub fn ask(&self, chance: &mut Chance) -> Vec<thread::JoinHandle<Actor>> {
        let commands: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let ask = format!(r#"{{"secret":"{}"}}"#, chance.of(&SECRETS).0);
                self.host.actor(HOLDER, "orders", &["hold", &ask])
            })
            .collect();
        commands.into_iter().map(|command| thread::spawn(|| Actor::of(command))).collect()
    }

    /// Sets the wall clock that this host runs by, so many seconds from the true one.
    pub fn set_wall(&self, seconds: i64) {
        self.wall.set(seconds);
    }

    /// The journal is lost, and an operator goes on without it: says that this state is gone on with, and that what is at the sources and
    /// in no journal ends.
    pub fn go_on_without_journal(&mut self) {
        self.host.launch();
        if self.host.operator("GET", "/v1/status", "")["read_only"].is_string() {
            fs::write(self.host.dir.join("state/go-on"), "").expect("a file in the state");
            self.host.stop(false);
            self.host.launch();
        }
        for engine in ["pg", "bao"] {
            let begin = Instant::now();
            loop {
                let (code, answer) = self.host.call("operator", "POST", &format!("/v1/engines/{engine}/reconcile"), r#"{"end":true}"#);
                if code == 200 && answer["orphans"].as_array().map(Vec::len) == answer["ended"].as_array().map(Vec::len) {
                    break;
                }
                assert!(begin.elapsed() < PATIENCE, "{engine}: {code} {answer}\n{}", self.host.log());
                thread::sleep(Duration::from_millis(200));
            }
        }
        // Whoever held a lease of before holds none.
        let live = self.live();
        self.holders.retain(|holder| live.iter().any(|(_, lease)| *lease == holder.lease()));
    }

    pub fn live(&self) -> Leased {
        let row = |lease: &Value| {
            let text = |name: &str| lease[name].as_str().expect("a text").to_owned();
            let secret = text("secret");
            (secret.split('/').next().unwrap_or_default().to_owned(), text("id"))
        };
        self.host.live().iter().map(row).collect()
    }

    fn held(&self) -> BTreeSet<String> {
        self.holders.iter().map(Actor::lease).collect()
    }

    fn own(&self, source: &str, there: &[(String, String)]) -> Leased {
        there.iter().filter(|(mark, _)| *mark == self.mark).map(|(_, lease)| (source.to_owned(), lease.clone())).collect()
    }

    /// What this host has at the sources.
    pub async fn upstream(&self, sources: &Sources) -> Leased {
        let mut all = self.own("pg", &sources.roles().await);
        all.extend(self.own("bao", &sources.tokens().await));
        all
    }

    /// What is not as it should be of one source's, and of those who hold.
    fn differs(&self, source: &str, there: &[(String, String)]) -> Option<String> {
        let (there, live, held) = (self.own(source, there), self.live(), self.held());
        let ours: Leased = live.iter().filter(|(of, _)| of == source).cloned().collect();
        let leased: BTreeSet<String> = live.iter().map(|(_, lease)| lease.clone()).collect();
        (there != ours || leased != held).then(|| {
            format!(
                "{source}: at the source only: {:?}; leased only: {:?}; held only: {:?}; not held: {:?}",
                &there - &ours,
                &ours - &there,
                &held - &leased,
                &leased - &held
            )
        })
    }
}

/// Waits until what is at the sources is what is leased and what is leased is held, one by one, and says what differs if it does not become so.
///
/// An error says what differs still, and what everybody said meanwhile.
pub async fn agree(sides: &[Side; 2], sources: &Sources, what: &str) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        let Some(differ) = differs(sides, sources).await else { return Ok(()) };
        if begin.elapsed() > PATIENCE {
            let logs = sides.each_ref().map(|side| side.host.log()).join("\n--- the other host ---\n");
            return Err(format!("{what}: {differ}\n{logs}\n--- OpenBao ---\n{}", sources.bao.log()));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn differs(sides: &[Side; 2], sources: &Sources) -> Option<String> {
    let roles = sources.roles().await;
    if let Some(differ) = sides.iter().find_map(|side| side.differs("pg", &roles)) {
        return Some(differ);
    }
    // Only now, as looking at tokens takes a while.
    let tokens = sources.tokens().await;
    if let Some(differ) = sides.iter().find_map(|side| side.differs("bao", &tokens)) {
        return Some(differ);
    }
    let of = |side: &Side| side.host.live().iter().filter(|lease| lease["secret"] == "bao/orders").count();
    let (leased, there) = (sides.iter().map(of).sum::<usize>(), sources.logins().await);
    (leased != there).then(|| format!("OpenBao has {there} logins in the database for {leased} leases"))
}

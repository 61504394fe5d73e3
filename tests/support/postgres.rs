//! A real PostgreSQL for tests: a cluster of its own in a temporary folder, gone when the test process is, however that ends.

#![allow(dead_code, reason = "each suite uses a part")]

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio_postgres::{Client, Config, NoTls};

/// A running cluster with the database `app`, which has a table `app.orders`, and the roles below.
pub struct Postgres {
    folder: PathBuf,
    /// The port of the TCP listener, and the number in the socket's name.
    pub port: u16,
    /// The certificate authority of the server's certificate, which is for `localhost`.
    pub ca_pem: String,
    keeper: Child,
}

/// Superuser, trusted on the socket.
pub const SUPERUSER: &str = "postgres";
/// A role with nothing but `CREATEROLE`, and membership in `app_owner`, as an operator would make it for claviger.
pub const BROKER: &str = "broker";
/// Its password.
pub const BROKER_PASSWORD: &str = "broker-password-for-tests";

impl Postgres {
    /// Starts a cluster, or says on standard error that there is no PostgreSQL here and gives none. With
    /// `CLAVIGER_REQUIRE_POSTGRES=1` its absence is a failure.
    pub async fn start() -> Option<Self> {
        Self::start_for(60).await
    }

    /// The same for so many sessions at once.
    pub async fn start_for(sessions: u32) -> Option<Self> {
        let Some(programs) = find_programs() else {
            let text = "no PostgreSQL server found in PATH or /usr/lib/postgresql (Debian: apt-get install postgresql)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_POSTGRES").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("claviger-pg-").tempdir().expect("a temporary folder").keep();
        let user = unprivileged();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let ca_pem = lay_out(&folder, user);
        // A daemon without privilege must reach the socket in it; the data have a folder of their own.
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711)).expect("our own folder");
        let keeper = spawn(&programs, &folder, user, [port.to_string(), sessions.to_string()]);
        let cluster = Self { folder, port, ca_pem, keeper };
        cluster.wait_and_fill().await;
        Some(cluster)
    }

    /// The folder of the Unix socket.
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// Everything the server has logged, statements included.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("the server's log")
    }

    /// A connection over the socket; its task ends with the client.
    pub async fn connect(&self, user: &str, password: &[u8], database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config
            .host_path(&self.folder)
            .port(self.port)
            .user(user)
            .password(password)
            .dbname(database)
            .connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A superuser's connection.
    pub async fn superuser(&self, database: &str) -> Client {
        self.connect(SUPERUSER, b"", database).await.expect("the superuser is trusted on the socket")
    }

    /// Stops the server: in order, its clients cut off, or as a crash would.
    pub fn stop(&mut self, crash: bool) {
        self.tell(if crash { "QUIT" } else { "INT" });
        while std::os::unix::net::UnixStream::connect(self.folder.join(format!(".s.PGSQL.{}", self.port))).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again with the data that it had; [`Postgres::serves`] says when it answers.
    pub fn start_again(&mut self) {
        self.tell("start");
    }

    /// Waits until it answers.
    pub async fn serves(&self) {
        for _ in 0..600 {
            if self.connect(SUPERUSER, b"", "app").await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("PostgreSQL does not answer; its log:\n{}", self.log());
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.keeper.stdin.as_mut().expect("a pipe"), "{word}").expect("the keeper listens");
    }

    async fn wait_and_fill(&self) {
        // Generous: the machine may be busy with a build.
        for _ in 0..600 {
            if let Ok(client) = self.connect(SUPERUSER, b"", "postgres").await {
                client.batch_execute("CREATE DATABASE app").await.expect("a database");
                client.batch_execute("CREATE DATABASE second").await.expect("a database");
                let app = self.superuser("app").await;
                let fill = format!(
                    "CREATE ROLE app_owner NOLOGIN; CREATE ROLE {BROKER} LOGIN CREATEROLE PASSWORD '{BROKER_PASSWORD}';
                     CREATE SCHEMA app AUTHORIZATION app_owner; SET ROLE app_owner;
                     CREATE TABLE app.orders (id int PRIMARY KEY); INSERT INTO app.orders VALUES (1);
                     CREATE FUNCTION app.end_login(login text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                         IF EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
                             EXECUTE format('REVOKE ALL ON app.orders FROM %I', login);
                             EXECUTE format('REVOKE ALL ON SCHEMA app FROM %I', login);
                             EXECUTE format('DROP ROLE %I', login);
                         END IF;
                     END $$; RESET ROLE;
                     GRANT app_owner TO {BROKER} WITH ADMIN OPTION; GRANT CREATE ON DATABASE second TO {BROKER} WITH GRANT OPTION"
                );
                app.batch_execute(&fill).await.expect("roles and a table");
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("PostgreSQL did not start; its log:\n{}", fs::read_to_string(self.folder.join("log")).unwrap_or_default());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The keeper waits for its standard input to close: then it stops the server and removes the folder.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

fn find_programs() -> Option<Programs> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    let complete = folders.into_iter().find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())?;
    // Through links, as a server looks for its files beside its own program.
    let real = |name: &str| fs::canonicalize(complete.join(name)).ok();
    Some(Programs { initdb: real("initdb")?, postgres: real("postgres")? })
}

/// PostgreSQL refuses to run as root; then it runs as the one who owns its packages' files, or as nobody.
fn unprivileged() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").expect("proc is mounted").uid();
    if own != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("a list of users");
    let ids = |name: &str| {
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).expect("a user other than root"))
}

fn lay_out(folder: &Path, user: Option<(u32, u32)>) -> String {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("a certificate without names");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("an authority").pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a certificate for localhost");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let hba = "local all postgres,trusting trust\nlocal all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    for (name, text) in
        [("server.crt", certificate.pem()), ("server.key", key.serialize_pem()), ("hba", hba.into()), ("log", String::new())]
    {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file in the temporary folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("its owner");
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("the folder's mode");
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(folder, Some(uid), Some(gid)).expect("the folder's owner");
    }
    ca_pem
}

/// A shell keeps the server: it stops and starts it as it is told, and when its standard input closes, because we said so or because we are
/// gone, it stops the server by its pid and removes the folder.
fn spawn(programs: &Programs, folder: &Path, user: Option<(u32, u32)>, numbers: [String; 2]) -> Child {
    const KEEPER: &str = r#"
        cd "$3" || exit 1
        "$1" -D "$3/data" -U postgres -A trust --no-sync --locale=C -E UTF8 >>"$3/log" 2>&1 || exit 1
        program=$2 folder=$3 port=$4 sessions=$5
        start() {
            "$program" -D "$folder/data" -p "$port" -k "$folder" -c listen_addresses=127.0.0.1 -c hba_file="$folder/hba" \
                -c ssl=on -c ssl_cert_file="$folder/server.crt" -c ssl_key_file="$folder/server.key" \
                -c log_statement=all -c log_min_messages=info -c max_connections="$sessions" -c password_encryption=scram-sha-256 \
                >>"$folder/log" 2>&1 </dev/null &
            server=$!
        }
        start
        while read -r word; do
            case $word in
                start) start ;;
                *) kill -"$word" "$server" && wait "$server" ;;
            esac
        done
        kill -INT "$server" && wait "$server"
        cd / && rm -rf "$3"
    "#;
    let mut command = match user {
        None => Command::new("sh"),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "sh"]);
            command
        }
    };
    command.arg("-c").arg(KEEPER).arg("keeper").arg(&programs.initdb).arg(&programs.postgres).arg(folder).args(numbers);
    let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell");
    // Held open as long as the server is wanted.
    keeper.stdin.as_mut().expect("a pipe").flush().expect("an open pipe");
    keeper
}

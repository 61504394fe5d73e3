//! Vault's and OpenBao's own clients, unmodified, at the workload socket.

use super::{clients, database, host::*, postgres::Postgres};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// What `hvac` needs to speak over a socket in the file system: its users install `requests-unixsocket`.
const HVAC: &str = r#"
import hvac, json, os, sys, urllib.parse
import requests_unixsocket
url = "http+unix://" + urllib.parse.quote(sys.argv[1], safe="")
client = hvac.Client(url=url, token=os.environ.get("VAULT_TOKEN"), session=requests_unixsocket.Session())
def say(value):
    print(json.dumps(value), flush=True)
def fails(act):
    try:
        return {"answer": act()}
    except hvac.exceptions.VaultError as error:
        return {"raised": type(error).__name__, "errors": error.errors, "text": str(error)}
exec(sys.argv[2])
"#;

fn setup(more: &str) -> Setup {
    let uses = declared("app/one")
        + &declared("app/object")
        + &declared("app/empty")
        + &declared("app/sealed")
        + &declared("token")
        + &declared("app/two")
        + &declared("app/two").replace("testing", "other");
    let uses = uses + "[[identity.use]]\nsecret = \"app/nowhere\"\npurpose = \"testing\"\n";
    let purposes = |row: String| row.replace("purposes = [\"testing\"]", "purposes = [\"testing\", \"other\"]");
    let mut secrets = String::new();
    for name in ["app/one", "app/object", "app/empty", "app/two", "app/undeclared", "app/foreign"] {
        secrets += &purposes(secret(name, "internal", ""));
    }
    secrets += &secret("app/sealed", "internal", "pinned = true");
    secrets += &secret("token", "internal", "settings = { audience = \"https://api.example\" }")
        .replace("engine = \"local\"", "engine = \"tokens\"")
        .replace("max = \"1h\"", "max = \"5m\"");
    let granted = ["app/one", "app/object", "app/empty", "app/two", "app/undeclared", "app/sealed", "token"];
    Setup {
        config: "[[engine]]\nkind = \"jwt\"\nname = \"tokens\"\nissuer = \"https://tokens.example\"\nmax_ttl = \"1h\"\n".to_owned() + more,
        identities: purposes(identity("orders", VICTIM, &uses)) + &purposes(identity("bao", VICTIM, &uses)),
        secrets,
        policy: granted.iter().flat_map(|name| [grant("orders", name), grant("bao", name)]).collect(),
        ..Setup::default()
    }
}

pub fn started(more: &str) -> Host {
    let host = Host::start(setup(more));
    host.put("app/one", "value-one");
    host.put("app/object", r#"{"user": "u", "password": "p-object"}"#);
    host.put("app/two", "value-two");
    host.put("app/sealed", "value-sealed");
    host.put("app/undeclared", "value-undeclared");
    host
}

/// OpenBao's program, as a user of this host has it. A copy and no further link: another link changes the file that others are running.
fn put_bao(host: &Host, packages: &Path) {
    // By another process: a child that is forked meanwhile by another test would hold the file open for writing ("text file busy").
    assert!(Command::new("cp").args([clients::bao(packages), host.dir.join("bin/bao")]).status().unwrap().success());
}

fn environment(host: &Host, command: &mut Command) {
    command.env_clear().env("BAO_ADDR", format!("unix://{}", host.path("workload.sock"))).env("HOME", "/nonexistent");
    command.env("PATH", format!("{}:/usr/bin:/bin", host.path("bin"))).env("PYTHONHOME", "/usr").env("LC_ALL", "C.UTF-8");
    command.env("BAO_MAX_RETRIES", "0").current_dir("/").stdin(Stdio::null());
}

/// `bao` as a program of the user's, by itself.
fn bao(host: &Host, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--"]);
    command.arg(host.dir.join("bin/bao")).args(arguments);
    environment(host, &mut command);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{:?}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

/// A program of the user's that uses `hvac`: its answers, one a line.
fn hvac_command(host: &Host, packages: &Path, script: &str) -> Command {
    host.write("hvac-user.py", HVAC);
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", &host.program("orders"), "-B"]);
    command.arg(host.dir.join("hvac-user.py")).arg(host.dir.join("workload.sock")).arg(script);
    environment(host, &mut command);
    command.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn bao_reads_without_a_token() {
    let (true, Some(packages)) = (is_root(), clients::packages()) else { return };
    let mut host = started("");
    put_bao(&host, &packages);
    let got = bao(&host, &["kv", "get", "-field=value", "secret/app/one"]);
    assert_eq!(String::from_utf8_lossy(&got.stdout).trim_end(), "value-one", "{}", text(&got));
    let got = json(&bao(&host, &["kv", "get", "-format=json", "-mount=secret", "app/object"]));
    assert_eq!(got["data"]["data"], serde_json::json!({"user": "u", "password": "p-object"}));
    assert_eq!(got["data"]["metadata"]["version"], 1);
    // The record says who, by which door, and what was reviewed.
    let record = &host.records_of("issue")[0];
    assert_eq!((record["identity"]["name"].as_str(), record["source"].as_str()), (Some("bao"), Some("adapter")), "{record}");
    assert_eq!((record["adapter"].as_str(), record["claimed"]["purpose"].as_str()), (Some("vault"), Some("testing")));
    assert!(record["attested"]["exe"]["path"].as_str().unwrap().ends_with("/bin/bao"));
    // Here bao is a program of its own, so what it held has ended with it.
    let lease = got["data"]["metadata"]["custom_metadata"]["lease_id"].as_str().unwrap().to_owned();
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "holder_gone");
    let leased = json(&bao(&host, &["read", "-format=json", "creds/token"]));
    assert!(leased["lease_id"].as_str().unwrap().starts_with("lease-"), "{leased}");
    assert!((1..=300).contains(&leased["lease_duration"].as_u64().unwrap()), "{leased}");
    assert!(leased["data"]["value"].as_str().unwrap().starts_with("ey"), "{leased}");
    let listed = json(&bao(&host, &["kv", "list", "-format=json", "secret/"]));
    assert_eq!(listed, serde_json::json!(["app/", "token"]));
    let listed = json(&bao(&host, &["kv", "list", "-format=json", "secret/app"]));
    assert_eq!(listed, serde_json::json!(["empty", "object", "one", "sealed", "two", "undeclared"]), "not what is nobody's to name");
    let shown = bao(&host, &["kv", "metadata", "get", "secret/app/one"]);
    assert!(shown.status.success() && text(&shown).contains("current_version"), "{}", text(&shown));
    let token = json(&bao(&host, &["token", "lookup", "-format=json"]));
    assert_eq!((token["data"]["display_name"].as_str(), token["data"]["meta"]["assurance"].as_str()), (Some("bao"), Some("program")));
    let may = |path: &str| String::from_utf8_lossy(&bao(&host, &["token", "capabilities", path]).stdout).trim().to_owned();
    assert_eq!(
        (may("secret/data/app/one"), may("creds/token"), may("secret/data/app/foreign")),
        ("read".into(), "read".into(), "deny".into())
    );
    let status = bao(&host, &["status", "-format=json"]);
    assert_eq!(json(&status)["sealed"], false, "{}", text(&status));
    assert!(!host.records().iter().any(|record| record.to_string().contains("value-one")), "no value in any record");
}

#[test]
fn bao_is_told_no_in_its_own_words() {
    let (true, Some(packages)) = (is_root(), clients::packages()) else { return };
    let host = started("");
    put_bao(&host, &packages);
    let no = |arguments: &[&str], status: i32, said: &[&str]| {
        let got = bao(&host, arguments);
        assert_eq!(got.status.code(), Some(status), "{arguments:?}: {}", text(&got));
        for word in said {
            assert!(text(&got).contains(word), "{arguments:?} does not say {word}: {}", text(&got));
        }
        assert!(!text(&got).contains("value-"), "{}", text(&got));
    };
    // What is not there and what is another's are one answer.
    no(&["kv", "get", "secret/app/foreign"], 2, &["No value found"]);
    no(&["kv", "get", "secret/app/unheard-of"], 2, &["No value found"]);
    no(&["kv", "get", "secret/app/empty"], 2, &["No value found"]);
    no(&["read", "creds/app/foreign"], 2, &["No value found"]);
    // Declared, and nothing of that name grants it: one code for what is not there and what is not granted.
    no(&["kv", "get", "secret/app/nowhere"], 2, &["Code: 403", "no_grant", "clav why req-"]);
    no(
        &["kv", "get", "secret/app/undeclared"],
        2,
        &["Code: 403", "no_declared_use", "[[identity.use]]", "secret = \"app/undeclared\"", "testing"],
    );
    let why = |host: &Host| {
        let request = host.records_of("refuse").pop().unwrap()["request"].as_str().unwrap().to_owned();
        host.clav_is_there();
        let done = host.shell(0, &format!("clav why {request}")).output().unwrap();
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let told = why(&host);
    assert!(told.contains("Insert after line") && told.contains("secret = \"app/undeclared\"") && !told.contains("clav get"), "{told}");
    no(&["kv", "get", "secret/app/two"], 2, &["Code: 403", "no_declared_use", "exactly one use", "clav why req-"]);
    assert!(why(&host).contains("declares several uses of app/two"), "{}", why(&host));
    no(&["kv", "get", "secret/app/sealed"], 2, &["Code: 403", "pinned_required"]);
    no(&["kv", "get", "kv/app/one"], 2, &["there are secret/ and creds/"]);
    no(&["read", "sys/mounts"], 2, &["Code: 400", "unsupported path"]);
    no(&["kv", "put", "secret/app/one", "value=x"], 2, &["Code: 405"]);
    no(&["kv", "get", "-version=7", "secret/app/one"], 2, &["Code: 400", "the newest is given"]);
    no(&["read", "-wrap-ttl=60", "creds/token"], 2, &["Code: 400", "nothing is wrapped here"]);
    no(&["read", "-namespace=team", "creds/token"], 2, &["Code: 400", "no namespaces"]);
    no(&["lease", "lookup", "lease-00000000z80000000000000001"], 2, &["Code: 400", "no_lease"]);
    assert!(host.live().is_empty(), "nothing was issued");
    host.operator("POST", "/v1/freeze", r#"{"frozen":true,"reason":"a test"}"#);
    no(&["kv", "get", "secret/app/one"], 2, &["Code: 503", "frozen"]);
}

/// A host whose `bao` speaks for whoever ran it.
fn with_bao_as_a_client(packages: &Path) -> Host {
    let mut setup = setup("[attest]\nclients = [\"$DIR/bin/bao\"]\n");
    // The identity of everything of this user's: a script's, which bao speaks for.
    setup.identities = setup.identities.replace(", \"unix:path:$DIR/bin/bao\"", "");
    let mut host = Host::prepare(setup);
    put_bao(&host, packages);
    host.launch();
    host.put("app/one", "value-one");
    host
}

#[test]
fn bao_as_a_client_speaks_for_whoever_ran_it() {
    let (true, Some(packages)) = (is_root(), clients::packages()) else { return };
    let mut host = with_bao_as_a_client(&packages);
    let mut shell =
        host.shell(VICTIM, "bao kv get -format=json secret/app/one\nread -r go\nbao kv get -format=json secret/app/one\nread -r go");
    shell.env("BAO_ADDR", format!("unix://{}", host.path("workload.sock"))).env("HOME", "/nonexistent");
    let mut child = shell.spawn().unwrap();
    host.wait_until(std::time::Duration::from_secs(20), "a lease is there", |host| !host.live().is_empty());
    let lease = host.live().remove(0);
    assert_eq!((lease["identity"].as_str(), lease["holder"]["kind"].as_str()), (Some("bao"), Some("ancestor")), "{lease}");
    // It lives on although bao has gone, and the next bao of the same script is given the same.
    use std::io::{Read, Write};
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    host.wait_until(std::time::Duration::from_secs(20), "it is read again", |host| !host.records_of("read").is_empty());
    assert_eq!(host.live().len(), 1, "one lease, read again");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(said.matches("value-one").count(), 2, "{said}");
    let ended = host.end_of(lease["id"].as_str().unwrap());
    assert_eq!(ended["ended"]["reason"], "holder_gone", "with the script");
    assert!(host.records_of("issue")[0]["client"]["exe"]["path"].as_str().unwrap().ends_with("/bin/bao"));
}

#[test]
fn a_credential_that_would_die_below_its_unit_is_warned_about() {
    if !is_root() {
        return;
    }
    let mut setup = setup("");
    let row = identity("loads", VICTIM, &(declared("token") + &declared("app/one")))
        .replace(&format!("\"unix:uid:{VICTIM}\", \"unix:path:$DIR/bin/loads\""), "\"systemd:loads:loads.service\"");
    setup.identities += &row;
    let host = Host::start(setup);
    let checked = host.operator("POST", "/v1/policy/check", "");
    let warnings: Vec<&str> =
        checked["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).filter(|text| text.contains("identity loads")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("loads token for a unit"), "{checked}");
}

#[test]
fn bao_manages_leases_for_whoever_ran_it() {
    let (true, Some(packages)) = (is_root(), clients::packages()) else { return };
    let mut host = with_bao_as_a_client(&packages);
    let script = r#"
        set -e
        id=$(bao read -format=json creds/token | sed -n 's/.*"lease_id": "\(.*\)",/\1/p')
        bao lease lookup -format=json "$id"
        bao lease renew -format=json "$id"
        bao lease revoke "$id"
        bao lease lookup "$id" 2>&1 && exit 9
        bao kv get -field=value secret/app/one
        bao token renew >/dev/null
        bao token revoke -self
    "#;
    let mut shell = host.shell(VICTIM, script);
    shell.env("BAO_ADDR", format!("unix://{}", host.path("workload.sock"))).env("HOME", "/nonexistent");
    let done = shell.output().unwrap();
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("\"expire_time\"") && said.contains("\"lease_duration\"") && said.contains("value-one"), "{said}");
    assert!(said.contains("no_lease") || said.contains("lease_ended"), "{said}");
    let reasons: Vec<Value> = host.records_of("end").iter().map(|end| end["ended"]["reason"].clone()).collect();
    assert_eq!(reasons, ["asked", "asked"], "each was given back, none by the script's end");
    host.wait_until(std::time::Duration::from_secs(10), "they are off the books", |host| host.live().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_of_a_vault_client_dies_with_its_holder() {
    let (true, Some(packages)) = (is_root(), clients::packages()) else { return };
    let Some(cluster) = Postgres::start().await else { return };
    let mut setup = database::setup(&cluster);
    setup.identities += &identity("bao", VICTIM, &declared("db/orders"));
    setup.policy += &grant("bao", "db/orders");
    let mut host = Host::start(setup);
    put_bao(&host, &packages);
    let script = r#"
say(client.secrets.database.generate_credentials(name="db/orders"))
sys.stdin.readline()
"#;
    let mut actor = Actor::of(hvac_command(&host, &packages, script));
    let word = |answer: &Value, name: &str| answer["data"][name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    let (user, password) = (word(&actor.first, "username"), word(&actor.first, "password"));
    assert!(actor.first["renewable"] == true && actor.first["lease_duration"].as_u64().unwrap() > 3000, "{}", actor.first);
    let open = database::log_in_as(&cluster, &user, &password).await.unwrap();
    let lease = actor.first["lease_id"].as_str().unwrap().to_owned();
    actor.kill();
    assert_eq!(host.end_of(&lease)["ended"]["result"], "revoked");
    assert!(open.query_one("SELECT 1", &[]).await.is_err(), "the open session is closed");
    // bao by itself is such a program too: what it prints is dead as soon as it has.
    let printed = json(&bao(&host, &["read", "-format=json", "creds/db/orders"]));
    let ended = host.end_of(printed["lease_id"].as_str().unwrap());
    assert_eq!((ended["ended"]["reason"].as_str(), ended["ended"]["result"].as_str()), (Some("holder_gone"), Some("revoked")));
    assert!(database::log_in_as(&cluster, &word(&printed, "username"), &word(&printed, "password")).await.is_err());
    assert!(database::roles(&cluster).await.is_empty());
}

#[test]
fn hvac_within_the_workload_is_the_workload() {
    let (true, Some(packages)) = (is_root(), clients::packages()) else { return };
    let mut host = started("");
    let script = r#"
kv = client.secrets.kv.v2
first = kv.read_secret_version(path="app/one", mount_point="secret", raise_on_deleted_version=True)
say(first)
say(kv.read_secret_version(path="app/one", raise_on_deleted_version=True))
say(kv.list_secrets(path="app"))
say(kv.list_secrets(path=""))
say(kv.read_secret_metadata(path="app/one"))
say(client.secrets.database.generate_credentials(name="token"))
leased = client.read("creds/token")
say(leased)
say(client.sys.read_lease(leased["lease_id"]))
say(client.sys.renew_lease(leased["lease_id"], increment=5))
say(client.sys.get_capabilities(["secret/data/app/one", "secret/data/app/two"]))
say(client.sys.is_sealed())
for path in ["app/foreign", "app/unheard-of", "app/sealed", "app/two"]:
    say(fails(lambda: kv.read_secret_version(path=path, raise_on_deleted_version=True)))
say(client.is_authenticated())
sys.stdin.readline()
say(kv.read_secret_version(path="app/one", raise_on_deleted_version=True))
client.sys.revoke_lease(leased["lease_id"])
say(fails(lambda: client.sys.read_lease(leased["lease_id"])))
client.auth.token.revoke_self()
say("revoked")
sys.stdin.readline()
"#;
    let mut command = hvac_command(&host, &packages, script);
    // Some insist on a token; it is sent and not looked at.
    command.env("VAULT_TOKEN", "any-token");
    let mut actor = Actor::of(command);
    let first = actor.first.clone();
    assert_eq!((&first["data"]["data"]["value"], &first["data"]["metadata"]["version"]), (&"value-one".into(), &1.into()), "{first}");
    let again = actor.line();
    let lease_of = |answer: &Value| answer["data"]["metadata"]["custom_metadata"]["lease_id"].as_str().unwrap().to_owned();
    assert_eq!(lease_of(&again), lease_of(&first), "whoever polls is given the same lease");
    assert!(actor.line()["data"]["keys"].as_array().unwrap().contains(&"one".into()));
    assert_eq!(actor.line()["data"]["keys"], serde_json::json!(["app/", "token"]));
    assert_eq!(actor.line()["data"]["current_version"], 1);
    let (database, leased) = (actor.line(), actor.line());
    assert_eq!(database["lease_id"], leased["lease_id"], "two names of one mount");
    let looked_up = actor.line();
    assert_eq!(looked_up["data"]["id"], leased["lease_id"]);
    let renewed = actor.line();
    assert!(
        renewed["lease_duration"].as_u64().unwrap() > 290 && renewed["warnings"][0].as_str().unwrap().contains("increment"),
        "{renewed}"
    );
    let may = actor.line();
    assert_eq!((&may["data"]["secret/data/app/one"][0], &may["data"]["secret/data/app/two"][0]), (&"read".into(), &"deny".into()), "{may}");
    assert_eq!(actor.line(), false);
    for raised in ["InvalidPath", "InvalidPath", "Forbidden", "Forbidden"] {
        let no = actor.line();
        assert_eq!(no["raised"], raised, "{no}");
    }
    assert_eq!(actor.line(), true);
    // Its leases are the process's own: no other process of the user may look at them.
    let holder = &host.live().into_iter().find(|lease| lease["id"] == lease_of(&first)).unwrap()["holder"];
    assert_eq!(holder["kind"], "process", "{holder}");
    // Nor is any given its lease.
    let others = host.act(VICTIM, "orders", &["call", "GET", "/v1/secret/data/app/one"]).remove(0);
    assert_eq!(others["body"]["data"]["data"]["value"], "value-one", "{others}");
    assert_ne!(lease_of(&others["body"]), lease_of(&first));
    let lookup = serde_json::json!({ "lease_id": leased["lease_id"] }).to_string();
    let other = host.act(VICTIM, "orders", &["call", "PUT", "/v1/sys/leases/lookup", &lookup]).remove(0);
    assert_eq!(other["status"], 400, "{other}");
    // A new version is seen at the next read, although the lease of the older one lives.
    host.put("app/one", "value-new");
    actor.say("go");
    let newer = actor.line();
    assert_eq!((&newer["data"]["data"]["value"], &newer["data"]["metadata"]["version"]), (&"value-new".into(), &2.into()));
    assert_eq!(actor.line()["raised"], "InvalidRequest");
    assert_eq!(host.end_of(leased["lease_id"].as_str().unwrap())["ended"]["reason"], "asked");
    assert_eq!(actor.line(), "revoked");
    host.wait_until(std::time::Duration::from_secs(10), "with the token's end everything that was taken by it ends", |host| {
        host.live().is_empty()
    });
    assert!(!host.records().iter().any(|record| record.to_string().contains("any-token")) && !host.log().contains("any-token"));
    actor.close();
}

//! What is asked for narrows what is made, where the engine can make less; and a definition that is narrowed does not leave more in force.

use super::{
    activated::Activated,
    database,
    github::{app_key, stand_in},
    host::*,
    oauth_server::{AuthorizationServer, CLIENT_SECRET},
    openbao::logging_in,
    openbao_server::OpenBao,
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
};
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

fn asked(secret: &str, operation: &str) -> String {
    json!({"secret": secret, "purpose": "testing", "operation": operation}).to_string()
}

/// The name of the login: it says by which role OpenBao made it.
fn login(answer: &Value) -> &str {
    answer["body"]["attributes"]["username"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operation_that_is_asked_for_chooses_what_is_made_and_what_is_decided() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    server.prepare().await;
    server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
    let settings =
        "read = { read = \"database/creds/ro\", write = \"database/creds/long\" }, field = \"password\", attributes = [\"username\"]";
    let row = secret("db/orders", "internal", &format!("settings = {{ {settings} }}"));
    let everything = grant("orders", "db/orders");
    let to_read = everything.replace(");\n", ") when { context.effective.operation == Claviger::Operation::\"read\" };\n");
    assert_ne!(everything, to_read);
    let mut host = logging_in(
        &server,
        Setup {
            identities: identity("orders", VICTIM, &(declared("db/orders") + "operation = \"read\"\n")),
            secrets: row.replace("engine = \"local\"", "engine = \"bao\"").replace("operation = \"read\"", "operation = \"write\""),
            policy: to_read,
            ..Setup::default()
        },
    )
    .await;
    host.launch();
    // The grant is for reading: what nobody keeps to that is refused, a request that says nothing included.
    for body in [asked("db/orders", "write"), asked("db/orders", "admin"), json!({"secret": "db/orders", "purpose": "testing"}).to_string()]
    {
        let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", &body]).remove(0);
        assert_eq!(answer["status"], 403, "{body}: {answer}");
    }
    let listed = host.act(VICTIM, "orders", &["call", "GET", "/v1/secrets"]).remove(0);
    assert_eq!(listed["body"]["secrets"][0]["outcome"], "permit", "{listed}");
    let mut reader = host.hold(VICTIM, "orders", &["hold", &asked("db/orders", "read")]);
    assert_eq!(reader.first["status"], 201, "{}\n{}", reader.first, host.log());
    assert!(login(&reader.first).contains("-ro-"), "{}", reader.first);
    assert_eq!((&reader.first["body"]["lease"]["operation"], &reader.first["body"]["clamped"]), (&json!("read"), &Value::Null));
    let issue = host.records_of("issue").pop().unwrap();
    assert_eq!((&issue["claimed"]["operation"], &issue["effective"]["operation"]), (&json!("read"), &json!("read")), "{issue}");
    // It is decided again as what it is.
    reader.say(&format!("call POST /v1/leases/{}/renew", reader.lease()));
    let renewed = reader.line();
    assert_eq!(renewed["status"], 200, "{renewed}");
    host.operator("POST", "/v1/reload", "");
    assert_eq!(host.live().len(), 1, "{}", host.log());
    // The reviewed use says reading.
    let declared = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"db/orders"}"#]);
    assert!(login(&declared.first).contains("-ro-"), "{}", declared.first);
    // With a grant of everything each has what it asks for, and nobody more than the row allows.
    host.write("policy.d/50-test.cedar", &everything);
    host.operator("POST", "/v1/reload", "");
    let writer = host.hold(VICTIM, "orders", &["hold", &asked("db/orders", "write")]);
    assert!(login(&writer.first).contains("-long-"), "{}", writer.first);
    assert_eq!(writer.first["body"]["lease"]["operation"], "write");
    let more = host.hold(VICTIM, "orders", &["hold", &asked("db/orders", "admin")]);
    assert_eq!(more.first["body"]["lease"]["operation"], "write", "{}", more.first);
    assert!(more.first["body"]["clamped"][0].as_str().unwrap().contains("the credential is for write"), "{}", more.first);
    let less = host.hold(VICTIM, "orders", &["hold", &asked("db/orders", "read")]);
    assert!(login(&less.first).contains("-ro-"), "{}", less.first);
}

/// One definition of a database for reading and writing: whoever asks to read cannot write, whatever the statements are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_a_database_go_by_the_operation() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut setup = database::setup(&cluster);
    let grants = |of: &str| format!("\"GRANT USAGE ON SCHEMA app TO {{{{role}}}}\", \"GRANT SELECT ON app.orders TO {{{{role}}}}\"{of}");
    let insert = ", \"GRANT INSERT ON app.orders TO {{role}}\"";
    let start = setup.secrets.find("settings = ").unwrap();
    let by_operation = format!("settings = {{ grants = {{ read = [{}], write = [{}] }} }}\n", grants(""), grants(insert));
    setup.secrets.replace_range(start.., &by_operation);
    setup.secrets = setup.secrets.replace("operation = \"read\"", "operation = \"write\"");
    let host = Host::start(setup);
    let (reading, writing) = ("SELECT count(*) FROM app.orders", "INSERT INTO app.orders VALUES (2) ON CONFLICT DO NOTHING");
    for (operation, writes) in [("read", false), ("write", true)] {
        let mut holder = host.hold(VICTIM, "orders", &["hold", &asked("db/orders", operation)]);
        assert_eq!(
            (&holder.first["status"], &holder.first["body"]["lease"]["operation"]),
            (&json!(201), &json!(operation)),
            "{}",
            holder.first
        );
        let session = database::log_in(&cluster, &holder.first).await.unwrap();
        session.simple_query(reading).await.unwrap();
        let wrote = session.simple_query(writing).await;
        assert_eq!(wrote.is_ok(), writes, "{operation}: {wrote:?}");
        // It lives on as what it is.
        holder.say(&format!("call POST /v1/leases/{}/renew", holder.lease()));
        assert_eq!(holder.line()["status"], 200);
        assert_eq!(session.simple_query(writing).await.is_ok(), writes);
    }
}

/// A value that is made anew at each read is not made of what a live lease was not granted.
#[test]
fn what_is_made_anew_at_each_read_does_not_follow_another_row() {
    if !is_root() {
        return;
    }
    let row = secret("api/token", "internal", "settings = { audience = \"one\" }").replace("engine = \"local\"", "engine = \"tokens\"");
    let host = Host::start(Setup {
        config: "[[engine]]\nkind = \"jwt\"\nname = \"tokens\"\nissuer = \"https://host.example.com\"\nmax_ttl = \"1h\"\n".into(),
        identities: identity("orders", VICTIM, &declared("api/token")),
        secrets: row.clone(),
        policy: grant("orders", "api/token"),
        ..Setup::default()
    });
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"api/token"}"#]);
    assert_eq!(holder.first["status"], 201, "{}", holder.first);
    let read = format!("call GET /v1/leases/{}/secret", holder.lease());
    holder.say(&read);
    assert_eq!(holder.line()["status"], 200);
    host.write("secrets.d/test.toml", &row.replace("\"one\"", "\"another\""));
    host.operator("POST", "/v1/reload", "");
    holder.say(&read);
    let refused = holder.line();
    assert_eq!(refused["body"]["error"]["code"], "no_value", "{refused}");
    host.write("secrets.d/test.toml", &row);
    host.operator("POST", "/v1/reload", "");
    holder.say(&read);
    assert_eq!(holder.line()["status"], 200, "it is what it was");
}

#[test]
fn what_another_row_made_is_not_prolonged_and_ends_where_it_allows_more() {
    if !is_root() {
        return;
    }
    let row = secret("app/one", "internal", "").replace("operation = \"read\"", "operation = \"write\"");
    let mut host = Host::start(Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: row.clone(),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "v");
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one"}"#]);
    let lease = holder.lease();
    let mut renew = |lease: &str| {
        holder.say(&format!("call POST /v1/leases/{lease}/renew"));
        let answer = holder.line();
        (answer["status"].as_u64().unwrap(), answer["body"]["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(renew(&lease).0, 200);
    // Nobody can keep a stored value to less, whatever is said.
    let reader = host.hold(VICTIM, "orders", &["hold", &asked("app/one", "read")]);
    assert_eq!(reader.first["body"]["lease"]["operation"], "write", "{}", reader.first);
    assert!(reader.first["body"]["clamped"][0].as_str().unwrap().contains("the credential is for write"), "{}", reader.first);
    drop(reader);
    host.wait_until(std::time::Duration::from_secs(10), "its lease ends", |host| host.live().len() == 1);
    // Other words about the same credential change nothing.
    host.write("secrets.d/test.toml", &row.replace("for a test", "in other words"));
    host.operator("POST", "/v1/reload", "");
    assert_eq!(renew(&lease).0, 200);
    // Another credential under the same name: the lease lives on to its end, and no longer.
    let row = row.replace("description", "hosts = [\"db.example.com:5432\"]\ndescription");
    host.write("secrets.d/test.toml", &row);
    host.operator("POST", "/v1/reload", "");
    assert_eq!(renew(&lease), (403, "not_renewable".into()));
    assert_eq!(host.live().len(), 1);
    let other = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one"}"#]);
    // One that allows less: what was made for more is over.
    host.write("secrets.d/test.toml", &row.replace("operation = \"write\"", "operation = \"read\""));
    host.operator("POST", "/v1/reload", "");
    for lease in [lease, other.lease()] {
        assert_eq!(host.end_of(&lease)["ended"]["reason"], "policy", "{lease}");
    }
}

/// What `openssl` says of a certificate.
fn shown(bundle: &str) -> String {
    let output = Command::new("sh").args(["-c", "printf %s \"$0\" | openssl x509 -noout -text", bundle]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The claims of a token.
fn claims(token: &str) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

const TWO_HOSTS: &str = "hosts = [\"one.example.com\", \"two.example.com\"]\n";

/// Through the whole daemon, for every engine that can make less: what is granted is less than the row, and the credential is no more than it.
/// GitHub is a stand-in; the others are what they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_engine_makes_is_no_more_than_was_asked_for() {
    if !is_root() {
        return;
    }
    let Some(oauth) = AuthorizationServer::start("https://host.example.com", &json!({"keys": []})).await else { return };
    let (github, _) = stand_in().await;
    let at = oauth.issuer();
    let rows = [
        ("jwt", "settings = { audience = \"api\", narrows = [\"read\"] }"),
        ("x509", "settings = { dns = [\"one.example.com\", \"two.example.com\"] }"),
        ("command", "settings = { narrows = [\"read\"] }"),
        (
            "oauth2",
            "settings = { scope = { read = [\"orders.read\"], write = [\"orders.read\", \"orders.write\", \"stock.read\"] }, \
             targets = { \"two.example.com\" = [\"stock.read\"] } }",
        ),
        (
            "github-app",
            "settings = { repositories = [\"shop\", \"site\"], permissions = { contents = \"write\" }, \
             targets = { \"one.example.com\" = [\"shop\"], \"two.example.com\" = [\"site\"] } }",
        ),
    ];
    let mut host = Host::prepare(Setup {
        config: format!(
            "[[engine]]\nkind = \"jwt\"\nname = \"of-jwt\"\nissuer = \"https://host.example.com\"\nmax_ttl = \"1h\"\n\
             [[engine]]\nkind = \"x509\"\nname = \"of-x509\"\nmax_ttl = \"1h\"\n\
             [[engine]]\nkind = \"command\"\nname = \"of-command\"\nsocket = \"$DIR/plugin.sock\"\n\
             [[engine]]\nkind = \"oauth2\"\nname = \"of-oauth2\"\nclient_id = \"basic\"\nmax_ttl = \"1h\"\nca_file = \"$DIR/login-ca.pem\"\n\
             token_endpoint = \"{at}/token\"\nrevocation_endpoint = \"{at}/token/revocation\"\n\
             authenticate = {{ method = \"client_secret_basic\", secret_file = \"$DIR/client-secret\" }}\n\
             [[engine]]\nkind = \"github-app\"\nname = \"of-github-app\"\napp = \"1\"\ninstallation = 4711\nkey_file = \"$DIR/app.pem\"\n\
             api = \"http://127.0.0.1:{}\"\nplain_loopback = true\n",
            github.port
        ),
        identities: identity("orders", VICTIM, &rows.map(|(kind, _)| declared(&format!("of/{kind}"))).concat()),
        secrets: rows
            .map(|(kind, settings)| {
                let row = secret(&format!("of/{kind}"), "internal", &format!("{TWO_HOSTS}{settings}"));
                row.replace("engine = \"local\"", &format!("engine = \"of-{kind}\""))
                    .replace("operation = \"read\"", "operation = \"write\"")
            })
            .concat(),
        policy: rows.map(|(kind, _)| grant("orders", &format!("of/{kind}"))).concat(),
        ..Setup::default()
    });
    host.write("login-ca.pem", &oauth.ca_pem);
    host.write("client-secret", CLIENT_SECRET);
    host.write("app.pem", &app_key().0);
    for private in ["client-secret", "app.pem"] {
        std::fs::set_permissions(host.path(private), std::fs::Permissions::from_mode(0o400)).unwrap();
    }
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/plugin.py");
    std::fs::create_dir_all(host.path("plugin/made")).unwrap();
    let folder = host.dir.join("plugin");
    let program = ["/usr/bin/python3".as_ref(), plugin.as_path(), folder.as_path()];
    let Some(_program) = Activated::start(&host.dir.join("plugin.sock"), &program, &host.dir.join("plugin.log")) else { return };
    host.launch();
    for (kind, _) in rows {
        let ask = |more: Value| {
            let mut body = json!({"secret": format!("of/{kind}"), "purpose": "testing"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let holder = host.hold(VICTIM, "orders", &["hold", &body.to_string()]);
            assert_eq!(holder.first["status"], 201, "{kind}: {}\n{}", holder.first, host.log());
            (holder.first["body"].clone(), host.records_of("issue").pop().unwrap(), holder)
        };
        let (whole, _, _all) = ask(json!({}));
        let (less, record, _less) = ask(json!({"operation": "read", "targets": ["one.example.com"]}));
        // What the credential itself says: operation and targets, as far as the kind knows them.
        let seen = |answer: &Value| match kind {
            "jwt" => {
                let said = &claims(answer["secret"]["value"].as_str().unwrap())["claviger"];
                format!("{} {}", said["operation"], said["hosts"])
            }
            "x509" => {
                shown(answer["secret"]["value"].as_str().unwrap()).lines().find(|line| line.contains("DNS:")).unwrap().trim().to_owned()
            }
            "command" => {
                let made = std::fs::read_to_string(folder.join("made").join(answer["attributes"]["user"].as_str().unwrap())).unwrap();
                let intent = &serde_json::from_str::<Value>(&made).unwrap()["intent"];
                format!("{} {}", intent["operation"], intent["targets"])
            }
            "oauth2" => answer["attributes"]["scope"].as_str().unwrap().to_owned(),
            _ => format!("{} {}", answer["attributes"]["permissions"], answer["attributes"]["repositories"]),
        };
        let (all, few) = match kind {
            "x509" => ("DNS:one.example.com, DNS:two.example.com", "DNS:one.example.com"),
            "oauth2" => ("orders.read orders.write stock.read", "orders.read"),
            "github-app" => (r#""contents=write" "shop site""#, r#""contents=read" "shop""#),
            _ => (r#""write" ["one.example.com","two.example.com"]"#, r#""read" ["one.example.com"]"#),
        };
        assert_eq!((seen(&whole).as_str(), seen(&less).as_str()), (all, few), "{kind}");
        if kind == "oauth2" {
            // Its server says the same of the token.
            let known = oauth.introspect(less["secret"]["value"].as_str().unwrap()).await;
            assert_eq!(known["scope"], few, "{known}");
        }
        // Only what makes less is weighed and recorded as less.
        let operation = if kind == "x509" { "write" } else { "read" };
        assert_eq!((&record["effective"]["operation"], &less["lease"]["operation"]), (&json!(operation), &json!(operation)), "{kind}");
        assert_eq!(
            (&record["effective"]["hosts"], &less["lease"]["hosts"]),
            (&json!(["one.example.com"]), &json!(["one.example.com"])),
            "{kind}"
        );
    }
    // A place that the secret is not for is refused by the daemon, whatever the engine.
    let body = json!({"secret": "of/jwt", "purpose": "testing", "targets": ["three.example.com"]}).to_string();
    let refused = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", &body]).remove(0);
    assert!(refused["status"].as_u64().is_some_and(|status| (400..500).contains(&status)), "{refused}");
}

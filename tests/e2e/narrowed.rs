//! What is asked for narrows what is made, where the engine can make less; and a definition that is narrowed does not leave more in force.

use super::{
    host::*,
    openbao::logging_in,
    openbao_server::OpenBao,
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
};
use serde_json::{Value, json};

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

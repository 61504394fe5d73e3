//! Agent-ness is contagious: nothing an agent does makes it somebody else.

use super::host::*;

const ONE: &str = r#"{"secret":"app/one","purpose":"testing"}"#;

fn setup() -> Setup {
    let agent = identity("robot", AGENT, "").replace("\"workload\"", "\"agent\"");
    Setup {
        // On the agent's own uid a workload is registered, and another on a uid of its own.
        identities: agent + &identity("orders", AGENT, "") + &identity("apart", VICTIM, ""),
        secrets: secret("app/one", "internal", "") + &secret("app/public", "public", ""),
        policy: grant("orders", "app/one")
            + &grant("apart", "app/one")
            + &grant("robot", "app/public").replace("Workload", "Agent").replace("grant.robot", "grant.agent"),
        ..Setup::default()
    }
}

fn code(answer: &serde_json::Value) -> &str {
    answer["body"]["error"]["code"].as_str().unwrap_or_else(|| panic!("not refused: {answer}"))
}

#[test]
fn running_a_registered_workload_below_an_agent_is_still_the_agent() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    host.put("app/one", "v");
    host.put("app/public", "v");
    let program = host.program("orders");
    let child = host.act(AGENT, "robot", &["child", "plain", &program, "call", "GET", "/v1/whoami"]).remove(0);
    assert_eq!(child["body"]["identity"]["name"], "robot", "{child}");
    let refused = host.act(AGENT, "robot", &["child", "plain", &program, "call", "POST", "/v1/leases", ONE]).remove(0);
    assert!(refused["body"]["secret"].is_null(), "{refused}");
    let own = host.act(AGENT, "robot", &["call", "POST", "/v1/leases", r#"{"secret":"app/public","purpose":"testing"}"#]).remove(0);
    assert_eq!(own["status"], 201, "{own}");
}

#[test]
fn an_ancestor_that_becomes_the_agent_is_the_agent_at_once() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    let (robot, orders) = (host.program("robot"), host.program("orders"));
    for _ in 0..5 {
        // Its children have asked a moment before, so it was just looked at, as nobody in particular.
        let mut above = host.hold(AGENT, "before", &["hold", ONE]);
        above.say("fork-call GET /v1/whoami");
        let before = above.line();
        assert_eq!(before["body"]["refused"]["code"], "left_agent_session", "{before}");
        above.say(&format!(
            "exec {robot} -B {} {} child plain {orders} call GET /v1/whoami",
            host.path("actor.py"),
            host.path("workload.sock")
        ));
        let after = above.line();
        assert_eq!(after["body"]["identity"]["name"], "robot", "{after}");
    }
}

#[test]
fn leaving_the_tree_gains_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    host.put("app/one", "v");
    let program = host.program("orders");
    for _ in 0..10 {
        let orphan = host.act(AGENT, "robot", &["child", "orphan", &program, "call", "POST", "/v1/leases", ONE]).remove(0);
        // Orphaned it may still have this test among its ancestors, never the agent; its uid gives it away.
        assert_eq!(code(&orphan), "left_agent_session", "{orphan}");
    }
    // A process that never was below the agent looks the same: the kernel cannot tell cron, ssh or systemd-run from a deserter.
    let fresh = host.act(AGENT, "orders", &["call", "POST", "/v1/leases", ONE]).remove(0);
    assert_eq!(code(&fresh), "left_agent_session");
    let stranger = host.act(AGENT, "unknown", &["call", "POST", "/v1/leases", ONE]).remove(0);
    assert_eq!(code(&stranger), "left_agent_session");
    let apart = host.act(VICTIM, "apart", &["call", "POST", "/v1/leases", ONE]).remove(0);
    assert_eq!(apart["status"], 201, "other uids are not concerned: {apart}");
}

#[test]
fn what_may_be_injected_is_not_handed_over() {
    if !is_root() {
        return;
    }
    let mut setup = setup();
    let inject = grant("robot", "app/one").replace("Workload", "Agent").replace("\"deliver\"", "\"inject\"");
    setup.policy = inject + &grant("apart", "app/one").replace("\"deliver\"", "\"sign\"");
    let host = Host::start(setup);
    host.put("app/one", "v");
    for (uid, program, channel) in [(AGENT, "robot", "inject"), (VICTIM, "apart", "sign")] {
        let ask = format!(r#"{{"secret":"app/one","purpose":"testing","channel":"{channel}"}}"#);
        let refused = host.act(uid, program, &["call", "POST", "/v1/leases", &ask]).remove(0);
        assert!(refused["body"]["secret"].is_null(), "{refused}");
        assert_eq!(code(&refused), "channel_unavailable");
        // Nor is it promised beforehand.
        let explained = host.act(uid, program, &["call", "POST", "/v1/explain", &ask]).remove(0);
        assert_eq!(
            (&explained["body"]["outcome"], &explained["body"]["error"]["code"]),
            (&"refuse".into(), &"channel_unavailable".into()),
            "{explained}"
        );
        let listed = host.act(uid, program, &["call", "GET", "/v1/secrets"]).remove(0);
        assert_eq!(listed["body"]["secrets"], serde_json::json!([]), "{listed}");
    }
    assert!(host.live().is_empty());
}

#[test]
fn an_agent_may_not_speak_to_operators() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    // Even with the socket wide open.
    std::fs::set_permissions(host.dir.join("operator.sock"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let through = |program: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args([&format!("--reuid={AGENT}"), &format!("--regid={AGENT}"), "--clear-groups", "--", &host.program(program), "-B"]);
        command.arg(host.dir.join("actor.py")).arg(host.dir.join("operator.sock"));
        command.args(["call", "POST", "/v1/freeze", r#"{"frozen":true}"#]).env_clear().env("PYTHONHOME", "/usr");
        lines(&command.output().unwrap()).remove(0)
    };
    assert_eq!(code(&through("robot")), "not_operator");
    assert_eq!(code(&through("orders")), "not_operator");
    assert_eq!(host.operator("GET", "/v1/status", "")["frozen"], false);
}

#[test]
fn an_agent_that_is_registered_later_is_seen_behind_old_connections_and_leases() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(Setup {
        identities: identity("orders", VICTIM, ""),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "v");
    // The same program below a shell and below what will be an agent: while no row says so, nobody looks closely.
    let mut plain = host.hold(VICTIM, "orders", &["hold", ONE]);
    let mut below = host.hold(VICTIM, "robot", &["beneath", &host.program("orders"), "hold", ONE]);
    let (kept, lost) = (plain.lease(), below.lease());
    let agent = identity("robot", VICTIM, "").replace("\"workload\"", "\"agent\"");
    let exclusive = identity("orders", VICTIM, "exclusive_uid = true");
    host.write("identities.d/test.toml", &(agent + &exclusive).replace("$DIR", &host.path("")).replace("//", "/"));
    // Two rows on one uid: nothing there is isolated, so both are the agent's or nobody's now.
    host.operator("POST", "/v1/reload", "");
    for lease in [&kept, &lost] {
        assert_eq!(host.end_of(lease)["ended"]["reason"], "policy", "{lease}");
    }
    for actor in [&mut plain, &mut below] {
        actor.say(&format!("call POST /v1/leases {ONE}"));
        let answer = actor.line();
        assert_eq!(code(&answer), "attestation_failed", "{answer}");
        assert!(answer["body"]["error"]["message"].as_str().unwrap().contains("connect again"), "{answer}");
    }
    drop(plain);
    // An agent on another uid concerns nobody here: the lease of a workload goes on.
    let workload = identity("orders", VICTIM, "");
    host.write("identities.d/test.toml", &workload.replace("$DIR", &host.path("")).replace("//", "/"));
    host.operator("POST", "/v1/reload", "");
    let stays = host.hold(VICTIM, "orders", &["hold", ONE]);
    let agent = identity("robot", AGENT, "").replace("\"workload\"", "\"agent\"");
    host.write("identities.d/test.toml", &(agent + &workload).replace("$DIR", &host.path("")).replace("//", "/"));
    host.operator("POST", "/v1/reload", "");
    let again = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ONE]).remove(0);
    assert_eq!(again["status"], 201);
    assert!(host.live().iter().any(|lease| lease["id"] == stays.lease().as_str()), "read again, and found to be who it was");
}

//! The mistakes, and what `clav why` has to say about each.

/// A mistake and what is expected of `clav why`.
pub struct Mistake {
    pub name: &'static str,
    /// Files that are changed before the daemon starts: name, what is replaced, by what. An empty original means a new file.
    pub files: &'static [(&'static str, &'static str, &'static str)],
    /// Changed while it runs, without a reload.
    pub later: &'static [(&'static str, &'static str, &'static str)],
    /// What an operator does before the request.
    pub before: &'static str,
    /// The request: of the workload, or with "root: " of a program of root.
    pub ask: &'static str,
    /// The code, and what else has to be said.
    pub code: &'static str,
    pub says: &'static [&'static str],
    /// Which of the ways is followed; none where time or somebody else mends it.
    pub way: Option<usize>,
}

const PLAIN: Mistake = Mistake { name: "", files: &[], later: &[], before: "", ask: "clav get hello", code: "", says: &[], way: Some(0) };

const ROW: &str = "identities.d/tester.toml";
const GRANTS: &str = "policy.d/50-grants.cedar";
/// An agent's row on the workloads' uid, for another program.
const ROBOT: &str = "[[identity]]\nname = \"robot\"\nkind = \"agent\"\nowner = \"team-test\"\nenvironment = \"test\"\npurposes = [\"try\"]\nmax_sensitivity = \"public\"\nexpires = \"2099-01-01\"\nselectors = [\"unix:uid:$UID\", \"unix:path:/opt/robot\"]\n";
const SECRETS: &str = "secrets.d/sample.toml";

/// In a new file: `$UID` is the workloads' uid, `$DAY` a day in two months, `$BIN` the folder of the programs.
const OTHER: (&str, &str, &str) = (
    "policy.d/55-other.cedar",
    "",
    "@id(\"g.other\") @owner(\"team-test\") @purpose(\"try\") @expires(\"$DAY\")\npermit (principal == Claviger::Workload::\"tester\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"other\");\n",
);

pub const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "wrong uid",
        ask: "root: get hello",
        code: "no_identity",
        says: &["nearest row is tester", "tester.toml:9", "lacks unix:uid:", "ran as uid 0"],
        ..PLAIN
    },
    Mistake {
        name: "nobody registered",
        ask: "root: get hello --purpose try",
        code: "no_identity",
        says: &["identities.d/plain-0.toml", "[[identity]]"],
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "wrong purpose",
        ask: "clav get hello --purpose other-purpose",
        code: "no_grant",
        says: &[
            "grant.tester.hello",
            "is for try, not for other-purpose",
            "identity tester allows: try, other-purpose",
            "secret hello allows: try",
        ],
        ..PLAIN
    },
    Mistake {
        name: "a purpose that the secret does not list",
        files: &[(GRANTS, "@purpose(\"try\")", "@purpose(\"try, other-purpose\")")],
        ask: "clav get hello --purpose other-purpose",
        code: "purpose_not_allowed",
        says: &["identity tester allows: try, other-purpose", "tester.toml:6", "secret hello allows: try", "sample.toml:8"],
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "expired grant",
        files: &[(GRANTS, "$DAY", "2020-01-31")],
        code: "no_grant",
        says: &["grant.tester.hello", "has expired", "50-grants.cedar"],
        ..PLAIN
    },
    Mistake {
        name: "suspended identity",
        files: &[(ROW, "expires =", "suspended = true\nexpires =")],
        code: "identity_inactive",
        says: &["tester is suspended", "tester.toml:8"],
        ..PLAIN
    },
    Mistake {
        name: "expired identity",
        files: &[(ROW, "2099-01-01", "2020-01-31")],
        code: "identity_inactive",
        says: &["tester expired on 2020-01-31", "tester.toml:8"],
        ..PLAIN
    },
    Mistake {
        name: "three things at once",
        files: &[(ROW, "2099-01-01", "2020-01-31"), (ROW, "\"confidential\"", "\"public\""), (ROW, "\"test\"", "\"prod\""), OTHER],
        ask: "clav get other --purpose try",
        code: "identity_inactive",
        says: &["expired on 2020-01-31", "may have at most public", "belongs to prod", "above_identity", "environment"],
        ..PLAIN
    },
    Mistake {
        name: "two identities match",
        files: &[(
            "identities.d/twin.toml",
            "",
            "[[identity]]\nname = \"twin\"\nkind = \"workload\"\nowner = \"team-test\"\nenvironment = \"test\"\npurposes = [\"try\"]\nmax_sensitivity = \"public\"\nexpires = \"2099-01-01\"\nselectors = [\n  \"unix:gid:$UID\",\n]\n",
        )],
        code: "ambiguous_identity",
        says: &["tester (", "tester.toml:9)", "twin (", "twin.toml:9)", "unix:gid:"],
        ..PLAIN
    },
    Mistake {
        name: "too little assurance",
        files: &[(
            "policy.d/70-own.cedar",
            "",
            "@id(\"own.isolated\") @class(\"require\") @require(\"assurance\") @sentence(\"Isolated only.\")\nforbid (principal, action in Claviger::Action::\"use\", resource)\nunless { context.attested.assurance in Claviger::Assurance::\"isolated\" };\n",
        )],
        code: "needs",
        says: &["own.isolated", "70-own.cedar:1", "assurance", "shares its uid"],
        ..PLAIN
    },
    Mistake {
        name: "in namespaces of its own",
        files: &[(GRANTS, "@lasting", "@ticket(\"ops:7\") @lasting")],
        ask: "unshare: get deep --purpose try",
        code: "needs",
        says: &["workload.assurance.confidential", "namespaces of its own (pid"],
        ..PLAIN
    },
    Mistake {
        name: "edited and not reloaded",
        later: &[OTHER],
        ask: "clav get other --purpose try",
        code: "no_grant",
        says: &["were changed and are not in force"],
        ..PLAIN
    },
    Mistake {
        name: "misspelt secret",
        ask: "clav get helo",
        code: "no_declared_use",
        says: &["defines helo", "nearest name is hello"],
        ..PLAIN
    },
    Mistake {
        name: "misspelt secret with a purpose",
        ask: "clav get helo --purpose try",
        code: "no_grant",
        says: &["helo was asked for", "defines helo", "nearest name is hello"],
        ..PLAIN
    },
    Mistake {
        name: "unknown secret",
        ask: "clav get brand-new-thing --purpose try",
        code: "no_grant",
        says: &["defines brand-new-thing", "[[secret]]"],
        ..PLAIN
    },
    Mistake {
        name: "no value",
        ask: "clav get missing --purpose try",
        code: "no_value",
        says: &["never stored", "clav secret put missing"],
        ..PLAIN
    },
    Mistake {
        name: "no grant",
        ask: "clav get other --purpose try",
        code: "no_grant",
        says: &["Nothing grants other to tester for try", "team-test"],
        ..PLAIN
    },
    Mistake {
        name: "above the identity",
        files: &[OTHER, (ROW, "\"confidential\"", "\"public\"")],
        ask: "clav get other --purpose try",
        code: "above_identity",
        says: &["other is internal", "at most public", "tester.toml:7"],
        ..PLAIN
    },
    Mistake {
        name: "another environment",
        files: &[(ROW, "\"test\"", "\"prod\"")],
        code: "environment",
        says: &["belongs to prod", "hello", "to test", "tester.toml:", "sample.toml:"],
        ..PLAIN
    },
    Mistake { name: "the secret's environment", files: &[(ROW, "\"test\"", "\"prod\"")], code: "environment", way: Some(1), ..PLAIN },
    Mistake {
        name: "no ticket",
        ask: "clav get deep --purpose try",
        code: "needs",
        says: &["grant_ticket", "workload.grant-ticket", "50-grants.cedar:"],
        ..PLAIN
    },
    Mistake {
        name: "neither ticket nor consent to a lasting value",
        files: &[(GRANTS, " @lasting(\"yes\")", "")],
        ask: "clav get deep --purpose try --ticket ops:7",
        code: "needs",
        says: &["grant_ticket", "grant_lasting", "stays valid after its lease"],
        ..PLAIN
    },
    Mistake {
        name: "what nobody can sign",
        files: &[(SECRETS, "sensitivity = \"confidential\"", "sensitivity = \"restricted\""), (ROW, "\"confidential\"", "\"restricted\"")],
        ask: "clav get deep --purpose try",
        code: "value_outlives_lease",
        says: &["grant_signature: this version cannot collect it", "if deep is really no more than confidential"],
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "several programs, one identity",
        files: &[(ROW, "\"workload\"", "\"shared\""), (ROW, "\"confidential\"", "\"internal\""), (GRANTS, "Workload", "Shared")],
        ask: "clav get deep --purpose try",
        code: "above_identity",
        says: &["Several programs share the identity", "if deep is really no more than internal"],
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "a broken file beside it",
        later: &[("identities.d/broken.toml", "", "[[identity]]\nselectors = [\"unix:pid:7\"]\n")],
        ask: "clav get hello --purpose other-purpose",
        code: "no_grant",
        says: &["cannot be put into force", "broken.toml:", "there is unix:uid, unix:user", "is for try, not for other-purpose"],
        ..PLAIN
    },
    Mistake {
        name: "where an agent runs",
        files: &[(ROW, "\"tester\"", "\"games\""), (GRANTS, "\"tester\"", "\"games\""), ("identities.d/robot.toml", "", ROBOT)],
        code: "left_agent_session",
        says: &["runs robot (", "robot.toml:", "games needs a user of its own"],
        ..PLAIN
    },
    Mistake {
        name: "an agent wants the value",
        files: &[(ROW, "\"workload\"", "\"agent\""), OTHER, ("policy.d/55-other.cedar", "Workload", "Agent")],
        ask: "clav get other --purpose try",
        code: "injected_only",
        says: &["agent.deliver.internal", "bound to hosts", "if other is really no more than public"],
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "another operation than was reviewed",
        files: &[(ROW, "purpose = \"try\"", "purpose = \"try\"\noperation = \"read\"")],
        ask: "clav get hello --operation write",
        code: "no_declared_use",
        says: &["declared uses: try"],
        ..PLAIN
    },
    Mistake {
        name: "a condition that does not hold",
        files: &[(
            GRANTS,
            "\"hello\");",
            "\"hello\")\nwhen { context.claimed has intended && context.claimed.intended == Claviger::Operation::\"read\" };",
        )],
        ask: "clav get hello --purpose try --operation write",
        code: "no_grant",
        says: &["grant.tester.hello", "has a condition that does not hold"],
        ..PLAIN
    },
    Mistake {
        name: "a host that is not the secret's",
        files: &[(SECRETS, "description = \"A greeting\"", "description = \"A greeting\"\nhosts = [\"db.test:5432\"]")],
        ask: "clav get hello --purpose try --target db.prod:5432",
        code: "target_not_allowed",
        says: &["hello is for db.test:5432", "not for db.prod:5432", "sample.toml:12"],
        ..PLAIN
    },
    Mistake {
        name: "quarantined",
        files: &[(SECRETS, "description = \"A greeting\"", "description = \"A greeting\"\nquarantined = true")],
        code: "secret_quarantined",
        says: &["base.quarantined"],
        ..PLAIN
    },
    Mistake { name: "frozen", before: "clav freeze --reason 'an incident'", code: "frozen", says: &["clav freeze --off"], ..PLAIN },
    Mistake {
        name: "too many live leases",
        files: &[("clavigerd.toml", "[attest]", "[leases]\nper_identity = 1\n[attest]")],
        before: "hold",
        code: "limit",
        says: &["tester has 1 live leases", "clavigerd.toml"],
        ..PLAIN
    },
    Mistake {
        name: "no such time",
        ask: "clav get hello --ttl soon",
        code: "malformed",
        says: &["ttl must be a number of seconds", "\"15m\""],
        ..PLAIN
    },
    Mistake {
        name: "unknown field",
        ask: "body: {\"secret\":\"hello\",\"porpoise\":\"try\"}",
        code: "malformed",
        says: &["a field that the API does not know"],
        ..PLAIN
    },
    Mistake {
        name: "wrong type",
        ask: "body: {\"secret\":\"hello\",\"purpose\":\"try\",\"ttl\":true}",
        code: "malformed",
        says: &["ttl must be a number of seconds"],
        ..PLAIN
    },
    Mistake {
        name: "a name in capitals",
        ask: "clav get Hello",
        code: "malformed",
        says: &["secret ", "tester is granted: hello"],
        ..PLAIN
    },
    Mistake {
        name: "no declared use",
        files: &[(ROW, "secret = \"hello\"", "secret = \"deep\"")],
        code: "no_declared_use",
        says: &["Both tester and hello allow: try"],
        ..PLAIN
    },
    Mistake {
        name: "no declared use, declared",
        files: &[(ROW, "secret = \"hello\"", "secret = \"deep\"")],
        code: "no_declared_use",
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "an agent that lets its row speak",
        files: &[
            (ROW, "\"workload\"", "\"agent\""),
            (ROW, "secret = \"hello\"", "secret = \"other\""),
            OTHER,
            ("policy.d/55-other.cedar", "Workload", "Agent"),
        ],
        ask: "clav get other",
        code: "agent_must_declare",
        says: &["agent.declares", "injected_only", "has to be said in the request"],
        way: Some(1),
        ..PLAIN
    },
    Mistake {
        name: "no operator",
        files: &[(ROW, "\"workload\"", "\"agent\"")],
        before: "open",
        ask: "clav status",
        code: "not_operator",
        says: &["the agent tester", "uid "],
        ..PLAIN
    },
    Mistake {
        name: "a source that does not answer",
        files: &[
            (
                "clavigerd.toml",
                "[[engine]]",
                "[[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"$BIN\"\nport = 5432\ndatabase = \"x\"\nuser = \"x\"\n[[engine]]",
            ),
            (
                SECRETS,
                "engine = \"local\"\nowner = \"team-test\"\nsensitivity = \"public\"",
                "engine = \"pg\"\nowner = \"team-test\"\nsensitivity = \"public\"\nhosts = [\"db.test:5432\"]\nsettings = { grants = [\"GRANT x TO {{role}}\"] }",
            ),
        ],
        code: "engine_unavailable",
        says: &["Engine pg", "pg_isready -h ", "does not answer"],
        way: None,
        ..PLAIN
    },
];

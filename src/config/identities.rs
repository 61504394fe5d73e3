//! `identities.d/*.toml`: selectors to named identities.

use super::{ConfigError, File, line_of, parse, rows_as_json, short_digest};
use crate::model::{
    DeclaredUse, Environment, ExecRule, GroupName, Identity, IdentityKind, IdentityName, Owner, Purpose, Registry, Selector, Sensitivity,
    WallTime,
};
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    #[serde(default)]
    identity: Vec<toml::Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: IdentityName,
    kind: IdentityKind,
    owner: Owner,
    environment: Environment,
    purposes: Vec<Purpose>,
    max_sensitivity: Sensitivity,
    expires: String,
    #[serde(default)]
    suspended: bool,
    #[serde(default)]
    groups: Vec<GroupName>,
    selectors: Vec<Selector>,
    #[serde(default)]
    exclusive_uid: bool,
    #[serde(default)]
    on_exec: ExecRule,
    #[serde(default, rename = "use")]
    uses: Vec<DeclaredUse>,
}

/// Programs that run whatever they are told to: as the only executable selector they identify nobody.
const INTERPRETERS: &[&str] = &[
    "clav",
    "sh",
    "bash",
    "dash",
    "zsh",
    "fish",
    "ksh",
    "busybox",
    "python",
    "perl",
    "ruby",
    "node",
    "php",
    "lua",
    "java",
    "env",
    "sudo",
    "su",
    "ld-linux-x86-64.so",
    "deno",
    "bun",
    "tclsh",
    "gawk",
    "awk",
    "make",
    "xargs",
    "systemd-run",
    "setpriv",
    "runuser",
];

/// Parses all files. Every problem of every row is named; with any, nothing is loaded.
pub fn identities(files: &[File]) -> Result<Registry, Vec<ConfigError>> {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let mut names: HashMap<IdentityName, String> = HashMap::new();
    for file in files {
        match parse::<Rows>(file).and_then(|found| Ok((found, rows_as_json(file, "identity")?))) {
            Err(error) => problems.push(error),
            Ok((found, written)) => {
                for (row, written) in found.identity.into_iter().zip(written) {
                    let line = line_of(&file.text, row.span().start);
                    match check(row.get_ref(), short_digest(&written)) {
                        Err(why) => problems.extend(why.into_iter().map(|why| ConfigError::at(file, line, why))),
                        Ok(identity) => {
                            if let Some(other) = names.insert(identity.name.clone(), format!("{}:{line}", file.path)) {
                                problems.push(ConfigError::at(
                                    file,
                                    line,
                                    format!("identity {} is already defined at {other}", identity.name),
                                ));
                            }
                            rows.push(identity);
                        }
                    }
                }
            }
        }
    }
    if problems.is_empty() { Ok(Registry::new(rows)) } else { Err(problems) }
}

fn check(row: &Row, generation: String) -> Result<Identity, Vec<String>> {
    let mut problems = Vec::new();
    let mut problem = |text: String| problems.push(format!("identity {}: {text}", row.name));
    let expires = WallTime::parse(&row.expires);
    if expires.is_none() {
        problem(format!("expires = {:?} is not a date such as 2027-01-31", row.expires));
    }
    if row.selectors.is_empty() {
        problem("selectors must name at least one attested fact".into());
    }
    if row.purposes.is_empty() {
        problem("purposes must name at least one".into());
    }
    let strong_enough = row.selectors.iter().any(|s| matches!(s.kind(), "systemd:id" | "container:id" | "cgroup:path"));
    let programs: Vec<&Selector> = row.selectors.iter().filter(|s| matches!(s.kind(), "unix:path" | "exe:root-owned")).collect();
    if !programs.is_empty() && !strong_enough && programs.iter().all(|s| is_interpreter(s.value())) {
        problem(format!("{} runs whatever it is told to, so it identifies nobody; add a unit, container or control group", programs[0]));
    }
    if row.selectors.iter().all(|s| matches!(s.kind(), "unix:path" | "unix:sha256" | "exe:root-owned")) && !row.selectors.is_empty() {
        problem("any user can run that program; add unix:uid, a unit or a container".into());
    }
    let root = row.selectors.iter().any(|s| s.as_str() == "unix:uid:0" || s.as_str() == "unix:user:root");
    if root && programs.is_empty() && !strong_enough {
        problem("uid 0 needs a unit or an executable as well".into());
    }
    if row.kind == IdentityKind::Shared && row.max_sensitivity > Sensitivity::Internal {
        problem("a shared identity never has more than internal".into());
    }
    for declared in &row.uses {
        if !row.purposes.contains(&declared.purpose) {
            problem(format!("declared use of {}: purpose {} is not among its purposes", declared.secret, declared.purpose));
        }
    }
    if row.selectors.len() > 1 && row.selectors.iter().any(|s| s.kind() == "systemd:loads") {
        problem("systemd:loads stands alone: of a unit that loads a credential nothing else is known".into());
    }
    for (at, declared) in row.uses.iter().enumerate() {
        let name = |one: &DeclaredUse| one.credential.as_ref().map_or_else(|| one.secret.to_string(), |name| name.as_str().to_owned());
        let both = |before: &&DeclaredUse| before.credential.is_some() || declared.credential.is_some();
        if row.uses[..at].iter().filter(both).any(|before| name(before) == name(declared)) {
            problem(format!("two declared uses are the credential {}", name(declared)));
        }
    }
    let mut selectors = row.selectors.clone();
    selectors.sort();
    selectors.dedup();
    match expires {
        Some(expires) if problems.is_empty() => Ok(Identity {
            name: row.name.clone(),
            kind: row.kind,
            owner: row.owner.clone(),
            environment: row.environment.clone(),
            purposes: row.purposes.clone(),
            max_sensitivity: row.max_sensitivity,
            expires,
            suspended: row.suspended,
            groups: row.groups.clone(),
            selectors,
            exclusive_uid: row.exclusive_uid,
            on_exec: row.on_exec,
            uses: row.uses.clone(),
            generation,
        }),
        _ => Err(problems),
    }
}

/// Whether a program runs whatever it is told to, so that its path says nothing about who asks.
pub fn is_interpreter(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    // python3.11, ruby3.1, lua5.4 ...
    let base = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    INTERPRETERS.contains(&name) || INTERPRETERS.contains(&base)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[identity]]
name = "orders"
kind = "workload"
owner = "team-orders"
environment = "prod"
purposes = ["serve-orders"]
max_sensitivity = "confidential"
expires = "2027-01-31"
selectors = ["unix:uid:1000", "unix:path:/usr/bin/orders"]
[[identity.use]]
secret = "db/ro"
purpose = "serve-orders"
"#;

    fn load(text: &str) -> Result<Registry, Vec<ConfigError>> {
        identities(&[File { path: "i.toml".into(), text: text.into() }])
    }

    #[test]
    fn a_row_without_its_promises_does_not_load() {
        let row = load(GOOD).unwrap();
        assert_eq!(row.iter().count(), 1);
        for (from, to) in [
            ("owner = \"team-orders\"\n", ""),
            ("expires = \"2027-01-31\"", "expires = \"soon\""),
            ("purposes = [\"serve-orders\"]", "purposes = []"),
            ("[\"unix:uid:1000\", \"unix:path:/usr/bin/orders\"]", "[]"),
            ("/usr/bin/orders", "/usr/bin/python3.11"),
            ("/usr/bin/orders", "/usr/bin/clav"),
            ("\"unix:uid:1000\", ", ""),
            ("unix:uid:1000", "unix:cmdline:x"),
            ("\"workload\"", "\"shared\""),
            ("purpose = \"serve-orders\"", "purpose = \"other\""),
            ("unix:uid:1000", "systemd:loads:orders.service"),
            ("kind", "kin"),
        ] {
            let broken = GOOD.replacen(from, to, 1);
            assert_ne!(broken, GOOD);
            assert!(load(&broken).is_err(), "{from} -> {to}");
        }
        let credentials = "credential = \"db\"\n[[identity.use]]\nsecret = \"db\"\npurpose = \"serve-orders\"\n";
        assert!(load(&format!("{GOOD}{credentials}")).is_err(), "one credential, two uses");
        assert!(load(&format!("{GOOD}{}", credentials.replacen("\"db\"", "\"KEY_1\"", 1))).is_ok());
        let unknown = &load(&GOOD.replace("unix:uid:1000", "unix:cmdline:x")).unwrap_err()[0];
        assert!(Selector::kinds().all(|kind| unknown.message.contains(kind)), "{unknown}");
        assert!(load(&GOOD.repeat(2)).unwrap_err()[0].message.contains("already defined at i.toml:"));
        assert_eq!(load("\n\n[[identity]]\nnme = 1\n").unwrap_err()[0].line, 4);
    }
}

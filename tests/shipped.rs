//! Everything that is shipped is loaded here: every file of `config/`, every unit, every example in the documents.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

use claviger::{
    config::{self, Config, EngineConfig, File},
    digest::{RsaKey, SealKey, SeededRandom},
    engine::{
        Engine, Mark,
        command::{self, CommandEngine},
        github::{self, GitHubEngine},
        jwt::{self, JwtEngine},
        local::{LocalEngine, LocalStore},
        oauth2::{self, OAuth2Engine},
        openbao::{self, OpenBaoEngine},
        postgres::{self, PostgresEngine, Server},
        ssh::{SshConfig, SshEngine},
        x509::{self, X509Engine},
    },
    model::{Catalogue, EngineName, Registry, WallTime},
    outbound::{Address, Client, Limits},
    policy::{BASELINE, Bundle, Source},
    sys::{Clock, ManualClock},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// The day on which the examples were written: their grants expire 90 days later at the latest.
const TODAY: &str = "2026-11-20";
/// `systemd-analyze security` must not say more than this.
const EXPOSURE: &[(&str, f32)] =
    &[("clavigerd.service", 1.2), ("claviger-attest.service", 1.5), ("claviger-command-web-users@.service", 1.0)];
/// The example of a program and its units: started by `tests/command` and `tests/contract`.
const OF_PROGRAMS: &[&str] = &["web-users", "claviger-command-web-users.socket", "claviger-command-web-users@.service"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path, ending: &str) -> Vec<File> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    paths.iter().map(|path| File { path: path.display().to_string(), text: read(path) }).collect()
}

fn today() -> WallTime {
    WallTime::parse(TODAY).unwrap()
}

/// Secrets as the engines of a configuration see them: each row is shown to a real engine, settings included.
fn catalogue(config: &Config, files: &[File]) -> Result<Catalogue, String> {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(0, today().0));
    let key = SealKey::from_bytes(&[7; 32]).unwrap();
    let store = folder.path().canonicalize().unwrap().join("store");
    let store = Arc::new(LocalStore::open(&store, key, None, Arc::new(SeededRandom::new(1)), clock.clone()).unwrap());
    let mut engines: BTreeMap<String, Box<dyn Engine>> = BTreeMap::new();
    engines.insert("local".into(), Box::new(LocalEngine::new(store.clone())));
    for engine in &config.engines {
        let name = engine.name().to_string();
        let made: Box<dyn Engine> = match engine {
            EngineConfig::Jwt(from) => {
                let config = jwt::JwtConfig {
                    name: from.name.clone(),
                    issuer: from.issuer.clone(),
                    algorithms: vec![jwt::Algorithm::Es256, jwt::Algorithm::EdDsa],
                    max_ttl: from.max_ttl,
                };
                Box::new(JwtEngine::open(config, store.clone(), clock.clone()).map_err(|error| error.to_string())?)
            }
            EngineConfig::Command(from) => {
                let (timeout, lingers) = (std::time::Duration::from_secs(1), command::LINGERS);
                let config =
                    command::CommandConfig { name: from.name.clone(), socket: from.socket(), timeout, lingers, probes: from.probes };
                let root = SealKey::from_bytes(&[8; 32]).unwrap();
                let random = Arc::new(SeededRandom::new(3));
                Box::new(CommandEngine::new(config, Mark::new(b"m", b"s"), &root, store.clone(), clock.clone(), random))
            }
            EngineConfig::Ssh(from) => {
                let config = SshConfig { name: from.name.clone(), max_ttl: from.max_ttl, public_key: None, list: None };
                let root = store.own_key("ssh").unwrap();
                Box::new(SshEngine::open(config, &root, &store, clock.clone()).map_err(|error| error.to_string())?)
            }
            EngineConfig::X509(from) => {
                // Whose authority signs is no matter here.
                let config = x509::X509Config { name: from.name.clone(), max_ttl: from.max_ttl, authority: None, list: None };
                let root = store.own_key("x509").unwrap();
                Box::new(X509Engine::open(config, &root, &store, clock.clone()).map_err(|error| error.to_string())?)
            }
            EngineConfig::Postgres(from) => {
                // How the server is reached is no matter here; whether a host name comes with a CA is.
                assert!(from.host.starts_with('/') || from.ca_file.is_some(), "{name}: a host name needs ca_file");
                let server = Server::Unix { folder: "/nowhere".into(), port: from.port };
                let config = postgres::PostgresConfig {
                    database: from.database.clone(),
                    ..postgres::PostgresConfig::new(from.name.clone(), server, &from.user)
                };
                let root = SealKey::from_bytes(&[8; 32]).unwrap();
                let (mark, random) = (Mark::new(b"m", b"s"), Arc::new(SeededRandom::new(2)));
                let made = PostgresEngine::new(config, mark, &root, store.clone(), clock.clone(), random);
                Box::new(made.map_err(|error| error.to_string())?)
            }
            EngineConfig::GitHub(from) => {
                let nowhere = Address::parse("unix:/nowhere", false).unwrap();
                let client = Client::new(nowhere, None, || unreachable!("no TLS"), None, Limits::default(), clock.clone()).unwrap();
                let config = github::GitHubConfig {
                    name: from.name.clone(),
                    client,
                    base: String::new(),
                    app: from.app.clone(),
                    installation: from.installation,
                    key: rsa_key(),
                    notes: folder.path().canonicalize().unwrap().join(&name),
                    timeout: std::time::Duration::from_secs(1),
                    boot: "boot".into(),
                };
                let (root, random) = (SealKey::from_bytes(&[8; 32]).unwrap(), Arc::new(SeededRandom::new(2)));
                Box::new(GitHubEngine::new(config, &root, clock.clone(), random).map_err(|error| error.to_string())?)
            }
            EngineConfig::OAuth2(from) => {
                let nowhere = Address::parse("unix:/nowhere", false).unwrap();
                let client = Client::new(nowhere, None, || unreachable!("no TLS"), None, Limits::default(), clock.clone()).unwrap();
                let signer = || {
                    let config = jwt::JwtConfig {
                        name: from.name.clone(),
                        issuer: "https://host.example.com".into(),
                        algorithms: vec![jwt::Algorithm::Es256],
                        max_ttl: from.max_ttl,
                    };
                    Arc::new(JwtEngine::open(config, store.clone(), clock.clone()).unwrap())
                };
                let subject = from.exchange.as_ref().map(|row| oauth2::Subject { signer: signer(), audience: row.audience.clone() });
                let config = oauth2::OAuth2Config {
                    name: from.name.clone(),
                    client,
                    endpoints: oauth2::Endpoints {
                        token: "/".into(),
                        revocation: from.revocation_endpoint.clone(),
                        introspection: from.introspection_endpoint.clone(),
                    },
                    client_id: from.client_id.clone(),
                    authentication: oauth2::Authentication::PrivateKeyJwt { signer: signer(), audience: "x".into() },
                    subject,
                    max_ttl: from.max_ttl,
                    notes: folder.path().canonicalize().unwrap().join(&name),
                    timeout: std::time::Duration::from_secs(1),
                    boot: "boot".into(),
                };
                let (root, random) = (SealKey::from_bytes(&[8; 32]).unwrap(), Arc::new(SeededRandom::new(2)));
                Box::new(OAuth2Engine::new(config, &root, clock.clone(), random).map_err(|error| error.to_string())?)
            }
            EngineConfig::OpenBao(from) => {
                Address::parse(&from.address, from.plain_loopback).map_err(|error| format!("{name}: {error}"))?;
                let nowhere = Address::parse("unix:/nowhere", false).unwrap();
                let client = Client::new(nowhere, None, || unreachable!("no TLS"), None, Limits::default(), clock.clone()).unwrap();
                let login = openbao::Login::Certificate { mount: "cert".into(), role: None };
                let config = openbao::OpenBaoConfig {
                    name: from.name.clone(),
                    client,
                    namespace: from.namespace.clone(),
                    login,
                    token_role: from.token_role.clone(),
                    timeout: std::time::Duration::from_secs(1),
                    copies: openbao::Copies {
                        folder: folder.path().canonicalize().unwrap().join(&name),
                        server: from.address.clone(),
                        boot: "boot".into(),
                        not_before: claviger::model::WallTime(0),
                    },
                };
                let root = SealKey::from_bytes(&[8; 32]).unwrap();
                let (mark, random) = (Mark::new(b"m", b"s"), Arc::new(SeededRandom::new(2)));
                let made = OpenBaoEngine::new(config, mark, &root, store.clone(), clock.clone(), random);
                Box::new(made.map_err(|error| error.to_string())?)
            }
        };
        engines.insert(name, made);
    }
    let mut rows = Vec::new();
    for draft in config::secrets(files).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))? {
        let engine = engines.get(draft.row().engine.as_str()).ok_or_else(|| draft.problem("its engine is not configured").to_string())?;
        engine.check(draft.row()).map_err(|why| draft.problem(why).to_string())?;
        let completed = engine.completes(draft.row());
        rows.push(draft.with(completed));
    }
    Ok(Catalogue::new(rows))
}

/// Whose key it is is no matter here.
fn rsa_key() -> RsaKey {
    let made =
        Command::new("openssl").args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output().unwrap();
    RsaKey::from_pem(&made.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&made.stderr)))
}

fn registry(files: &[File]) -> Result<Registry, String> {
    config::identities(files).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(&File { path: "clavigerd.toml".into(), text: text.into() }).map_err(|error| error.to_string())
}

// ---- clavigerd.toml ------------------------------------------------------------------------------------------------------------

/// Lines that are a key or a table behind one `#`, without it; two `#` are an alternative to a line above.
fn uncommented(text: &str, alternatives: bool) -> String {
    let is_setting = |line: &str| {
        line.starts_with("[[") || line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let mut out = String::new();
    for line in text.lines() {
        let bare =
            line.strip_prefix("##").filter(|_| alternatives).or_else(|| line.strip_prefix('#').filter(|line| !line.starts_with('#')));
        out.push_str(bare.filter(|bare| is_setting(bare)).unwrap_or(line));
        out.push('\n');
    }
    out
}

#[test]
fn the_shipped_configuration_is_the_default_and_says_so_key_by_key() {
    let text = read(&root().join("config/clavigerd.toml"));
    assert_eq!(parse(&text).unwrap(), Config::default());
    let all = parse(&uncommented(&text, false)).unwrap();
    assert_eq!(all.engines.len(), 8);
    assert!(all.metrics.textfile.is_some());
    // What is shown as a default is the default.
    let default = Config::default();
    assert_eq!(Config { engines: Vec::new(), metrics: default.metrics.clone(), ..all }, default);
    // Each key can be taken alone.
    let (mut section, mut keys) = (String::new(), 0);
    for line in text.lines().take_while(|line| !line.starts_with("# ---- engines")) {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if let Some(key) = line.strip_prefix('#').filter(|line| !line.starts_with(['#', ' ']) && !line.is_empty()) {
            parse(&format!("{section}\n{key}\n")).unwrap_or_else(|error| panic!("{key}: {error}"));
            keys += 1;
        }
    }
    assert!(keys > 25, "{keys} keys were found");
}

/// The keys that a table takes, as its parser names them when it meets one that it does not know.
fn keys_of(table: &str, beside: &str) -> BTreeSet<String> {
    let error = parse(&format!("{table}\n{beside}\nzzz = 1\n")).unwrap_err();
    let list = error.split("expected").nth(1).unwrap_or_else(|| panic!("{table}: {error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented_and_no_other() {
    let text = uncommented(&read(&root().join("config/clavigerd.toml")), true);
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with("[[engine]]") {
            section = "engine".into();
        } else if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            documented.entry(section.clone()).or_default();
        } else if let Some((key, value)) = line.split_once(" = ") {
            if key == "kind" {
                section = format!("engine {}", value.trim_matches('"'));
                documented.entry(section.clone()).or_default();
            } else {
                documented.entry(section.clone()).or_default().insert(key.to_owned());
            }
        }
    }
    let mut sections = keys_of("", "");
    assert!(sections.remove("engine"));
    let mut known: BTreeMap<String, BTreeSet<String>> =
        sections.into_iter().map(|name| (name.clone(), keys_of(&format!("[{name}]"), ""))).collect();
    let jwt = "kind = \"jwt\"\nname = \"a\"\nissuer = \"https://a.b\"\nmax_ttl = \"1m\"";
    known.insert("engine jwt".into(), keys_of("[[engine]]", jwt));
    let postgres = "kind = \"postgres\"\nname = \"a\"\nhost = \"/a\"\ndatabase = \"a\"\nuser = \"a\"";
    known.insert("engine postgres".into(), keys_of("[[engine]]", postgres));
    let openbao = "kind = \"openbao\"\nname = \"a\"\naddress = \"unix:/a\"\nlogin = { method = \"token\" }";
    known.insert("engine openbao".into(), keys_of("[[engine]]", openbao));
    let x509 = "kind = \"x509\"\nname = \"a\"\nmax_ttl = \"1m\"";
    known.insert("engine x509".into(), keys_of("[[engine]]", x509));
    known.insert("engine command".into(), keys_of("[[engine]]", "kind = \"command\"\nname = \"a\""));
    known.insert("engine ssh".into(), keys_of("[[engine]]", &x509.replace("x509", "ssh")));
    let github = "kind = \"github-app\"\nname = \"a\"\napp = \"a\"\ninstallation = 1";
    known.insert("engine github-app".into(), keys_of("[[engine]]", github));
    let oauth2 = "kind = \"oauth2\"\nname = \"a\"\ntoken_endpoint = \"a\"\nclient_id = \"a\"\nmax_ttl = \"1m\"\n\
                  authenticate = { method = \"client_secret_post\" }";
    known.insert("engine oauth2".into(), keys_of("[[engine]]", oauth2));
    assert_eq!(documented, known);
}

// ---- examples ------------------------------------------------------------------------------------------------------------------

#[test]
fn every_example_loads_without_a_warning() {
    let examples: Vec<PathBuf> = fs::read_dir(root().join("config/examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut used = BTreeSet::new();
    for example in examples {
        let what = example.display();
        let config = parse(&read(&example.join("clavigerd.toml"))).unwrap_or_else(|error| panic!("{what}: {error}"));
        let registry = registry(&files(&example.join("identities.d"), ".toml")).unwrap_or_else(|error| panic!("{what}: {error}"));
        let catalogue = catalogue(&config, &files(&example.join("secrets.d"), ".toml")).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(registry.iter().next().is_some() && catalogue.iter().next().is_some(), "{what}: is empty");
        let kinds: BTreeMap<&EngineName, String> = config.engines.iter().map(|engine| (engine.name(), kind_of(engine))).collect();
        used.extend(catalogue.iter().map(|row| kinds.get(&row.engine).cloned().unwrap_or_else(|| "local".into())));
        let names_user =
            |row: &claviger::model::Identity| row.selectors.iter().any(|s| matches!(s.kind(), "unix:user" | "unix:uid" | "systemd:loads"));
        assert!(registry.iter().all(|row| names_user(row)), "{what}: a row that names no user keeps all others from being isolated");
        for used in registry.iter().flat_map(|row| &row.uses) {
            assert!(catalogue.find(&used.secret).is_some(), "{what}: {} is declared and not defined", used.secret);
        }
        let mut sources = vec![Source { name: "00-baseline.cedar".into(), text: BASELINE.into() }];
        sources.extend(files(&example.join("policy.d"), ".cedar").into_iter().map(|file| Source { name: file.path, text: file.text }));
        let (_, warnings) = Bundle::load(sources, &catalogue, &registry, today()).unwrap_or_else(|problems| {
            panic!("{what}: {}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
        });
        assert!(warnings.is_empty(), "{what}: {warnings:?}");
    }
    // Each engine has a page, and an example that uses it.
    let pages = fs::read_dir(root().join("docs/engines")).unwrap();
    let pages: BTreeSet<String> =
        pages.map(|page| page.unwrap().file_name().into_string().unwrap().trim_end_matches(".md").to_owned()).collect();
    assert_eq!(used, pages);
}

/// What everybody looks for on a page stands under the same words on each.
#[test]
fn every_engines_page_says_what_it_narrows_what_ending_means_how_it_fails_and_what_a_thief_gets() {
    let pages: Vec<PathBuf> = fs::read_dir(root().join("docs/engines")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 8);
    for page in pages {
        let text = read(&page);
        for heading in ["## To begin with", "## What ending means", "## How it fails", "## What a thief gets who is root on this host"] {
            assert_eq!(text.lines().filter(|line| line.starts_with(heading)).count(), 1, "{}: {heading}", page.display());
        }
        let narrows = text.lines().any(|line| line.starts_with(['*', '#', 'A']) && line.contains("ntent narrows"));
        assert!(narrows && text.contains("To make it less"), "{}", page.display());
    }
}

/// The kind of an engine, as its configuration and its page call it.
fn kind_of(engine: &EngineConfig) -> String {
    let kind = match engine {
        EngineConfig::Jwt(_) => "jwt",
        EngineConfig::Postgres(_) => "postgres",
        EngineConfig::OpenBao(_) => "openbao",
        EngineConfig::GitHub(_) => "github-app",
        EngineConfig::OAuth2(_) => "oauth2",
        EngineConfig::X509(_) => "x509",
        EngineConfig::Ssh(_) => "ssh",
        EngineConfig::Command(_) => "command",
    };
    kind.into()
}

#[test]
fn every_file_of_the_configuration_is_known_to_a_test() {
    let mut folders = vec![root().join("config")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => folders.push(path),
                false => assert!(
                    name == "README" || [".toml", ".cedar"].iter().any(|ending| name.ends_with(ending)) || OF_PROGRAMS.contains(&&*name),
                    "{}: nothing loads this",
                    path.display()
                ),
            }
        }
    }
    for (readme, kind) in [("config/identities.d/README", "identities"), ("config/secrets.d/README", "secrets")] {
        // The indented block is a file with its optional keys commented out.
        let text = read(&root().join(readme));
        let block: String = text.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
        check_fence(kind, &block).unwrap_or_else(|error| panic!("{readme}: {error}"));
        check_fence(kind, &uncommented(&block, false)).unwrap_or_else(|error| panic!("{readme}: {error}"));
    }
}

// ---- documents -----------------------------------------------------------------------------------------------------------------

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.extend(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    found.sort();
    found
}

fn check_fence(kind: &str, text: &str) -> Result<(), String> {
    let file = File { path: "example".into(), text: text.into() };
    match kind {
        "clavigerd" => parse(text).map(drop),
        "identities" => registry(&[file]).map(drop),
        "secrets" => config::secrets(&[file]).map(drop).map_err(|errors| errors[0].to_string()),
        "cedar" => {
            let sources = vec![Source { name: "0".into(), text: BASELINE.into() }, Source { name: "example".into(), text: text.into() }];
            Bundle::load(sources, &Catalogue::default(), &Registry::default(), today())
                .map(drop)
                .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
        other => Err(format!("{other} is not a kind of file")),
    }
}

#[test]
fn every_example_in_the_documents_loads() {
    let mut problems = Vec::new();
    for path in documents() {
        let text = read(&path);
        let mut lines = text.lines().enumerate();
        while let Some((at, line)) = lines.next() {
            let Some(info) = line.trim().strip_prefix("```").filter(|info| info.starts_with("toml") || info.starts_with("cedar")) else {
                continue;
            };
            let body: String =
                lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").flat_map(|line| [line, "\n"]).collect();
            // "toml identities", "toml secrets", "toml clavigerd"; a bare "toml" must be one of them; "toml fragment" is none.
            let kinds: &[&str] = match info.split_once(' ').map_or((info, ""), |(language, kind)| (language, kind.trim())) {
                (_, "fragment") => continue,
                ("cedar", _) => &["cedar"],
                (_, "identities") => &["identities"],
                (_, "secrets") => &["secrets"],
                (_, "clavigerd") => &["clavigerd"],
                _ => &["clavigerd", "identities", "secrets"],
            };
            let errors: Vec<String> = kinds.iter().filter_map(|kind| check_fence(kind, &body).err()).collect();
            if errors.len() == kinds.len() {
                problems.push(format!("{}:{}: {}", path.display(), at + 1, errors.join(" | ")));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// What stands in the fences of that kind, one after the other.
fn fences(text: &str, kind: &str) -> String {
    let mut lines = text.lines();
    let mut found = String::new();
    while lines.by_ref().any(|line| line.trim() == format!("```toml {kind}")) {
        found.extend(lines.by_ref().take_while(|line| line.trim() != "```").flat_map(|line| [line, "\n"]));
    }
    found
}

#[test]
fn every_engines_page_has_definitions_that_its_engine_takes() {
    let pages: Vec<PathBuf> = documents().into_iter().filter(|path| path.parent().unwrap().ends_with("engines")).collect();
    assert!(pages.len() >= 9, "{pages:?}");
    for page in pages {
        let text = read(&page);
        let config = parse(&fences(&text, "clavigerd")).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let rows = [File { path: page.display().to_string(), text: fences(&text, "secrets") }];
        let catalogue = catalogue(&config, &rows).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(catalogue.iter().next().is_some(), "{}: no definition", page.display());
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in documents() {
        let text = read(&path);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                assert!(path.parent().unwrap().join(file).exists(), "{}: {target} leads nowhere", path.display());
            }
        }
    }
}

#[test]
fn every_figure_is_listed_for_operators() {
    let source = read(&root().join("src/broker/metrics.rs"));
    let page = read(&root().join("docs/operations.md"));
    let names: Vec<&str> = source.split("registry.register(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() > 8);
    for name in names {
        assert!(page.contains(&format!("`claviger_{name}")), "docs/operations.md does not list claviger_{name}");
    }
}

// ---- units ---------------------------------------------------------------------------------------------------------------------

const UNITS: &[&str] = &[
    "clavigerd.service",
    "clavigerd-workload.socket",
    "clavigerd-operator.socket",
    "clavigerd-launch.socket",
    "clavigerd-credentials.socket",
    "claviger-attest.service",
    "claviger-attest.socket",
];

/// The units in a folder of their own, with our program where theirs would be installed.
fn units() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = read(&root().join("systemd").join(unit)).replace("/usr/bin/clavigerd", env!("CARGO_BIN_EXE_clavigerd"));
        fs::write(folder.path().join(unit), text).unwrap();
    }
    // What every unit of a program has from us, and the example of such units, with a program that is there.
    for shared in ["claviger-command-.socket.d", "claviger-command-@.service.d"] {
        fs::create_dir(folder.path().join(shared)).unwrap();
        for file in files(&root().join("systemd").join(shared), ".conf") {
            fs::write(folder.path().join(shared).join(Path::new(&file.path).file_name().unwrap()), file.text).unwrap();
        }
    }
    for unit in &OF_PROGRAMS[1..] {
        let text = read(&root().join("config/examples/web-users/systemd").join(unit));
        fs::write(folder.path().join(unit), text.replace("/usr/local/libexec/claviger/web-users", "/usr/bin/true")).unwrap();
    }
    folder
}

fn analyze(arguments: &[&str], folder: &Path, units: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(units.iter().map(|unit| folder.join(unit)));
    let Ok(done) = command.env("LC_ALL", "C").env("SYSTEMD_COLORS", "0").output() else {
        eprintln!("SKIPPED: there is no systemd-analyze");
        return None;
    };
    Some((done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)))
}

#[test]
fn every_unit_is_sound() {
    let folder = units();
    let Some((sound, said)) = analyze(&["verify", "--man=no"], folder.path(), &[UNITS, &OF_PROGRAMS[1..]].concat()) else { return };
    // Other units of the host are none of ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("claviger")).collect();
    assert!(ours.is_empty() && (sound || said.trim().is_empty()), "{said}");
    let mut shipped: Vec<String> = fs::read_dir(root().join("systemd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".service") || name.ends_with(".socket"))
        .collect();
    shipped.sort();
    let mut known: Vec<&str> = UNITS.to_vec();
    known.sort_unstable();
    assert_eq!(shipped, known, "a unit is not looked at");
}

#[test]
fn the_services_are_confined() {
    let folder = units();
    for (unit, most) in EXPOSURE {
        let Some((_, said)) = analyze(&["security", "--offline=yes", "--no-pager"], folder.path(), &[unit]) else { return };
        let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
        let score: f32 = line.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        eprintln!("{line}");
        assert!(score <= *most, "{unit}: {score} is more than {most}\n{said}");
    }
}

#[test]
fn units_and_configuration_name_the_same_things() {
    let config = Config::default();
    let unit = |name: &str| read(&root().join("systemd").join(name));
    assert!(unit("clavigerd-workload.socket").contains(&format!("ListenStream={}\n", config.sockets.workload.display())));
    assert!(unit("clavigerd-launch.socket").contains(&format!("ListenSequentialPacket={}\n", config.sockets.launch().display())));
    assert!(unit("clavigerd-operator.socket").contains(&format!("ListenStream={}\n", config.sockets.operator.display())));
    assert!(unit("clavigerd-credentials.socket").contains(&format!("ListenStream={}\n", config.sockets.credentials().display())));
    assert!(unit("clavigerd-operator.socket").contains(&format!("SocketGroup={}\n", config.sockets.operator_group)));
    let service = unit("clavigerd.service");
    assert!(service.contains(&format!("Group={}\n", config.audit.group)));
    assert!(service.contains(&format!("LoadCredentialEncrypted={}\n", config.local.key_credential)));
    assert_eq!(config.paths.state, Path::new("/var/lib").join("claviger"));
    assert!(service.contains("StateDirectory=claviger\n") && service.contains("LogsDirectory=claviger\n"));
    let (attestor, socket) = (unit("claviger-attest.service"), unit("claviger-attest.socket"));
    assert!(service.contains(&format!("\nUser={}\n", config.attest.daemon_user)));
    assert!(attestor.contains(&format!("\nUser={}\n", config.attest.attestor_user)));
    assert!(socket.contains(&format!("\nSocketUser={}\n", config.attest.daemon_user)));
    let listens = socket.lines().find_map(|line| line.strip_prefix("ListenSequentialPacket=")).unwrap();
    assert!(service.contains(&format!("ExecStart=/usr/bin/clavigerd --attestor {listens}\n")));
    // A program may not live longer than its call counts as under way.
    let (shared, socket) = (unit("claviger-command-@.service.d/10-claviger.conf"), unit("claviger-command-.socket.d/10-claviger.conf"));
    let seconds = |key: &str| -> u64 {
        let found = shared.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}"));
        found.trim_end_matches('s').parse().unwrap()
    };
    let Ok(row) = parse("[[engine]]\nkind = \"command\"\nname = \"web-users\"\n") else { panic!() };
    let EngineConfig::Command(row) = &row.engines[0] else { panic!() };
    assert!(seconds("RuntimeMaxSec=") <= u64::from(row.timeout_seconds));
    assert!(seconds("TimeoutStartSec=") + seconds("TimeoutStopSec=") < command::LINGERS.as_secs());
    assert!(socket.contains(&format!("\nSocketUser={}\n", config.attest.daemon_user)) && socket.contains("\nSocketMode=0600\n"));
    let example = read(&root().join("config/examples/web-users/systemd/claviger-command-web-users.socket"));
    assert!(example.contains(&format!("\nListenStream={}\n", row.socket().display())));
    let users = unit("sysusers.d/claviger.conf");
    for user in [&config.attest.daemon_user, &config.attest.attestor_user] {
        assert!(users.contains(&format!("u {user} -")), "{user}");
    }
    for group in [&config.sockets.operator_group, &config.audit.group] {
        assert!(users.contains(&format!("g {group} -")), "{group}");
    }
}

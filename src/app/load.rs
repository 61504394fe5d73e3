//! Policy, secrets and identities from the disk into one bundle.

use super::doubts::doubts;
use crate::{
    attest::{Names, Roll},
    broker::{Governance, LoadProblems},
    config::{self, Config, EngineConfig, File},
    engine::{Engines, command, github, jwt, local, oauth2, openbao, postgres, ssh, x509},
    model::{Catalogue, EndsBy, OfEngine, Registry, SecretDefinition, Sensitivity, Share, WallTime},
    policy::{Bundle, Source},
    sys,
};
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

const MAX_FILE: usize = 4 << 20;

/// Where the three kinds of files are.
#[derive(Clone, Debug)]
pub struct Places {
    /// Cedar files.
    pub policy: PathBuf,
    /// Secret definitions.
    pub secrets: PathBuf,
    /// Identities.
    pub identities: PathBuf,
}

impl Places {
    /// As configured.
    pub fn of(config: &Config) -> Self {
        Self { policy: config.paths.policy.clone(), secrets: config.paths.secrets.clone(), identities: config.paths.identities.clone() }
    }
}

/// Says what of a definition follows from its engine, or what that finds wrong with it.
pub type ByEngine<'a> = &'a dyn Fn(&SecretDefinition) -> Result<OfEngine, String>;

/// The answer of the engines that run.
pub fn by_running(engines: &Engines) -> impl Fn(&SecretDefinition) -> Result<OfEngine, String> {
    |row| {
        let Some(engine) = engines.find(&row.engine) else {
            let known: Vec<&str> = engines.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("engine {} is not configured; there is {}", row.engine, known.join(", ")));
        };
        engine.check(row)?;
        sharing(row, engine.has_upstream(row))?;
        lasting(row, engine.completes(row))
    }
}

/// The answer of the configuration alone, for checking files beside a running daemon.
pub fn by_configuration(config: &Config) -> impl Fn(&SecretDefinition) -> Result<OfEngine, String> {
    |row| {
        let short = |narrows| OfEngine { ends_by: EndsBy::ShortLife, narrows };
        let (completed, longest) = match config.engines.iter().find(|engine| *engine.name() == row.engine) {
            None if row.engine.as_str() == "local" => (local::check(row).map(|()| OfEngine::ends_by(EndsBy::None))?, None),
            None => return Err(format!("engine {} is not configured", row.engine)),
            Some(EngineConfig::X509(engine)) => (x509::check(row).map(|()| short(Vec::new()))?, Some(engine.max_ttl)),
            Some(EngineConfig::Ssh(engine)) => (ssh::check(row).map(|()| short(Vec::new()))?, Some(engine.max_ttl)),
            Some(EngineConfig::Jwt(engine)) => (jwt::narrows(row).map(short)?, Some(engine.max_ttl)),
            Some(EngineConfig::Postgres(_)) => (postgres::of_definition(row)?, None),
            Some(EngineConfig::OpenBao(_)) => (openbao::of_definition(row)?, None),
            Some(EngineConfig::Command(program)) => (command::of_definition(row, program.probes)?, None),
            Some(EngineConfig::GitHub(_)) => {
                (OfEngine { ends_by: EndsBy::Upstream, narrows: github::narrows(row)? }, Some(github::LONGEST))
            }
            Some(EngineConfig::OAuth2(server)) => {
                let ends_by = if server.revocation_endpoint.is_none() { EndsBy::ShortLife } else { EndsBy::Upstream };
                (OfEngine { ends_by, narrows: oauth2::narrows(row, server.exchange.is_some())? }, Some(server.max_ttl))
            }
        };
        if let Some(most) = longest.filter(|most| row.ttl.max > *most) {
            return Err(format!("ttl: the engine {} gives at most {most}", row.engine));
        }
        sharing(row, completed.ends_by == EndsBy::Upstream)?;
        lasting(row, completed)
    }
}

fn sharing(row: &SecretDefinition, made_for_each: bool) -> Result<(), String> {
    match row.share == Share::Identity && !made_for_each {
        true => Err("share = \"identity\": nothing is made for each lease that could be shared".into()),
        false => Ok(()),
    }
}

/// What ends by itself or with its lease is not changed now and then.
fn lasting(row: &SecretDefinition, follows: OfEngine) -> Result<OfEngine, String> {
    let ends_by = follows.ends_by;
    match row.rotate {
        _ if row.share == Share::Identity && row.sensitivity >= Sensitivity::Restricted => {
            Err(format!("share = \"identity\": a credential that is {} belongs to one holder", row.sensitivity))
        }
        Some(_) if ends_by != EndsBy::None => Err(format!("rotate goes with values that last; this one ends by {ends_by}")),
        _ => Ok(follows),
    }
}

/// Reads everything; with any problem nothing is loaded and all problems are named.
pub fn load(places: &Places, engines: ByEngine<'_>, generation: u64, now: WallTime) -> Result<Governance, LoadProblems> {
    let mut problems = Vec::new();
    let mut unread = None;
    let mut keep = |result: Result<Vec<File>, sys::TrustError>| {
        result.unwrap_or_else(|error| {
            problems.push(error.to_string());
            unread.get_or_insert(error);
            Vec::new()
        })
    };
    let identity_files = keep(files(&places.identities, ".toml"));
    let secret_files = keep(files(&places.secrets, ".toml"));
    let policy_files = keep(files(&places.policy, ".cedar"));
    let registry = config::identities(&identity_files).unwrap_or_else(|errors| {
        problems.extend(errors.iter().map(ToString::to_string));
        Registry::default()
    });
    let rows = config::secrets(&secret_files).unwrap_or_else(|errors| {
        problems.extend(errors.iter().map(ToString::to_string));
        Vec::new()
    });
    let mut definitions = Vec::new();
    for draft in rows {
        match engines(draft.row()) {
            Ok(follows) => definitions.push(draft.with(follows)),
            Err(why) => problems.push(draft.problem(why).to_string()),
        }
    }
    let catalogue = Catalogue::new(definitions);
    let sources = policy_files.into_iter().map(|file| Source { name: file.path, text: file.text }).collect();
    let rows = config::rows(&identity_files, "identity");
    let folders: BTreeSet<_> = [&places.identities, &places.secrets, &places.policy].into_iter().collect();
    let unread_files = folders.into_iter().flat_map(|folder| sys::unread_in_folder(folder)).map(|path| {
        format!("{}: is not read: names end with .toml in secrets.d and identities.d, and with .cedar in policy.d", path.display())
    });
    let doubts = doubts(&registry, &catalogue, &rows, now).into_iter().chain(unread_files);
    match Bundle::load(sources, &catalogue, &registry, now)
        .map(|(bundle, warnings)| (bundle, warnings.iter().map(ToString::to_string).chain(doubts).collect::<Vec<_>>()))
    {
        Ok((bundle, warnings)) if problems.is_empty() => {
            Ok(Governance { roll: Roll::new(registry.clone(), names(&registry)), catalogue, bundle, generation, since: now, warnings })
        }
        Ok(_) => Err(LoadProblems(problems, unread)),
        Err(more) => {
            problems.extend(more.iter().map(ToString::to_string));
            Err(LoadProblems(problems, unread))
        }
    }
}

fn files(folder: &Path, ending: &str) -> Result<Vec<File>, sys::TrustError> {
    let read = sys::read_trusted_folder(folder, ending, MAX_FILE)?;
    Ok(read.into_iter().map(|(path, text)| File { path: path.display().to_string(), text }).collect())
}

/// The names that the registry uses, looked up once.
fn names(registry: &Registry) -> Names {
    let (mut users, mut groups) = (HashMap::new(), Vec::new());
    for selector in registry.iter().flat_map(|row| &row.selectors) {
        match selector.kind() {
            "unix:user" => {
                if let Some(uid) = sys::uid_of(selector.value()) {
                    users.insert(uid, selector.value().to_owned());
                }
            }
            "unix:group" | "unix:supplementary_group" => {
                if let Some(gid) = sys::gid_of(selector.value()) {
                    groups.push((gid, selector.value().to_owned()));
                }
            }
            _ => {}
        }
    }
    Names::new(users, groups, sys::login_uids())
}

//! Policy, secrets and identities from the disk into one bundle.

use super::doubts::doubts;
use crate::{
    attest::{Names, Roll},
    broker::{Governance, LoadProblems},
    config::{self, Config, EngineConfig, File},
    engine::{Engines, command, github, jwt, oauth2, openbao, postgres},
    model::{Catalogue, EndsBy, OfEngine, Registry, SecretDefinition, Sensitivity, Share, WallTime},
    policy::{Bundle, Source},
    sys,
};
use std::{
    collections::HashMap,
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
        if row.share == Share::Identity && !engine.has_upstream(row) {
            return Err("share = \"identity\": nothing is made for each lease that could be shared".into());
        }
        lasting(row, engine.completes(row))
    }
}

/// The answer of the configuration alone, for checking files beside a running daemon: settings are not looked at.
pub fn by_configuration(config: &Config) -> impl Fn(&SecretDefinition) -> Result<OfEngine, String> {
    |row| {
        if row.engine.as_str() == "local" {
            return Ok(OfEngine::ends_by(EndsBy::None));
        }
        let follows = match config.engines.iter().find(|engine| *engine.name() == row.engine) {
            Some(EngineConfig::X509(_) | EngineConfig::Ssh(_)) => Ok(OfEngine::ends_by(EndsBy::ShortLife)),
            Some(EngineConfig::Jwt(_)) => jwt::narrows(row).map(|narrows| OfEngine { ends_by: EndsBy::ShortLife, narrows }),
            Some(EngineConfig::Postgres(_)) => postgres::ends_by(row).map(OfEngine::ends_by),
            Some(EngineConfig::GitHub(_)) => github::narrows(row).map(|narrows| OfEngine { ends_by: EndsBy::Upstream, narrows }),
            Some(EngineConfig::OpenBao(_)) => openbao::of_definition(row),
            Some(EngineConfig::OAuth2(server)) => {
                let ends_by = if server.revocation_endpoint.is_none() { EndsBy::ShortLife } else { EndsBy::Upstream };
                oauth2::narrows(row).map(|narrows| OfEngine { ends_by, narrows })
            }
            Some(EngineConfig::Command(program)) => command::of_definition(row, program.probes),
            None => Err(format!("engine {} is not configured", row.engine)),
        };
        lasting(row, follows?)
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
    let doubts = doubts(&registry, &catalogue, &rows, now);
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

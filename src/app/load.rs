//! Policy, secrets and identities from the disk into one bundle.

use crate::{
    attest::{Names, Roll},
    broker::{Governance, LoadProblems},
    config::{self, File},
    engine::Engines,
    model::{Catalogue, Registry, WallTime},
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

/// Reads everything; with any problem nothing is loaded and all problems are named.
pub fn load(places: &Places, engines: &Engines, generation: u64, now: WallTime) -> Result<Governance, LoadProblems> {
    let mut problems = Vec::new();
    let mut keep = |result: Result<Vec<File>, String>| result.unwrap_or_else(|problem| {
        problems.push(problem);
        Vec::new()
    });
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
        let Some(engine) = engines.find(&draft.row().engine) else {
            let known: Vec<&str> = engines.iter().map(|(name, _)| name.as_str()).collect();
            problems.push(draft.problem(format_args!("engine {} is not configured; there is {}", draft.row().engine, known.join(", "))).to_string());
            continue;
        };
        let ends_by = engine.ends_by();
        let (file, line) = (draft.file.clone(), draft.line);
        let row = draft.with(ends_by);
        match engine.check(&row) {
            Ok(()) => definitions.push(row),
            Err(why) => problems.push(format!("{file}:{line}: secret {}: {why}", row.name)),
        }
    }
    let catalogue = Catalogue::new(definitions);
    let sources = policy_files.into_iter().map(|file| Source { name: file.path, text: file.text }).collect();
    match Bundle::load(sources, &catalogue, &registry, now) {
        Ok((bundle, warnings)) if problems.is_empty() => Ok(Governance {
            roll: Roll::new(registry.clone(), names(&registry)),
            catalogue,
            bundle,
            generation,
            since: now,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }),
        Ok(_) => Err(LoadProblems(problems)),
        Err(more) => {
            problems.extend(more.iter().map(ToString::to_string));
            Err(LoadProblems(problems))
        }
    }
}

fn files(folder: &Path, ending: &str) -> Result<Vec<File>, String> {
    let read = sys::read_trusted_folder(folder, ending, MAX_FILE).map_err(|error| error.to_string())?;
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

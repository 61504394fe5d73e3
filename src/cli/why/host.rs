//! The files of this host as they stand now: which file and line holds what an answer depended on.

use super::plan::{Edit, Plan, quoted};
use crate::{
    config::{Config, EngineConfig, File, RowPlace, rows},
    model::WallTime,
    policy::{Mention, Source, permits},
    sys::{self, Clock, SystemClock},
};
use std::path::Path;

/// What can be read of the configuration. Whoever may not read it is told folders instead of lines.
pub(super) struct Host {
    pub(super) config: Config,
    pub(super) config_path: String,
    pub(super) identities: Vec<RowPlace>,
    pub(super) secrets: Vec<RowPlace>,
    policies: Vec<File>,
    pub(super) now: WallTime,
}

/// How long a row or a grant that is written now should last: less than the 90 days that a grant may.
const DAYS: u64 = 60;

impl Host {
    pub(super) fn read(config: &Path) -> Host {
        let config_path = config.display().to_string();
        let text = std::fs::read_to_string(config).unwrap_or_default();
        let config = Config::parse(&File { path: config_path.clone(), text }).unwrap_or_default();
        let files = |folder: &Path, ending: &str| -> Vec<File> {
            let read = sys::read_trusted_folder(folder, ending, 4 << 20).unwrap_or_default();
            read.into_iter().map(|(path, text)| File { path: path.display().to_string(), text }).collect()
        };
        Host {
            identities: rows(&files(&config.paths.identities, ".toml"), "identity"),
            secrets: rows(&files(&config.paths.secrets, ".toml"), "secret"),
            policies: files(&config.paths.policy, ".cedar"),
            config,
            config_path,
            now: SystemClock.wall(),
        }
    }

    pub(super) fn identity(&self, name: &str) -> Option<&RowPlace> {
        self.identities.iter().find(|row| row.name == name)
    }

    pub(super) fn secret(&self, name: &str) -> Option<&RowPlace> {
        self.secrets.iter().find(|row| row.name == name)
    }

    /// A date to let something expire on.
    pub(super) fn later(&self) -> String {
        WallTime(self.now.0 + DAYS * 86_400_000_000).rfc3339().chars().take("YYYY-MM-DD".len()).collect()
    }

    /// A policy's id with file and line, where its folder can be read from here.
    pub(super) fn policy(&self, id: &str) -> String {
        let needle = format!("@id(\"{id}\")");
        let found =
            self.policies.iter().find_map(|file| file.text.lines().position(|line| says(line, &needle)).map(|at| (&file.path, at + 1)));
        found.map_or_else(|| id.to_owned(), |(path, line)| format!("{id} ({path}:{line})"))
    }

    /// The text of a grant from its first line to the one with its `;`, with the number of that first line.
    fn grant(&self, mention: &Mention) -> Option<Vec<String>> {
        let file = self.policies.iter().find(|file| file.path == mention.file)?;
        let lines: Vec<&str> = file.text.lines().skip(mention.line.saturating_sub(1)).collect();
        // The file may have changed since: what stands there must still be that grant.
        let until = lines.iter().position(|line| line.trim_end().ends_with(';'))?;
        let own: Vec<String> = lines[..=until].iter().map(|line| (*line).to_owned()).collect();
        own.iter().any(|line| line.contains(&format!("@id(\"{}\")", mention.id))).then_some(own)
    }

    /// Whether a policy bears this id.
    pub(super) fn has_policy(&self, id: &str) -> bool {
        let needle = format!("@id(\"{id}\")");
        self.policies.iter().any(|file| file.text.lines().any(|line| says(line, &needle)))
    }

    /// The purposes of a grant.
    pub(super) fn purposes_of(&self, mention: &Mention) -> Vec<String> {
        let text = self.grant(mention).unwrap_or_default().join("\n");
        let listed = text.split_once("@purpose(\"").and_then(|(_, rest)| rest.split_once('"')).map_or("", |(listed, _)| listed);
        listed.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
    }

    /// Secrets that a grant names beside this identity, each with the first of its purposes.
    pub(super) fn granted(&self, identity: &str) -> Vec<(String, String)> {
        let sources = self.policies.iter().map(|file| Source { name: file.path.clone(), text: file.text.clone() }).collect::<Vec<_>>();
        let statements = sources.iter().flat_map(permits);
        let between = |text: &str, from: &str| Some(text.split_once(from)?.1.split_once('"')?.0.to_owned());
        let of_identity = statements.filter(|text| text.contains(&format!("::\"{identity}\"")));
        of_identity
            .filter_map(|text| {
                let purpose = between(text, "@purpose(\"")?;
                Some((between(text, "Claviger::Secret::\"")?, purpose.split(',').next()?.trim().to_owned()))
            })
            .collect()
    }

    /// A change of the daemon's own configuration.
    pub(super) fn setting(&self, table: &str, key: &str, value: &str) -> Edit {
        let (path, text) = (self.config_path.clone(), format!("{key} = {value}"));
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        let line_of = |wanted: &dyn Fn(&str) -> bool| file.lines().position(|line| wanted(line.trim())).map(|at| at + 1);
        let is_key = |line: &str| line.trim_start_matches('#').split('=').next().is_some_and(|name| name.trim() == key);
        match (line_of(&is_key), line_of(&|line| line == format!("[{table}]"))) {
            (Some(line), _) => Edit::Replace { path, first: line, last: line, text },
            (None, Some(line)) => Edit::Insert { path, after: line, text },
            (None, None) => Edit::Append { path, text: format!("[{table}]\n{text}") },
        }
    }

    /// Where to look at an engine's source: with a command whether it answers, in its page what it needs where it does and says no.
    pub(super) fn look_at(&self, plan: &mut Plan, engine: &str, refuses: bool) {
        let curl = |more: &str, ca_file: Option<&Path>, url: String| {
            let trusting = ca_file.map_or_else(String::new, |file| format!("--cacert {} ", quoted(&file.display().to_string())));
            format!("curl -sS {more}{trusting}{}", quoted(&url))
        };
        let (page, command) = match self.config.engines.iter().find(|known| known.name().as_str() == engine) {
            Some(EngineConfig::Postgres(server)) => ("postgres", format!("pg_isready -h {} -p {}", quoted(&server.host), server.port)),
            Some(EngineConfig::GitHub(server)) => ("github-app", curl("", server.ca_file.as_deref(), format!("{}/meta", server.api))),
            Some(EngineConfig::OAuth2(server)) => {
                ("oauth2", curl("-v -o /dev/null ", server.ca_file.as_deref(), server.token_endpoint.clone()))
            }
            Some(EngineConfig::OpenBao(server)) => {
                ("openbao", curl("", server.ca_file.as_deref(), format!("{}/v1/sys/health", server.address)))
            }
            Some(EngineConfig::Command(program)) => {
                plan.run(format!("systemctl status 'claviger-command-{}.socket'", program.name));
                return plan.run(format!("journalctl -n 20 -u 'claviger-command-{}@*'", program.name));
            }
            Some(EngineConfig::Jwt(_) | EngineConfig::X509(_) | EngineConfig::Ssh(_)) | None => return,
        };
        match refuses {
            true => plan.say(format!("What it has to be given there is in docs/engines/{page}.md; the program may ask again when it is.")),
            false => plan.run(command),
        }
    }

    /// Adds annotations to a grant, or exchanges those that it has. Says whether the grant was found.
    pub(super) fn annotate(&self, plan: &mut Plan, mention: &Mention, annotations: &[(&str, String)]) -> bool {
        let Some(mut text) = self.grant(mention) else { return false };
        for (key, value) in annotations {
            let opening = format!("@{key}(\"");
            let there = text.iter().position(|line| line.contains(&opening));
            match there {
                Some(at) => {
                    let line = &text[at];
                    let from = line.find(&opening).map_or(0, |from| from + opening.len());
                    let to = line[from..].find('"').map_or(line.len(), |to| from + to);
                    text[at] = format!("{}{value}{}", &line[..from], &line[to..]);
                }
                None => {
                    let id = format!("@id(\"{}\")", mention.id);
                    if let Some(line) = text.iter_mut().find(|line| line.contains(&id)) {
                        *line = line.replacen(&id, &format!("{id} {opening}{value}\")"), 1);
                    }
                }
            }
        }
        let (first, last) = (mention.line, mention.line + text.len() - 1);
        plan.edit(Edit::Replace { path: mention.file.clone(), first, last, text: text.join("\n") });
        true
    }

    /// Sets a key of a row: exchanges its lines, or adds one.
    pub(super) fn set(&self, plan: &mut Plan, row: &RowPlace, key: &str, value: &str) {
        let text = format!("{key} = {value}");
        let path = row.path.clone();
        // A row that is written in one line is not for lines to be exchanged in.
        let lines = row.key(key).map_or((row.last, row.last), |at| (at.first, at.last));
        let sharing = row.keys.iter().filter(|other| other.key != key && other.first <= lines.1 && other.last >= lines.0).count();
        if sharing > usize::from(row.key(key).is_none()) {
            return plan.say(format!("In the row of {} ({}): {text}", row.name, row.place()));
        }
        plan.edit(match row.key(key) {
            Some(at) => Edit::Replace { path, first: at.first, last: at.last, text },
            None => Edit::Insert { path, after: row.last, text },
        });
    }

    /// The file for grants of an identity.
    pub(super) fn grants_file(&self, identity: &str) -> String {
        self.config.paths.policy.join(format!("60-{identity}.cedar")).display().to_string()
    }
}

/// Whether a line of a policy says so, and not in a comment.
fn says(line: &str, needle: &str) -> bool {
    !line.trim_start().starts_with("//") && line.contains(needle)
}

/// A list as TOML.
pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", items.into_iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", "))
}

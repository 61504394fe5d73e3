//! `clavigerd.toml`: every key, its meaning and its default. `config/clavigerd.toml` shows the same to operators.

use super::{ConfigError, EngineConfig, File, parse};
use crate::{model::Ttl, sys::Feature};
use serde::Deserialize;
use std::path::PathBuf;

/// The daemon's configuration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens.
    pub sockets: SocketConfig,
    /// Where its files are.
    pub paths: PathConfig,
    /// How much one caller may.
    pub limits: LimitConfig,
    /// How processes are attested.
    pub attest: AttestConfig,
    /// Leases.
    pub leases: LeaseConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// The encrypted store on this host.
    pub local: LocalConfig,
    /// Figures for a collector.
    pub metrics: MetricsConfig,
    /// Secrets engines beside `local`.
    #[serde(rename = "engine")]
    pub engines: Vec<EngineConfig>,
}

/// `[sockets]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct SocketConfig {
    /// For workloads.
    pub workload: PathBuf,
    /// For operators.
    pub operator: PathBuf,
    /// The group that may open the operator socket; root alone when it does not exist.
    pub operator_group: String,
}

impl SocketConfig {
    /// Where the launcher asks: beside the workloads' socket. `clav-launch` itself knows `/run/claviger` alone.
    pub fn launch(&self) -> PathBuf {
        self.workload.with_file_name("launch.sock")
    }

    /// Where systemd loads the credentials of units: beside the workloads' socket.
    pub fn credentials(&self) -> PathBuf {
        self.workload.with_file_name("credentials.sock")
    }
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            workload: "/run/claviger/workload.sock".into(),
            operator: "/run/claviger/operator.sock".into(),
            operator_group: "claviger-operators".into(),
        }
    }
}

/// `[paths]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct PathConfig {
    /// Leases, the local store, keys.
    pub state: PathBuf,
    /// The audit log.
    pub audit: PathBuf,
    /// Cedar files.
    pub policy: PathBuf,
    /// Secret definitions.
    pub secrets: PathBuf,
    /// Identities.
    pub identities: PathBuf,
}

impl Default for PathConfig {
    fn default() -> Self {
        Self {
            state: "/var/lib/claviger".into(),
            audit: "/var/log/claviger".into(),
            policy: "/etc/claviger/policy.d".into(),
            secrets: "/etc/claviger/secrets.d".into(),
            identities: "/etc/claviger/identities.d".into(),
        }
    }
}

/// `[limits]`: for each uid, except where it says otherwise; identities share those of their uid.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    /// Open connections of one uid.
    pub connections: u32,
    /// Open connections of all uids, at each socket; uids that no identity names have half of them at most.
    pub connections_total: u32,
    /// New connections of one uid each second.
    pub connections_per_second: u32,
    /// Requests of one uid each second.
    pub requests_per_second: u32,
    /// How many seconds' worth may come at once.
    pub burst_seconds: u32,
    /// Seconds that a request's head and body may take to arrive.
    pub request_seconds: u32,
    /// Seconds that a connection may be idle.
    pub idle_seconds: u32,
    /// Seconds that a peer may take to read its answer.
    pub answer_seconds: u32,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            connections: 64,
            connections_total: 4096,
            connections_per_second: 200,
            requests_per_second: 20_000,
            burst_seconds: 2,
            request_seconds: 10,
            idle_seconds: 300,
            answer_seconds: 30,
        }
    }
}

/// `[attest]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct AttestConfig {
    /// Programs that speak for their parent process: `clav` where it is installed.
    pub clients: Vec<PathBuf>,
    /// The launcher, which starts programs apart; no other program is believed where it asks.
    pub launcher: PathBuf,
    /// The user of the attestor, where that is a process of its own: the daemon believes no other.
    pub attestor_user: String,
    /// The user of the daemon: the attestor answers no other.
    pub daemon_user: String,
    /// The largest executable that is hashed, in bytes.
    pub hash_max_bytes: u64,
    /// Bytes of executables hashed each second for one uid.
    pub hash_bytes_per_second: u64,
    /// Kernel features to do without, as on an older kernel. Only ever lowers what is attested.
    pub assume_missing: Vec<Feature>,
}

impl Default for AttestConfig {
    fn default() -> Self {
        Self {
            clients: vec!["/usr/bin/clav".into()],
            launcher: "/usr/bin/clav-launch".into(),
            attestor_user: "claviger-attest".into(),
            daemon_user: "claviger".into(),
            hash_max_bytes: 256 << 20,
            hash_bytes_per_second: 64 << 20,
            assume_missing: Vec::new(),
        }
    }
}

/// What happens to leases when the daemon stops.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownRule {
    /// They live on and are taken up again at the next start.
    #[default]
    Keep,
    /// They end.
    End,
}

/// `[leases]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseConfig {
    /// `keep` or `end`.
    pub on_shutdown: ShutdownRule,
    /// How often every holder is looked at for another program.
    pub sweep: Ttl,
    /// How often ending is tried before it is given up: listed, and left to an operator where its source is not merely away.
    pub end_tries: u32,
    /// Live leases of one identity, at most.
    pub per_identity: usize,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        // The text is one that `Ttl` accepts.
        let sweep = Ttl::from_secs(2).expect("two seconds are a time to live");
        Self { on_shutdown: ShutdownRule::Keep, sweep, end_tries: 12, per_identity: 10_000 }
    }
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// The group that may read the log.
    pub group: String,
    /// Days that records are kept; 0 for ever.
    pub keep_days: u32,
    /// Bytes that are kept; 0 without limit.
    pub keep_bytes: u64,
    /// Bytes of one file.
    pub segment_bytes: u64,
    /// Bytes of records that one identity may cause each hour.
    pub hourly_bytes_per_identity: u64,
    /// Where signed heads go, off the host: any of `journald`, `syslog`.
    pub anchors: Vec<AnchorKind>,
    /// Free bytes below which nothing is issued (or 5 % of the file system, if that is less).
    pub reserve_bytes: u64,
}

/// Where signed heads go.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AnchorKind {
    /// systemd's journal.
    Journald,
    /// The syslog socket.
    Syslog,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            group: "claviger-audit".into(),
            keep_days: 365,
            keep_bytes: 8 << 30,
            segment_bytes: 64 << 20,
            hourly_bytes_per_identity: 64 << 20,
            anchors: vec![AnchorKind::Journald],
            reserve_bytes: 64 << 20,
        }
    }
}

/// `[local]`
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// The systemd credential that holds the 32-byte key, if the unit passes one.
    pub key_credential: String,
    /// Otherwise this file: 0400, owned by the daemon's user or root.
    pub key_file: PathBuf,
    /// The key before it, for one start after a change of keys: everything is then sealed under the new one.
    pub previous_key_file: Option<PathBuf>,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self { key_credential: "claviger-key".into(), key_file: "/etc/claviger/key".into(), previous_key_file: None }
    }
}

/// `[metrics]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// A file for node_exporter's textfile collector; none when empty.
    pub textfile: Option<PathBuf>,
}

impl Config {
    /// Parses the file.
    pub fn parse(file: &File) -> Result<Config, ConfigError> {
        let config: Config = parse(file)?;
        let mut names = vec!["local"];
        for engine in &config.engines {
            if engine.name().as_str() == "audit" {
                return Err(ConfigError::at(
                    file,
                    0,
                    "no engine can be called \"audit\": that is the name of the audit log's key".to_owned(),
                ));
            }
            if names.contains(&engine.name().as_str()) {
                return Err(ConfigError::at(file, 0, format!("engine {} is configured twice (\"local\" is built in)", engine.name())));
            }
            names.push(engine.name().as_str());
            if let Some(fault) = engine.fault() {
                return Err(ConfigError::at(file, 0, format!("engine {}: {fault}", engine.name())));
            }
        }
        let PathConfig { policy, secrets, identities, state, audit } = &config.paths;
        for path in [&config.sockets.workload, &config.sockets.operator, state, audit, policy, secrets, identities] {
            if !path.is_absolute() {
                return Err(ConfigError::at(file, 0, format!("{} must be an absolute path", path.display())));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, ConfigError> {
        Config::parse(&File { path: "c.toml".into(), text: text.into() })
    }

    #[test]
    fn defaults_and_errors_with_their_line() {
        assert_eq!(config("").unwrap(), Config::default());
        let error = config("[limits]\nconnections = 3\nconections = 4\n").unwrap_err();
        assert_eq!(error.line, 3, "{error}");
        assert!(config("[sockets]\nworkload = \"relative\"\n").is_err());
        let relative = config("[paths]\npolicy = \"policy.d\"\n").unwrap_err();
        assert_eq!(relative.to_string(), "c.toml: policy.d must be an absolute path", "it is about no line");
        assert!(config("[[engine]]\nkind = \"command\"\nname = \"web\"\nsocket = \"relative\"\n").is_err());
        let twice = "[[engine]]\nname = \"pg\"\nkind = \"postgres\"\nhost = \"/run/postgresql\"\ndatabase = \"d\"\nuser = \"u\"\n";
        assert!(config(twice).is_ok());
        assert!(config(&twice.repeat(2)).is_err());
        assert!(config(&(twice.to_owned() + "pasword_file = \"x\"\n")).is_err());
    }
}

//! What the daemon may reach, from its configuration: computed and enforced before a second thread exists.

use super::{build::BuildError, run::RunError};
use crate::{
    config::{Config, EngineConfig},
    sys::{self, Reach, Role},
};
use std::path::{Path, PathBuf};

/// Name servers answer by TCP what does not fit into a datagram.
const DOMAIN: u16 = 53;

/// Confines this process for good. What could not be had is returned in sentences, for `status`. `file` is the configuration's.
pub(super) fn confine(config: &Config, file: &Path, role: Role) -> Result<Vec<String>, RunError> {
    if role != Role::Attestor {
        prepare(config)?;
    }
    let mut reach = reach(config, file);
    // Before Linux 6.13 ids come from files below the pinned directories of peers. What only their owner may read stays closed by Landlock.
    let told = sys::Kernel::probe().is_ok_and(|kernel| kernel.without(&config.attest.assume_missing).pidfd_info);
    if !told {
        reach.read.push("/proc".into());
    }
    let mut lacking = sys::confine(role, &reach).map_err(|error| RunError::Io("confining this process", error))?.0;
    if sys::euid() == 0 {
        lacking.push("the daemon runs as root: every file of root's is its own; give it a user (User= of the unit)".to_owned());
    }
    Ok(lacking)
}

/// Makes the folders that rules are made for, and gives the log to its readers while that can be done.
fn prepare(config: &Config) -> Result<(), RunError> {
    let audit = &config.paths.audit;
    let failed = |error: sys::FileError| RunError::Build(BuildError::File(error));
    sys::private_folder(&config.paths.state).map_err(failed)?;
    std::fs::create_dir_all(audit).map_err(|error| BuildError::Io(audit.display().to_string(), error))?;
    // Only its group reads the log; a host without that group leaves it to root and us.
    sys::share_folder(audit, sys::gid_of(&config.audit.group)).map_err(failed)
}

fn reach(config: &Config, file: &Path) -> Reach {
    // Files are exchanged by renaming, so the rule is the folder's.
    let folder = |path: &Path| path.parent().map(Path::to_path_buf);
    let paths = &config.paths;
    let mut write = vec![paths.state.clone(), paths.audit.clone()];
    write
        .extend([&config.sockets.workload, &config.sockets.operator, &config.sockets.launch()].into_iter().filter_map(|path| folder(path)));
    write.extend(config.metrics.textfile.as_deref().and_then(folder));
    let mut read = vec![paths.policy.clone(), paths.secrets.clone(), paths.identities.clone()];
    let files = [Some(file), Some(config.local.key_file.as_path()), config.local.previous_key_file.as_deref()];
    read.extend(files.into_iter().flatten().filter_map(folder));
    read.extend(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from));
    let mut ports = Vec::new();
    for engine in &config.engines {
        match engine {
            // Connecting to a socket of this host takes no rule.
            EngineConfig::Jwt(_) | EngineConfig::Command(_) => {}
            EngineConfig::X509(x509) => {
                read.extend([&x509.ca_cert_file, &x509.ca_key_file].into_iter().flatten().filter_map(|path| folder(path)));
                write.extend(x509.crl_file.as_deref().and_then(folder));
            }
            EngineConfig::Ssh(ssh) => {
                write.extend([&ssh.ca_public_file, &ssh.revoked_file].into_iter().flatten().filter_map(|path| folder(path)))
            }
            EngineConfig::Postgres(postgres) => {
                read.extend([&postgres.ca_file, &postgres.password_file].into_iter().flatten().filter_map(|path| folder(path)));
                if !postgres.host.starts_with('/') {
                    ports.extend([postgres.port, DOMAIN]);
                }
            }
            EngineConfig::GitHub(github) => {
                read.extend(github.files().into_iter().filter_map(|path| folder(path)));
                if let Some(port) = super::github::address(github).ok().and_then(|address| address.port()) {
                    ports.extend([port, DOMAIN]);
                }
            }
            EngineConfig::OAuth2(oauth2) => {
                read.extend(oauth2.files().into_iter().filter_map(|path| folder(path)));
                if let Some(port) = super::oauth2::address(oauth2).ok().and_then(|address| address.port()) {
                    ports.extend([port, DOMAIN]);
                }
            }
            EngineConfig::OpenBao(openbao) => {
                read.extend(openbao.files().into_iter().filter_map(|path| folder(path)));
                // An address that cannot be read stops the start a moment later.
                if let Some(port) = super::openbao::address(openbao).ok().and_then(|address| address.port()) {
                    ports.extend([port, DOMAIN]);
                }
            }
        }
    }
    Reach { write, read, ports }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::File;

    #[test]
    fn reaches_what_is_configured_and_no_port_without_a_source_there() {
        let text = "[paths]\nstate = \"/s\"\naudit = \"/a\"\n[sockets]\nworkload = \"/r/w\"\noperator = \"/r/o\"\n[metrics]\ntextfile = \"/m/x.prom\"\n\
                    [[engine]]\nkind = \"postgres\"\nname = \"near\"\nhost = \"/run/pg\"\ndatabase = \"d\"\nuser = \"u\"\npassword_file = \"/p/w\"\n";
        let config = |text: &str| Config::parse(&File { path: "c.toml".into(), text: text.into() }).unwrap();
        let near = reach(&config(text), Path::new("/c/clavigerd.toml"));
        assert_eq!(near.write, ["/s", "/a", "/r", "/r", "/r", "/m"].map(PathBuf::from));
        assert!(["/c", "/p", "/etc/claviger/policy.d"].iter().all(|path| near.read.contains(&path.into())), "{near:?}");
        assert_eq!(near.ports, [0; 0]);
        let far = "[[engine]]\nkind = \"postgres\"\nname = \"far\"\nhost = \"db\"\nport = 6432\ndatabase = \"d\"\nuser = \"u\"\nca_file = \"/ca/x\"\n";
        let far = reach(&config(&format!("{text}{far}")), Path::new("/c/clavigerd.toml"));
        assert_eq!(far.ports, [6432, DOMAIN]);
        assert!(far.read.contains(&"/ca".into()));
        let bao = "[[engine]]\nkind = \"openbao\"\nname = \"bao\"\naddress = \"https://bao:8200\"\nca_file = \"/ca/y\"\n\
                   login = { method = \"approle\", role_id = \"r\", secret_id_file = \"/id/s\" }\n";
        let bao = reach(&config(&format!("{text}{bao}")), Path::new("/c/clavigerd.toml"));
        assert_eq!(bao.ports, [8200, DOMAIN]);
        assert!(["/ca", "/id"].iter().all(|path| bao.read.contains(&path.into())));
        let oauth2 = "[[engine]]\nkind = \"oauth2\"\nname = \"as\"\ntoken_endpoint = \"https://as.example.com:8443/token\"\nclient_id = \"c\"\nmax_ttl = \"1h\"\n\
                      ca_file = \"/ca/z\"\nauthenticate = { method = \"client_secret_basic\", secret_file = \"/id/c\" }\n";
        let oauth2 = reach(&config(&format!("{text}{oauth2}")), Path::new("/c/clavigerd.toml"));
        assert_eq!(oauth2.ports, [8443, DOMAIN]);
        assert!(["/ca", "/id"].iter().all(|path| oauth2.read.contains(&path.into())));
        let github = "[[engine]]\nkind = \"github-app\"\nname = \"gh\"\napp = \"1\"\ninstallation = 1\nkey_file = \"/id/gh\"\n";
        let github = reach(&config(&format!("{text}{github}")), Path::new("/c/clavigerd.toml"));
        assert_eq!(github.ports, [443, DOMAIN]);
        assert!(github.read.contains(&"/id".into()));
        let x509 = "[[engine]]\nkind = \"x509\"\nname = \"mesh\"\nmax_ttl = \"1h\"\nca_cert_file = \"/ca/c\"\nca_key_file = \"/key/k\"\n\
                    crl_file = \"/crl/list.pem\"\n";
        let x509 = reach(&config(&format!("{text}{x509}")), Path::new("/c/clavigerd.toml"));
        assert!(["/ca", "/key"].iter().all(|path| x509.read.contains(&path.into())) && x509.write.contains(&"/crl".into()));
    }
}

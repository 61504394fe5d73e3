//! One suite that every engine must pass, and what each engine promises beyond it.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../support/activated.rs"]
mod activated;
#[path = "../support/between.rs"]
mod between;
mod command;
mod command_lasting;
mod figures;
mod github;
mod jwt;
mod local;
mod nginx;
mod oauth2;
mod oauth2_weather;
#[path = "../support/oauth.rs"]
mod oauth_server;
mod openbao;
mod openbao_certificates;
mod openbao_generate;
mod openbao_namespaces;
#[path = "../support/openbao.rs"]
mod openbao_server;
mod openbao_session;
mod openbao_stale;
mod openbao_weather;
mod openbao_weather_later;
mod postgres;
mod postgres_faults;
mod postgres_rights;
mod postgres_weather;
mod recording;
mod ssh;
#[path = "../support/sshd.rs"]
mod sshd;
#[path = "../support/stand_in.rs"]
mod stand_in;
mod static_roles;
mod suite;
#[path = "../support/postgres.rs"]
mod support;
mod x509;

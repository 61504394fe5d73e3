//! One suite that every engine must pass, and what each engine promises beyond it.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../support/activated.rs"]
mod activated;
mod command;
mod figures;
mod jwt;
mod local;
mod openbao;
#[path = "../support/openbao.rs"]
mod openbao_server;
mod openbao_weather;
mod postgres;
mod postgres_faults;
mod recording;
mod ssh;
mod static_roles;
mod suite;
#[path = "../support/postgres.rs"]
mod support;
mod x509;

//! The real daemon on real sockets with real processes of several users. Runs as root; elsewhere each test says loudly that it is skipped.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../support/activated.rs"]
mod activated;
#[path = "../support/between.rs"]
mod between;
#[path = "../support/clients.rs"]
mod clients;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/leaks.rs"]
mod leaks;
#[path = "../support/oauth.rs"]
mod oauth_server;
#[path = "../support/openbao.rs"]
mod openbao_server;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/sshd.rs"]
mod sshd;
#[path = "../support/stand_in.rs"]
mod stand_in;
#[path = "../support/tls_front.rs"]
mod tls_front;
#[path = "../support/told.rs"]
mod told;
#[path = "../support/wall.rs"]
mod wall;

mod agents;
mod attacks;
mod attestor;
mod busy;
mod canary;
mod certificates;
mod changed;
mod command;
mod confined;
mod cores;
mod crash;
mod crowd;
mod database;
mod failpoints;
mod floods;
mod fuse;
mod github;
mod hostile;
mod launched;
mod leases;
mod named;
mod narrowed;
mod oauth2;
mod openbao;
mod operators;
mod outage;
mod pages;
mod pinned;
mod proxies;
mod readers;
mod reconcile;
mod request;
mod residue;
mod restored;
mod rotation;
mod rotation_away;
mod shapes;
mod shared;
mod siege;
mod sight;
mod ssh;
mod stale;
mod upgrade;
mod vault;
mod watch;
mod weather;

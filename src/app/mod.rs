//! The daemon's composition root: reads the files, puts the parts together, runs until told to stop.

mod attestor;
mod build;
mod confinement;
mod doubts;
mod engines;
mod exit;
mod github;
mod load;
mod oauth2;
mod openbao;
mod restored;
mod rows;
mod run;
mod sight;
mod signing;
mod state;
mod telemetry;
mod trust;

pub use exit::{Exit, main};
pub use run::{RunError, run};

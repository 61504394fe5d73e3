//! The daemon's composition root: reads the files, puts the parts together, runs until told to stop.

mod build;
mod confinement;
mod doubts;
mod exit;
mod load;
mod run;
mod signing;
mod state;
mod telemetry;

pub use exit::{Exit, main};
pub use run::{RunError, run};

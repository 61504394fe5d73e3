//! (`Workload`, `Intent`, the time) to `Permit` or what is missing. Cedar lives here.

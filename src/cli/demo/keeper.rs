//! A process beside the demo that ends its servers and removes its folders when the demo itself cannot: stopped at the terminal, or killed.

use super::stage::{Trouble, While};
use crate::sys::{self, Pidfd};
use std::{
    fs,
    io::{self, BufRead, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// SIGKILL.
const KILL: i32 = 9;

/// Knows what is there. It begins when we are gone, however that came about, for then its standard input closes.
pub struct Keeper(Child);

impl Keeper {
    /// Starts it: this program once more, out of reach of the terminal's keys.
    pub fn start(own: &Path) -> Result<Keeper, Trouble> {
        let mut command = Command::new(own);
        command.arg("demo-keeper").process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Keeper).doing("starting what tidies up")
    }

    /// This folder is the demo's own.
    pub fn folder(&mut self, path: &Path) -> Result<(), Trouble> {
        self.tell(&format!("folder {}", path.display()))
    }

    /// So is this child, which ends in order by that signal.
    pub fn process(&mut self, child: &Child, signal: i32) -> Result<(), Trouble> {
        self.tell(&format!("process {} {signal}", child.id()))
    }

    fn tell(&mut self, line: &str) -> Result<(), Trouble> {
        let input = self.0.stdin.as_mut().ok_or_else(|| Trouble::Answer("what tidies up has no input".into()))?;
        writeln!(input, "{line}").doing("telling what is to be tidied up")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs as that process.
pub fn keep() -> io::Result<()> {
    let (mut folders, mut processes) = (Vec::new(), Vec::new());
    for line in io::stdin().lock().lines() {
        let line = line?;
        match *line.splitn(3, ' ').collect::<Vec<_>>() {
            ["folder", ..] => folders.push(PathBuf::from(&line["folder ".len()..])),
            ["process", pid, signal] => {
                let numbers = pid.parse().ok().zip(signal.parse::<i32>().ok());
                // Opened while it is the demo's child: the number cannot be another's yet. One that has ended needs nothing.
                processes.extend(numbers.and_then(|(pid, signal)| Some((Pidfd::open(pid).ok()?, signal))));
            }
            _ => {}
        }
    }
    // The last one first, as they stand on each other.
    for (process, signal) in processes.iter().rev() {
        let _ = process.signal(*signal);
        let mut looks = 0;
        while process.is_alive() {
            sys::pause(Duration::from_millis(10));
            looks += 1;
            if looks == 1_000 {
                let _ = process.signal(KILL);
            }
        }
    }
    for folder in &folders {
        // A grandchild that is about to end may still write into it.
        for _ in 0..500 {
            let _ = fs::remove_dir_all(folder);
            if !folder.exists() {
                break;
            }
            sys::pause(Duration::from_millis(10));
        }
    }
    Ok(())
}

//! The terminal of a person: a prompt that shows nothing, and whether keys reach us.

use crate::model::SecretBytes;
use nix::{
    sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
    unistd::{getpgrp, tcgetpgrp},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::fd::AsFd,
};
use zeroize::Zeroizing;

/// The longest that can be typed; longer values come from a pipe.
const LINE_MAX: usize = 4096;

/// Shows the question on the terminal and reads one line without showing it. The terminal is as before afterwards.
pub fn prompt_secret(question: &str) -> io::Result<SecretBytes> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    quiet.local_flags.insert(LocalFlags::ECHONL);
    let _restore = Restore { terminal: terminal.try_clone()?, before };
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet)?;
    // Only now: whoever answers at once is not shown either.
    write!(terminal, "{question}")?;
    terminal.flush()?;
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX + 1));
    let mut byte = Zeroizing::new([0u8]);
    while line.len() <= LINE_MAX {
        match terminal.read(&mut *byte)? {
            0 => break,
            _ if byte[0] == b'\n' => break,
            _ => line.push(byte[0]),
        }
    }
    Ok(SecretBytes::take_from(&mut line))
}

struct Restore {
    terminal: File,
    before: Termios,
}

impl Drop for Restore {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

/// Whether this process's group is the one that the terminal sends its keys' signals to: then a child in the group gets them by itself.
pub fn in_foreground() -> bool {
    let Ok(terminal) = File::open("/dev/tty") else { return false };
    tcgetpgrp(terminal.as_fd()).is_ok_and(|group| group == getpgrp())
}

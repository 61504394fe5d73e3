//! What people see: colour where it helps, columns that stand below each other, times as distances.

use super::Failure;
use crate::{
    model::WallTime,
    sys::{Clock, SystemClock},
};
use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

/// Colours, or none.
#[derive(Clone, Copy)]
pub(super) struct Style {
    colour: bool,
}

impl Style {
    /// For standard output: colour on a terminal, unless `NO_COLOR` says otherwise.
    pub(super) fn of_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    pub(super) fn of(terminal: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: terminal && wanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb") }
    }

    pub(super) fn red(&self, text: &str) -> String {
        self.paint("31;1", text)
    }
    pub(super) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }
    pub(super) fn yellow(&self, text: &str) -> String {
        self.paint("33", text)
    }
    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }
    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints one line on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    raw(text.as_bytes(), true)
}

/// Prints bytes on standard output, with a line feed or as they are.
pub(super) fn raw(bytes: &[u8], feed: bool) -> Result<(), Failure> {
    // Not through the buffer of `io::stdout()`: it would keep a copy of a secret. Nothing of ours is in it.
    let mut out = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let done = out.write_all(bytes).and_then(|()| if feed { out.write_all(b"\n") } else { Ok(()) });
    done.map_err(Failure::from)
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Failure::Pipe } else { Failure::fault(error) }
    }
}

/// Rows below their titles, each column as wide as its widest cell.
pub(super) struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(titles: &[&'static str]) -> Self {
        Self { titles: titles.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it, or a sentence if there is no row.
    pub(super) fn print(&self, style: &Style, none: &str) -> Result<(), Failure> {
        if self.rows.is_empty() {
            return line(&style.dim(none));
        }
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(self.titles[column].len())
        };
        let widths: Vec<usize> = (0..self.titles.len()).map(width).collect();
        let join = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        line(&style.dim(&join(&mut self.titles.iter().copied())))?;
        self.rows.iter().try_for_each(|row| line(&join(&mut row.iter().map(String::as_str))))
    }
}

/// A list of `name  value` lines.
pub(super) fn facts(style: &Style, rows: &[(&str, String)]) -> Result<(), Failure> {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let value = value.replace('\n', &format!("\n{:width$}  ", ""));
        line(&format!("{}  {value}", style.dim(&format!("{name:width$}"))))?;
    }
    Ok(())
}

/// An instant as a distance from now: `in 14 min`, `3 h ago`.
pub(super) fn relative(rfc3339: &str) -> String {
    let Some(then) = WallTime::parse(rfc3339) else { return rfc3339.to_owned() };
    let (now, then) = (SystemClock.wall().unix_secs(), then.unix_secs());
    match then.abs_diff(now) {
        0 => "now".to_owned(),
        distance if then > now => format!("in {}", span(distance)),
        distance => format!("{} ago", span(distance)),
    }
}

/// Seconds in the largest unit that leaves two digits of meaning.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        172_800..94_608_000 => format!("{} d", seconds / 86_400),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

/// The last six letters of an id: enough for an eye that follows one.
pub(super) fn short(id: &str) -> &str {
    id.len().checked_sub(6).and_then(|at| id.get(at..)).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_ids() {
        assert_eq!(span(119), "119 s");
        assert_eq!(span(900), "15 min");
        assert_eq!(span(86_400), "24 h");
        assert_eq!(span(90 * 86_400), "90 d");
        assert_eq!(short("lease-01ABCDEFGH"), "CDEFGH");
        assert_eq!(short("x"), "x");
    }
}

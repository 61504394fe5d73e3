//! Follows what `clav why` prints under "What would change it", to the letter and no further.

use super::*;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Replace { path: String, first: usize, last: usize, text: Vec<String> },
    Insert { path: String, after: usize, text: Vec<String> },
    Append { path: String, text: Vec<String> },
    Run(Vec<String>),
    Ask(String),
}

/// The ways out that are printed: the first, and each "Or, ...".
pub fn ways(why: &str) -> Vec<Vec<Step>> {
    let mut ways = vec![Vec::new()];
    let lines: Vec<&str> = why.lines().skip_while(|line| *line != "What would change it").skip(1).collect();
    let mut at = 0;
    while at < lines.len() {
        let title = lines[at].strip_prefix("  ").unwrap_or_else(|| panic!("{:?} is not indented", lines[at]));
        at += 1;
        if title.starts_with("Or, ") {
            ways.push(Vec::new());
            continue;
        }
        let text: Vec<String> = lines[at..].iter().map_while(|line| line.strip_prefix("      ")).map(str::to_owned).collect();
        at += text.len();
        if let Some(step) = step(title, text) {
            ways.last_mut().unwrap().push(step);
        }
    }
    ways
}

fn step(title: &str, text: Vec<String>) -> Option<Step> {
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{title}"));
    if let Some((line, path)) = title.strip_prefix("Replace line ").and_then(|rest| rest.strip_suffix(" with:")?.split_once(" of ")) {
        return Some(Step::Replace { path: path.to_owned(), first: number(line), last: number(line), text });
    }
    if let Some((lines, path)) = title.strip_prefix("Replace lines ").and_then(|rest| rest.strip_suffix(" with:")?.split_once(" of ")) {
        let (first, last) = lines.split_once(" to ").unwrap();
        return Some(Step::Replace { path: path.to_owned(), first: number(first), last: number(last), text });
    }
    if let Some((line, path)) = title.strip_prefix("Insert after line ").and_then(|rest| rest.strip_suffix(':')?.split_once(" of ")) {
        return Some(Step::Insert { path: path.to_owned(), after: number(line), text });
    }
    if let Some(path) = title.strip_prefix("Append to ").and_then(|rest| rest.strip_suffix(':')) {
        return Some(Step::Append { path: path.to_owned(), text });
    }
    match title {
        "Run:" => Some(Step::Run(text)),
        "Let the program ask:" => Some(Step::Ask(text.concat())),
        _ => {
            assert!(text.is_empty(), "{title:?} stands above {text:?}");
            None
        }
    }
}

/// Does all of it, and gives the command with which the program is to ask, where that is another.
pub fn follow(daemon: &mut Daemon, steps: &[Step]) -> Option<String> {
    let mut ask = None;
    for step in steps {
        match step {
            Step::Replace { path, first, last, text } => change(path, |lines| drop(lines.splice(first - 1..*last, text.clone()))),
            Step::Insert { path, after, text } => change(path, |lines| drop(lines.splice(after..after, text.clone()))),
            Step::Append { path, text } => change(path, |lines| lines.extend(text.clone())),
            Step::Run(commands) => commands.iter().for_each(|command| run(daemon, command)),
            Step::Ask(command) => ask = Some(command.clone()),
        }
    }
    ask
}

fn change(path: &str, with: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect();
    with(&mut lines);
    fs::write(path, lines.join("\n") + "\n").unwrap();
    fs::set_permissions(Path::new(path), fs::Permissions::from_mode(0o644)).unwrap();
}

/// As an operator would type it; a value that is asked for is the canary.
fn run(daemon: &mut Daemon, command: &str) {
    if command == "systemctl restart clavigerd" {
        return daemon.restart();
    }
    let done = as_operator(daemon, command, CANARY.as_bytes());
    assert_eq!(done.status.code(), Some(0), "{command}: {}", text(&done));
}

/// A command of the operator's shell.
pub fn as_operator(daemon: &Daemon, command: &str, input: &[u8]) -> Output {
    use std::{io::Write, process::Stdio};
    let mut shell = daemon.shell_of_operator(command);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Most commands read nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

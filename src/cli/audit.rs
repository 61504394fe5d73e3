//! `clav audit tail`: the audit log as it grows. No record is lost or repeated when the connection drops or the daemon starts again: what
//! comes next is asked for by its number.

use super::{
    Desk, Done, Failure,
    explain::bare,
    output::{Style, line, short},
    receipt, search, verify,
};
use crate::{
    audit::{Kind, Outcome, Record},
    client::{Client, ClientError},
    model::{Ttl, WallTime},
    sys::{Clock, SystemClock},
};
use clap::{Args, Subcommand};
use std::{collections::VecDeque, io::IsTerminal, time::Duration};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// The newest records, one line each
    Tail(Tail),
    /// Everything in a log that fits, offline; with --who, who had values and how often
    Search(search::Arguments),
    /// Show that a lease's credential is dead, how that is known, and where it stands in a log, offline
    Receipt(receipt::Arguments),
    /// Verify a log offline: nothing edited, removed, exchanged or cut
    Verify(verify::Arguments),
}

#[derive(Args)]
pub(super) struct Tail {
    /// Go on with what is written from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// How many of the newest
    #[arg(short = 'n', long, default_value_t = 10, conflicts_with_all = ["from", "since"], value_name = "N")]
    lines: usize,
    /// Begin with the record of this number
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// Begin at this time (RFC 3339, a date, or such as 15m for that long ago)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Of this identity
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Of this secret
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// done, refused, needs or failed
    #[arg(long, value_name = "WORD")]
    outcome: Option<String>,
    /// Of this lease
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
    /// Show the log's own signatures as well
    #[arg(long)]
    heads: bool,
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Tail(tail) => follow(desk, &tail).await,
        Verb::Search(arguments) => search::run(desk, &arguments),
        Verb::Receipt(arguments) => receipt::run(desk, &arguments),
        Verb::Verify(arguments) => verify::run(desk, &arguments),
    }
}

/// Longest wait between two tries to reach a daemon that has gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Records looked at for the newest few; four times as many after each try that found too few.
const WINDOW: u64 = 4096;

async fn follow(desk: &Desk, tail: &Tail) -> Done {
    let mut printer = Printer { desk, tail, next: tail.from.unwrap_or(0), whole: filter(tail)?.is_empty() };
    let mut client = desk.operator().await?;
    if tail.from.is_none() && tail.since.is_none() {
        printer.newest(&mut client).await?;
    } else if !tail.follow {
        printer.stream(&mut client, false).await?;
    }
    if !tail.follow {
        return Ok(0);
    }
    let (mut wait, mut told) = (Duration::from_millis(50), false);
    loop {
        let before = printer.next;
        match printer.stream(&mut client, true).await {
            // The daemon stops, or has cut what was quiet for long.
            Ok(()) | Err(Failure::Client(ClientError::Protocol(_))) => told = false,
            Err(Failure::Client(ClientError::Unreachable(_, why))) => {
                if !told && wait > Duration::from_millis(500) {
                    eprintln!("clav: waiting for the daemon: {why}");
                    told = true;
                }
            }
            Err(other) => return Err(other),
        }
        if printer.next > before {
            wait = Duration::from_millis(50);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(PATIENCE);
    }
}

fn filter(tail: &Tail) -> Result<Vec<String>, Failure> {
    let fields = [("identity", &tail.identity), ("secret", &tail.secret), ("outcome", &tail.outcome), ("lease", &tail.lease)];
    let mut out: Vec<String> = Vec::new();
    for (name, value) in fields {
        if let Some(value) = value {
            // Whatever needs escaping is no name, and the daemon does not unescape.
            if value.bytes().any(|b| !(b.is_ascii_alphanumeric() || b"-_./:@".contains(&b))) {
                return Err(Failure::Usage(format!("--{name} {value:?} is none")));
            }
            out.push(format!("{name}={value}"));
        }
    }
    if let Some(since) = &tail.since {
        out.push(format!("since={}", instant("since", since)?.rfc3339()));
    }
    Ok(out)
}

/// A time as people give it: how long ago, a date, or RFC 3339.
pub(super) fn instant(option: &str, text: &str) -> Result<WallTime, Failure> {
    let ago = Ttl::parse(text).map(|ttl| WallTime(SystemClock.wall().0.saturating_sub(u64::from(ttl.as_secs()) * 1_000_000)));
    ago.or_else(|| WallTime::parse(text))
        .ok_or_else(|| Failure::Usage(format!("--{option} {text:?} is no time: give a date, RFC 3339, or such as 15m for that long ago")))
}

struct Printer<'a> {
    desk: &'a Desk,
    tail: &'a Tail,
    /// The number of the record to go on with.
    next: u64,
    /// Nothing is filtered, so that numbers without a gap are to be expected.
    whole: bool,
}

impl Printer<'_> {
    /// Prints the newest records; afterwards `next` is the one behind the last that was looked at.
    async fn newest(&mut self, client: &mut Client) -> Result<(), Failure> {
        let mut lines = client.audit("last=1").await?;
        let mut end = 0;
        while let Some(text) = lines.next().await? {
            end = sequence(&text).unwrap_or(end);
        }
        let mut window = WINDOW.max(self.tail.lines as u64);
        let kept = loop {
            let first = end.saturating_sub(window) + 1;
            let query = [vec![format!("from={first}")], filter(self.tail)?].concat().join("&");
            let mut kept: VecDeque<String> = VecDeque::new();
            let mut lines = client.audit(&query).await?;
            while let Some(text) = lines.next().await? {
                let seq = sequence(&text);
                if seq.is_some_and(|seq| seq > end) {
                    // Written meanwhile: following will find it.
                    continue;
                }
                if self.is_shown(&text) {
                    kept.push_back(text);
                }
                if kept.len() > self.tail.lines {
                    kept.pop_front();
                }
            }
            if kept.len() >= self.tail.lines || first == 1 {
                break kept;
            }
            window = window.saturating_mul(4);
        };
        kept.iter().try_for_each(|text| self.print(text))?;
        self.next = end + 1;
        Ok(())
    }

    /// Prints what comes from `next` on, until the stream ends.
    async fn stream(&mut self, client: &mut Client, follow: bool) -> Result<(), Failure> {
        let mut query = vec![format!("from={}", self.next), format!("follow={follow}")];
        query.extend(filter(self.tail)?);
        let mut lines = client.audit(&query.join("&")).await?;
        while let Some(text) = lines.next().await? {
            if let Some(seq) = sequence(&text) {
                if seq < self.next {
                    continue;
                }
                if self.whole && self.next > 1 && seq > self.next {
                    eprintln!("records {} to {} are not kept any more", self.next, seq - 1);
                }
                self.next = seq + 1;
            }
            if self.is_shown(&text) {
                self.print(&text)?;
            }
        }
        Ok(())
    }

    fn is_shown(&self, text: &str) -> bool {
        self.desk.json || self.tail.heads || serde_json::from_str::<Record>(text).map_or(true, |record| record.kind != Kind::Head)
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        if self.desk.json {
            return line(text);
        }
        match serde_json::from_str::<Record>(text) {
            Ok(record) => line(&one_line(&self.desk.style, &record, std::io::stdout().is_terminal())),
            Err(_) => line(&self.desk.style.red(&format!("not a record: {text}"))),
        }
    }
}

fn sequence(text: &str) -> Option<u64> {
    serde_json::from_str::<Record>(text).ok().map(|record| record.seq)
}

/// Time (of today, on a terminal that shows what goes on), mark, who, verb, secret, purpose, lease, why.
pub(super) fn one_line(style: &Style, record: &Record, today: bool) -> String {
    let get = |name: &str, member: &str| record.rest.get(name).and_then(|value| value.get(member)).map(bare);
    let time = if today { record.time.get(11..19) } else { record.time.get(..23) };
    let mark = match record.outcome {
        Some(Outcome::Done) => style.green("+"),
        Some(Outcome::Refused) => style.red("-"),
        Some(Outcome::Needs) => style.yellow("?"),
        Some(Outcome::Failed) => style.red("!"),
        Some(Outcome::Asked | Outcome::Begun) => style.dim(">"),
        None => style.dim("."),
    };
    let operator = get("by", "name").or_else(|| get("by", "uid").map(|uid| format!("uid {uid}")));
    let uid = record.rest.get("uid").map(|uid| format!("uid {}", bare(uid)));
    let who = record.identity.as_ref().map(|identity| identity.name.clone()).or(operator).or(uid).unwrap_or_else(|| "-".into());
    let verb = get("by", "action").map_or_else(|| record.kind.as_str().to_owned(), |action| format!("{} {action}", record.kind.as_str()));
    let mut line = format!("{}  {mark} {who:<20} {}", style.dim(time.unwrap_or(&record.time)), style.bold(&format!("{verb:<8}")));
    let lease = record.lease.map(|lease| style.dim(&format!("#{}", short(&lease.to_string()))));
    let folded = get("folded", "count").map(|count| format!("{count} x {}", get("folded", "of").unwrap_or_default()));
    let ended = get("ended", "reason").map(|reason| format!("{reason}, {}", get("ended", "result").unwrap_or_default()));
    let code = record.code.as_ref().map(|code| style.red(code));
    let why = get("policy", "determining").filter(|ids| record.code.is_some() && !ids.is_empty()).map(|ids| format!("by {ids}"));
    // Several sentences are for 'clav why'; one line here stays one line.
    let detail = record.rest.get("detail").map(bare).filter(|detail| !detail.contains('\n'));
    let why = why.or(detail).map(|text| style.dim(&text));
    let request = record.request.filter(|_| record.code.is_some()).map(|request| style.dim(&request.to_string()));
    let secret = record.secret.as_ref().map(|secret| secret.name.clone());
    let purpose = get("claimed", "purpose").map(|purpose| format!("for {purpose}"));
    for part in [secret, purpose, lease, folded, ended, code, why, request].into_iter().flatten() {
        line.push(' ');
        line.push_str(&part);
    }
    line.trim_end().to_owned()
}

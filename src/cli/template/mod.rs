//! `clav template`: keeps a file with secrets in it true for a program that can read nothing else.
//!
//! The file is in memory-backed storage unless it is said otherwise, never half written, has no backup, and goes with this process: the
//! leases are bound to it, so they end when it ends.

mod page;

use super::{
    Desk, Done, Failure,
    ask::Declaration,
    held::{CHANGING_OVER, Held, Replacing},
    signals::Signals,
};
use crate::{
    client::Delivered,
    sys::{self, FileOwner},
};
use clap::Args;
use page::{Page, Written};
use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

/// After a failure the file is written again.
const AGAIN: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Arguments {
    /// The template: Jinja, with secret("NAME") for a value and secret("NAME").username and so on for what is beside it
    template: PathBuf,
    /// The file to write
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Its mode
    #[arg(long, value_name = "OCTAL", default_value = "0400", value_parser = mode)]
    mode: u32,
    /// Its owner, by name or number; root alone may give it to another
    #[arg(long, value_name = "USER[:GROUP]")]
    owner: Option<String>,
    /// It may be on a disk, where its values outlast it
    #[arg(long)]
    on_disk: bool,
    /// A shell command after each change of the file, such as 'systemctl reload nginx'
    #[arg(long, value_name = "COMMAND")]
    reload: Option<String>,
    /// Write it once and end; the leases are held by the unit, the container or the session, and nobody renews them
    #[arg(long)]
    once: bool,
    /// Leave the file when this ends; its credentials are dead by then
    #[arg(long, conflicts_with = "once")]
    keep: bool,
    #[command(flatten)]
    declaration: Declaration,
    /// Say nothing on standard error
    #[arg(long, short)]
    quiet: bool,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o007 == 0 => Ok(mode),
        Ok(mode) if mode <= 0o777 => Err("would let everybody read or write it".to_owned()),
        _ => Err("must be three or four octal digits such as 0440".to_owned()),
    }
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let owner = arguments.owner.as_deref().map(FileOwner::parse).transpose().map_err(Failure::Usage)?;
    let output = std::path::absolute(&arguments.output).map_err(Failure::fault)?;
    sys::check_place(&output).map_err(|error| Failure::Usage(error.to_string()))?;
    let folder = output.parent().unwrap_or(Path::new("/"));
    let in_memory = sys::in_memory(folder).map_err(|error| Failure::Usage(format!("{}: {error}", folder.display())))?;
    if !in_memory && !arguments.on_disk {
        return Err(Failure::Usage(format!(
            "{} is on a disk, where values outlast the file: choose a folder below /run, or say --on-disk",
            folder.display()
        )));
    }
    let page = Page::read(&arguments.template)?;
    let mut signals = Signals::own()?;
    let (holder, replacing) = if arguments.once { (None, Replacing::Never) } else { (Some("client".to_owned()), Replacing::Told) };
    let mut held = Held::new(desk, arguments.declaration.clone(), holder, replacing, arguments.quiet).await?;
    let mut keeper =
        Keeper { arguments: &arguments, owner, output, written: false, page, values: BTreeMap::new(), reloading: None, again: false };
    let done = keeper.go(desk, &mut signals, &mut held).await;
    if !arguments.once || done.is_err() {
        held.end().await;
    }
    done
}

/// What keeps the file.
struct Keeper<'a> {
    arguments: &'a Arguments,
    owner: Option<FileOwner>,
    /// The file, by its whole path.
    output: PathBuf,
    /// It was made by us.
    written: bool,
    page: Page,
    values: BTreeMap<String, Delivered>,
    reloading: Option<Child>,
    /// The file has changed since the reload command was started that is still running.
    again: bool,
}

impl Keeper<'_> {
    async fn go(&mut self, desk: &Desk, signals: &mut Signals, held: &mut Held) -> Done {
        let done = self.write_and_keep(desk, signals, held).await;
        let stays = if self.arguments.once { done.is_ok() } else { self.arguments.keep };
        if self.written && !stays {
            // Before the leases are given back: nobody reads dead credentials.
            let removed = std::fs::remove_file(&self.output).map_err(|error| self.about(&error));
            return done.and_then(|code| removed.map(|()| code));
        }
        done
    }

    async fn write_and_keep(&mut self, desk: &Desk, signals: &mut Signals, held: &mut Held) -> Done {
        self.write(held).await?;
        sys::notify_ready("the file is written");
        if self.arguments.once { self.reloaded(signals).await } else { self.keep(desk, signals, held).await }
    }

    async fn keep(&mut self, desk: &Desk, signals: &mut Signals, held: &mut Held) -> Done {
        let mut rewrite = None;
        loop {
            if let Some(child) = &mut self.reloading
                && let Some(status) = child.try_wait().map_err(Failure::fault)?
            {
                self.reloading = None;
                self.told(status);
                if std::mem::take(&mut self.again) {
                    self.reload()?;
                }
            }
            tokio::select! {
                // A child that ends is looked at above; every signal asks us to end.
                received = signals.next() => {
                    if received.is_some() {
                        return Ok(0);
                    }
                }
                names = held.next(desk) => {
                    let mut changed = false;
                    for name in names {
                        match held.fetch(&name).await {
                            Ok(delivered) => {
                                self.values.insert(name, delivered);
                                changed = true;
                            }
                            Err(failure) => {
                                eprintln!("clav: {name} could not be had anew; the file stays as it is:");
                                let _the_file_is_kept = failure.tell(&desk.style);
                            }
                        }
                    }
                    if changed {
                        rewrite = Some(tokio::time::Instant::now());
                    }
                }
                () = super::held::at(rewrite) => {
                    rewrite = None;
                    match self.write(held).await {
                        Ok(()) => held.changed_over(CHANGING_OVER),
                        Err(failure) => {
                            eprintln!("clav: the file stays as it is, and is tried again:");
                            let _the_file_is_kept = failure.tell(&desk.style);
                            rewrite = Some(tokio::time::Instant::now() + AGAIN);
                        }
                    }
                }
            }
        }
    }

    /// Fills in the template, asks for what it names, writes the file, and says so to whom it concerns.
    async fn write(&mut self, held: &mut Held) -> Result<(), Failure> {
        let text = loop {
            match self.page.fill(&self.values)? {
                Written::Whole(text) => break text,
                Written::Lacks(name) => drop(self.values.insert(name.clone(), held.fetch(&name).await?)),
            }
        };
        let before = identity_of(&self.output);
        let written = sys::write_atomic_for(&self.output, text.as_bytes(), self.arguments.mode, self.owner);
        // A failure may come after the new file has its name; one before leaves whatever was there.
        self.written |= written.is_ok() || identity_of(&self.output) != before;
        written.map_err(Failure::fault)?;
        self.reload()
    }

    /// Runs the reload command, or notes that it has to be run once more.
    fn reload(&mut self) -> Result<(), Failure> {
        let Some(command) = &self.arguments.reload else { return Ok(()) };
        // One at a time: the last one has seen the last file.
        if self.reloading.is_some() {
            self.again = true;
            return Ok(());
        }
        let child = Command::new("/bin/sh").arg("-c").arg(command).spawn();
        self.reloading = Some(child.map_err(|error| Failure::NotStarted(format!("/bin/sh: {error}")))?);
        Ok(())
    }

    /// Waits for the only reload command of a file that is written once. The file and its leases stay, whatever comes of it.
    async fn reloaded(&mut self, signals: &mut Signals) -> Done {
        let Some(mut child) = self.reloading.take() else { return Ok(0) };
        loop {
            if let Some(status) = child.try_wait().map_err(Failure::fault)? {
                self.told(status);
                return Ok(if status.success() { 0 } else { super::failure::code::FAULT });
            }
            if let Some(received) = signals.next().await {
                sys::forward_signal(child.id(), received.number).map_err(Failure::fault)?;
            }
        }
    }

    fn told(&self, status: ExitStatus) {
        if !status.success() {
            eprintln!("clav: {}: {status}", self.arguments.reload.as_deref().unwrap_or_default());
        }
    }

    fn about(&self, error: &std::io::Error) -> Failure {
        Failure::fault(format!("{}: {error}", self.output.display()))
    }
}

/// Which file it is.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use crate::{client::Delivered, model::SecretBytes, wire::LeaseView};

    /// A value as it arrives.
    pub(super) fn delivered(secret: &str, value: &[u8]) -> Delivered {
        let id = "lease-00000000z80000000000000004";
        let lease: LeaseView = serde_json::from_value(serde_json::json!({
            "id": id, "state": "live", "identity": "app", "secret": secret, "sensitivity": "internal", "ends_by": "none",
            "purpose": "serve", "operation": "read", "channel": "deliver", "holder": {"kind": "process", "pid": 1},
            "issued": "2026-01-01T00:00:00Z", "expires": "2026-01-01T00:00:00Z", "remaining": 1, "ttl": 1, "renewable": false,
        }))
        .unwrap();
        Delivered {
            request: "req-00000000z80000000000000004".parse().unwrap(),
            lease,
            value: SecretBytes::new(value.to_vec()),
            attributes: [("username".to_owned(), "someone".to_owned())].into(),
            clamped: Vec::new(),
        }
    }
}

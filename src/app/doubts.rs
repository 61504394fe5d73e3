//! What is odd about rows of the registry on this host. They are in force all the same, so it is said whenever they are read.

use crate::{
    config::RowPlace,
    model::{Catalogue, EndsBy, Identity, Registry, WallTime},
    sys,
};

/// How long before its end an identity is reported.
const SOON_DAYS: u64 = 14;
const DAY: u64 = 86_400_000_000;

/// Sentences with the file and the line of the row that each is about.
pub(super) fn doubts(registry: &Registry, catalogue: &Catalogue, rows: &[RowPlace], now: WallTime) -> Vec<String> {
    let several = registry.iter().nth(1).is_some();
    let mut out = Vec::new();
    for row in registry.iter() {
        let place = rows.iter().find(|at| at.name == row.name.as_str());
        let mut say = |text: String| {
            let place = place.map_or_else(String::new, |at| format!("{}: ", at.place()));
            out.push(format!("{place}identity {}{text}", row.name));
        };
        if let Some(text) = expiry(row, now) {
            say(text);
        }
        for declared in row.uses.iter().filter(|declared| catalogue.find(&declared.secret).is_none()) {
            say(format!(" declares a use of {}, which no file in secrets.d defines", declared.secret));
        }
        let loads = row.selectors.iter().any(|selector| selector.kind() == "systemd:loads");
        for secret in row.uses.iter().filter(|_| loads).filter_map(|declared| catalogue.find(&declared.secret)) {
            if secret.ends_by != EndsBy::None {
                say(format!(
                    " loads {} for a unit, and it dies after {} at most while the unit goes on: nobody renews what was loaded",
                    secret.name, secret.ttl.max
                ));
            }
        }
        if several && !row.selectors.iter().any(|selector| matches!(selector.kind(), "unix:uid" | "unix:user" | "systemd:loads")) {
            say(" names no unix:user or unix:uid: it may run under any uid, so no other identity counts as isolated".to_owned());
        }
        for selector in row.selectors.iter().filter(|selector| selector.kind() == "unix:user" && sys::uid_of(selector.value()).is_none()) {
            say(format!(": there is no user {} on this host; make it and reload", selector.value()));
        }
    }
    out
}

fn expiry(row: &Identity, now: WallTime) -> Option<String> {
    let on: String = row.expires.rfc3339().chars().take("YYYY-MM-DD".len()).collect();
    if row.expires <= now {
        Some(format!(" expired on {on}: everything it asks for is refused until its expires is a later date"))
    } else if row.expires.0 - now.0 < SOON_DAYS * DAY {
        Some(format!(" expires on {on}"))
    } else {
        None
    }
}

//! Modules of the name service, loaded while memory may still become executable.

use std::ffi::CString;

/// Loads what nsswitch.conf(5) names for users, groups and hosts, as the C library would at the first lookup. A module that is not
/// installed is passed over by the C library as well; one that is installed later is found after a restart.
pub(super) fn preload() {
    let text = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    for name in modules(&text) {
        let Ok(file) = CString::new(format!("libnss_{name}.so.2")) else { continue };
        // SAFETY: the very libraries, found by the very rules, that the C library loads into this process for a name; never unloaded.
        unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW) };
    }
}

/// The modules of the three databases that are looked into; `files` and `dns` are part of the C library, but older ones load them.
fn modules(text: &str) -> Vec<&str> {
    let mut found = vec!["files", "dns"];
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((database, services)) = line.split_once(':') else { continue };
        if !matches!(database.trim(), "passwd" | "group" | "hosts") {
            continue;
        }
        // [NOTFOUND=return] and the like are no modules, and what is not a plain name is no part of a file's name.
        for word in services.split_whitespace() {
            let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if plain && !found.contains(&word) {
                found.push(word);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::modules;

    #[test]
    fn names_the_modules_of_users_groups_and_hosts() {
        let text = "# hosts: evil\npasswd: files systemd sss\ngroup:files [SUCCESS=merge] systemd\nshadow: ldap\n\
                    hosts: files mdns4_minimal [NOTFOUND=return] ../../x dns # nis\n";
        assert_eq!(modules(text), ["files", "dns", "systemd", "sss", "mdns4_minimal"]);
        assert_eq!(modules(""), ["files", "dns"]);
    }
}

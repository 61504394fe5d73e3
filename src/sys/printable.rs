//! What processes and file systems name themselves, as printable ASCII in which no two are alike.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

/// Bytes as printable ASCII: everything else as `\xHH`, a backslash doubled, so that text from a process stays one line of text.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        match b {
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(b as char),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out
}

/// A control group's path as printable ASCII. What systemd writes for a character that a unit's name cannot have (`\x2d` for a dash,
/// systemd.unit(5)) stays as people write it; any other backslash is doubled, and other bytes are `\ooo`, in octal. So no two paths have one
/// text, and that of every unit is its name.
pub fn printable_group(path: &[u8]) -> String {
    let is_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    let mut out = String::with_capacity(path.len());
    for (at, &b) in path.iter().enumerate() {
        match b {
            b'\\' if !matches!(&path[at + 1..], [b'x', high, low, ..] if is_hex(high) && is_hex(low)) => out.push_str("\\\\"),
            0x20..=0x7e => out.push(b as char),
            _ => out.push_str(&format!("\\{b:03o}")),
        }
    }
    out
}

/// The path behind an `/proc/PID/exe` link.
pub fn printable_path(path: &OsString) -> String {
    printable(path.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_shown() {
        assert_eq!(printable(b"/tmp/a\nb\\\xff"), "/tmp/a\\x0ab\\\\\\xff");
    }

    #[test]
    fn units_keep_their_names_and_no_two_groups_share_one() {
        for name in ["/system.slice/foo\\x2dbar.service", "/system.slice/dev-disk-by\\x2duuid.swap", "/a b@c.service"] {
            assert_eq!(printable_group(name.as_bytes()), name);
        }
        let odd: [&[u8]; 10] = [b"\xff", b"\\xff", b"\\\\xff", b"\\377", b"\\\\377", b"\\", b"\\\\", b"\\xFF", b"\\\xff", b"\\x2d\x07"];
        let texts: std::collections::HashSet<String> = odd.iter().map(|path| printable_group(path)).collect();
        assert_eq!(texts.len(), odd.len(), "{texts:?}");
        assert!(texts.iter().all(|text| text.bytes().all(|b| (0x20..0x7f).contains(&b))), "{texts:?}");
    }
}

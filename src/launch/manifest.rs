//! The manifest of a program that is started apart: `/etc/claviger/launch.d/NAME`, a word and its value on each line.
//!
//! So simple that no library is needed to read it: whatever reads it has a privilege.

use std::path::PathBuf;

/// Bytes of a manifest, at most.
pub const MAX_BYTES: usize = 64 << 10;
/// Lines of one kind, at most.
const MOST: usize = 64;

/// What is started and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The program: an interpreter, or the program itself.
    pub program: PathBuf,
    /// Its arguments, in order.
    pub arguments: Vec<String>,
    /// Whether the caller's own arguments follow.
    pub pass_arguments: bool,
    /// Folders with what the program executes or loads: all in them must be root's.
    pub trees: Vec<PathBuf>,
    /// Variables that are taken over from the caller. None is by itself.
    pub keep: Vec<String>,
    /// Where it works.
    pub directory: PathBuf,
    /// Whether what it starts belongs to it.
    pub descendants: bool,
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ManifestError {
    /// Counted from 1; 0 for what is missing altogether.
    pub line: usize,
    /// Why.
    pub why: &'static str,
}

/// The words that lines may begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `program PATH`
    Program,
    /// `argument TEXT`
    Argument,
    /// `pass-arguments yes|no`
    PassArguments,
    /// `tree PATH`
    Tree,
    /// `keep VARIABLE`
    Keep,
    /// `directory PATH`
    Directory,
    /// `descendants yes|no`
    Descendants,
}

impl Line {
    /// Every one with its word.
    pub const ALL: [(&'static str, Line); 7] = [
        ("program", Line::Program),
        ("argument", Line::Argument),
        ("pass-arguments", Line::PassArguments),
        ("tree", Line::Tree),
        ("keep", Line::Keep),
        ("directory", Line::Directory),
        ("descendants", Line::Descendants),
    ];
}

/// Variables by which a caller would decide what the program loads or executes.
const NEVER_KEPT: &[&str] = &[
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "CDPATH",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "LD_",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LOCPATH",
    "NLSPATH",
    "MALLOC_",
    "PYTHON",
    "PERL",
    "RUBY",
    "NODE_",
    "NPM_",
    "JAVA_",
    "JDK_",
    "_JAVA",
    "CLASSPATH",
    "GEM_",
    "BUNDLE_",
    "LUA_",
    "PHP",
    "TCL",
    "GUILE_",
    "R_",
    "OPENSSL_",
    "SSL_",
    "HOSTALIASES",
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "TMPDIR",
    "GIT_",
    "SSH_ASKPASS",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "LESS",
    "XDG_",
    "CLAVIGER_",
    "DOTNET_",
    "COR_",
    "CORECLR_",
    "ERL_",
    "ELIXIR_",
];

impl Manifest {
    /// Parses the text. Anything that is not understood refuses all of it.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut out = Self { directory: "/".into(), ..Self::default() };
        let mut once: Vec<Line> = Vec::new();
        for (number, raw) in text.lines().enumerate() {
            let refused = |why| ManifestError { line: number + 1, why };
            let line = raw.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if raw.bytes().any(|byte| byte.is_ascii_control()) {
                return Err(refused("has a control character"));
            }
            let (word, value) = line.split_once(' ').ok_or_else(|| refused("must read WORD VALUE"))?;
            let (_, kind) = Line::ALL
                .into_iter()
                .find(|(known, _)| *known == word)
                .ok_or_else(|| refused("begins with none of program, argument, pass-arguments, tree, keep, directory, descendants"))?;
            if !matches!(kind, Line::Argument | Line::Tree | Line::Keep) {
                if once.contains(&kind) {
                    return Err(refused("says again what a line before it said"));
                }
                once.push(kind);
            }
            // An argument is everything behind the one space: it may begin or end with more.
            let value = if kind == Line::Argument { value } else { value.trim() };
            let path = || {
                if is_path(value) {
                    Ok(PathBuf::from(value))
                } else {
                    Err(refused("must be an absolute path without '.', '..' or doubled slashes"))
                }
            };
            let yes = || match value {
                "yes" => Ok(true),
                "no" => Ok(false),
                _ => Err(refused("must be yes or no")),
            };
            match kind {
                Line::Program => out.program = path()?,
                Line::Argument => out.arguments.push(value.to_owned()),
                Line::PassArguments => out.pass_arguments = yes()?,
                Line::Tree => out.trees.push(path()?),
                Line::Keep if !is_variable(value) => return Err(refused("must be the name of a variable")),
                Line::Keep if NEVER_KEPT.iter().any(|never| value.starts_with(never)) => {
                    return Err(refused(
                        "by this variable a caller could decide what the program executes; put the value into an argument",
                    ));
                }
                Line::Keep => out.keep.push(value.to_owned()),
                Line::Directory => out.directory = path()?,
                Line::Descendants => out.descendants = yes()?,
            }
            if [out.arguments.len(), out.trees.len(), out.keep.len()].into_iter().any(|many| many > MOST) {
                return Err(refused("is one too many of its kind"));
            }
        }
        if out.program.as_os_str().is_empty() {
            return Err(ManifestError { line: 0, why: "no line says which program" });
        }
        Ok(out)
    }
}

fn is_path(text: &str) -> bool {
    text.len() < 4096
        && text.strip_prefix('/').is_some_and(|rest| rest.is_empty() || rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

fn is_variable(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_or_all_is_refused() {
        let whole = "# nightly report\nprogram /usr/bin/python3\nargument -I\nargument /opt/report/main.py\nargument  two  \npass-arguments yes\n\
                     tree /opt/report\nkeep LANG\nkeep TERM\ndirectory /opt/report\ndescendants no\n\n";
        let manifest = Manifest::parse(whole).unwrap();
        assert_eq!(manifest.program, PathBuf::from("/usr/bin/python3"));
        assert_eq!(manifest.arguments, ["-I", "/opt/report/main.py", " two  "]);
        assert!(manifest.pass_arguments && !manifest.descendants);
        assert_eq!((manifest.trees.len(), manifest.keep.len(), manifest.directory.as_path()), (1, 2, std::path::Path::new("/opt/report")));
        assert_eq!(Manifest::parse("program /bin/x").unwrap().directory, PathBuf::from("/"));
        for (bad, line) in [
            ("", 0),
            ("program bin/x", 1),
            ("program /bin/../x", 1),
            ("program /bin//x", 1),
            ("program", 1),
            ("program /bin/x\nprogram /bin/y", 2),
            ("program /bin/x\nuser root", 2),
            ("program /bin/x\n\ndescendants maybe", 3),
            ("program /bin/x\nkeep LD_PRELOAD", 2),
            ("program /bin/x\nkeep PYTHONPATH", 2),
            ("program /bin/x\nkeep A=B", 2),
            ("program /bin/x\nkeep 1A", 2),
            ("program /bin/x\nargument a\tb", 2),
            ("program /bin/x\nargument a\rb", 2),
        ] {
            assert_eq!(Manifest::parse(bad).unwrap_err().line, line, "{bad:?}");
        }
        let many = "argument x\n".repeat(MOST + 1);
        assert_eq!(Manifest::parse(&format!("program /bin/x\n{many}")).unwrap_err().line, MOST + 2);
    }
}

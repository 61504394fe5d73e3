//! What verification found.

use std::fmt;

/// What is wrong at one place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Not a line of the log: edited, merged, or something else.
    Frame,
    /// The file ends within a line.
    Torn,
    /// The record is not what its hash says: it was edited.
    Hash,
    /// The record does not follow the one before it: something was exchanged or inserted.
    Link,
    /// Records are missing before this one.
    Missing {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// The record's number was there already: repeated or moved.
    Repeated,
    /// The first record of the file is not the one that its name says.
    Name,
    /// The log does not begin with its first record, and nothing signed says that the ones before were pruned.
    Beginning,
    /// What was pruned, by its signed statement, does not lead to what is here.
    Stub,
    /// More stands behind the place where the next file begins, and no record says why.
    Overlap,
    /// The head is not about the record before it: the log was rewritten.
    Head,
    /// A signature is not by the key that it names.
    Signature,
    /// The key is none that is trusted here.
    Key,
    /// Too many records without a head: heads were removed, or never made.
    Unsigned,
    /// A head that was kept elsewhere says otherwise about this record: the log was rewritten.
    Anchor,
    /// A head that was kept elsewhere is about a record behind the end: the log was cut.
    Truncated {
        /// The record that was there.
        anchored: u64,
    },
    /// A line of the anchors is about this log, but is not signed by a trusted key.
    ForgedAnchor,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Frame => f.write_str("is not a line of the audit log"),
            Flaw::Torn => f.write_str("ends within a line"),
            Flaw::Hash => f.write_str("was edited: its hash does not fit"),
            Flaw::Link => f.write_str("does not follow the record before it"),
            Flaw::Missing { from, to } => write!(f, "records {from} to {to} are missing before it"),
            Flaw::Repeated => f.write_str("repeats an earlier record's number"),
            Flaw::Name => f.write_str("is not the record that its file's name says"),
            Flaw::Beginning => f.write_str("is not the first record, and nothing signed says that earlier ones were pruned"),
            Flaw::Stub => f.write_str("does not follow what the signed statement says was pruned"),
            Flaw::Overlap => f.write_str("more stands here than the next file leaves room for, and no record says why"),
            Flaw::Head => f.write_str("the signed head is about another record than the one before it"),
            Flaw::Signature => f.write_str("the signature is not by the key that it names"),
            Flaw::Key => f.write_str("is signed by a key that is not trusted here"),
            Flaw::Unsigned => f.write_str("too many records without a signed head up to here"),
            Flaw::Anchor => f.write_str("a head kept elsewhere says otherwise about this record"),
            Flaw::Truncated { anchored } => write!(f, "the log ends here, but a head kept elsewhere covers record {anchored}"),
            Flaw::ForgedAnchor => f.write_str("an anchor is not signed by a trusted key"),
        }
    }
}

/// One flaw and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u64,
    /// The record's number, where it can be read.
    pub seq: Option<u64>,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if let Some(seq) = self.seq {
            write!(f, "record {seq} ")?;
        }
        self.flaw.fmt(f)
    }
}

/// What verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// Records that were looked at.
    pub records: u64,
    /// Files that were looked at.
    pub segments: u64,
    /// The first record.
    pub first: Option<u64>,
    /// The last record.
    pub last: Option<u64>,
    /// When the last record was written, RFC 3339.
    pub last_time: Option<String>,
    /// Heads whose signature and place are right.
    pub heads: u64,
    /// The last record that such a head covers. What stands behind it could have been rewritten by whoever can write the files.
    pub signed_to: Option<u64>,
    /// Whether the heads' key was given, rather than taken from the log itself. Without it a forger's key is as good as ours.
    pub pinned: bool,
    /// Anchors that fit.
    pub anchors: u64,
    /// Anchors that say nothing about what is here: of pruned records or other hosts.
    pub anchors_elsewhere: u64,
    /// Lines of a file that failed, which count no more: said so by a record.
    pub abandoned: u64,
    /// The first thousand flaws.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problem_count: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }

    pub(super) fn add(&mut self, file: &str, line: u64, seq: Option<u64>, flaw: Flaw) {
        self.problem_count += 1;
        if self.problems.len() < 1000 {
            self.problems.push(Problem { file: file.to_owned(), line, seq, flaw });
        }
    }
}

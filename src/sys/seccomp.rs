//! Filters of system calls from lists of rules (seccomp(2)).

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::{collections::BTreeMap, io};

/// When a listed call is meant.
pub enum Rule {
    /// Always.
    Any,
    /// If all of these hold; several rows of one call are alternatives.
    Where(Vec<Condition>),
}

/// `argument & mask == equals`, over the low 32 bits: no flag or command that is looked at here lies above them.
pub struct Condition {
    pub argument: u8,
    pub mask: u32,
    pub equals: u32,
}

/// The bits of `mask` in an argument are exactly `equals`.
pub fn masked(argument: u8, mask: u32, equals: u32) -> Condition {
    Condition { argument, mask, equals }
}

/// One program: what is listed is answered by `matched`, everything else by `otherwise`.
pub fn compile(rules: Vec<(libc::c_long, Rule)>, matched: SeccompAction, otherwise: SeccompAction) -> io::Result<BpfProgram> {
    let mut table: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut whole = Vec::new();
    for (call, rule) in rules {
        let chain = table.entry(call).or_default();
        match rule {
            Rule::Any => whole.push(call),
            Rule::Where(conditions) => {
                let conditions: Result<Vec<_>, _> = conditions
                    .iter()
                    .map(|one| {
                        SeccompCondition::new(
                            one.argument,
                            SeccompCmpArgLen::Dword,
                            SeccompCmpOp::MaskedEq(one.mask.into()),
                            one.equals.into(),
                        )
                    })
                    .collect();
                chain.push(SeccompRule::new(conditions.map_err(io::Error::other)?).map_err(io::Error::other)?);
            }
        }
    }
    // No condition at all beside others is all of them.
    for call in whole {
        table.insert(call, Vec::new());
    }
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    SeccompFilter::new(table, otherwise, matched, arch).and_then(TryInto::try_into).map_err(io::Error::other)
}

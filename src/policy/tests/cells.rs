//! Every cell of the two tables, against a reference written from the tables alone.
//!
//! Where the tables leave something open, the reference says what was chosen: columns accumulate ("a column to the right never asks
//! less of a grant"), drift and untrusted input are asked about from `internal` on, and only a *delivered* value can outlive its lease.

use super::{World, claim, days_later, identity, outcome, secret};
use crate::{
    model::{Assurance, Channel, EndsBy, IdentityKind, Operation, Sensitivity, UNLIMITED},
    policy::{BASELINE, Bundle, Decision, Evidence, Need, RuleClass, Signs},
};
use std::collections::BTreeSet;

/// One cell, and the evidence brought to it.
#[derive(Clone, Debug)]
struct Cell {
    kind: IdentityKind,
    sensitivity: Sensitivity,
    operation: Operation,
    channel: Channel,
    assurance: Assurance,
    ends_by: EndsBy,
    scoped: bool,
    grant: &'static str,
    evidence: Evidence,
}

impl Cell {
    /// The table's column, from 0.
    fn column(&self) -> usize {
        let shift = matches!(self.operation, Operation::Admin | Operation::Destroy) as usize;
        (self.sensitivity as usize + shift).min(4)
    }

    fn control(&self) -> bool {
        self.evidence.controls.contains("egress-lock")
    }
}

const HOUR: u32 = 3_600;

fn expected(cell: &Cell) -> String {
    match cell.kind {
        IdentityKind::Workload => workload(cell),
        IdentityKind::Agent => agent(cell),
        IdentityKind::Shared => shared(cell),
    }
}

fn workload(cell: &Cell) -> String {
    let (column, has) = (cell.column(), &cell.evidence);
    let dies = cell.ends_by != EndsBy::None || cell.channel != Channel::Deliver;
    if !dies && column >= 3 {
        return "value_outlives_lease".into();
    }
    let least = [Assurance::Uid, Assurance::Uid, Assurance::Program, Assurance::Isolated, Assurance::Isolated][column];
    let needs = [
        (cell.assurance < least, Need::Assurance),
        (column == 4 && cell.assurance < Assurance::Measured && !cell.control(), Need::Control),
        (column >= 2 && !["ticket", "both"].contains(&cell.grant), Need::GrantTicket),
        (column >= 3, Need::GrantSignature),
        (column == 2 && !dies && !["lasting", "both"].contains(&cell.grant), Need::GrantLasting),
        (column == 4 && !has.ticket, Need::Ticket),
        (column == 4 && !has.change_window, Need::ChangeWindow),
        (column == 4 && !has.approvals.contains("two-groups"), Need::Approval),
    ];
    let ttl = [12 * HOUR, HOUR, HOUR, 900, 300][column];
    verdict(&needs, ttl, if column == 4 { 1 } else { UNLIMITED }, column != 4)
}

fn agent(cell: &Cell) -> String {
    let (column, has) = (cell.column(), &cell.evidence);
    let dynamic = cell.ends_by != EndsBy::None && cell.scoped;
    let channels: &[Channel] = match column {
        0 => &Channel::ALL,
        1 if dynamic => &[Channel::Inject, Channel::Deliver],
        1..=3 => &[Channel::Inject],
        _ => &[Channel::Inject, Channel::Sign],
    };
    if !channels.contains(&cell.channel) {
        return "injected_only".into();
    }
    let odd = has.signs.drift || has.signs.untrusted_input;
    let not_read = cell.operation != Operation::Read;
    let confirm = [false, odd, odd || !has.mission, odd || not_read, true][column];
    let approval = [None, None, not_read.then_some("one"), Some("one"), Some("two-groups")][column];
    let needs = [
        (
            match column {
                0 => false,
                1 => cell.assurance < Assurance::Program,
                2 => cell.assurance < Assurance::Isolated && !cell.control(),
                3 => cell.assurance < Assurance::Isolated,
                _ => cell.assurance < Assurance::Measured,
            },
            Need::Assurance,
        ),
        (column >= 3 && !cell.control(), Need::Control),
        (column >= 2 && !has.user, Need::User),
        (confirm && !has.confirmed, Need::Confirmation),
        (column >= 2 && !has.ticket, Need::Ticket),
        (column == 4 && !has.change_window, Need::ChangeWindow),
        (approval.is_some_and(|rule| !has.approvals.contains(rule)), Need::Approval),
    ];
    verdict(&needs, [12 * HOUR, HOUR, 900, 300, 300][column], [UNLIMITED, 100, 10, 1, 1][column], false)
}

fn shared(cell: &Cell) -> String {
    match cell.column() {
        0 => verdict(&[], 12 * HOUR, UNLIMITED, true),
        1 => verdict(&[], HOUR, UNLIMITED, true),
        _ => "shared_identity".into(),
    }
}

fn verdict(needs: &[(bool, Need)], ttl: u32, uses: u64, renewable: bool) -> String {
    let needs: BTreeSet<Need> = needs.iter().filter_map(|(missing, need)| missing.then_some(*need)).collect();
    let outcome =
        if needs.is_empty() { "permit".to_owned() } else { needs.iter().fold("needs".to_owned(), |all, need| all + " " + need.as_str()) };
    format!("{outcome}: {ttl} s, {uses} uses, renewable {renewable}")
}

fn decided(decision: &Decision) -> String {
    let (effective, renewable) = match decision {
        Decision::Permit(permit) => (permit.effective(), permit.renewable()),
        Decision::Needs(unmet) => (unmet.effective(), unmet.renewable()),
        Decision::Forbid(_) => return outcome(decision),
    };
    format!("{}: {} s, {} uses, renewable {renewable}", outcome(decision), effective.ttl.as_secs(), effective.uses)
}

const ENDINGS: [EndsBy; 3] = [EndsBy::Upstream, EndsBy::ShortLife, EndsBy::None];

fn name(cell: &Cell) -> String {
    let scoped = if cell.scoped { "scoped" } else { "free" };
    format!("{}/{}/{}/{scoped}", cell.sensitivity, cell.operation, cell.ends_by)
}

fn evidences() -> Vec<Evidence> {
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    let full = Evidence::hoped(set(&["one", "two-groups"]), set(&["egress-lock"]), Signs::default());
    let odd = Signs { drift: false, untrusted_input: true };
    vec![
        Evidence::none(),
        full.clone(),
        Evidence { controls: full.controls.clone(), signs: Signs { drift: true, ..odd }, ..Evidence::none() },
        Evidence { confirmed: false, signs: odd, ..full.clone() },
        Evidence { confirmed: false, approvals: set(&["one"]), ..full.clone() },
        Evidence { mission: false, confirmed: false, controls: set(&["other"]), ..full },
    ]
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for sensitivity in Sensitivity::ALL {
        for operation in Operation::ALL {
            for channel in Channel::ALL {
                for (assurance, ends_by) in Assurance::ALL.into_iter().flat_map(|a| ENDINGS.map(|e| (a, e))) {
                    for evidence in evidences() {
                        let one = |kind, scoped, grant| {
                            let evidence = evidence.clone();
                            Cell { kind, sensitivity, operation, channel, assurance, ends_by, scoped, grant, evidence }
                        };
                        cells.extend([true, false].map(|scoped| one(IdentityKind::Agent, scoped, "bare")));
                        cells.extend(["bare", "ticket", "lasting", "both"].map(|grant| one(IdentityKind::Workload, true, grant)));
                        cells.push(one(IdentityKind::Shared, true, "bare"));
                    }
                }
            }
        }
    }
    cells
}

fn world() -> World {
    let mut secrets = Vec::new();
    for cell in
        cells().into_iter().filter(|c| c.assurance == Assurance::Uid && c.channel == Channel::Sign && c.evidence == Evidence::none())
    {
        let mut row = secret(&name(&cell), cell.sensitivity, cell.operation, cell.ends_by);
        if !cell.scoped {
            row.hosts.clear();
        }
        secrets.push(row);
    }
    let identities = [IdentityKind::Workload, IdentityKind::Agent, IdentityKind::Shared].map(|kind| identity(kind.as_str(), kind)).to_vec();
    let grant = |purpose: &str, more: &str| {
        format!(
            "@id(\"grant.{purpose}\") @owner(\"o\") @purpose(\"{purpose}\") @expires(\"2027-01-31\") {more}
             permit (principal in Claviger::Group::\"everybody\", action in Claviger::Action::\"use\", resource);\n"
        )
    };
    let policies = grant("bare", "")
        + &grant("ticket", "@ticket(\"jira:OPS-1\")")
        + &grant("lasting", "@lasting(\"yes\")")
        + &grant("both", "@ticket(\"jira:OPS-1\") @lasting(\"yes\")");
    World { identities, secrets, policies }
}

fn decide(world: &World, bundle: &Bundle, cell: &Cell) -> Decision {
    let workload = world.workload(cell.kind.as_str(), cell.assurance);
    let intent = world.intent(&name(cell), cell.channel, claim(cell.grant));
    bundle.decide(&workload, &intent, &cell.evidence, days_later(1), false)
}

#[test]
fn every_cell_is_decided_as_the_tables_say() {
    let (world, mut deciding) = (world(), BTreeSet::new());
    let bundle = world.bundle();
    for cell in cells() {
        let decision = decide(&world, &bundle, &cell);
        assert_eq!(decided(&decision), expected(&cell), "{cell:?}\n{}", decision.explain());
        for note in &decision.because().policies {
            assert_eq!(&*note.place.file, "00-baseline.cedar");
            deciding.insert(note.id.clone());
        }
        let named = decision.because().policies.iter().any(|note| !matches!(note.class, RuleClass::Cap(_)));
        assert_eq!(named, !matches!(decision, Decision::Permit(_)), "{cell:?} names what decided it");
    }
    // No rule of the tables is idle: each decides some cell.
    let ids = BASELINE.lines().filter_map(|line| line.strip_prefix("@id(\"")?.split('"').next());
    let tables: BTreeSet<String> = ids.filter(|id| !id.starts_with("base.") && *id != "agent.declares").map(str::to_owned).collect();
    assert_eq!(tables.difference(&deciding).collect::<Vec<_>>(), Vec::<&String>::new());
}

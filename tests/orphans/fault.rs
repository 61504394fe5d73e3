//! What happens in a round: done to one host or one source, and mended.

use super::{
    chance::Chance,
    site::{Side, Sources},
};
use std::{fs, thread, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of a daemon.
    Daemon,
    /// Of half of the holders.
    Holders,
    /// The database closes every session of the engines.
    Sessions,
    /// The database dies and comes back.
    DatabaseCrash,
    /// The database is away for a while, and a daemon dies meanwhile.
    DatabaseAway,
    /// OpenBao dies and comes back.
    BaoCrash,
    /// OpenBao is away for a while, and a daemon dies meanwhile.
    BaoAway,
    /// OpenBao answers nobody for a while.
    BaoHangs,
    /// Somebody seals OpenBao, and opens it again.
    BaoSealed,
    /// The disk of a host's state or log is full while holders die.
    Full,
    /// And the daemon dies as well.
    FullAndKilled,
    /// Somebody sets a host's wall clock; it stays so.
    Clock,
    /// A host's lease journal is lost, and an operator goes on without it.
    Journal,
}

pub const ALL: [Fault; 13] = [
    Fault::Daemon,
    Fault::Holders,
    Fault::Sessions,
    Fault::DatabaseCrash,
    Fault::DatabaseAway,
    Fault::BaoCrash,
    Fault::BaoAway,
    Fault::BaoHangs,
    Fault::BaoSealed,
    Fault::Full,
    Fault::FullAndKilled,
    Fault::Clock,
    Fault::Journal,
];

/// In seconds from the true time: what people and broken batteries make of it. Grants here last for sixty days and may not last for more than ninety.
const WALLS: [i64; 7] = [-20 * 86_400, -7_200, -61, 0, 61, 7_200, 20 * 86_400];

pub async fn happen(fault: Fault, sides: &mut [Side; 2], sources: &mut Sources, chance: &mut Chance) {
    let side = &mut sides[chance.below(2)];
    let pause = Duration::from_millis(chance.below(400) as u64);
    match fault {
        Fault::Daemon => restart(side),
        Fault::Holders => kill_half(side),
        Fault::Sessions => {
            let ended =
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'postgres'";
            sources.cluster.superuser("app").await.query_one(ended, &[]).await.expect("a superuser may");
        }
        Fault::DatabaseCrash | Fault::DatabaseAway => {
            sources.cluster.stop(true);
            if fault == Fault::DatabaseAway {
                restart(side);
                thread::sleep(pause);
            }
            sources.cluster.start_again();
            sources.cluster.serves().await;
        }
        Fault::BaoCrash | Fault::BaoAway => {
            sources.bao.stop(true);
            if fault == Fault::BaoAway {
                restart(side);
                kill_half(side);
                thread::sleep(pause);
            }
            sources.bao.start_again().await;
        }
        Fault::BaoHangs => {
            sources.bao.hang(true);
            kill_half(side);
            thread::sleep(pause);
            sources.bao.hang(false);
        }
        Fault::BaoSealed => {
            sources.bao.seal().await;
            kill_half(side);
            thread::sleep(pause);
            sources.bao.unseal().await;
        }
        Fault::Full | Fault::FullAndKilled => {
            let disk = chance.below(2);
            side.disks[disk].fill_up();
            kill_half(side);
            thread::sleep(pause);
            if fault == Fault::FullAndKilled {
                side.host.stop(true);
            }
            side.disks[disk].empty();
            if fault == Fault::FullAndKilled {
                side.host.launch();
            }
        }
        Fault::Clock => side.set_wall(*chance.of(&WALLS)),
        Fault::Journal => {
            side.host.stop(chance.below(2) == 0);
            fs::remove_dir_all(side.host.dir.join("state/leases")).expect("a journal");
            side.go_on_without_journal();
        }
    }
}

fn restart(side: &mut Side) {
    side.host.stop(true);
    side.host.launch();
}

fn kill_half(side: &mut Side) {
    let half = side.holders.len() / 2;
    side.holders.drain(..half).for_each(|mut holder| holder.kill());
}

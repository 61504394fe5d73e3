//! A disk that fills up while secrets are issued: the last of it is left to endings, what is refused says why, and when there is room again
//! everything goes on by itself.

use super::{
    clients::{Client, delivered},
    host::*,
    site::{ASK, Site, asked, connects, setup},
    small_disk::SmallDisk,
};
use std::time::Duration;

const BYTES: u64 = 32 << 20;

/// What an actor was told, as a code.
fn told(answer: &serde_json::Value) -> String {
    format!("{} {}", answer["status"], answer["body"]["error"]["code"].as_str().unwrap_or("-"))
}

/// Everything that clients were told but what they asked for, as codes.
fn refusals(heard: &[serde_json::Value]) -> Vec<String> {
    let told = heard.iter().filter(|told| told["status"].as_u64().is_some_and(|code| code / 100 != 2));
    told.map(|told| format!("{} {}", told["status"], told["code"].as_str().unwrap_or("-"))).collect()
}

fn is_for_want_of_room(refusal: &str) -> bool {
    ["503 no_space", "503 audit_unavailable"].contains(&refusal)
}

fn fills_up(state: bool, audit: bool) {
    if !is_root() {
        return;
    }
    let setup = setup();
    // The reserve is the one that ships: 5 % here.
    let mut site = Site::prepare(Setup { config: setup.config.replace("reserve_bytes = 1048576\n", ""), ..setup });
    let at = |name: &str| site.host.dir.join(name);
    let disks: Vec<SmallDisk> = [(state, "state", 0o700), (audit, "audit", 0o750)]
        .into_iter()
        .filter(|(small, ..)| *small)
        .map(|(_, name, mode)| SmallDisk::mount(at(name), mode, BYTES))
        .collect();
    site.host.launch();
    site.begin();
    let (reserve, page) = (BYTES / 100 * 5, 64 << 10);
    let mut holders: Vec<Actor> = (0..6).map(|_| site.host.hold(VICTIM, "orders", &["hold", ASK])).collect();
    site.heard.extend(holders.iter().map(|holder| serde_json::json!({"step": "issue", "lease": holder.lease(), "value": "v"})));

    // It fills up under load, down to a little less than the reserve: from then on nothing is issued, although there is room.
    let load: Vec<Client> = (0..2).map(|_| Client::start(&site.host, 100_000, 10.0)).collect();
    disks.iter().for_each(|disk| disk.fill(reserve - page));
    std::thread::sleep(Duration::from_millis(300));
    let heard: Vec<serde_json::Value> = load.into_iter().flat_map(Client::end).collect();
    // However slow this machine is: so many refusals would write more than the reserve, if they wrote.
    let mut last = site.host.hold(VICTIM, "orders", &["many", "2000", ASK]);
    assert_eq!(last.first["status"], 503, "{}", last.first);
    last.kill();
    let refused = refusals(&heard);
    assert!(!delivered(&heard).is_empty() && refused.len() > 1, "served before and refused after");
    assert!(refused.iter().all(|refusal| is_for_want_of_room(refusal)), "{:?}", refused.last());
    site.heard.extend(heard);
    site.host.wait_until(Duration::from_secs(10), "what the load held ends", |host| host.live().len() == 7);
    // However long somebody goes on asking, nothing of the reserve is written for it. Filled up again first: a journal may have begun anew.
    disks.iter().for_each(|disk| disk.fill(reserve - page));
    let left: Vec<u64> = disks.iter().map(SmallDisk::free).collect();
    let refused = site.host.hold(VICTIM, "orders", &["many", "500", ASK]);
    assert!(is_for_want_of_room(&told(&refused.first)), "{}", refused.first);
    for (disk, left) in disks.iter().zip(left) {
        assert!(disk.free() + page > left, "500 refused requests took {} bytes", left - disk.free());
    }

    // Then to the last byte. Endings go on, by the ballast: one asked for, one of a holder that died.
    disks.iter().for_each(|disk| disk.fill(0));
    let refused = site.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
    assert!(is_for_want_of_room(&told(&refused)), "{refused}");
    for (n, mut holder) in holders.drain(..4).enumerate() {
        let lease = holder.lease();
        if n % 2 == 0 {
            holder.say(&format!("call DELETE /v1/leases/{lease}"));
            let given = holder.line();
            assert_eq!(given["status"], 200, "{given}");
        } else {
            holder.kill();
        }
        site.host.end_of(&lease);
    }
    site.host.wait_until(Duration::from_secs(10), "four of seven have ended", |host| host.live().len() == 3);
    // A value that is stored now is stored, or is not: the room that the ballast gave may do.
    site.put = asked(&site.host, "PUT", "/v1/secrets/local/app/two", "new").is_some_and(|code| code / 100 == 2);

    // Started again on the full disk it goes on with the leases in the room that the ballast gave, or says why it cannot, with the code upon
    // which it is started again and again.
    site.host.stop(true);
    site.host.launch_below(&[]);
    site.host.wait_until(Duration::from_secs(20), "it serves or has ended", |host| host.ended().is_some() || connects(host));
    match site.host.ended() {
        Some(status) => assert_eq!(status.code(), Some(1), "{}", site.host.log()),
        // The start cleans up, so there may be room again.
        None => {
            disks.iter().for_each(|disk| disk.fill(0));
            assert_eq!(site.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0)["status"], 503);
        }
    }
    site.host.stop(true);

    disks.iter().for_each(SmallDisk::empty);
    site.host.launch();
    let kept: Vec<String> = holders.iter().map(Actor::lease).collect();
    for (holder, lease) in holders.iter_mut().zip(&kept) {
        holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
        let again = holder.line();
        assert_eq!(again["status"], 200, "{again}");
    }
    // Filled and emptied once more, it goes on without being started again.
    disks.iter().for_each(|disk| disk.fill(0));
    let refused = site.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
    assert_eq!(refused["status"], 503, "{refused}");
    disks.iter().for_each(SmallDisk::empty);
    site.recovers(false);
    drop(holders);
    site.books();
}

#[test]
fn the_disk_of_state_and_log_fills_up() {
    fills_up(true, true);
}

#[test]
fn the_disk_of_the_state_fills_up() {
    fills_up(true, false);
}

#[test]
fn the_disk_of_the_log_fills_up() {
    fills_up(false, true);
}

//! Clocks that jump. Deadlines are on `CLOCK_BOOTTIME`, which nobody can set and which counts suspend; the wall clock is for people and for
//! sources. In this process with clocks that a test moves, and with the real daemon in a time namespace (time_namespaces(7)).

use super::{
    host::*,
    lives::*,
    site::{ASK, Site, setup},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    broker::{Delivery, Revived},
    model::{EndReason, EndResult, LeaseId, WallTime},
    sys::{Clock as _, ManualClock},
    testing::{Call, Mishap},
};
use std::{sync::Arc, time::Duration};

const YEARS: u64 = 10 * 365 * 24 * HOUR;

/// Until when a token says that it is good, in seconds.
fn expiry(token: &Delivery) -> u64 {
    let text = std::str::from_utf8(token.value().expose()).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["exp"].as_u64().unwrap()
}

#[test]
fn a_wall_clock_that_is_set_extends_nothing_and_strands_nothing() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(1));
    let (clock, true_wall) = (lives.clock.clone(), now());
    let until = |lease: LeaseId| lives.source.live().into_iter().find(|(id, _)| *id == lease).unwrap().1;
    live(&lives, async |life| {
        let mut issued = Vec::new();
        for (hours, wall) in [(0, true_wall), (0, true_wall - YEARS), (0, true_wall + 60 * SECOND)] {
            assert_eq!(hours, 0);
            clock.step_wall(wall);
            for engine in ["source", "tokens"] {
                let given = life.issue(engine).await.unwrap();
                let lease = given.lease().clone();
                // What the source was told is what is promised, and that is an hour by the clock that people see now.
                assert_eq!(lease.expires, WallTime(wall + HOUR));
                assert_eq!(lease.deadline.0, BOOTED + HOUR, "an hour, whatever the wall clock says");
                match engine {
                    "tokens" => assert_eq!(expiry(&given), lease.expires.unix_secs()),
                    _ => assert_eq!(until(lease.id), lease.expires),
                }
                issued.push(lease);
            }
        }
        // Ten years on, and grants are over: nothing new, nothing renewed. What lives goes on.
        clock.step_wall(true_wall + YEARS);
        assert_eq!(life.living().await.len(), 6);
        assert_eq!(life.issue("source").await.err().unwrap().code.as_str(), "no_grant");
        let renewed = life.broker.renew(life.caller.clone(), issued[0].id, life.broker.request_id()).await;
        assert_eq!(renewed.err().unwrap().code.as_str(), "no_grant");
        assert!(life.read(issued[0].id).await.is_ok());
        // Back, half an hour later.
        clock.step_wall(true_wall);
        clock.advance(HOUR / 2);
        assert_eq!(life.living().await.len(), 6);
        // A renewal gives an hour from now, and no longer.
        let renewed = life.broker.renew(life.caller.clone(), issued[0].id, life.broker.request_id()).await.unwrap();
        assert_eq!((renewed.deadline.0, renewed.expires), (BOOTED + HOUR / 2 + HOUR, WallTime(true_wall + HOUR / 2 + HOUR)));
        assert_eq!(until(renewed.id), renewed.expires);
        // Back by ten years: a renewal never shortens what was promised and still gives nothing by the clock that counts.
        clock.step_wall(true_wall - YEARS);
        let again = life.broker.renew(life.caller.clone(), issued[0].id, life.broker.request_id()).await.unwrap();
        assert_eq!((again.deadline, again.expires), (renewed.deadline, renewed.expires));
        // An hour has passed by the boot clock: all but the renewed one end, at a wall clock that says anything.
        clock.advance(HOUR / 2 + 1);
        for _ in 0..100 {
            if life.living().await == [renewed.id] {
                break;
            }
        }
        assert_eq!(life.living().await, [renewed.id]);
        assert_eq!(lives.source.live().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [renewed.id], "none is left at the source");
        for lease in &issued[1..] {
            assert_eq!(life.read(lease.id).await.err().unwrap().code.as_str(), "lease_ended");
        }
        clock.advance(HOUR);
        life.none_lives().await;
        assert_eq!(lives.source.may_last_until(renewed.id), Some(renewed.expires), "told to the source, whatever the clock says now");
    });
    assert!(lives.source.live().is_empty());
    assert_eq!(reasons(folder.path()), vec!["expired"; 6]);
    sound(folder.path());
}

#[test]
fn a_suspend_counts_and_another_clock_extends_nothing() {
    if !is_root() {
        return;
    }
    // While it runs; before it starts again; and a clock that stands before the one by which the lease was made.
    for (slept_running, boot, expired) in
        [(true, BOOTED, 2), (false, BOOTED + 2 * HOUR, 2), (false, BOOTED - 2 * HOUR, 2), (false, BOOTED, 0)]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut lives = Lives::new(folder.path(), Duration::from_secs(1));
        let clock = lives.clock.clone();
        live(&lives, async |life| {
            let _ = life.issue("source").await.unwrap();
            let _ = life.issue("tokens").await.unwrap();
            if slept_running {
                clock.advance(2 * HOUR);
                life.none_lives().await;
            } else {
                assert_eq!(life.living().await.len(), 2);
            }
        });
        lives.clock = Arc::new(ManualClock::new(boot, now()));
        let left = live(&lives, async |life| {
            if slept_running {
                assert_eq!(life.revived, Revived::default());
            }
            for _ in 0..50 {
                if life.living().await.len() + expired == 2 {
                    break;
                }
            }
            life.living().await.len()
        });
        assert_eq!(left + expired, 2, "boot clock at {boot}");
        assert_eq!(reasons(folder.path()), vec!["expired"; expired]);
        assert_eq!(lives.source.live().len(), left / 2);
        sound(folder.path());
    }
}

/// The real daemon, started again where `CLOCK_BOOTTIME` is so much further or behind.
fn in_another_time(seconds: i64, config: &str) {
    if !is_root() {
        return;
    }
    let setup = setup();
    let mut site = Site::start(Setup { config: setup.config + config, ..setup });
    let mut steady = site.steady.take().unwrap();
    let lease = steady.lease();
    site.host.stop(true);
    // The file says where the children's clocks stand; a program that is executed is in that time already.
    let namespace = ["unshare", "--time", "--boottime", &seconds.to_string(), "--"].map(str::to_owned);
    site.host.launch_below(&namespace);
    site.host.wait_until(Duration::from_secs(20), "it serves", |host| super::site::connects(host));
    let offsets = std::fs::read_to_string(format!("/proc/{}/timens_offsets", site.host.pid())).unwrap();
    let offset = offsets.lines().find_map(|line| line.strip_prefix("boottime")?.split_whitespace().next()?.parse::<i64>().ok());
    assert_eq!(offset, Some(seconds), "the daemon is in another time: {offsets}");
    let end = site.host.end_of(&lease);
    // Its holder lives; by that clock it began at another time, so it may also count as another process.
    let reason = end["ended"]["reason"].as_str().unwrap();
    assert!(["expired", "holder_changed"].contains(&reason), "{end}");
    steady.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    let read = steady.line();
    assert!(read["status"] == 410 || read["status"] == 404, "{read}");
    let issued = site.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
    assert_eq!(issued["status"], 201, "{issued}");
    site.heard.push(serde_json::json!({"step": "issue", "lease": lease, "value": "v"}));
    drop(steady);
    site.books();
}

#[test]
fn the_daemon_wakes_two_hours_later() {
    in_another_time(7200, "");
}

#[test]
fn the_daemon_starts_by_a_clock_that_stands_before() {
    in_another_time(-600, "");
}

/// However many ask at once for more time for one lease, its source is asked once; and not again before there is time to be gained.
#[test]
fn a_lease_is_prolonged_once_at_a_time() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(1));
    let clock = lives.clock.clone();
    let asked = || lives.source.calls().iter().filter(|(call, _)| *call == Call::Renew).count();
    live(&lives, async |life| {
        let lease = life.issue("source").await.unwrap().lease().id;
        let renew = || life.broker.renew(life.caller.clone(), lease, life.broker.request_id());
        // It has its hour yet.
        assert_eq!((renew().await.unwrap().deadline.0, asked()), (BOOTED + HOUR, 0));
        for round in 1..=2 {
            clock.advance(HOUR / 4);
            let renewed = futures_util::future::join_all((0..20).map(|_| renew())).await;
            for one in renewed {
                let one = one.unwrap();
                assert_eq!((one.deadline.0, one.expires), (BOOTED + HOUR / 4 * round + HOUR, WallTime(clock.wall().0 + HOUR)));
            }
            assert_eq!(asked() as u64, round);
        }
        // What the source does not want to prolong is not asked about again and again by a program that is told to come again.
        clock.advance(HOUR / 4);
        lives.source.plan(Call::Renew, Mishap::Refused);
        assert_eq!(renew().await.err().unwrap().code.as_str(), "not_renewable");
        lives.source.plan(Call::Renew, Mishap::Unreachable);
        assert_eq!(renew().await.err().unwrap().code.as_str(), "engine_unavailable");
        assert_eq!(renew().await.unwrap().deadline.0, BOOTED + HOUR / 4 * 3 + HOUR, "it goes on all the same");
        assert_eq!(life.broker.end(lease, EndReason::Asked).await, Some(EndResult::Revoked));
    });
    sound(folder.path());
}

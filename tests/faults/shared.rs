//! Credentials that processes of one identity have together, and a daemon that dies at the wrong moment.

use super::{host::is_root, lives::*};
use claviger::{
    broker::Selection,
    model::EndResult,
    testing::{Call, Mishap},
};
use std::time::Duration;

/// An operator ends the only lease of a credential while somebody is about to have it as well, who is refused and is the last. Killed before the
/// source was told, the daemon that comes next ends it: the books did not close on the first before the other one was in them.
#[test]
fn who_was_about_to_share_what_an_operator_ended_is_left_with_it_over_a_crash() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(60));
    let count = |wanted: Call| lives.source.calls().iter().filter(|(call, _)| *call == wanted).count();
    die(&lives, async |life| {
        let first = life.issue("shared").await.unwrap().lease().id;
        lives.source.plan(Call::Read, Mishap::Stall);
        let ended = async {
            while count(Call::Read) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            life.broker.end_selected(&Selection::Lease(first), false, life.broker.request_id()).await.unwrap()
        };
        let ended = tokio::select! {
            _second = life.issue("shared") => panic!("its source does not answer"),
            ended = ended => ended,
        };
        let result = ended.iter().find(|row| row.id == first).unwrap().result;
        assert_eq!((result, count(Call::End)), (EndResult::Shared, 0), "somebody else is about to have it");
    });
    assert_eq!(lives.source.live().len(), 1);
    live(&lives, async |life| {
        life.none_lives().await;
        assert!(lives.source.live().is_empty(), "{:?}", lives.source.live());
    });
    let of_second =
        records(folder.path()).into_iter().filter(|record| record["kind"] == "end").find(|record| record["ended"]["result"] == "revoked");
    assert!(of_second.is_some_and(|record| record["ended"]["dead"].is_string()), "the last one's record says when it died");
    sound(folder.path());
}

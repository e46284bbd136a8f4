//! Commits that are the state of one instant, and those that say why they are not.

use engine::model::{ChangeSet, Consistency, NotInstant, Seq};
use tracker::repository;
use tracker::store::mem::Mem;

use crate::bed::{Bed, code, text, tracker};
use crate::history::lines;
use crate::volume::{NAME, Volume};

const INSTANT: Option<Consistency> = Some(Consistency::Instant { window_us: 5_000, pause_us: 40 });
const LIVE: Option<Consistency> = Some(Consistency::Live(NotInstant::NeverQuiet));

/// Commits 1 to 3 record nothing, 4 is of one instant, 5 and 6 are not.
fn bed() -> Bed {
    let mut bed = Bed::new(4096);
    for consistency in [INSTANT, LIVE, LIVE] {
        bed.volume.consistency = consistency;
        std::fs::write(bed.path("source").join("counter"), format!("{:?}", bed.states.len())).unwrap();
        bed.commit(500_000);
    }
    bed
}

#[test]
fn a_commit_that_is_not_of_one_instant_is_restored_and_said() {
    let bed = bed();
    let newest = bed.restore("newest", &[]);
    assert_eq!(code(&newest), 0, "{}", text(&newest));
    bed.assert_state("newest", 6);
    let said = String::from_utf8_lossy(&newest.stderr);
    assert!(said.contains("commit 6 is not of one instant (live: never_quiet)"), "{said}");
    assert!(said.contains("commit 4 of 2023-11-14T22:13:24Z, is 2.00 s older, by 2 commits: --instant"), "{said}");
    let json = lines(&bed.restore("again", &["--json"]).stdout);
    assert_eq!((json[0]["type"].as_str(), json[0]["warning"].as_str()), (Some("warning"), Some("not_instant")));
    assert_eq!(json[1]["consistency"], serde_json::json!({"kind": "live", "reason": "never_quiet"}));
    let older = &json[1]["newest_instant"];
    assert_eq!((&older["seq"], &older["commits_older"], &older["seconds_older"]), (&4.into(), &2.into(), &2.0.into()));
    // Of one instant, or silent about it: there is nothing to say.
    for (at, consistency) in [("4", serde_json::json!({"kind": "instant", "window_us": 5000, "pause_us": 40}))]
        .into_iter()
        .chain([("3", serde_json::Value::Null)])
    {
        let json = lines(&bed.restore(&format!("at-{at}"), &["--at", at, "--json"]).stdout);
        assert_eq!((json.len(), &json[0]["consistency"], &json[0]["newest_instant"]), (1, &consistency, &().into()));
    }
}

#[test]
fn the_newest_one_of_one_instant_is_taken_where_it_is_asked_for() {
    let bed = bed();
    let taken = bed.restore("instant", &["--instant", "--json"]);
    assert_eq!(code(&taken), 0, "{}", text(&taken));
    bed.assert_state("instant", 4);
    assert_eq!(lines(&taken.stdout)[0]["seq"], 4);
    assert_eq!(code(&bed.restore("before", &["--instant", "--at", "5"])), 0);
    bed.assert_state("before", 4);
    let none = bed.restore("none", &["--instant", "--at", "3"]);
    assert_eq!(code(&none), 10, "{}", text(&none));
    assert!(text(&none).contains("up to 3 is of one instant (3 were looked at)"), "{}", text(&none));
    assert!(text(&none).contains("without --instant") && !bed.path("none").exists(), "{}", text(&none));

    let names = |args: &[&str]| lines(&tracker(&[&["ls", &bed.url(), "counter", "--json"], args].concat()).stdout);
    let newest = names(&[]);
    assert_eq!((newest.len(), newest[0]["warning"].as_str()), (2, Some("not_instant")), "{newest:?}");
    let instant = names(&["--instant"]);
    assert_eq!((instant.len(), instant[0]["type"].as_str()), (1, Some("file")), "{instant:?}");
    assert_eq!(code(&tracker(&["ls", &bed.url(), "--instant", "--at", "2"])), 10);
}

#[test]
fn the_log_says_of_each_commit_whether_it_is_of_one_instant() {
    let bed = bed();
    let log = lines(&tracker(&["log", &bed.url(), "--json"]).stdout);
    let kinds: Vec<Option<&str>> = log.iter().map(|line| line["consistency"]["kind"].as_str()).collect();
    assert_eq!(kinds, [Some("live"), Some("live"), Some("instant"), None, None, None]);
    assert_eq!(log[2]["consistency"]["window_us"], 5_000);
    let table = text(&tracker(&["log", &bed.url(), "-n", "4"]));
    let ends: Vec<&str> = table.lines().skip(1).map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(ends, ["live: never_quiet", "live: never_quiet", "instant", "-"], "{table}");
}

/// Far back, over the end of pruned history, and no further than it may.
#[test]
fn the_search_goes_back_as_far_as_it_may_and_no_further() {
    let store: std::sync::Arc<dyn tracker::store::Store> = std::sync::Arc::new(Mem::new());
    let mut volume = Volume::create_in(std::sync::Arc::clone(&store), 64);
    let dir = tempfile::tempdir().unwrap();
    volume.consistency = INSTANT;
    volume.commit(dir.path(), 0);
    volume.consistency = LIVE;
    for _ in 2..=100 {
        volume.commit_changes(ChangeSet::default(), 0);
    }
    let reader = repository::open(std::sync::Arc::clone(&store), NAME).unwrap();
    let search = |from, limit| reader.newest_instant(Seq(from), limit).unwrap();
    let found = search(100, 10_000);
    assert_eq!((found.found.map(|found| found.seq), found.looked), (Some(Seq(1)), 100));
    assert_eq!(search(100, 100).found, found.found);
    assert_eq!((search(100, 99).found, search(100, 99).looked), (None, 99));
    assert_eq!(search(1, 1).looked, 1);
    // A prune has taken what lay in between.
    store.delete(&format!("{NAME}/commits/{:020}", 40)).unwrap();
    let pruned = search(100, 10_000);
    assert_eq!((pruned.found, pruned.looked), (None, 60));
}

#[test]
fn a_store_that_says_nothing_of_it_ends_the_search_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(&dir.path().join("store"), 4096);
    volume.baseline = None;
    for _ in 0..3 {
        volume.commit(dir.path(), 0);
    }
    let reader = repository::open(std::sync::Arc::clone(&volume.store), NAME).unwrap();
    assert_eq!(reader.newest_instant(Seq(3), 10_000).unwrap().looked, 1);
}

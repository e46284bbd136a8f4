//! What commits record: whether the baseline is complete, and the wall clock.

use std::sync::Arc;

use engine::model::{ChangeSet, Seq, Time};
use tracker::repository;
use tracker::store::mem::Mem;
use tracker::store::meter::{Meter, Metered};
use tracker::units::At;

use crate::bed::{Bed, code, text, tracker};
use crate::volume::{NAME, START, Volume};

pub(crate) fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_first_copy_that_had_not_ended_is_never_green() {
    let mut bed = Bed::new(4096);
    let url = bed.url();
    bed.volume.baseline = Some(false);
    bed.commit(500_000);
    let refused = bed.restore("out", &[]);
    assert_eq!(code(&refused), 3, "{}", text(&refused));
    assert!(text(&refused).contains("--partial") && !bed.path("out").exists(), "{}", text(&refused));
    let given = bed.restore("out", &["--partial", "--json"]);
    assert_eq!(code(&given), 3, "{}", text(&given));
    assert_eq!(lines(&given.stdout)[0]["baseline"], false);
    bed.assert_state("out", 4);
    let verified = tracker(&["verify", &url]);
    assert_eq!(code(&verified), 3, "{}", text(&verified));
    assert!(text(&verified).contains("incomplete: "), "{}", text(&verified));
    assert_eq!(lines(&tracker(&["verify", &url, "--json"]).stdout)[0]["baseline"], false);
    let listed = tracker(&["ls", &url, "--json"]);
    assert_eq!(lines(&listed.stdout)[0]["warning"], "incomplete", "{}", text(&listed));
    let log = tracker(&["log", &url]);
    let notes: Vec<bool> = text(&log).lines().skip(1).map(|line| line.ends_with("baseline incomplete")).collect();
    assert_eq!(notes, [true, false, false, false], "{}", text(&log));
    assert_eq!(lines(&tracker(&["log", &url, "--json"]).stdout)[0]["baseline"], false);

    bed.volume.baseline = Some(true);
    bed.commit(500_000);
    assert_eq!(code(&bed.restore("whole", &[])), 0);
    assert_eq!(code(&tracker(&["verify", &url])), 0);
    assert_eq!(code(&bed.restore("before", &["--at", "4"])), 3, "that state still lacks files");
}

#[test]
fn a_volume_of_an_older_format_says_that_it_does_not_record_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(&dir.path().join("store"), 4096);
    volume.baseline = None;
    std::fs::create_dir(dir.path().join("source")).unwrap();
    std::fs::write(dir.path().join("source/f"), "x").unwrap();
    volume.commit(&dir.path().join("source"), 500_000);
    let url = dir.path().join("store").join(NAME);
    let (url, out) = (url.to_str().unwrap(), dir.path().join("out"));
    assert_eq!(code(&tracker(&["restore", url, out.to_str().unwrap()])), 0);
    let verified = tracker(&["verify", url]);
    assert_eq!(code(&verified), 0, "{}", text(&verified));
    assert!(text(&verified).contains("not recorded"), "{}", text(&verified));
    assert!(lines(&tracker(&["log", url, "--json"]).stdout)[0]["baseline"].is_null());
}

const DAY: i64 = 86_400;

/// A volume of empty commits with these wall clocks, in seconds after `START`.
fn with_clocks(clocks: &[i64], era_len: u64) -> (repository::Reader, Arc<Meter>) {
    let meter = Arc::new(Meter::default());
    let store: Arc<dyn tracker::store::Store> = Arc::new(Metered::new(Mem::new(), Arc::clone(&meter)));
    let mut volume = Volume::create_in(Arc::clone(&store), era_len);
    let dir = tempfile::tempdir().unwrap();
    for (n, wall) in clocks.iter().enumerate() {
        volume.wall = Some(Time { sec: START + wall, nsec: 0 });
        if n == 0 {
            volume.commit(dir.path(), 0);
        } else {
            volume.commit_changes(ChangeSet::default(), 0);
        }
    }
    (repository::open(store, NAME).unwrap(), meter)
}

fn at(sec: i64) -> Option<At> {
    Some(At::Time(jiff::Timestamp::from_second(START + sec).unwrap()))
}

/// The clock is two days ahead for a while, then right again.
#[test]
fn a_time_is_what_the_wall_clock_said() {
    let clocks = [1, 2, 2 * DAY + 3, 2 * DAY + 4, 2 * DAY + 5, 6, 7, 8, 9, 10];
    let (reader, _) = with_clocks(&clocks, 4);
    let chosen = reader.choose(at(8)).unwrap();
    assert_eq!(chosen.seq, Seq(8), "what was committed when the clock said so");
    let warning = chosen.clocks.expect("the clocks disagree");
    assert_eq!(warning.in_order, Some(Seq(2)));
    assert!(
        warning.to_string().contains("the clock was set back") && warning.to_string().contains("--at 2"),
        "{warning}"
    );
    // Before it was set ahead, there is nothing to warn about.
    assert_eq!(reader.choose(at(2)).unwrap(), repository::Chosen { seq: Seq(2), clocks: None });
    assert_eq!(reader.choose(at(3 * DAY)).unwrap(), repository::Chosen { seq: Seq(10), clocks: None });
    assert!(reader.choose(at(0)).is_err());
    // While it was ahead: the last commit with no later wall clock is the newest, and the other answer is named.
    let chosen = reader.choose(at(2 * DAY + 4)).unwrap();
    assert_eq!((chosen.seq, chosen.clocks.and_then(|warning| warning.in_order)), (Seq(10), Some(Seq(4))));
}

#[test]
fn every_time_finds_the_last_commit_that_says_no_later_one() {
    let mut random = 7u64;
    for round in 0..12 {
        let mut clock = 0;
        let clocks: Vec<i64> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            clock +=
                if (random >> 33).is_multiple_of(6) { -((random >> 40) as i64 % 9) } else { (random >> 40) as i64 % 3 };
            clock
        })
        .take(23)
        .collect();
        let (reader, _) = with_clocks(&clocks, [2, 5, 4096][round % 3]);
        for when in -20..40 {
            let naive = clocks.iter().rposition(|clock| *clock <= when).map(|n| Seq(n as u64 + 1));
            let found = reader.choose(at(when)).ok().map(|chosen| chosen.seq);
            assert_eq!(found, naive, "at {when} of {clocks:?}");
        }
    }
}

#[test]
fn finding_by_time_reads_few_commits() {
    let rising: Vec<i64> = (0..600).collect();
    let (reader, meter) = with_clocks(&rising, 64);
    let before = meter.requests();
    assert_eq!(reader.choose(at(300)).unwrap().seq, Seq(301));
    assert!(meter.requests() - before <= 1 + 4 + 6 + 2, "{} requests", meter.requests() - before);
    // A clock that went back once costs a second search and a few more reads.
    let fallen: Vec<i64> = (0..600).map(|n| if n < 500 { n + 1000 } else { n }).collect();
    let (reader, meter) = with_clocks(&fallen, 64);
    let before = meter.requests();
    assert_eq!(reader.choose(at(1100)).unwrap().seq, Seq(600));
    assert!(meter.requests() - before <= 2 * 12 + 5, "{} requests", meter.requests() - before);
}

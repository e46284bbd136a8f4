//! What counts as a loss, and when the removals of a flush wait.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::super::max_delete::MaxDelete;
use super::*;

fn file(id: u64, parent: u64, name: &str) -> Gone {
    Gone { id: FileId(id), is_dir: false, names: vec![(FileId(parent), name.into())] }
}

fn dir(id: u64, parent: u64, name: &str) -> Gone {
    Gone { is_dir: true, ..file(id, parent, name) }
}

/// Weighs with these names in directories that stay: parent, name, file.
fn weighed(gone: &[Gone], now: &[(u64, &str, u64)]) -> Weighed {
    let now: BTreeMap<(FileId, Vec<u8>), FileId> =
        now.iter().map(|(parent, name, id)| ((FileId(*parent), name.as_bytes().to_vec()), FileId(*id))).collect();
    let Ok(weighed) = weigh::<Infallible>(gone, |dir, name| Ok(now.get(&(dir, name.to_vec())).copied()));
    weighed
}

/// A directory in whose place another stands, and that is held: without this it was held in every second flush only.
#[test]
fn the_name_of_a_directory_that_stays_in_anothers_place_goes_on_waiting() {
    let waits = |id: u64, name: &str| Missing { parent: FileId(id), name: name.into(), drain: 7 };
    let missing = [waits(1, "f"), waits(1, "g"), waits(2, "f")];
    let names_of = |id: FileId| Ok::<_, Infallible>(vec![(FileId(1), if id == FileId(5) { "f" } else { "h" }.into())]);
    let Ok(waiting) = waited(&missing, [FileId(5), FileId(6)].into_iter(), names_of);
    assert_eq!(waiting, [waits(1, "f")]);
}

#[test]
fn an_emptied_source_is_held_and_daily_removals_are_not() {
    let guard = MaxDelete::DEFAULT;
    // Pairs: files lost, files in total.
    for (lost, files) in [(1001, 1001), (1001, 2001), (1190, 1200), (600_000, 1_000_000)] {
        assert!(guard.holds(lost, files), "{lost} of {files}");
    }
    for (lost, files) in [(0, 0), (60, 60), (1000, 1000), (1001, 2002), (5000, 10_000), (499_999, 1_000_000)] {
        assert!(!guard.holds(lost, files), "{lost} of {files}");
    }
    assert!(!MaxDelete::OFF.holds(u64::MAX, 1));
    assert!(MaxDelete { percent: Some(0), floor: 0, ..guard }.holds(1, u64::MAX));
    assert!(!MaxDelete { percent: Some(100), ..guard }.holds(u64::MAX, u64::MAX), "no more than all can go");
}

#[test]
fn what_was_confirmed_goes_and_more_than_that_does_not() {
    let guard = MaxDelete { confirmed: 1190, ..MaxDelete::DEFAULT };
    assert!(!guard.holds(1190, 1200) && guard.holds(1191, 1200));
}

/// `rm -rf` over several flushes: the last part is measured against what existed before the first.
#[test]
fn the_last_part_of_a_long_removal_is_measured_by_the_whole() {
    let guard = MaxDelete { before: 41_000, ..MaxDelete::DEFAULT };
    assert!(!guard.holds(8000, 9000));
    assert!(guard.holds(30_000, 41_000));
}

#[test]
fn a_file_that_another_took_the_place_of_is_no_loss() {
    // Replaced by rename, as an editor does.
    let replaced = weighed(&[file(5, 0, "a"), file(6, 0, "b")], &[(0, "a", 9)]);
    assert_eq!((replaced.lost, replaced.through), (1, HashSet::from([FileId(5)])));
    // Of two names one was taken, the other is gone: it is no loss, but what was unset can wait.
    let two = Gone { names: vec![(FileId(0), b"a".to_vec()), (FileId(0), b"b".to_vec())], ..file(5, 0, "a") };
    let two = weighed(&[two], &[(0, "a", 9)]);
    assert_eq!((two.lost, two.through.len()), (0, 0));
}

#[test]
fn a_tree_in_the_place_of_another_is_no_loss_where_it_has_the_same_names() {
    let gone = [dir(1, 0, "d"), dir(2, 1, "e"), file(3, 2, "x"), file(4, 2, "y"), file(5, 1, "z")];
    let emptied = weighed(&gone, &[(0, "d", 11)]);
    assert_eq!((emptied.lost, emptied.replaced), (3, BTreeSet::from([FileId(1)])));
    let again = weighed(&gone, &[(0, "d", 11), (11, "e", 12), (12, "x", 13), (11, "z", 15)]);
    assert_eq!(again.lost, 1, "y alone");
    assert!(again.through.is_empty(), "what is below a directory that is gone goes with it");
    let removed = weighed(&gone, &[]);
    assert_eq!((removed.lost, removed.replaced), (3, BTreeSet::new()));
    let _ends = weighed(&[dir(1, 2, "a"), dir(2, 1, "b"), file(3, 1, "x")], &[]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No file counts as lost twice, in whatever order files come, and files at the old paths only lessen a loss.
    #[test]
    fn a_loss_is_bounded_and_falls_with_what_is_there(
        parents in proptest::collection::vec((0u64..12, any::<bool>()), 1..12),
        there in proptest::collection::vec((0u64..12, 0usize..12), 0..20),
        turn in 0usize..12,
    ) {
        let name = |at: usize| format!("n{at}");
        let mut gone: Vec<Gone> = parents.iter().enumerate().map(|(at, (parent, is_dir))| {
            let id = at as u64 + 1;
            // The parent is an earlier directory or the root, so there are no circles.
            let parent = parent % id;
            let above = parent.checked_sub(1).and_then(|above| parents.get(above as usize));
            let parent = if above.is_none_or(|(_, is_dir)| *is_dir) { parent } else { 0 };
            Gone { is_dir: *is_dir, ..file(id, parent, &name(at)) }
        }).collect();
        let names: Vec<String> = (0..12).map(name).collect();
        let all: Vec<(u64, &str, u64)> = there.iter().enumerate()
            .map(|(at, (parent, n))| (if *parent == 0 { 0 } else { 99 + parent }, names[*n].as_str(), 100 + at as u64)).collect();
        let full = weighed(&gone, &all);
        let files = gone.iter().filter(|gone| !gone.is_dir).count() as u64;
        prop_assert!(full.lost + full.through.len() as u64 <= files);
        prop_assert_eq!(weighed(&gone, &[]).lost, files);
        let by = turn % gone.len();
        gone.rotate_left(by);
        prop_assert_eq!(weighed(&gone, &all), full);
    }

    #[test]
    fn a_smaller_loss_is_never_held_where_a_greater_one_goes(
        percent in 0u8..=100, floor in 0u64..2000, lost in 0u64..5000, less in 0u64..5000, files in 0u64..6000,
    ) {
        let guard = MaxDelete { percent: Some(percent), floor, confirmed: 0, before: 0 };
        prop_assert!(!guard.holds(lost.min(less), files) || guard.holds(lost.max(less), files));
        let confirmed = MaxDelete { confirmed: lost, ..guard };
        prop_assert!(!confirmed.holds(lost, files));
        let part_of_much = MaxDelete { before: u64::MAX, percent: Some(percent.max(1)), ..guard };
        prop_assert!(!part_of_much.holds(lost, files));
    }
}

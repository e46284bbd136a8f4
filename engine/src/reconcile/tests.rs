//! How names are reconciled, one test for each case, over a catalog and a tree made of maps.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;

use super::*;
use crate::model::{Ino, Meta, Time};

const ROOT: FileId = FileId::ROOT;
const DIR: FileId = FileId(3);

/// What the catalog has, and what direct lookups in the file system find.
#[derive(Default)]
struct Known {
    records: BTreeMap<FileId, Record>,
    names: BTreeMap<Place, FileId>,
    there: BTreeMap<Place, Stat>,
    dead: BTreeSet<FileId>,
    inside: BTreeSet<FileId>,
    /// Directories that are not at their path when a name in them is looked up.
    away: BTreeSet<FileId>,
    /// How often the names of a file were asked for.
    asked: usize,
    of_one_moment: bool,
}

impl Known {
    /// The root, to which `file` and `dir` add.
    fn new() -> Known {
        let mut known = Known::default();
        known.record(ROOT, Kind::Dir);
        known
    }

    fn record(&mut self, id: FileId, kind: Kind) {
        let stat = stat(id, kind);
        let meta = Meta {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: stat.mtime,
            rdev: 0,
            target: Vec::new(),
            xattrs: Vec::new(),
            flags: 0,
            project: 0,
        };
        let record =
            Record { id, inode: stat.inode, meta, size: 0, root: None, hole_bytes: 0, signed: false, ctime: None };
        self.records.insert(id, record);
    }

    fn with(mut self, parent: FileId, name: &str, id: FileId, kind: Kind) -> Known {
        self.record(id, kind);
        self.names.insert((parent, name.into()), id);
        self
    }
}

impl Lookup for Known {
    type Error = Infallible;

    fn by_inode(&mut self, inode: InodeId, kind: Kind) -> Result<Option<FileId>, Infallible> {
        Ok(self.records.values().find(|r| r.inode == inode && r.meta.kind == kind).map(|r| r.id))
    }

    fn record(&mut self, id: FileId) -> Result<Option<Record>, Infallible> {
        Ok(self.records.get(&id).cloned())
    }

    fn names_of(&mut self, id: FileId) -> Result<Vec<(FileId, Vec<u8>)>, Infallible> {
        self.asked += 1;
        Ok(self.names.iter().filter(|(_, named)| **named == id).map(|(place, _)| place.clone()).collect())
    }

    fn children(&mut self, dir: FileId) -> Result<Vec<(Vec<u8>, FileId)>, Infallible> {
        Ok(self.names.iter().filter(|((p, _), _)| *p == dir).map(|((_, name), id)| (name.clone(), *id)).collect())
    }

    fn direct(&mut self, dir: FileId, name: &[u8]) -> Result<Named, Infallible> {
        if self.away.contains(&dir) {
            return Ok(Named::NoDirectory);
        }
        Ok(self.there.get(&(dir, name.to_vec())).cloned().map_or(Named::Nothing, Named::Entry))
    }

    fn alive(&mut self, id: FileId) -> Result<Alive, Infallible> {
        Ok(match (self.dead.contains(&id), self.inside.contains(&id)) {
            (true, _) => Alive::Gone,
            (false, true) => Alive::Inside,
            (false, false) => Alive::Yes,
        })
    }

    fn is_of_one_moment(&self) -> bool {
        self.of_one_moment
    }
}

/// The inode of a known file: ten times its id.
fn stat(id: FileId, kind: Kind) -> Stat {
    let time = Time { sec: 1, nsec: 0 };
    Stat {
        inode: InodeId { ino: Ino(id.0 * 10), generation: 1 },
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        nlink: 1,
        mtime: time,
        ctime: time,
    }
}

fn listing(known: &mut Known, dir: FileId, seen: Vec<(&str, Stat)>) -> Listing {
    let Ok(committed) = known.children(dir);
    let seen = seen.into_iter().map(|(name, stat)| Entry { name: name.into(), stat }).collect();
    Listing { dir, committed, seen, unknown: Vec::new() }
}

fn decide(known: &mut Known, listings: &[Listing], missing: &[Missing], drain: u64) -> NamePlan {
    let Ok(plan) = reconcile(listings, missing, drain, &mut Assigned::new(FileId(100)), &HashSet::new(), known);
    plan
}

fn set(parent: FileId, name: &str, id: FileId) -> NameChange {
    NameChange::Set { parent, name: name.into(), id }
}

fn unset(parent: FileId, name: &str) -> NameChange {
    NameChange::Unset { parent, name: name.into() }
}

fn assert_nothing(plan: &NamePlan) {
    assert_eq!((&plan.changes, &plan.new, &plan.gone, &plan.missing), (&vec![], &vec![], &vec![], &vec![]));
}

#[test]
fn a_name_that_the_listing_missed_stays() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    known.there.insert((ROOT, "a".into()), stat(FileId(2), Kind::File));
    let listing = listing(&mut known, ROOT, vec![]);
    assert_nothing(&decide(&mut known, &[listing], &[], 5));
}

#[test]
fn a_single_link_seen_twice_keeps_the_later_name() {
    let file = stat(FileId(2), Kind::File);
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File).with(ROOT, "d", DIR, Kind::Dir);
    let root = listing(&mut known, ROOT, vec![("a", file.clone()), ("d", stat(DIR, Kind::Dir))]);
    let dir = listing(&mut known, DIR, vec![("b", file)]);
    let moved = decide(&mut known, &[root.clone(), dir.clone()], &[], 5);
    assert_eq!(moved.changes, [unset(ROOT, "a"), set(DIR, "b", FileId(2))]);
    assert_eq!((moved.gone, moved.missing), (vec![], vec![]));
    assert_nothing(&decide(&mut known, &[dir, root], &[], 5));
}

#[test]
fn two_links_seen_are_two_names() {
    let file = Stat { nlink: 2, ..stat(FileId(2), Kind::File) };
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    let listing = listing(&mut known, ROOT, vec![("a", file.clone()), ("b", file)]);
    assert_eq!(decide(&mut known, &[listing], &[], 5).changes, [set(ROOT, "b", FileId(2))]);
}

#[test]
fn a_vanished_name_of_a_dead_inode_is_removed_at_once() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    known.dead.insert(FileId(2));
    let listing = listing(&mut known, ROOT, vec![]);
    let plan = decide(&mut known, &[listing], &[], 5);
    assert_eq!((plan.changes, plan.gone), (vec![unset(ROOT, "a")], vec![FileId(2)]));
}

#[test]
fn a_vanished_name_of_a_living_inode_waits_for_a_later_swap() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    let listing = listing(&mut known, ROOT, vec![]);
    let waits = vec![Missing { parent: ROOT, name: "a".into(), drain: 5 }];
    for missing in [&[][..], &waits[..]] {
        let plan = decide(&mut known, std::slice::from_ref(&listing), missing, 5);
        assert_eq!((plan.changes, plan.gone, plan.missing), (vec![], vec![], waits.clone()));
    }
    let plan = decide(&mut known, &[listing], &waits, 6);
    assert_eq!((plan.changes, plan.gone, plan.missing), (vec![unset(ROOT, "a")], vec![FileId(2)], vec![]));
}

/// A process counts its drains from one: a name that waited since drain one million of an earlier process must not wait for
/// a million drains.
#[test]
fn a_name_that_waited_in_a_former_process_waits_for_one_swap_of_this() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    let listing = listing(&mut known, ROOT, vec![]);
    let former = vec![Missing { parent: ROOT, name: "a".into(), drain: 1_000_000 }];
    let plan = decide(&mut known, std::slice::from_ref(&listing), &former, 1);
    assert_eq!((plan.changes, &plan.missing), (vec![], &vec![Missing { drain: 1, ..former[0].clone() }]));
    assert_eq!(decide(&mut known, &[listing], &plan.missing, 2).changes, [unset(ROOT, "a")]);
}

/// A file that moves faster than directories are listed is missed by one listing after the other. A directory that moved
/// away after it was listed says nothing of its names.
#[test]
fn a_name_is_not_absent_because_its_directory_is_away() {
    let mut known = Known::new().with(ROOT, "d", DIR, Kind::Dir).with(DIR, "a", FileId(2), Kind::File);
    let waits = vec![Missing { parent: DIR, name: "a".into(), drain: 5 }];
    let dir = listing(&mut known, DIR, vec![]);
    known.away.insert(DIR);
    let plan = decide(&mut known, std::slice::from_ref(&dir), &waits, 6);
    assert_eq!((plan.changes, plan.missing), (vec![], waits.clone()));
    known.away.clear();
    assert_eq!(decide(&mut known, &[dir], &waits, 7).changes, [unset(DIR, "a")]);
}

#[test]
fn a_name_of_an_inode_inside_the_tree_waits_for_as_long_as_it_takes() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    known.inside.insert(FileId(2));
    let listing = listing(&mut known, ROOT, vec![]);
    let waits = vec![Missing { parent: ROOT, name: "a".into(), drain: 5 }];
    for drain in 6..10 {
        let plan = decide(&mut known, std::slice::from_ref(&listing), &waits, drain);
        assert_eq!((plan.changes, plan.gone, plan.missing), (vec![], vec![], waits.clone()));
    }
    known.inside.clear();
    assert_eq!(decide(&mut known, &[listing], &waits, 10).changes, [unset(ROOT, "a")], "moved out of the tree");
}

/// `mv cur old; touch cur` while the directory is listed: `old` was not seen.
#[test]
fn a_file_whose_name_was_taken_and_that_is_in_the_tree_is_not_gone() {
    for kind in [Kind::File, Kind::Dir] {
        let mut known = Known::new().with(ROOT, "cur", FileId(2), kind);
        let new = stat(FileId(9), kind);
        known.inside.insert(FileId(2));
        let listing = listing(&mut known, ROOT, vec![("cur", new.clone())]);
        let plan = decide(&mut known, std::slice::from_ref(&listing), &[], 5);
        assert_eq!((plan.changes, plan.gone), (vec![], vec![]), "{kind:?}");
        assert_eq!(plan.held.into_iter().collect::<Vec<_>>(), [ROOT], "it is listed again");
        let waits = plan.missing;
        assert_eq!(waits, [Missing { parent: ROOT, name: "cur".into(), drain: 5 }]);
        let plan = decide(&mut known, std::slice::from_ref(&listing), &waits, 6);
        assert_eq!((plan.gone, plan.missing), (vec![FileId(2)], vec![]), "it waits for one later swap, not for ever");
        known.inside.clear();
        known.dead.insert(FileId(2));
        let plan = decide(&mut known, &[listing], &[], 6);
        assert_eq!(plan.gone, [FileId(2)], "replaced for good");
    }
}

#[test]
fn what_waits_in_a_directory_that_was_not_listed_goes_on_waiting() {
    let mut known = Known::new().with(ROOT, "d", DIR, Kind::Dir).with(DIR, "a", FileId(2), Kind::File);
    let waits = vec![Missing { parent: DIR, name: "a".into(), drain: 5 }];
    let root = listing(&mut known, ROOT, vec![("d", stat(DIR, Kind::Dir))]);
    let plan = decide(&mut known, &[root], &waits, 6);
    assert_eq!((plan.changes, plan.missing), (vec![], waits));
}

fn with_directory() -> Known {
    Known::new().with(ROOT, "d", DIR, Kind::Dir).with(DIR, "x", FileId(4), Kind::File).with(
        DIR,
        "y",
        FileId(5),
        Kind::File,
    )
}

#[test]
fn the_rename_of_a_directory_is_one_record() {
    let mut known = with_directory();
    let listing = listing(&mut known, ROOT, vec![("e", stat(DIR, Kind::Dir))]);
    let plan = decide(&mut known, &[listing], &[], 5);
    assert_eq!(plan.changes, [unset(ROOT, "d"), set(ROOT, "e", DIR)]);
    assert_eq!((plan.gone, plan.missing), (vec![], vec![]));
}

/// It need not be missing twice, unless it has another place in the tree that no listing shows.
#[test]
fn a_name_that_is_nowhere_in_one_moment_is_gone() {
    for (inside, waits) in [(false, false), (true, true)] {
        let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
        known.of_one_moment = true;
        known.inside.extend(inside.then_some(FileId(2)));
        let listing = listing(&mut known, ROOT, vec![]);
        let plan = decide(&mut known, &[listing], &[], 5);
        assert_eq!((plan.gone.is_empty(), plan.missing.len()), (waits, usize::from(waits)));
    }
}

#[test]
fn a_directory_that_was_moved_out_takes_its_files_along() {
    let mut known = with_directory();
    // A file that was moved out of it before lives on under its new name.
    let listing = listing(&mut known, ROOT, vec![("z", stat(FileId(4), Kind::File))]);
    let waits = vec![Missing { parent: ROOT, name: "d".into(), drain: 5 }];
    let plan = decide(&mut known, std::slice::from_ref(&listing), &[], 5);
    assert_eq!((plan.gone, plan.missing), (vec![], waits.clone()));
    assert_eq!(plan.changes, [unset(DIR, "x"), set(ROOT, "z", FileId(4))]);
    let plan = decide(&mut known, &[listing], &waits, 6);
    assert_eq!(plan.gone, [DIR, FileId(5)]);
    assert_eq!(plan.changes, [unset(ROOT, "d"), unset(DIR, "x"), unset(DIR, "y"), set(ROOT, "z", FileId(4))]);
}

#[test]
fn a_dead_directory_with_names_in_it_is_not_removed_at_once() {
    let mut known = with_directory();
    known.dead.insert(DIR);
    let listing = listing(&mut known, ROOT, vec![]);
    let plan = decide(&mut known, &[listing], &[], 5);
    assert_eq!((plan.changes, plan.gone, plan.missing.len()), (vec![], vec![], 1));
}

/// Another file with the inode number of file 2.
fn again() -> Stat {
    Stat { inode: InodeId { ino: Ino(20), generation: 2 }, ..stat(FileId(2), Kind::File) }
}

#[test]
fn an_inode_number_used_again_under_the_same_name_is_another_file() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    let listing = listing(&mut known, ROOT, vec![("a", again())]);
    let plan = decide(&mut known, &[listing], &[], 5);
    assert_eq!((plan.changes, plan.gone), (vec![set(ROOT, "a", FileId(100))], vec![FileId(2)]));
    let new = NewFile { id: FileId(100), stat: again(), parent: ROOT, name: "a".into(), replaces: Some(FileId(2)) };
    assert_eq!(plan.new, [new]);
}

#[test]
fn an_excluded_new_file_leaves_the_old_name() {
    let mut known = Known::new().with(ROOT, "a", FileId(2), Kind::File);
    let listing = listing(&mut known, ROOT, vec![("a", again())]);
    let mut assigned = Assigned::new(FileId(100));
    let mut excluded = HashSet::new();
    let Ok(plan) = reconcile(std::slice::from_ref(&listing), &[], 5, &mut assigned, &excluded, &mut known);
    excluded.insert(plan.new[0].id);
    let Ok(plan) = reconcile(&[listing], &[], 5, &mut assigned, &excluded, &mut known);
    assert_nothing(&plan);
    assert_eq!(plan.held, BTreeSet::from([ROOT]));
}

#[test]
fn all_directories_with_a_link_to_an_excluded_file_are_held() {
    let mut known = Known::new().with(ROOT, "d", DIR, Kind::Dir);
    let new = Stat { nlink: 2, ..again() };
    let root = listing(&mut known, ROOT, vec![("a", new.clone()), ("d", stat(DIR, Kind::Dir))]);
    let dir = listing(&mut known, DIR, vec![("b", new)]);
    let (mut assigned, excluded) = (Assigned::new(FileId(100)), HashSet::from([FileId(100)]));
    let Ok(plan) = reconcile(&[root, dir], &[], 5, &mut assigned, &excluded, &mut known);
    assert_nothing(&plan);
    assert_eq!(plan.held, BTreeSet::from([ROOT, DIR]));
}

#[test]
fn directories_that_change_places_while_listed_are_not_put_into_each_other() {
    let inner = FileId(4);
    let mut known = Known::new().with(ROOT, "d", DIR, Kind::Dir).with(DIR, "x", inner, Kind::Dir);
    // `d/x` became `x`, then `d` became `x/d`. The root was listed between the two, `x` after them, `d` never.
    let root = listing(&mut known, ROOT, vec![]);
    let dir = listing(&mut known, inner, vec![("d", stat(DIR, Kind::Dir))]);
    let plan = decide(&mut known, &[root, dir], &[], 5);
    assert_nothing(&plan);
    assert_eq!(plan.held, BTreeSet::from([ROOT, inner]));
}

/// A chain of `levels` committed directories, the last of which has a chain of `new` ones. The way up must not be walked
/// from each of them.
fn chains(known: &mut Known, levels: u64, new: u64) -> Vec<Listing> {
    let mut at = ROOT;
    for level in 0..levels {
        let id = FileId(1000 + level);
        known.record(id, Kind::Dir);
        known.names.insert((at, b"d".to_vec()), id);
        at = id;
    }
    let mut listings = Vec::new();
    for level in 0..new {
        let id = FileId(100 + level);
        let stat = Stat { inode: InodeId { ino: Ino(1_000_000 + level), generation: 1 }, ..stat(id, Kind::Dir) };
        listings.push(listing(known, at, vec![("d", stat)]));
        at = id;
    }
    listings
}

#[test]
fn what_is_new_below_many_levels_is_followed_up_once() {
    for (levels, new) in [(500, 60), (0, 60), (500, 1)] {
        let mut known = Known::new();
        let listings = chains(&mut known, levels, new);
        known.asked = 0;
        let plan = decide(&mut known, &listings, &[], 5);
        assert_eq!(plan.new.len() as u64, new);
        assert_eq!(known.asked, 0, "no committed directory moved: {levels} and {new} levels");
        // A directory that moved to the lower end is followed up, past each level once.
        known = known.with(ROOT, "from", DIR, Kind::Dir);
        let mut with_move = listings.clone();
        let last = with_move.last_mut().unwrap();
        last.seen.push(Entry { name: b"to".to_vec(), stat: stat(DIR, Kind::Dir) });
        let root = listing(&mut known, ROOT, vec![]);
        with_move.push(root);
        known.asked = 0;
        let plan = decide(&mut known, &with_move, &[], 5);
        assert!(plan.changes.iter().any(|change| matches!(change, NameChange::Set { id: DIR, .. })), "{plan:?}");
        assert!(known.asked as u64 <= levels + 20, "{} questions for {levels} and {new} levels", known.asked);
    }
}

/// Wherever in a long chain a directory is seen below itself, and whichever of its directories is checked first.
#[test]
fn a_circle_is_found_at_every_length() {
    for length in [1, 2, 3, 10] {
        // Committed: root/3/4/5/... Seen: the last one in the root, the first one in the last.
        let mut known = Known::new();
        let mut at = ROOT;
        for n in 0..length {
            known = known.with(at, "d", FileId(3 + n), Kind::Dir);
            at = FileId(3 + n);
        }
        let listing = listing(&mut known, at, vec![("inner", stat(DIR, Kind::Dir))]);
        let plan = decide(&mut known, &[listing], &[], 5);
        assert!(plan.changes.is_empty(), "length {length}: {plan:?}");
    }
}

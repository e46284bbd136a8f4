//! Commits of one instant against the prefix oracle: changes of all kinds are numbered in one order, and each commit that says it
//! is of one instant must be the tree after exactly the first n of them. A copy that is made as usual is none, which shows that
//! the oracle can fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::capture_rig::back_end;
use tests::cgroup::Group;
use tests::daemon::{Volume, utf8};
use tests::load::{number, seed};
use tests::mounts::{Kind, Mount, root_or_skip};
use tests::prefix::load::Load;
use tests::prefix::tree;
use tracker::capture::BackEnd;

/// How much of the load the copies take that are made for comparison.
const COPIES: u32 = 4;
/// Commits that are not of one instant and are restored too.
const LIVE: usize = 5;
/// Of a hundred commits under load so many must be of one instant.
const SHARE: usize = 30;
/// .. and so many at least.
const LEAST: usize = 5;
/// How long writers may be paused, where they may be: a debug build on a busy machine takes tens of milliseconds for a look.
const PAUSE: &str = "1s";

/// Seconds of load: `$TRACKER_PREFIX_SECONDS`, or a few.
fn length() -> Duration {
    let set = std::env::var("TRACKER_PREFIX_SECONDS").ok();
    Duration::from_secs(set.map_or(10, |text| text.parse().expect("TRACKER_PREFIX_SECONDS is a number")))
}

/// A commit as `log` has it.
#[derive(Clone, Debug)]
struct Commit {
    seq: u64,
    /// How long nothing changed, in microseconds; or why it is not of one instant.
    instant: Result<u64, String>,
    paused_us: u64,
}

fn commits(volume: &Volume) -> Vec<Commit> {
    let answer = volume.tracker(&["log", utf8(&volume.reference()), "-n", "100000", "--json"]);
    let commit = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let said = &line["consistency"];
        let instant = if said["kind"] == "instant" {
            Ok(number(said, "window_us"))
        } else {
            Err(said["reason"].as_str().unwrap_or("nothing").to_owned())
        };
        Commit { seq: number(&line, "seq"), instant, paused_us: said["pause_us"].as_u64().unwrap_or(0) }
    };
    answer.expect(0).stdout.lines().map(commit).collect()
}

/// One load, one daemon, and what the oracle says of its commits.
struct Run<'a> {
    case: &'a str,
    volume: Volume,
    load: Load,
    seen: u64,
    /// Where commits are restored: on a file system that has all attributes, which tmpfs has not before Linux 6.6.
    restored: PathBuf,
}

impl Run<'_> {
    /// What the oracle says of a tree.
    fn check(&self, copy: &Path) -> Result<std::ops::RangeInclusive<u64>, String> {
        self.load.check(tree::facts(copy).expect("a tree can be read"))
    }

    fn restored(&self, seq: u64) -> PathBuf {
        let copy = self.restored.join(format!("commit-{seq}"));
        let reference = self.volume.reference();
        self.volume.tracker(&["restore", utf8(&reference), utf8(&copy), "--at", &seq.to_string()]).expect(0);
        copy
    }

    /// How many copies of those that were made while the load went on are no prefix.
    fn copies(&self, copies: &[PathBuf]) -> usize {
        let wrong = copies.iter().filter(|copy| self.check(copy).is_err()).count();
        copies.iter().for_each(|copy| fs::remove_dir_all(copy).expect("a copy"));
        wrong
    }

    /// Restores commits and returns what is wrong with them, each with its number.
    fn faults(&mut self, commits: &[&Commit], in_order: bool) -> Vec<String> {
        let mut faults = Vec::new();
        for commit in commits {
            let copy = self.restored(commit.seq);
            match self.check(&copy) {
                Ok(range) if in_order && *range.end() < self.seen => {
                    faults.push(format!(
                        "commit {}: after {range:?}, but one before it is after {}",
                        commit.seq, self.seen
                    ));
                }
                Ok(range) => self.seen = *range.start(),
                Err(fault) => faults.push(format!("commit {} {:?}: {fault}", commit.seq, commit.instant)),
            }
            if faults.is_empty() || !in_order {
                fs::remove_dir_all(&copy).expect("a restored commit");
            }
        }
        if in_order {
            faults.iter().for_each(|fault| println!("{}: {fault}", self.case));
        }
        faults
    }
}

/// Copies the source while it changes; what vanishes meanwhile is left out.
fn copy_naively(source: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(source).arg(to).output().expect("cp starts");
    assert!(to.is_dir(), "no copy: {output:?}");
}

/// The load beside a daemon. `neighbours`: another directory of the file system is busy as well.
#[track_caller]
fn prefixes(case: &str, kind: Kind, neighbours: bool) {
    let _ = prefixes_with(case, kind, neighbours, None);
}

/// `paused`: the writers never rest, and are in this group, which may be paused. How many commits of one instant paused them; `None`:
/// it was skipped.
#[track_caller]
fn prefixes_with(case: &str, kind: Kind, neighbours: bool, paused: Option<&Group>) -> Option<usize> {
    let mount = Mount::new_or_skip(case, kind)?;
    let (source, outside, busy) = (mount.dir("source"), mount.dir("outside"), mount.dir("busy"));
    let seed = seed();
    println!("{case}: seed {seed} (TRACKER_TEST_SEED sets another)");
    let mut load = Load::new(&source, &outside, seed);
    let mut volume = Volume::new(&source);
    volume.extra = vec!["--interval".into(), "250ms".into()];
    if let Some(group) = paused {
        load = load.restless_in(group.dir());
        volume.extra.extend(["--pause".into(), PAUSE.into()]);
    }
    let mut run = Run { case, volume, load, seen: 0, restored: mount.dir("restored") };
    let daemon = run.volume.start_ready();
    let first = number(&run.volume.status(), "head_seq");
    let (volume, length) = (&run.volume, length());
    let begun = Instant::now();
    let (copies, last) = run.load.run(neighbours.then_some(&busy), || {
        let copies: Vec<PathBuf> = (1..=COPIES)
            .map(|at| {
                thread::sleep((begun + length * at / (COPIES + 1)).saturating_duration_since(Instant::now()));
                let copy = volume.scratch(&format!("copy-{at}"));
                copy_naively(&source, &copy);
                copy
            })
            .collect();
        thread::sleep((begun + length).saturating_duration_since(Instant::now()));
        (copies, number(&volume.status(), "head_seq"))
    });
    assert!(daemon.stop().success(), "{case}: a polite stop\n{}", run.volume.log_tail());
    let mut found = commits(&run.volume);
    found.retain(|commit| (first + 1..=last).contains(&commit.seq));
    found.reverse();
    let enough = if paused.is_some() { (0, 0) } else { (LEAST, SHARE) };
    judge(&mut run, &found, &copies, enough);
    let pauses: Vec<u64> = found.iter().map(|commit| commit.paused_us).filter(|micros| *micros > 0).collect();
    println!("{case}: paused for microseconds: {pauses:?}");
    assert!(paused.is_some() || pauses.is_empty(), "{case}: paused although nobody may be");
    Some(pauses.len())
}

/// `enough`: how many commits of one instant there must be at least, and how many of a hundred.
#[track_caller]
fn judge(run: &mut Run<'_>, found: &[Commit], copies: &[PathBuf], (least, share): (usize, usize)) {
    let case = run.case;
    let (instant, live): (Vec<&Commit>, Vec<&Commit>) = found.iter().partition(|commit| commit.instant.is_ok());
    let mut windows: Vec<u64> = instant.iter().filter_map(|commit| commit.instant.clone().ok()).collect();
    windows.sort_unstable();
    let window = |percent: usize| windows.get((windows.len() * percent / 100).min(windows.len().max(1) - 1)).copied();
    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    for reason in live.iter().filter_map(|commit| commit.instant.as_ref().err()) {
        *reasons.entry(reason).or_default() += 1;
    }
    let every = live.len().div_ceil(LIVE).max(1);
    let some: Vec<&Commit> = live.iter().step_by(every).copied().collect();
    let wrong_copies = run.copies(copies);
    let wrong_live = run.faults(&some, false).len();
    run.seen = 0;
    let faults = run.faults(&instant, true);
    println!(
        "{case}: {} changes; {} commits, {} of one instant, window median {:?} us, p99 {:?} us; not: {reasons:?}; no prefix: {} \
         of these, {wrong_live} of {} live ones, {wrong_copies} of {} copies",
        run.load.count(),
        found.len(),
        instant.len(),
        window(50),
        window(99),
        faults.len(),
        some.len(),
        copies.len(),
    );
    assert!(faults.is_empty(), "{case}: {} commits of one instant are none", faults.len());
    assert!(wrong_copies + wrong_live > 0, "{case}: the oracle finds no fault in copies that are made file by file");
    assert!(
        instant.len() >= least && instant.len() * 100 >= found.len() * share,
        "{case}: too few of one instant: {} of {}, {reasons:?}",
        instant.len(),
        found.len()
    );
}

#[test]
fn instants_are_prefixes_of_all_changes_on_ext4() {
    prefixes("instants_are_prefixes_of_all_changes_on_ext4", Kind::Ext4, false);
}

#[test]
fn instants_are_prefixes_of_all_changes_on_xfs() {
    prefixes("instants_are_prefixes_of_all_changes_on_xfs", Kind::Xfs, false);
}

#[test]
fn instants_are_prefixes_of_all_changes_on_btrfs() {
    prefixes("instants_are_prefixes_of_all_changes_on_btrfs", Kind::Btrfs, false);
}

#[test]
fn instants_are_prefixes_of_all_changes_on_an_overlay() {
    prefixes("instants_are_prefixes_of_all_changes_on_an_overlay", Kind::Overlay, false);
}

/// Writers that never rest.
#[test]
fn instants_with_pauses_are_prefixes_of_all_changes() {
    let case = "instants_with_pauses_are_prefixes_of_all_changes";
    if !root_or_skip(case) {
        return;
    }
    let Some(group) = Group::of_threads_or_skip(case) else { return };
    let of = |kind: Kind| prefixes_with(&format!("{case}/{}", kind.name()), kind, false, Some(&group));
    // A guest that is twenty times slower makes a commit in five seconds.
    let least = if back_end() == BackEnd::Tracepoint { LEAST } else { 1 };
    let pauses: Vec<usize> = [Kind::Ext4, Kind::Xfs, Kind::Btrfs].into_iter().filter_map(of).collect();
    assert!(
        pauses.is_empty() || pauses.iter().sum::<usize>() >= least,
        "{case}: only {pauses:?} commits paused anybody"
    );
}

#[test]
fn instants_are_prefixes_beside_a_busy_directory() {
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        prefixes(&format!("instants_are_prefixes_beside_a_busy_directory/{}", kind.name()), kind, true);
    }
}

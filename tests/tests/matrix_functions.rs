//! Mutants of the back ends that hook functions: each function is left out in turn, and cells of the matrix that need it
//! must be missed, unless other hooks, which are listed here, cover it. The tracepoints of change times, which kernels with
//! these back ends seldom have, are always left out. For guests: `cargo xtask matrix --functions`.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use common::functions::{FUNCTIONS, Function};
use common::hooks::{HOOKS, Role};
use tests::capture_rig::{config, obstacle};
use tests::matrix::bed::{Found, Outcome, Place, run};
use tests::matrix::page::Column;
use tests::matrix::{Kind, Op, ops};
use tests::mounts::{root_or_skip, skip};
use tracker::capture::{BackEnd, Capture};

/// Time until a program that was detached no longer runs.
const TAKEN_OFF: Duration = Duration::from_millis(500);
/// `inode_set_ctime_current`, which Linux 6.6 to 6.12 call for every change: it covers functions that nobody has thought
/// of, so it may cover each of the others.
const CATCH_ALL: &str = "ctime_current";
/// The first kernel in which that is so; earlier long-term ones got the function with single fixes, for single callers.
const CATCHES_ALL: (u32, u32) = (6, 6);

/// What depends on a function, by its stem, and what covers it if nothing is missed without it.
struct Needed {
    stem: &'static str,
    cells: &'static [(Kind, &'static str)],
    /// Stems of functions and programs of tracepoints that cover it: without all of these and it, more is missed than
    /// without these. If none is named, only the catch-all may cover it.
    covered: &'static [&'static str],
    /// Why nothing is missed without it.
    harmless: Option<&'static str>,
}

const fn needed(stem: &'static str, cells: &'static [(Kind, &'static str)]) -> Needed {
    Needed { stem, cells, covered: &[], harmless: None }
}

const fn covered(
    stem: &'static str,
    cells: &'static [(Kind, &'static str)],
    covered: &'static [&'static str],
) -> Needed {
    Needed { stem, cells, covered, harmless: None }
}

const fn harmless(stem: &'static str, cells: &'static [(Kind, &'static str)], why: &'static str) -> Needed {
    Needed { stem, cells, covered: &[], harmless: Some(why) }
}

const NEEDED: [Needed; 26] = [
    needed("setattr", &[(Kind::Ext4, "chmod"), (Kind::Xfs, "utimens"), (Kind::Btrfs, "truncate-down")]),
    // The kernel exports neither of the next two functions, and another compiler may inline them.
    covered("fallocate", &[(Kind::Btrfs, "punch"), (Kind::Tmpfs, "punch")], &["shmem_falloc", "btrfs_falloc"]),
    needed("shmem_falloc", &[(Kind::Tmpfs, "loop-discard")]),
    needed("btrfs_falloc", &[(Kind::Btrfs, "loop-discard")]),
    needed("clone", &[(Kind::Btrfs, "clone"), (Kind::Btrfs, "clone-range")]),
    needed("copy", &[(Kind::Btrfs, "copy-range-aligned")]),
    needed("setxattr", &[(Kind::Ext4, "setxattr"), (Kind::Xfs, "setxattr")]),
    needed("removexattr", &[(Kind::Ext4, "removexattr"), (Kind::Xfs, "removexattr")]),
    needed("set_acl", &[(Kind::Ext4, "acl"), (Kind::Xfs, "acl")]),
    needed("remove_acl", &[(Kind::Ext4, "acl-remove"), (Kind::Xfs, "acl-remove")]),
    needed("fileattr", &[(Kind::Ext4, "inode-flags"), (Kind::Xfs, "inode-flags"), (Kind::Btrfs, "inode-flags")]),
    needed("instantiate", &[(Kind::Xfs, "create"), (Kind::Tmpfs, "create"), (Kind::Ext4, "link")]),
    needed("instant_new", &[(Kind::Ext4, "create"), (Kind::Btrfs, "create")]),
    needed("move", &[(Kind::Ext4, "rename"), (Kind::Xfs, "rename")]),
    needed("exchange", &[(Kind::Ext4, "exchange"), (Kind::Xfs, "exchange")]),
    needed("unlink", &[(Kind::Ext4, "unlink"), (Kind::Xfs, "unlink")]),
    needed("rmdir", &[(Kind::Ext4, "rmdir"), (Kind::Xfs, "rmdir")]),
    needed("tmpfs_dirty", &[(Kind::Tmpfs, "write"), (Kind::Tmpfs, "pwrite")]),
    needed("dio_rw", &[(Kind::Ext4, "direct-write-stalled"), (Kind::Xfs, "direct-write-stalled")]),
    harmless(
        "dio_done",
        &[(Kind::Ext4, "direct-write-stalled"), (Kind::Xfs, "direct-write-stalled")],
        "a write whose end is not told stays in the list of writes under way, which every flush reads, until that is cleaned",
    ),
    covered(
        CATCH_ALL,
        &[(Kind::Tmpfs, "loop-discard"), (Kind::Btrfs, "loop-discard")],
        &["shmem_falloc", "btrfs_falloc"],
    ),
    harmless(
        "move_source",
        &[(Kind::Ext4, "move-extents")],
        "the file that is moved keeps its content, which the kernel copies; it is the donor that changes",
    ),
    covered("move_donor", &[(Kind::Ext4, "move-extents")], &["ext4_remap"]),
    needed("encoded", &[(Kind::Btrfs, "encoded-write")]),
    harmless(
        "write",
        &[(Kind::Ext4, "pwrite"), (Kind::Xfs, "pwrite"), (Kind::Btrfs, "pwrite")],
        "it marks only while an instant is looked for: without it commits say `kernel`",
    ),
    harmless(
        "write_fault",
        &[(Kind::Ext4, "map-after-write"), (Kind::Xfs, "map-after-write"), (Kind::Btrfs, "map-after-write")],
        "as above",
    ),
];

fn function(stem: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.probe == format!("p_{stem}"))
}

/// The programs of a function, by its stem, or a program of a tracepoint, by its name.
fn programs(stem: &'static str) -> Vec<&'static str> {
    match function(stem) {
        // In the order of attaching: the return first, else a call that is entered between the two would stay in flight.
        Some(function) => vec![function.trampoline, function.probe_return, function.probe],
        None => vec![stem],
    }
}

#[test]
fn every_function_is_in_the_list_and_every_cell_in_the_matrix() {
    for function in FUNCTIONS {
        let entries = NEEDED.iter().filter(|one| format!("p_{}", one.stem) == function.probe);
        assert_eq!(entries.count(), 1, "{}", function.name);
    }
    for one in &NEEDED {
        for (_, id) in one.cells {
            assert!(ops::all().iter().any(|op| op.id == *id), "{}: no operation {id}", one.stem);
        }
        for by in one.covered {
            assert!(function(by).is_some() || HOOKS.iter().any(|hook| hook.program == *by), "{}: no {by}", one.stem);
        }
    }
}

/// File systems, and one capture whose programs are loaded once.
struct Bed {
    places: Vec<Place>,
    capture: Capture,
    /// Each run has its own files, which are removed afterwards.
    run: usize,
    faults: Vec<String>,
}

impl Bed {
    /// The cells in `wanted` that are missed without these; `None` if none of the first is attached here.
    fn missed(&mut self, without: &[&'static str], wanted: &[(Kind, &str)]) -> Option<Vec<String>> {
        let all: Vec<&str> = without.iter().flat_map(|stem| programs(stem)).collect();
        let off = self.capture.take_off(&all).unwrap();
        let there = without.first().is_none_or(|stem| programs(stem).iter().any(|program| off.contains(program)));
        if !off.is_empty() {
            thread::sleep(TAKEN_OFF);
        }
        let outcomes = if there { self.cells(wanted) } else { Vec::new() };
        self.capture.put_on(&off).unwrap();
        let (mut red, mut seen) = (Vec::new(), BTreeSet::new());
        for outcome in &outcomes {
            seen.extend(outcome.hooks.iter().copied());
            let cell = format!("{} {}", outcome.fs.name(), outcome.op.id);
            if let Some(hook) = outcome.hooks.iter().find(|hook| all.contains(hook)) {
                self.faults.push(format!("{cell}: {hook} was taken off and ran"));
            }
            match &outcome.found {
                Found::Failed(why) => self.faults.push(format!("without {without:?}: {cell}: {why}")),
                Found::Seen(_) if !outcome.missed.is_empty() => red.push(cell),
                Found::Seen(_) | Found::Absent(_) => {}
            }
        }
        let kernel = Column::here().kernel;
        let back_end = self.capture.back_end().name();
        let said = match (there, red.is_empty()) {
            (false, _) => "not hooked here".to_owned(),
            (true, true) => format!("missed nothing; events of {seen:?}"),
            (true, false) => format!("missed {red:?}"),
        };
        println!("MUTANT {}.{} {back_end} without {without:?}: {said}", kernel.0, kernel.1);
        there.then_some(red)
    }

    fn cells(&mut self, wanted: &[(Kind, &str)]) -> Vec<Outcome> {
        let mut out = Vec::new();
        for place in &self.places {
            let here = |op: &&Op| wanted.contains(&(place.fs, op.id));
            let ops: Vec<&Op> = ops::all().into_iter().filter(here).collect();
            if !ops.is_empty() {
                out.extend(run(place, &mut self.capture, &ops, self.run).unwrap());
                fs::remove_dir_all(place.root(self.run)).unwrap();
            }
        }
        self.run += 1;
        out
    }

    /// Checks that leaving out one function is noticed, or that what covers it is as listed.
    fn judge(&mut self, one: &Needed) {
        let Some(alone) = self.missed(&[one.stem], one.cells) else { return };
        let name = function(one.stem).map_or(one.stem, |function| function.name);
        match one.harmless {
            Some(why) if alone.is_empty() => return println!("MUTANT {name}: {why}"),
            Some(_) => return self.faults.push(format!("without {name} nothing should be missed: {alone:?}")),
            None if !alone.is_empty() => return,
            None => {}
        }
        if one.stem == CATCH_ALL && Column::here().kernel < CATCHES_ALL {
            return println!("MUTANT {name}: an older kernel has it for single callers");
        }
        let catch_all: &[&'static str] = if one.stem == CATCH_ALL { &[] } else { &[CATCH_ALL] };
        let all = [catch_all, one.covered].concat();
        for by in [catch_all, one.covered, &all].into_iter().filter(|by| !by.is_empty()) {
            // What is missed without them alone says nothing about this one.
            let Some(others) = self.missed(by, one.cells) else { continue };
            let both = self.missed(&[by, &[one.stem]].concat(), one.cells).unwrap_or_default();
            if both.iter().any(|cell| !others.contains(cell)) {
                return println!("MUTANT {name} is covered by {by:?}");
            }
        }
        self.faults.push(format!("without {name} nothing is missed, and nothing that is named covers it"));
    }
}

/// Without a function, the cells that need it are missed: so no hook is useless, and the matrix notices each.
#[test]
fn every_function_is_missed_by_some_cell() {
    let test = "every_function_is_missed_by_some_cell";
    if !root_or_skip(test) {
        return;
    }
    if let Some(reason) = obstacle() {
        return skip(test, "ebpf", reason);
    }
    let mut config = config();
    if !matches!(config.back_end, BackEnd::Fentry | BackEnd::Kprobe) {
        return skip(
            test,
            "functions",
            "the back end of this kernel hooks no functions (cargo xtask matrix --functions)",
        );
    }
    let kinds = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs];
    // A function; the catch-all, what covers it, and both, each with and without it.
    let runs = 2 + 7 * NEEDED.len();
    let place = |fs: Kind| Place::new(fs, runs).map_err(|reason| println!("SKIP {}: {reason}", fs.name())).ok();
    let places: Vec<Place> = kinds.into_iter().filter_map(place).collect();
    config.without = HOOKS.iter().filter(|hook| hook.role == Role::Tick).map(|hook| hook.program).collect();
    let (capture, _) = Capture::start(&config).unwrap();
    let mut bed = Bed { places, capture, run: 0, faults: Vec::new() };
    // First nothing is left out, and nothing may be missed.
    let all: Vec<(Kind, &str)> = NEEDED.iter().flat_map(|one| one.cells.iter().copied()).collect();
    let red = bed.missed(&[], &all).unwrap_or_default();
    if !red.is_empty() {
        bed.faults.push(format!("with all hooks: {red:?}"));
    }
    for one in &NEEDED {
        bed.judge(one);
    }
    // At last all are back.
    let red = bed.missed(&[], &all).unwrap_or_default();
    if !red.is_empty() {
        bed.faults.push(format!("with all hooks again: {red:?}"));
    }
    bed.capture.detach().unwrap();
    assert!(bed.faults.is_empty(), "{}", bed.faults.join("\n"));
}

//! Mutants of the back ends that hook functions: each function is left out in turn, and cells of the matrix that hang on it must
//! be missed, unless other hooks cover it, which are named here. The tracepoints of change times, which kernels with this back end
//! seldom have, are left out always. For guests: `cargo xtask matrix --functions`.

use common::functions::{FUNCTIONS, Function};
use common::hooks::{HOOKS, Role};
use tests::capture_rig::{config, obstacle};
use tests::matrix::bed::{Found, Outcome, Place, run};
use tests::matrix::page::Column;
use tests::matrix::{Kind, Op, ops};
use tests::mounts::{root_or_skip, skip};
use tracker::capture::{BackEnd, Capture};

/// What hangs on a function, by its stem, and what covers it where nothing is missed without it.
struct Needed {
    stem: &'static str,
    cells: &'static [(Kind, &'static str)],
    /// `None`: a cell must be missed wherever the function is hooked.
    covered: Option<&'static str>,
}

const fn needed(stem: &'static str, cells: &'static [(Kind, &'static str)]) -> Needed {
    Needed { stem, cells, covered: None }
}

const fn covered(stem: &'static str, cells: &'static [(Kind, &'static str)], by: &'static str) -> Needed {
    Needed { stem, cells, covered: Some(by) }
}

const NEEDED: [Needed; 24] = [
    needed("setattr", &[(Kind::Ext4, "chmod"), (Kind::Xfs, "utimens"), (Kind::Btrfs, "truncate-down")]),
    needed("fallocate", &[(Kind::Btrfs, "punch"), (Kind::Tmpfs, "punch")]),
    covered("shmem_falloc", &[(Kind::Tmpfs, "loop-discard")], "inode_set_ctime_current, from 6.6 on"),
    covered("btrfs_falloc", &[(Kind::Btrfs, "loop-discard")], "inode_set_ctime_current, from 6.6 on"),
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
    needed("dio_done", &[(Kind::Ext4, "direct-write-stalled"), (Kind::Xfs, "direct-write-stalled")]),
    covered(
        "ctime_current",
        &[(Kind::Ext4, "chmod"), (Kind::Xfs, "rename"), (Kind::Btrfs, "loop-discard")],
        "the functions of each change: it stands for those that nobody has thought of",
    ),
    covered("move_source", &[(Kind::Ext4, "move-extents")], "ext4_es_remove_extent"),
    covered("move_donor", &[(Kind::Ext4, "move-extents")], "ext4_es_remove_extent"),
    needed("encoded", &[(Kind::Btrfs, "encoded-write")]),
];

fn function(stem: &str) -> &'static Function {
    let found = FUNCTIONS.iter().find(|function| function.probe == format!("p_{stem}"));
    found.unwrap_or_else(|| panic!("no function {stem}"))
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
    }
}

/// The result of these cells.
fn cells(places: &[Place], capture: &mut Capture, wanted: &[(Kind, &str)], number: usize) -> Vec<Outcome> {
    let mut out = Vec::new();
    for place in places {
        let here = |op: &&Op| wanted.contains(&(place.fs, op.id));
        let ops: Vec<&Op> = ops::all().into_iter().filter(here).collect();
        if !ops.is_empty() {
            out.extend(run(place, capture, &ops, number).unwrap());
        }
    }
    out
}

/// Without it, what hangs on a function is missed: so no hook is there in vain, and the matrix notices each.
#[test]
fn every_function_is_missed_by_some_cell() {
    let test = "every_function_is_missed_by_some_cell";
    if !root_or_skip(test) {
        return;
    }
    if let Some(reason) = obstacle() {
        return skip(test, "ebpf", reason);
    }
    if !matches!(config().back_end, BackEnd::Fentry | BackEnd::Kprobe) {
        return skip(
            test,
            "functions",
            "the back end of this kernel hooks no functions (cargo xtask matrix --functions)",
        );
    }
    let kinds = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs];
    let place =
        |fs: Kind| Place::new(fs, NEEDED.len() + 1).map_err(|reason| println!("SKIP {}: {reason}", fs.name())).ok();
    let places: Vec<Place> = kinds.into_iter().filter_map(place).collect();
    let mut faults = Vec::new();
    for number in 0..=NEEDED.len() {
        // First nothing is left out, and nothing may be missed.
        let mutant = number.checked_sub(1).and_then(|at| NEEDED.get(at));
        let mut config = config();
        config.without = HOOKS.iter().filter(|hook| hook.role == Role::Tick).map(|hook| hook.program).collect();
        let all: Vec<(Kind, &str)> = NEEDED.iter().flat_map(|one| one.cells.iter().copied()).collect();
        let (name, wanted) = mutant.map_or(("nothing", all.as_slice()), |one| (function(one.stem).name, one.cells));
        if let Some(one) = mutant {
            config.without.extend([function(one.stem).trampoline, function(one.stem).probe]);
        }
        let back_end = config.back_end.name();
        let (mut capture, _) = Capture::start(&config).unwrap();
        let outcomes = cells(&places, &mut capture, wanted, number);
        capture.detach().unwrap();
        let mut red = Vec::new();
        for outcome in &outcomes {
            let cell = format!("{} {}", outcome.fs.name(), outcome.op.id);
            match &outcome.found {
                Found::Failed(why) => faults.push(format!("{name}: {cell}: {why}")),
                Found::Seen(_) if !outcome.missed.is_empty() => red.push(cell),
                Found::Seen(_) | Found::Absent(_) => {}
            }
        }
        let kernel = Column::here().kernel;
        println!("MUTANT {}.{} {back_end} without {name}: missed {red:?}", kernel.0, kernel.1);
        match mutant {
            None if !red.is_empty() => faults.push(format!("with all hooks: {red:?}")),
            Some(one) if red.is_empty() && one.covered.is_none() => {
                faults.push(format!("without {name} nothing is missed"))
            }
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

//! Proves that the matrix can fail: each hook is left out in turn, and then some cell must be missed, or this file says
//! which other hook covers it and why it is kept.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use common::hooks::{HOOKS, Role, Serves};
use tests::capture_rig::{back_end, config, obstacle};
use tests::matrix::bed::{Found, Outcome, Place, run};
use tests::matrix::marks::Class;
use tests::matrix::{Kind, Op, ops};
use tests::mounts::{root_or_skip, skip};
use tracker::capture::{BackEnd, Capture};

/// Until a program that was taken off runs no more.
const TAKEN_OFF: Duration = Duration::from_millis(500);

/// How often a hook that no cell misses is left out again, with every cell: what `ctime_skip` sees are changes within one
/// tick of the clock (4 ms at 250 Hz), and beside other tests the two halves of a cell can fall into two ticks.
const AGAIN: usize = 8;

/// Hooks on which no cell depends alone: name, which hooks cover it, why it exists anyway. Without it and these hooks, a
/// cell must be missed that is not missed without these hooks alone. If none are named, it is covered by something other
/// than a hook, and none is left out.
const COVERED: &[(&str, &[&str], &str)] = &[
    (
        "dio_complete",
        &[],
        "a write whose end is not told stays in the list of writes under way, which every flush reads, until that is cleaned",
    ),
    (
        "ext4_fallocate",
        &["ctime_xchg", "ctime_skip", "ext4_remap"],
        "it changes the size at most, and the change time tells of that",
    ),
    ("ext4_punch", &["ext4_remap"], "it has the range even where no extent was cached"),
    ("ext4_collapse", &["ext4_remap"], "it has the offset even where no extent was cached"),
    ("ext4_insert", &["ext4_remap"], "it has the offset even where no extent was cached"),
    ("ext4_truncate", &["ext4_remap"], "it has the size even where no extent was cached"),
    ("xfs_collapse", &["xfs_free"], "the collapsed range is freed first"),
    ("xfs_zero", &["xfs_free"], "the range is freed first, if it has blocks"),
];

/// The file systems on which mutants are tested: those with hooks of their own.
const PLACES: [Kind; 4] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs];

fn cells(place: &Place, capture: &mut Capture, wanted: &[&'static Op], number: usize) -> io::Result<Vec<Outcome>> {
    let found = run(place, capture, wanted, number)?;
    // Each run has its own files, and the file systems are small.
    fs::remove_dir_all(place.root(number))?;
    Ok(found)
}

fn missed(outcome: &Outcome) -> bool {
    outcome.found == Found::Seen(Class::Missed)
}

#[test]
fn a_hook_that_is_left_out_is_missed() {
    let test = "a_hook_that_is_left_out_is_missed";
    if !root_or_skip(test) {
        return;
    }
    if let Some(reason) = obstacle() {
        return skip(test, "ebpf", reason);
    }
    if back_end() != BackEnd::Tracepoint {
        return println!("SKIP {test}: with hooked functions most tracepoints are covered by them");
    }
    let place =
        |fs: Kind| Place::new(fs, HOOKS.len() + 1).map_err(|reason| println!("SKIP {}: {reason}", fs.name())).ok();
    let places: Vec<Place> = PLACES.into_iter().filter_map(place).collect();
    let (mut capture, _) = Capture::start(&config()).unwrap();
    // Which operations a hook sees at all: the others cannot be missed without it.
    let mut seen: BTreeMap<(&str, Kind), Vec<&'static Op>> = BTreeMap::new();
    for place in &places {
        for outcome in cells(place, &mut capture, &ops::all(), 0).unwrap() {
            let known = missed(&outcome) || !matches!(outcome.found, Found::Seen(_));
            for hook in outcome.hooks.iter().filter(|_| !known) {
                seen.entry((hook, place.fs)).or_default().push(outcome.op);
            }
        }
    }
    let (mut wrong, mut pairs, mut reds) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (number, hook) in (1..).zip(HOOKS) {
        if hook.role == Role::Write {
            // `without_one_of_the_hooks_nothing_is_exact` shows it.
            println!("MUTANT {}: folios are marked whole without it", hook.program);
            continue;
        }
        let of = |place: &&Place| match hook.serves {
            Serves::All => true,
            Serves::One(fs) => fs.name() == place.fs.name(),
        };
        let there: Vec<&Place> = places.iter().filter(of).collect();
        let wanted = |place: &Place| seen.get(&(hook.program, place.fs)).cloned().unwrap_or_default();
        let mut red_of = |without: &[&'static str], wanted: &dyn Fn(&Place) -> Vec<&'static Op>| {
            self::red(&mut capture, &there, without, wanted, number)
        };
        let mut red = red_of(&[hook.program], &wanted);
        let covered = COVERED.iter().find(|(program, ..)| *program == hook.program);
        for _ in 0..AGAIN {
            if covered.is_some() || !red.is_empty() {
                break;
            }
            println!("MUTANT {}: missed nowhere, once more", hook.program);
            red = red_of(&[hook.program], &|_| ops::all());
        }
        println!("MUTANT {}: missed: {}", hook.program, red.join(", "));
        match covered {
            None if red.is_empty() => wrong.push(format!("{}: left out, and no cell misses it", hook.program)),
            Some((_, by, _)) if !red.is_empty() => {
                wrong.push(format!("{}: not covered by {by:?}: {red:?}", hook.program))
            }
            Some((_, by, _)) if !by.is_empty() => {
                let both = red_of(&[&[hook.program], *by].concat(), &wanted);
                println!("MUTANT {} and {by:?}: missed: {}", hook.program, both.join(", "));
                pairs.push((hook.program, *by, both));
            }
            _ => {}
        }
        reds.insert(hook.program, red);
        if hook.role == Role::Direct {
            // A write whose end was not told stays in the list, which is not to help the hooks that come.
            capture.detach().unwrap();
            (capture, _) = Capture::start(&config()).unwrap();
        }
    }
    capture.detach().unwrap();
    for (program, by, both) in pairs {
        // What is missed without the others alone is missed without this one as well.
        let alone = |cell: &String| by.iter().any(|by| reds.get(by).is_some_and(|red| red.contains(cell)));
        if both.iter().all(alone) {
            wrong.push(format!("{program}: without it and {by:?} no more is missed than without those"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The cells that are missed without these hooks, on the first file system that misses any.
fn red(
    capture: &mut Capture,
    places: &[&Place],
    without: &[&'static str],
    wanted: &dyn Fn(&Place) -> Vec<&'static Op>,
    number: usize,
) -> Vec<String> {
    let off = capture.take_off(without).unwrap();
    thread::sleep(TAKEN_OFF);
    let mut red = Vec::new();
    for place in places.iter().filter(|place| !wanted(place).is_empty()) {
        let found = cells(place, capture, &wanted(place), number).unwrap();
        for outcome in &found {
            let ran = outcome.hooks.iter().find(|hook| without.contains(hook));
            assert_eq!(ran, None, "taken off, and ran: {} {}", place.fs.name(), outcome.op.id);
        }
        red.extend(
            found
                .iter()
                .filter(|outcome| missed(outcome))
                .map(|outcome| format!("{} {}", place.fs.name(), outcome.op.id)),
        );
        if !red.is_empty() {
            break;
        }
    }
    capture.put_on(&off).unwrap();
    red
}

//! Deterministic simulation: the production flush against a model of kernel, files, catalog, store and sudden death.
//!
//! One seed decides everything. Modelled, because losing data depends on it:
//! - a page marks when it goes from clean to dirty, and not again while it is dirty; a mapped page stays silently writable
//!   until it is cleaned (`writeback_dirty_folio`, kernel 6.18);
//! - in one run of six a page lies in a folio that becomes dirty as one, and writes are marked by what they write where no mapping
//!   can hide a store in it (`tracker-ebpf/src/writes.rs`);
//! - punch-like operations mark first and change bytes later, holding the inode lock;
//! - in one run of five blocks of committed files are exchanged, while their pages keep the old content and give way later;
//! - direct writes mark at begin and at completion, and are in flight between;
//! - a hook's program reads the generation and may write its mark later, until a grace period ends;
//! - in one run of four some files cannot be read;
//! - in one run of seven symlinks are replaced by renames, also between the listing of one and the reading of its target;
//! - a listing is made in two halves between which names move;
//! - the daemon may die at every call it makes; the kernel maps, the catalog and the store live on;
//! - a commit's creation may fail, succeed with a lost reply, or take effect much later;
//! - a commit that is read back may be damaged on the way: a bit, its end, another object's bytes;
//! - in separate runs another writer commits at the next number;
//! - in separate runs a file system without generations reuses inode numbers, and renumbers all files when mounted again.
//!
//! Not modelled: bit rot in the store, loss of the catalog, reboot, a second volume of the file system (these rules have
//! tests of their own).
//!
//! After each run writers stop, faults stop, and the fold of all commits must equal the tree: names, kinds, modes, bytes.
//! The first commit that claims a complete baseline must have the whole first tree. No commit may hold content of a file
//! that was read under a name which it does not have in that commit. To repeat a seed that failed: `TRACKER_SIM_SEED=<seed>
//! cargo test -p engine --lib sim_one_seed`.

mod baseline;
mod catalog;
mod check;
mod deep;
mod files;
mod fine;
mod folios;
mod instant;
mod kernel;
mod links;
mod numbers;
mod open;
mod places;
mod punch;
mod remap;
mod returns;
mod rival;
mod run;
mod seeds;
mod stalled;
mod store;
mod tree;
mod watch;
mod world;

use fine::Unseen;
use folios::Rules;
use rival::acknowledged_with_a_rival;
use run::{Failure, kept_out_by_unreadable, run, run_in, watched_for_nothing};
use seeds::{one_seed, seeds};
use world::SimWorld;

use crate::flush::Steps;

fn first_failure(steps: Steps) -> Option<(u64, Failure)> {
    (1..=seeds()).find_map(|seed| run(seed, steps).err().map(|failure| (seed, failure)))
}

/// The command that repeats one seed.
fn repeat(seed: u64, failure: &Failure) -> String {
    format!(
        "seed {seed}: {failure}\nrepeat: TRACKER_SIM_SEED={seed} cargo test -p engine --lib sim_one_seed -- --nocapture"
    )
}

#[test]
fn sim_thousand_seeds_converge() {
    if let Some((seed, failure)) = first_failure(Steps::ALL) {
        panic!("{}", repeat(seed, &failure));
    }
}

#[test]
fn sim_one_seed() {
    let seed = one_seed();
    if let Err(failure) = run(seed, Steps::ALL) {
        panic!("{}", repeat(seed, &failure));
    }
}

/// Seeds outside the ordinary range that once found a mistake.
#[test]
fn sim_seeds_that_found_something_converge() {
    for seed in [3467, 4928, 4952, 5432, 10_970, 14_575, 30_158, 35_667, 38_014] {
        if let Err(failure) = run(seed, Steps::ALL) {
            panic!("{}", repeat(seed, &failure));
        }
    }
}

/// Each step of the protocol, switched off, must cause a failure in the model. Otherwise the simulation would not notice a
/// mistake.
fn must_be_found(name: &str, steps: Steps) {
    match first_failure(steps) {
        Some((seed, failure)) => println!("without {name}: found by seed {seed}: {failure}"),
        None => panic!("without {name}, {} seeds found nothing wrong", seeds()),
    }
}

#[test]
fn sim_finds_a_missing_swap() {
    must_be_found("swap", Steps { swap: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_missing_grace_period() {
    must_be_found("grace", Steps { grace: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_missing_clean() {
    must_be_found("clean", Steps { clean: false, ..Steps::ALL });
}

/// A failure of runs in which folios are large and marked by `rules`.
fn with_large_folios(rules: Rules) -> Option<(u64, Failure)> {
    (1..=seeds()).find_map(|seed| {
        let mut world = SimWorld::new(seed);
        world.inner.borrow_mut().files.follow(rules);
        run_in(&mut world, seed, Steps::ALL).err().map(|failure| (seed, failure))
    })
}

#[test]
fn sim_writes_are_marked_exactly_in_large_folios() {
    assert_eq!(with_large_folios(Rules::All).map(|found| found.0), None);
}

#[test]
fn sim_finds_exact_marks_that_miss_a_mapping() {
    for rules in [Rules::MappingsUnseen, Rules::MappedUnmarked, Rules::MappedBefore] {
        let (seed, failure) = with_large_folios(rules).unwrap_or_else(|| panic!("{rules:?} is not found"));
        println!("{rules:?}: seed {seed}: {failure:?}");
    }
}

/// CLEAN is not for mappings alone: a `write` to a page that an earlier flush left dirty marks nothing either.
#[test]
fn sim_finds_files_that_are_not_cleaned_because_nobody_maps_them() {
    let failure = |seed| {
        let mut world = SimWorld::new(seed);
        world.inner.borrow_mut().cleans_only_mapped = true;
        run_in(&mut world, seed, Steps::ALL).err()
    };
    let found = (1..=seeds()).find_map(|seed| Some((seed, failure(seed)?)));
    let (seed, failure) = found.unwrap_or_else(|| panic!("{} seeds found nothing wrong", seeds()));
    println!("cleaning only mapped files: found by seed {seed}: {failure}");
}

#[test]
fn sim_finds_a_missing_barrier() {
    must_be_found("barrier", Steps { barrier: false, ..Steps::ALL });
}

#[test]
fn sim_finds_pages_that_are_older_than_their_blocks() {
    must_be_found("uncache", Steps { uncache: false, ..Steps::ALL });
}

#[test]
fn sim_finds_pending_that_is_not_durable() {
    must_be_found("durable pending", Steps { durable_pending: false, ..Steps::ALL });
}

#[test]
fn sim_finds_forgetting_before_the_commit() {
    must_be_found("commit before forget", Steps { commit_before_forget: false, ..Steps::ALL });
}

#[test]
fn sim_finds_other_bytes_at_an_unknown_seq() {
    must_be_found("same bytes at an unknown seq", Steps { same_bytes: false, ..Steps::ALL });
}

#[test]
fn sim_finds_an_entry_without_its_attributes() {
    must_be_found("whole entries", Steps { whole_entries: false, ..Steps::ALL });
}

#[test]
fn sim_finds_content_of_another_name() {
    let found = run(2, Steps { content_of_names: false, ..Steps::ALL }).expect_err("nothing is wrong without it");
    assert!(found.to_string().contains("read by another name"), "{found}");
    run(2, Steps::ALL).expect("nothing is wrong with it");
}

fn false_acknowledgement(steps: Steps) -> (u64, Option<(u64, Failure)>) {
    let mut met = 0;
    for seed in 1..=seeds() {
        match acknowledged_with_a_rival(seed, steps) {
            Ok(both) => met += u64::from(both),
            Err(failure) => return (met, Some((seed, failure))),
        }
    }
    (met, None)
}

/// The writer's own commit sometimes comes back damaged. Without reading it again the writer takes it for another's.
#[test]
fn sim_finds_damage_that_is_taken_for_another_writer() {
    must_be_found("asking again", Steps { ask_again: false, ..Steps::ALL });
}

/// Another writer commits at the next number: nobody may be told that changes are in the store when they are not.
#[test]
fn sim_acknowledges_nothing_that_another_writer_kept_out() {
    let (met, failure) = false_acknowledgement(Steps::ALL);
    if let Some((seed, failure)) = failure {
        panic!("seed {seed}: {failure}");
    }
    assert!(met > seeds() / 3, "only {met} of {} runs acknowledged something and met the other writer", seeds());
}

#[test]
fn sim_finds_a_false_acknowledgement() {
    let (_, failure) = false_acknowledgement(Steps { settled_only: false, ..Steps::ALL });
    println!("{:?}", failure.expect("a commit of another writer was acknowledged as ours, and nothing found it"));
}

#[test]
fn a_commit_that_says_it_is_complete_lacks_nothing() {
    let mut checked = 0;
    for seed in 1..=seeds().min(400) {
        match baseline::complete_when_said(seed, false) {
            Ok(files) => checked += files,
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    assert!(checked > 500, "{checked} files were checked");
    // The check must also notice a bit that is set too early.
    assert!((1..=20).any(|seed| baseline::complete_when_said(seed, true).is_err()));
}

#[test]
fn sim_without_generations_converges() {
    if let Some((seed, failure)) = (1..=seeds()).find_map(|seed| fails_without_generations(seed, Steps::ALL)) {
        panic!("seed {seed} without generations: {failure}");
    }
}

/// If numbers were trusted, a file would be committed with the content of the file that had its number before.
#[test]
fn sim_finds_a_number_that_is_believed() {
    let steps = Steps { read_claimed: false, rebind: false, ..Steps::ALL };
    let found = (1..=seeds()).find_map(|seed| fails_without_generations(seed, steps));
    let (seed, failure) = found.unwrap_or_else(|| panic!("{} seeds found nothing wrong", seeds()));
    println!("numbers that are believed: found by seed {seed}: {failure}");
}

fn fails_without_generations(seed: u64, steps: Steps) -> Option<(u64, Failure)> {
    run_in(&mut SimWorld::without_generations(seed), seed, steps).err().map(|failure| (seed, failure))
}

#[test]
fn files_that_left_the_tree_are_watched_no_longer() {
    for seed in 1..=50 {
        match watched_for_nothing(seed) {
            Ok(0) => {}
            Ok(count) => panic!("seed {seed}: {count} inodes are watched for nothing"),
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
}

#[test]
fn new_files_that_cannot_be_read_keep_out_none_behind_them() {
    let mut all = 0;
    for seed in 1..=200 {
        match kept_out_by_unreadable(seed) {
            Ok((0, behind)) => all += behind,
            Ok((count, behind)) => panic!("seed {seed}: {count} of {behind} files are kept out"),
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    assert!(all > 50, "{all} files stood behind unreadable ones");
}

/// Every commit that says it is of one instant is, and there are many of them.
#[test]
fn sim_commits_of_one_instant_are() {
    let mut all = 0;
    for seed in 1..=seeds() {
        match fine::instants(SimWorld::fine(seed), seed, Steps::ALL) {
            Ok(instants) => all += instants,
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
    println!("{all} commits of one instant in {} runs", seeds());
    assert!(all > seeds() * 2, "only {all} commits of one instant in {} runs", seeds());
}

#[test]
fn sim_one_fine_seed() {
    let seed = one_seed();
    if let Err(failure) = fine::instants(SimWorld::fine(seed), seed, Steps::ALL) {
        panic!("seed {seed}: {failure}\nrepeat: TRACKER_SIM_SEED={seed} cargo test -p engine --lib sim_one_fine_seed");
    }
}

/// A step of the search for one instant, switched off, must show.
fn no_instant(name: &str, unseen: Unseen, steps: Steps) {
    let failure = |seed| fine::only(SimWorld::fine(seed), unseen, seed, steps).err();
    let found = (1..=seeds()).find_map(|seed| Some((seed, failure(seed)?)));
    match found {
        Some((seed, failure)) => println!("without {name}: found by seed {seed}: {failure}"),
        None => panic!("without {name}, {} seeds found nothing wrong", seeds()),
    }
}

#[test]
fn sim_finds_marks_that_are_read_before_the_count() {
    no_instant("the count first", Unseen::All, Steps { count_first: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_missing_second_count() {
    no_instant("the second count", Unseen::All, Steps { count_again: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_mapped_file_that_is_not_cleaned() {
    no_instant("cleaning mapped files", Unseen::All, Steps { clean_mapped: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_writer_that_is_not_waited_for() {
    no_instant("the barrier", Unseen::Writes, Steps { barrier_always: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_direct_write_under_way() {
    no_instant("a look at direct writes", Unseen::All, Steps { none_in_flight: false, ..Steps::ALL });
}

#[test]
fn sim_finds_dirty_pages_that_are_not_read_again() {
    no_instant("reading dirty pages again", Unseen::All, Steps { read_again: false, ..Steps::ALL });
}

/// A failure of runs in which an instant is looked for while nothing but `unseen` happens, and folios are marked by `rules`.
fn no_instant_in_large_folios(rules: Rules, unseen: Unseen) -> Option<(u64, Failure)> {
    (1..=seeds()).find_map(|seed| {
        let world = SimWorld::fine(seed);
        world.inner.borrow_mut().files.follow(rules);
        fine::only(world, unseen, seed, Steps::ALL).err().map(|failure| (seed, failure))
    })
}

#[test]
fn sim_looks_read_again_only_what_was_marked_again() {
    for unseen in [Unseen::All, Unseen::Writes] {
        if let Some((seed, failure)) = no_instant_in_large_folios(Rules::All, unseen) {
            panic!("{unseen:?}: seed {seed}: {failure}");
        }
    }
}

#[test]
fn sim_finds_looks_that_read_too_little_again() {
    for rules in [Rules::AgainUncounted, Rules::AlwaysExact] {
        let found = no_instant_in_large_folios(rules, Unseen::Writes);
        let (seed, failure) = found.unwrap_or_else(|| panic!("{rules:?} is not found"));
        println!("{rules:?}: found by seed {seed}: {failure}");
    }
}

#[test]
fn sim_finds_a_new_file_that_was_not_watched_before() {
    no_instant("watching first", Unseen::Births, Steps { watch_first: false, ..Steps::ALL });
}

#[test]
fn sim_finds_a_kernel_whose_statx_arms_nothing() {
    let found = (1..=seeds())
        .find_map(|seed| Some((seed, fine::instants(SimWorld::without_multigrain(seed), seed, Steps::ALL).err()?)));
    println!("{:?}", found.expect("nothing was wrong on a kernel without multigrain timestamps"));
}

/// With pauses there are more commits of one instant, and each of them is one.
#[test]
fn sim_commits_of_one_instant_are_with_pauses_too() {
    let (mut all, mut paused, mut without) = (0, 0, 0);
    for seed in 1..=seeds() {
        match fine::paused_instants(SimWorld::with_pauses(seed), seed, Steps::ALL) {
            Ok((of_run, paused_of_run)) => (all, paused) = (all + of_run, paused + paused_of_run),
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
        without += fine::instants(SimWorld::fine(seed), seed, Steps::ALL).expect("another test says what is wrong");
    }
    println!(
        "{all} commits of one instant in {} runs, {paused} of them with a pause; {without} where none is allowed",
        seeds()
    );
    assert!(paused > seeds() / 8, "only {paused} pauses in {} runs led to a commit of one instant", seeds());
    assert!(all > without, "{all} with pauses, {without} without");
}

/// Who is paused has not stopped yet, and goes on with what it has begun: the pause alone proves nothing.
#[test]
fn sim_finds_a_pause_that_is_taken_for_the_proof() {
    let steps = Steps { count_paused: false, ..Steps::ALL };
    let failure = |seed| fine::paused_instants(SimWorld::with_pauses(seed), seed, steps).err();
    let found = (1..=seeds()).find_map(|seed| Some((seed, failure(seed)?)));
    println!("{:?}", found.expect("without the second count in a pause nothing was wrong"));
}

#[test]
fn sim_a_quiet_tree_is_proven_to_be_of_one_instant_once() {
    instant::a_quiet_tree_is_proven_once();
}

//! The answers that callers of `sync` get.

use crate::volume::progress::*;

fn protected(clean: u64) -> Progress {
    Progress { phase: Phase::Protected, clean, begun: clean, ..Progress::default() }
}

#[test]
fn a_sync_is_done_by_a_clean_flush_that_began_after_it_and_by_nothing_else() {
    assert_eq!(protected(4).answer(5, false), None);
    assert_eq!(protected(5).answer(5, false), Some(Synced::Done));
    for phase in [Phase::Starting, Phase::Baseline, Phase::Verifying] {
        assert_eq!(Progress { phase, ..protected(5) }.answer(5, false), None, "{phase:?}");
    }
}

#[test]
fn who_waits_for_an_instant_is_not_served_by_a_commit_that_is_none() {
    assert_eq!(protected(5).answer(5, true), None);
    let instants = |whole| Instants { whole, ..Instants::default() };
    assert_eq!(Progress { instants: instants(4), ..protected(5) }.answer(5, true), None);
    assert_eq!(Progress { instants: instants(5), ..protected(5) }.answer(5, true), Some(Synced::Done));
    let fenced = Progress { fenced_at: Some(Seq(3)), instants: instants(5), ..protected(5) };
    assert_eq!(fenced.answer(5, true), None);
}

/// Whatever the counters say: once another writer is met, no caller may be told that everything is in the store.
#[test]
fn a_fenced_volume_never_says_synced() {
    for (phase, fenced_at) in [(Phase::Protected, Some(Seq(3))), (Phase::Fenced, Some(Seq(3))), (Phase::Stopped, None)]
    {
        let progress = Progress { phase, fenced_at, ..protected(9) };
        assert_ne!(progress.answer(5, false), Some(Synced::Done), "{phase:?}");
    }
    let fenced = Progress { phase: Phase::Fenced, fenced_at: Some(Seq(3)), ..protected(9) };
    assert_eq!(fenced.answer(5, false), Some(Synced::Ended(Phase::Fenced)));
    assert_eq!(fenced.fenced().map(|error| error.code), Some(ExitCode::Locked));
}

#[test]
fn lost_objects_are_told_at_once_to_who_asked_before_they_were_looked_for() {
    let lost = |at| Progress { lost: Some(("gone".into(), at)), ..protected(4) };
    assert_eq!(lost(5).answer(5, false), Some(Synced::Partial(vec!["gone".into()])));
    assert_eq!(lost(4).answer(5, false), None, "found by an earlier flush: they may be back");
    assert!(lost(4).trouble().contains(&"gone".to_owned()), "the volume is degraded");
}

/// A restart compares what a lost write left open. The state for that must not hide that data may be lost.
#[test]
fn a_comparison_does_not_hide_what_a_person_must_see() {
    let write_back = Some(WriteBack::default());
    for (phase, state) in [
        (Phase::Starting, State::Starting),
        (Phase::Baseline, State::Baseline),
        (Phase::Verifying, State::Degraded),
        (Phase::Protected, State::Degraded),
        (Phase::Fenced, State::Fenced),
    ] {
        let progress = Progress { phase, write_back: write_back.clone(), ..Progress::default() };
        assert_eq!(progress.state(), state, "{phase:?}");
        assert_eq!(Progress { phase, ..Progress::default() }.state(), State::from(phase));
    }
    let reread = |phase| Progress { phase, rereads: [("overflow".into(), 1)].into(), ..Progress::default() }.state();
    assert_eq!(reread(Phase::Verifying), State::Verifying, "the comparison is the answer to it");
    assert_eq!(reread(Phase::Protected), State::Degraded);
}

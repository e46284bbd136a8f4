//! Builds a volume's `status` from what its thread shows.

use std::cmp::Reverse;
use std::os::unix::ffi::OsStrExt;

use crate::cgroups::Hierarchy;
use crate::repository::ConsistencyField;
use crate::store::Op;
use crate::units::{PathField, rfc3339};
use crate::volume::clock::{clock_behind, now_ns, seconds};
use crate::volume::handle::{Volume, VolumeFacts};
use crate::volume::progress::Progress;
use crate::volume::status::{UNREADABLE_MAX, Unreadable, VolumeStatus, WRITERS_MAX, Writer};

impl Volume {
    /// The present status. Waits for no flush and no store.
    pub(crate) fn status(&self) -> VolumeStatus {
        let config = self.config();
        let progress = self.shared.progress().clone();
        let failure = self.failure.lock().clone();
        let mut status = VolumeStatus {
            volume: self.name.clone(),
            source: config.source.to_string_lossy().into_owned(),
            store: config.store.to_string(),
            interval_ms: u64::try_from(config.options.interval.0.as_millis()).unwrap_or(u64::MAX),
            last_error: progress.last_error.clone(),
            hint: progress.waiting.as_ref().and_then(|error| error.hint.clone()).or_else(|| progress.hint.clone()),
            failure,
            waiting: progress.waiting.as_ref().map(|error| error.message.clone()),
            ..VolumeStatus::default()
        };
        status.state = progress.phase.into();
        let facts = self.facts.lock();
        let Some(facts) = facts.as_ref() else { return status };
        of_capture(&mut status, facts, &progress);
        of_history(&mut status, facts, &progress);
        of_pending(&mut status, facts, &progress);
        status.writers = writers(facts);
        of_instants(&mut status, &progress);
        of_flushes(&mut status, facts, &progress);
        status.state = progress.state();
        status
    }
}

/// Fills in how changes are found, and what is known of how well.
fn of_capture(status: &mut VolumeStatus, facts: &VolumeFacts, progress: &Progress) {
    status.volume_id.clone_from(&facts.volume_id);
    status.backend = facts.backend;
    status.fenced_store = facts.fenced_store;
    status.reasons.clone_from(&facts.reasons);
    let capture = &progress.capture;
    if let Some(back_end) = capture.back_end {
        status.backend = back_end;
        status.reasons.extend(capture.reasons.iter().cloned());
    }
    status.self_test_passed = capture.self_test.passed;
    status.self_test_kinds = capture.self_test.kinds.iter().map(|kind| (*kind).to_owned()).collect();
    status.self_test_untried.clone_from(&capture.self_test.untried);
    status.self_tests = capture.self_test.tests;
    status.capture_failures.clone_from(&capture.failures);
    status.scrubbed_bytes = capture.scrubbed;
    status.scrub_differences = capture.differences;
    // A failure is among the reasons already.
    status.reasons.extend(progress.trouble().into_iter().filter(|why| !capture.reasons.contains(why)));
    if progress.watch_full {
        status.reasons.push("the watch set is full: changes of every inode of the file system are recorded".into());
    }
    status.armed = progress.armed;
    if let Some(dispatcher) = &facts.dispatcher {
        let dispatcher = dispatcher.facts();
        status.kernel_map_bytes = dispatcher.kernel_bytes;
        status.kernel_counters = dispatcher.counters;
    }
}

/// Who changes the volume most.
fn writers(facts: &VolumeFacts) -> Vec<Writer> {
    let asked = facts.dispatcher.as_ref().map(|dispatcher| dispatcher.writers(&facts.pending));
    let Some(Ok(writers)) = asked else { return Vec::new() };
    if writers.is_empty() {
        return Vec::new();
    }
    let mut most: Vec<(u64, u64)> = writers.into_iter().collect();
    most.sort_by_key(|(cgroup, changes)| (Reverse(*changes), *cgroup));
    most.truncate(WRITERS_MAX);
    let ids = most.iter().map(|(cgroup, _)| *cgroup).collect();
    let paths = Hierarchy::find().map(|hierarchy| hierarchy.paths(&ids)).unwrap_or_default();
    let writer = |(cgroup, changes)| {
        let path = paths.get(&cgroup).map(|path| path.to_string_lossy().into_owned());
        Writer { cgroup, path, changes }
    };
    most.into_iter().map(writer).collect()
}

/// Fills in the baseline and the newest commit.
fn of_history(status: &mut VolumeStatus, facts: &VolumeFacts, progress: &Progress) {
    status.baseline_seq = progress.baseline_seq.map(|seq| seq.0);
    let Ok(Some(head)) = facts.catalog.head() else { return };
    status.head_seq = head.seq.0;
    let wall = head.standing.map_or(head.time, |standing| standing.wall);
    status.head_time = rfc3339(wall.unix_ns());
    status.head_timestamp_seconds = seconds(wall);
    status.clock_behind_seconds = clock_behind(wall.unix_ns(), now_ns());
    if status.clock_behind_seconds > 0.0 {
        status.reasons.push(format!(
            "the clock is {:.0} s behind that of the last commit: one of the two is wrong, and --at searches by the clocks of the commits",
            status.clock_behind_seconds
        ));
    }
}

/// Fills in what is not committed, cannot be read, or waits for confirmation by a person.
fn of_pending(status: &mut VolumeStatus, facts: &VolumeFacts, progress: &Progress) {
    let (oldest, inodes, bytes) = facts.pending.summary();
    let window = oldest.map_or(0.0, |at| now_ns().saturating_sub(at) as f64 / 1e9);
    status.loss_window_seconds = progress.baseline_seq.map(|_| window);
    status.pending_inodes = inodes as u64;
    status.pending_bytes = bytes;
    status.unsaved_inodes = facts.pending.unsaved() as u64;
    if status.unsaved_inodes > 0 {
        status.reasons.push(unsaved_reason(status.unsaved_inodes));
    }
    status.write_back.clone_from(&progress.write_back);
    status.unreadable_total = progress.unreadable.len() as u64;
    let unreadable = progress.unreadable.iter().take(UNREADABLE_MAX);
    status.unreadable = unreadable
        .map(|(path, cause)| Unreadable { path: PathField::new(path.as_os_str().as_bytes()), cause: cause.clone() })
        .collect();
    status.removals_waiting = progress.removals_waiting;
    status.removals_held = progress.held.as_ref().map_or(0, |held| held.removals);
    status.reasons.extend(progress.held.iter().map(ToString::to_string));
}

/// Which commits are of one instant. After the head and what waits.
fn of_instants(status: &mut VolumeStatus, progress: &Progress) {
    let instants = &progress.instants;
    status.consistency = instants.said.map(ConsistencyField::from);
    status.commits_by_consistency.clone_from(&instants.counts);
    status.pause_histogram = instants.pauses.clone();
    let Some((seq, wall)) = instants.newest else { return };
    status.newest_instant_seq = Some(seq.0);
    status.newest_instant_time = rfc3339(wall.unix_ns());
    let is_state = seq.0 == status.head_seq && status.pending_inodes == 0;
    let age = now_ns().saturating_sub(wall.unix_ns()) as f64 / 1e9;
    status.instant_age_seconds = Some(if is_state { 0.0 } else { age });
}

/// Fills in the counters since the start of the process.
fn of_flushes(status: &mut VolumeStatus, facts: &VolumeFacts, progress: &Progress) {
    let totals = &progress.totals;
    status.commits = totals.commits;
    status.bytes_marked = totals.bytes_marked;
    status.bytes_read = totals.bytes_read;
    status.bytes_literal = totals.bytes_literal;
    status.bytes_uploaded = facts.meter.counts(Op::Create).bytes_sent;
    status.store_requests = facts.meter.requests();
    status.files_read = totals.files_read;
    status.rescans = totals.rescans;
    status.rescan_reasons.clone_from(&totals.rescan_reasons);
    status.carried = totals.carried + totals.late;
    status.late = totals.slow_flushes;
    status.hook_runs.clone_from(&progress.hooks.runs);
    status.hook_failures.clone_from(&progress.hooks.failures);
    status.write_back_errors = totals.write_back_errors;
    status.flushes = totals.flushes;
    status.flush_seconds = totals.flush_seconds_last;
    status.flush_histogram = totals.flush_histogram.clone();
    let running = progress.started.map_or(0.0, |at| at.elapsed().as_secs_f64());
    if running >= 1.0 {
        status.requests_per_day_estimate = (status.store_requests as f64 / running * 86_400.0) as u64;
    }
}

/// The reason shown for a volume whose catalog cannot be written.
fn unsaved_reason(inodes: u64) -> String {
    format!("changes of at least {inodes} files are in the kernel alone: the state directory cannot be written")
}

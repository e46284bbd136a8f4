//! What the daemon reports of its volumes: the one record behind `status`, the metrics and `/readyz`.
//!
//! Plain values, filled in by the volume runner. Rules that read it (whether it is ready, which exit code) are here too, so
//! that the command line and the HTTP endpoints cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capture::BackEnd;
use crate::error::{AppError, ExitCode};
use crate::repository::ConsistencyField;
use crate::units::PathField;

/// Most unreadable files that a status names. `VolumeStatus::unreadable_total` has the full count.
pub const UNREADABLE_MAX: usize = 100;

/// Most writers that a status names: those who changed most.
pub const WRITERS_MAX: usize = 10;

/// Upper bounds of the flush histogram in seconds; the last bucket is everything above.
pub const FLUSH_BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A commit is fresh if no change has waited longer than this many seconds, or than 20 intervals if that is more.
pub const FRESH_SECONDS: f64 = 5.0;

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum State {
    #[default]
    Starting,
    /// Its source or its store is away; `waiting` says which and why. It is tried again automatically.
    Waiting,
    /// The first commit of the tree is being made.
    Baseline,
    /// Files are being compared with the store after a start that could not trust their times.
    Verifying,
    Protected,
    /// A promise is weaker than it should be; `reasons` says why.
    Degraded,
    /// Another writer has committed: this one must not.
    Fenced,
    Stopped,
}

impl State {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A file that could not be read, and why. Its changes stay pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    #[serde(flatten)]
    pub path: PathField,
    pub cause: String,
}

/// A cgroup whose tasks changed the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The kernel's id.
    pub cgroup: u64,
    /// Its path in the hierarchy of version 2; `None`: it is gone.
    pub path: Option<String>,
    /// Changes that the kernel has counted: marks, so that a write to a page that is dirty already is none.
    pub changes: u64,
}

/// Counts of observations per bucket of `FLUSH_BUCKETS` (not cumulative), with one more bucket for the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub buckets: Vec<u64>,
    pub sum: f64,
    pub count: u64,
}

impl Histogram {
    /// Counts one observation, in seconds.
    pub fn observe(&mut self, seconds: f64) {
        self.buckets.resize(FLUSH_BUCKETS.len() + 1, 0);
        let at = FLUSH_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(FLUSH_BUCKETS.len());
        self.buckets[at] += 1;
        self.sum += seconds;
        self.count += 1;
    }
}

/// One volume as of now. Counters count from the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    pub volume: String,
    /// Hexadecimal; empty until the store was opened.
    pub volume_id: String,
    pub source: String,
    /// The store's URL, without secrets.
    pub store: String,
    pub state: State,
    pub backend: BackEnd,
    /// Whether the store refuses a second writer; absent until a probe of it has answered. `false` ("unfenced") only under
    /// `single_writer`.
    pub fenced_store: Option<bool>,
    /// Changes are being marked (or, with `scan`, the tree is being compared).
    pub armed: bool,
    /// Seq of the commit that completed the baseline.
    pub baseline_seq: Option<u64>,
    /// Why degraded, or why the back end is not a better one.
    pub reasons: Vec<String>,
    /// Age of the oldest change not committed; 0 if there is none. Absent before the baseline is committed: until then no
    /// restore gives the whole tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_window_seconds: Option<f64>,
    pub head_seq: u64,
    /// RFC 3339; empty before the first commit.
    pub head_time: String,
    /// The same in seconds since 1970, 0 before the first commit.
    pub head_timestamp_seconds: f64,
    /// What the newest commit says of its instant; null: nothing, or it is not known.
    pub consistency: Option<ConsistencyField>,
    /// The newest commit that is the state of one instant, as far as this process has seen.
    pub newest_instant_seq: Option<u64>,
    /// Its wall clock, RFC 3339; empty where there is none.
    pub newest_instant_time: String,
    /// For how long the newest commit of one instant has not been the state of the tree: since its wall clock, and 0 while it
    /// is the newest commit and nothing waits. Absent before there is one.
    pub instant_age_seconds: Option<f64>,
    /// Commits of this process that say something of their instant, by word: `instant`, or why not.
    pub commits_by_consistency: BTreeMap<String, u64>,
    /// How often hooks of the application were started, by word: `before` or `after`.
    pub hook_runs: BTreeMap<String, u64>,
    /// How often they failed or were killed.
    pub hook_failures: BTreeMap<String, u64>,
    /// For how long writers were paused, of each commit that paused them.
    pub pause_histogram: Histogram,
    /// By how many seconds the clock is behind that of the last commit: one of the two is wrong. 0 if it is not behind.
    pub clock_behind_seconds: f64,
    pub pending_inodes: u64,
    pub pending_bytes: u64,
    /// Pending files with changes that could not be saved in the state directory; a lower bound.
    pub unsaved_inodes: u64,
    pub commits: u64,
    pub bytes_marked: u64,
    pub bytes_read: u64,
    pub bytes_literal: u64,
    pub bytes_uploaded: u64,
    pub store_requests: u64,
    pub files_read: u64,
    /// How often data of a file, directory or volume was read because no mark says what changed.
    pub rescans: u64,
    /// `rescans` by reason. The reasons are a closed set of words, never a path.
    pub rescan_reasons: BTreeMap<String, u64>,
    /// Files left for the next flush because they exceeded their deadline.
    pub carried: u64,
    /// Flushes that took longer than the interval allows.
    pub late: u64,
    pub write_back_errors: u64,
    /// Write-back errors that nobody has acknowledged, of earlier processes too.
    pub write_back: Option<crate::volume::world::write_back::WriteBack>,
    /// At most `UNREADABLE_MAX`.
    pub unreadable: Vec<Unreadable>,
    pub unreadable_total: u64,
    pub removals_waiting: u64,
    /// Files that are gone from the source and whose removal waits for `tracker confirm`.
    pub removals_held: u64,
    /// Flushes that have ended, including those with nothing to commit: shows that the volume's thread is alive.
    pub flushes: u64,
    /// Duration of the last flush.
    pub flush_seconds: f64,
    pub flush_histogram: Histogram,
    /// Who changed the volume since the kernel's maps were made, most first; at most `WRITERS_MAX`. Changes at the end of a direct
    /// write, and of files that several volumes have, are left out.
    pub writers: Vec<Writer>,
    pub kernel_map_bytes: u64,
    /// Counters of the kernel programs by name (a closed set).
    pub kernel_counters: BTreeMap<String, u64>,
    pub last_error: Option<String>,
    /// What can be done about `last_error`, or about what `waiting` names.
    #[serde(default)]
    pub hint: Option<String>,
    pub interval_ms: u64,
    /// Estimated requests to the store per day at the present rate.
    pub requests_per_day_estimate: u64,
    /// The last self-test of the capture saw every change it made. `false` also if none can be made, see
    /// `self_test_untried`.
    pub self_test_passed: bool,
    /// The kinds of change it saw.
    pub self_test_kinds: Vec<String>,
    /// Why there is no self-test, or which kind it does not try.
    pub self_test_untried: Vec<String>,
    pub self_tests: u64,
    /// How often capture was found to have missed a change, by how that was found.
    pub capture_failures: BTreeMap<String, u64>,
    /// Bytes that the scrub has read.
    pub scrubbed_bytes: u64,
    /// Blocks in which the scrub found a change without a mark.
    pub scrub_differences: u64,
    /// What the volume waits for, in state `waiting`.
    pub waiting: Option<String>,
    /// Set once the volume has ended by itself, with its exit code.
    pub failure: Option<AppError>,
}

impl VolumeStatus {
    /// Whether the volume is ready: armed, and the baseline is committed.
    pub fn is_ready(&self) -> bool {
        let alive = matches!(self.state, State::Verifying | State::Protected | State::Degraded);
        alive && self.armed && self.baseline_seq.is_some()
    }

    /// Why `/readyz` fails for this volume; empty if it does not.
    pub fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if matches!(self.state, State::Fenced | State::Stopped) {
            let cause = self.failure.as_ref().map(|e| e.message.as_str()).or(self.last_error.as_deref());
            reasons.push(match cause {
                Some(cause) => format!("{}: {cause}", self.state.name()),
                None => self.state.name().to_string(),
            });
            return reasons;
        }
        if let (State::Waiting, Some(what)) = (self.state, &self.waiting) {
            reasons.push(format!("waiting: {what}"));
        }
        if !self.armed {
            reasons.push("capture is not armed".to_string());
        }
        if self.unsaved_inodes > 0 {
            let files = self.unsaved_inodes;
            reasons.push(format!("changes of at least {files} files cannot be saved in the state directory"));
        }
        if self.baseline_seq.is_none() {
            reasons.push("the baseline is not committed".to_string());
        } else if let Some(age) = self.loss_window_seconds.filter(|age| *age > self.fresh_limit()) {
            let limit = self.fresh_limit();
            reasons.push(format!("the oldest change has waited {age:.1} s for its commit (limit {limit:.0} s)"));
        }
        reasons
    }

    fn fresh_limit(&self) -> f64 {
        FRESH_SECONDS.max(self.interval_ms as f64 * 20.0 / 1000.0)
    }
}

/// What `sync` found, by volume. Its exit code is 0 only if all lists are empty and no volume has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReply {
    pub volumes: Vec<VolumeSync>,
}

/// What `sync` found of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSync {
    pub volume: String,
    /// Head after the flush.
    pub seq: u64,
    /// What is still unreadable, not clean or pending at the deadline.
    pub partial: Vec<String>,
    /// Which full re-reads are not complete, or why the volume is degraded.
    pub degraded: Vec<String>,
    /// Why the volume has ended.
    #[serde(default)]
    pub failure: Option<AppError>,
}

impl SyncReply {
    /// The code of the first volume that has ended, or else that of the worst volume.
    pub fn exit_code(&self) -> ExitCode {
        let codes = || self.volumes.iter().map(VolumeSync::exit_code);
        let ended = self.volumes.iter().find_map(|volume| Some(volume.failure.as_ref()?.code));
        ended
            .or(codes().find(|code| *code == ExitCode::Degraded))
            .or(codes().find(|code| *code != ExitCode::Ok))
            .unwrap_or(ExitCode::Ok)
    }
}

impl VolumeSync {
    pub fn exit_code(&self) -> ExitCode {
        if let Some(failure) = &self.failure {
            failure.code
        } else if !self.degraded.is_empty() {
            ExitCode::Degraded
        } else if !self.partial.is_empty() {
            ExitCode::Partial
        } else {
            ExitCode::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protected() -> VolumeStatus {
        VolumeStatus {
            volume: "v".into(),
            state: State::Protected,
            armed: true,
            baseline_seq: Some(1),
            interval_ms: 250,
            ..VolumeStatus::default()
        }
    }

    #[test]
    fn ready_needs_arms_a_baseline_and_a_living_volume() {
        assert!(protected().is_ready());
        assert_eq!(protected().not_ready(), Vec::<String>::new());
        assert!(!VolumeStatus { armed: false, ..protected() }.is_ready());
        assert!(!VolumeStatus { baseline_seq: None, ..protected() }.is_ready());
        assert!(!VolumeStatus { state: State::Fenced, ..protected() }.is_ready());
        assert!(!VolumeStatus::default().not_ready().is_empty());
    }

    #[test]
    fn a_stale_commit_is_not_ready_while_a_clean_volume_is() {
        let clean = VolumeStatus { head_timestamp_seconds: 1.0, ..protected() };
        assert!(clean.not_ready().is_empty(), "nothing waits: an old head is fine");
        let stale = VolumeStatus { loss_window_seconds: Some(5.1), ..protected() };
        assert!(stale.not_ready()[0].contains("5.1 s"));
        let slow = VolumeStatus { loss_window_seconds: Some(19.0), interval_ms: 1000, ..protected() };
        assert!(slow.not_ready().is_empty(), "a long interval makes the limit longer");
    }

    #[test]
    fn changes_that_cannot_be_saved_are_not_ready_at_once() {
        let full = VolumeStatus { unsaved_inodes: 2, loss_window_seconds: Some(0.1), ..protected() };
        assert!(full.not_ready()[0].contains("at least 2 files"));
    }

    #[test]
    fn an_uncertain_volume_never_exits_with_zero() {
        let volume = |partial: &[&str], degraded: &[&str]| VolumeSync {
            volume: "v".into(),
            seq: 1,
            partial: partial.iter().map(|s| s.to_string()).collect(),
            degraded: degraded.iter().map(|s| s.to_string()).collect(),
            failure: None,
        };
        let fine = || volume(&[], &[]);
        let reply = |partial: &[&str], degraded: &[&str]| SyncReply {
            volumes: vec![fine(), volume(partial, degraded), fine()],
        };
        assert_eq!(reply(&[], &[]).exit_code(), ExitCode::Ok);
        assert_eq!(reply(&["x"], &[]).exit_code(), ExitCode::Partial);
        assert_eq!(reply(&["x"], &["y"]).exit_code(), ExitCode::Degraded);
        let failure = Some(AppError::new(ExitCode::Locked, "another writer"));
        let ended = VolumeSync { failure, ..volume(&[], &[]) };
        let volumes = vec![volume(&[], &["y"]), volume(&["x"], &[]), ended];
        assert_eq!(SyncReply { volumes }.exit_code(), ExitCode::Locked);
    }

    #[test]
    fn a_histogram_counts_each_observation_once() {
        let mut histogram = Histogram::default();
        for seconds in [0.01, 0.011, 61.0] {
            histogram.observe(seconds);
        }
        assert_eq!(histogram.buckets[..2], [1, 1]);
        assert_eq!(histogram.buckets[FLUSH_BUCKETS.len()], 1);
        assert_eq!(histogram.buckets.iter().sum::<u64>(), histogram.count);
    }

    #[test]
    fn a_status_of_an_older_daemon_still_reads() {
        let status: VolumeStatus = serde_json::from_str(r#"{"volume":"v","state":"protected"}"#).unwrap();
        assert_eq!(status.state, State::Protected);
        let text = serde_json::to_string(&protected()).unwrap();
        assert_eq!(serde_json::from_str::<VolumeStatus>(&text).unwrap(), protected());
    }
}

//! The one table of all metrics: name, type, unit, labels, stability, meaning, and how each is read from a status.
//!
//! A `stable` name keeps its meaning; changing one changes the interface.

use std::collections::BTreeMap;

use strum::VariantNames;

use crate::capture::BackEnd;
use crate::volume::status::{Histogram, State, VolumeStatus};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Alerts and dashboards may rely on it.
    Stable,
    /// Depends on the internals of tracker, and may change with them.
    Internal,
}

impl Stability {
    pub fn name(self) -> &'static str {
        match self {
            Stability::Stable => "stable",
            Stability::Internal => "internal",
        }
    }
}

/// How the samples of a metric are read.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    BuildInfo,
    ReloadOk,
    ReloadTime,
    Gauge(fn(&VolumeStatus) -> f64),
    /// Absent for volumes that have no such value.
    GaugeIf(fn(&VolumeStatus) -> Option<f64>),
    /// 1 for the present word, 0 for the others: label, all words, reader.
    OneOf(&'static str, &'static [&'static str], fn(&VolumeStatus) -> &'static str),
    Counter(fn(&VolumeStatus) -> u64),
    /// By one more label, whose values are a closed set of words.
    CounterBy(&'static str, fn(&VolumeStatus) -> &BTreeMap<String, u64>),
    Histogram(fn(&VolumeStatus) -> &Histogram),
}

#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As exposed, with unit and `_total`.
    pub name: &'static str,
    pub unit: Option<&'static str>,
    pub labels: &'static [&'static str],
    pub stability: Stability,
    pub help: &'static str,
    pub read: Read,
}

impl Metric {
    /// Prometheus' word for its type.
    pub fn kind(&self) -> &'static str {
        match self.read {
            Read::Counter(_) | Read::CounterBy(..) => "counter",
            Read::Histogram(_) => "histogram",
            _ => "gauge",
        }
    }

    /// The name without what the encoder appends (`_total`, the unit).
    pub fn stem(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let unit = self.unit.and_then(|unit| name.strip_suffix(unit)).and_then(|name| name.strip_suffix('_'));
        unit.unwrap_or(name)
    }
}

const VOLUME: &[&str] = &["volume"];
const STATES: &[&str] = State::VARIANTS;
const BACKENDS: &[&str] = BackEnd::VARIANTS;

const fn metric(
    name: &'static str,
    unit: Option<&'static str>,
    labels: &'static [&'static str],
    stability: Stability,
    help: &'static str,
    read: Read,
) -> Metric {
    Metric { name, unit, labels, stability, help, read }
}

use Read::{BuildInfo, Counter, CounterBy, Gauge, GaugeIf, OneOf, ReloadOk, ReloadTime};
use Stability::{Internal, Stable};

const BYTES: Option<&str> = Some("bytes");
const SECONDS: Option<&str> = Some("seconds");

/// Every metric, in the order in which it is exposed.
#[rustfmt::skip] // A table reads by its columns.
pub const METRICS: &[Metric] = &[
    metric("tracker_build_info", None, &["version", "revision", "kernel"], Stable, "What runs; always 1", BuildInfo),
    metric("tracker_config_last_reload_successful", None, &[], Stable, "1 if the last configuration that was read was taken", ReloadOk),
    metric("tracker_config_last_reload_success_timestamp_seconds", SECONDS, &[], Stable, "When a configuration was last taken", ReloadTime),
    metric("tracker_volume_loss_window_seconds", SECONDS, VOLUME, Stable, "Age of the oldest change not yet committed, 0 when there is none: what would be lost with this host now. Absent before the baseline is committed", GaugeIf(|v| v.loss_window_seconds)),
    metric("tracker_volume_state", None, &["volume", "state"], Stable, "1 for the state the volume is in", OneOf("state", STATES, |v| v.state.name())),
    metric("tracker_volume_capture", None, &["volume", "backend"], Stable, "1 for the capture back end in use", OneOf("backend", BACKENDS, |v| v.backend.name())),
    metric("tracker_volume_self_test_passed", None, VOLUME, Stable, "1 when the last self-test of the capture saw every change it made", Gauge(|v| flag(v.self_test_passed))),
    metric("tracker_volume_self_tests_total", None, VOLUME, Internal, "Self-tests of the capture", Counter(|v| v.self_tests)),
    metric("tracker_volume_capture_failures_total", None, &["volume", "cause"], Stable, "Times capture was found to have missed a change, by what found it", CounterBy("cause", |v| &v.capture_failures)),
    metric("tracker_volume_scrubbed_bytes_total", BYTES, VOLUME, Stable, "Bytes that the scrub has looked at", Counter(|v| v.scrubbed_bytes)),
    metric("tracker_volume_scrub_differences_total", None, VOLUME, Stable, "Blocks in which the scrub found a change without a mark", Counter(|v| v.scrub_differences)),
    metric("tracker_volume_ready", None, VOLUME, Stable, "1 when /readyz would say yes for the volume", Gauge(|v| flag(v.not_ready().is_empty()))),
    metric("tracker_volume_unfenced", None, VOLUME, Stable, "1 when the store does not refuse a second writer (single_writer)", Gauge(|v| flag(v.fenced_store == Some(false)))),
    metric("tracker_volume_head_seq", None, VOLUME, Stable, "Seq of the last commit", Gauge(|v| v.head_seq as f64)),
    metric("tracker_volume_head_timestamp_seconds", SECONDS, VOLUME, Stable, "Time of the last commit, 0 before the first", Gauge(|v| v.head_timestamp_seconds)),
    metric("tracker_volume_pending_files", None, VOLUME, Stable, "Files with changes not yet committed", Gauge(|v| v.pending_inodes as f64)),
    metric("tracker_volume_pending_bytes", BYTES, VOLUME, Stable, "Marked bytes not yet committed", Gauge(|v| v.pending_bytes as f64)),
    metric("tracker_volume_unreadable_files", None, VOLUME, Stable, "Files that could not be read; their changes stay pending", Gauge(|v| v.unreadable_total as f64)),
    metric("tracker_volume_removals_waiting", None, VOLUME, Internal, "Removals that wait for a second listing", Gauge(|v| v.removals_waiting as f64)),
    metric("tracker_volume_removals_held", None, VOLUME, Stable, "Files that are gone from the source, and whose removal waits for `tracker confirm`", Gauge(|v| v.removals_held as f64)),
    metric("tracker_volume_commits_total", None, VOLUME, Stable, "Commits made", Counter(|v| v.commits)),
    metric("tracker_instant_commit_age_seconds", SECONDS, VOLUME, Stable, "Age of the newest commit that is the state of one instant, 0 while it is the newest commit and nothing waits. Absent before there is one", GaugeIf(|v| v.instant_age_seconds)),
    metric("tracker_commits_by_consistency_total", None, &["volume", "consistency"], Stable, "Commits made, by whether they are of one instant (`instant`), or why they are not", CounterBy("consistency", |v| &v.commits_by_consistency)),
    metric("tracker_pause_seconds", SECONDS, VOLUME, Stable, "For how long writers were paused so that a commit is of one instant, of each commit that paused them", Read::Histogram(|v| &v.pause_histogram)),
    metric("tracker_volume_hook_runs_total", None, &["volume", "hook"], Stable, "Times a hook of the application was started: `before` a flush, or `after` it", CounterBy("hook", |v| &v.hook_runs)),
    metric("tracker_volume_hook_failures_total", None, &["volume", "hook"], Stable, "Times such a hook failed or was killed", CounterBy("hook", |v| &v.hook_failures)),
    metric("tracker_volume_flushes_total", None, VOLUME, Stable, "Flushes finished, also those with nothing to commit", Counter(|v| v.flushes)),
    metric("tracker_volume_flush_duration_seconds", SECONDS, VOLUME, Stable, "From drain to commit", Read::Histogram(|v| &v.flush_histogram)),
    metric("tracker_volume_last_flush_duration_seconds", SECONDS, VOLUME, Internal, "From drain to commit, of the last flush", Gauge(|v| v.flush_seconds)),
    metric("tracker_volume_late_flushes_total", None, VOLUME, Stable, "Flushes that took longer than the interval allows", Counter(|v| v.late)),
    metric("tracker_volume_carried_files_total", None, VOLUME, Stable, "Files put off to the next flush by their deadline", Counter(|v| v.carried)),
    metric("tracker_volume_marked_bytes_total", BYTES, VOLUME, Stable, "Bytes of blocks that capture marked", Counter(|v| v.bytes_marked)),
    metric("tracker_volume_read_bytes_total", BYTES, VOLUME, Stable, "Bytes read from the source", Counter(|v| v.bytes_read)),
    metric("tracker_volume_read_files_total", None, VOLUME, Stable, "Files opened to read their data", Counter(|v| v.files_read)),
    metric("tracker_volume_literal_bytes_total", BYTES, VOLUME, Stable, "New bytes found, before compression", Counter(|v| v.bytes_literal)),
    metric("tracker_volume_uploaded_bytes_total", BYTES, VOLUME, Stable, "Bytes sent to the store", Counter(|v| v.bytes_uploaded)),
    metric("tracker_volume_store_requests_total", None, VOLUME, Stable, "Requests to the store, repeated ones included", Counter(|v| v.store_requests)),
    metric("tracker_volume_store_requests_per_day", None, VOLUME, Stable, "Requests a day at the present pace", Gauge(|v| v.requests_per_day_estimate as f64)),
    metric("tracker_volume_rescans_total", None, VOLUME, Stable, "Times data had to be read without a mark that says what changed", Counter(|v| v.rescans)),
    metric("tracker_volume_rescans_by_reason_total", None, &["volume", "reason"], Internal, "The same by reason", CounterBy("reason", |v| &v.rescan_reasons)),
    metric("tracker_volume_write_back_errors_total", None, VOLUME, Stable, "Errors of the disk while writing back; an application has lost data", Counter(|v| v.write_back_errors)),
    metric("tracker_volume_write_back_unacknowledged", None, VOLUME, Stable, "The same since the last `tracker acknowledge`, those before a restart included", Gauge(|v| v.write_back.as_ref().map_or(0.0, |errors| errors.count as f64))),
    metric("tracker_volume_kernel_map_bytes", BYTES, VOLUME, Internal, "Kernel memory of the capture maps", Gauge(|v| v.kernel_map_bytes as f64)),
];

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

//! The metrics, for Prometheus: one table defines them, and reads them from the same status that `status` prints.
//!
//! No value is stored here. Labels are volume names and closed sets of words, never a path. A test checks `docs/metrics.md`
//! against the table.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::daemon::control::Control;
use crate::volume::status::{FLUSH_BUCKETS, Histogram, VolumeStatus};

mod table;

pub use table::{METRICS, Metric, Read, Stability};

/// The content type of `render`'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics of the process, not of a volume.
#[derive(Debug)]
pub struct Process {
    /// f64 bits: when the last configuration was accepted, in seconds since 1970.
    reload_time: AtomicU64,
    reload_ok: AtomicU64,
    kernel: String,
}

impl Process {
    pub fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0.0, |age| age.as_secs_f64());
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Process { reload_time: AtomicU64::new(now.to_bits()), reload_ok: AtomicU64::new(1), kernel }
    }

    /// Records that a configuration was accepted at this time, or (`None`) refused.
    pub fn reloaded(&self, at: Option<f64>) {
        if let Some(at) = at {
            self.reload_time.store(at.to_bits(), Ordering::Relaxed);
        }
        self.reload_ok.store(u64::from(at.is_some()), Ordering::Relaxed);
    }
}

impl Default for Process {
    fn default() -> Self {
        Process::new()
    }
}

/// All metrics as OpenMetrics text.
pub fn render(control: &Arc<dyn Control>, process: &Arc<Process>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { volumes: control.status(), process: Arc::clone(process) }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// One scrape: the present status.
#[derive(Debug)]
struct Scrape {
    volumes: Vec<VolumeStatus>,
    process: Arc<Process>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in METRICS {
            let unit = metric.unit.map(|unit| Unit::Other(unit.to_string()));
            let kind = match metric.read {
                Read::Counter(_) | Read::CounterBy(..) => MetricType::Counter,
                Read::Histogram(_) => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let help = metric.help.trim_end_matches('.');
            let to = encoder.encode_descriptor(metric.stem(), help, unit.as_ref(), kind)?;
            self.samples(metric, to)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn samples(&self, metric: &Metric, mut to: MetricEncoder<'_>) -> fmt::Result {
        match metric.read {
            Read::BuildInfo => {
                let version = env!("CARGO_PKG_VERSION");
                let revision = option_env!("TRACKER_REVISION").unwrap_or("unknown");
                let kernel = self.process.kernel.as_str();
                to.encode_family(&[("version", version), ("revision", revision), ("kernel", kernel)])?
                    .encode_gauge(&1i64)
            }
            Read::ReloadOk => to.encode_gauge(&(self.process.reload_ok.load(Ordering::Relaxed) as i64)),
            Read::ReloadTime => to.encode_gauge(&f64::from_bits(self.process.reload_time.load(Ordering::Relaxed))),
            Read::Gauge(read) => {
                self.each(|v| to.encode_family(&[("volume", v.volume.as_str())])?.encode_gauge(&read(v)))
            }
            Read::GaugeIf(read) => self.each(|v| match read(v) {
                Some(value) => to.encode_family(&[("volume", v.volume.as_str())])?.encode_gauge(&value),
                None => Ok(()),
            }),
            Read::OneOf(label, names, read) => self.each(|v| {
                let now = read(v);
                names.iter().try_for_each(|name| {
                    let labels = [("volume", v.volume.as_str()), (label, *name)];
                    to.encode_family(&labels)?.encode_gauge(&i64::from(*name == now))
                })
            }),
            Read::Counter(read) => self.each(|v| {
                let labels = [("volume", v.volume.as_str())];
                to.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&read(v), None)
            }),
            Read::CounterBy(label, read) => self.each(|v| {
                read(v).iter().try_for_each(|(name, count)| {
                    let labels = [("volume", v.volume.as_str()), (label, name.as_str())];
                    to.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(count, None)
                })
            }),
            Read::Histogram(read) => self.each(|v| {
                let histogram = read(v);
                let labels = [("volume", v.volume.as_str())];
                let mut to = to.encode_family(&labels)?;
                to.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count, &buckets(histogram), None)
            }),
        }
    }

    fn each(&self, f: impl FnMut(&VolumeStatus) -> fmt::Result) -> fmt::Result {
        self.volumes.iter().try_for_each(f)
    }
}

/// Bounds with their own counts; the encoder makes them cumulative and calls the last one +Inf.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let bounds = FLUSH_BUCKETS.into_iter().chain([f64::MAX]);
    bounds.enumerate().map(|(at, bound)| (bound, histogram.buckets.get(at).copied().unwrap_or(0))).collect()
}

/// The table as the reference page shows it.
pub fn reference() -> String {
    let mut text = String::from("| name | type | labels | stability | meaning |\n| --- | --- | --- | --- | --- |\n");
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let (name, kind, stability, help) = (metric.name, metric.kind(), metric.stability.name(), metric.help);
        text.push_str(&format!("| `{name}` | {kind} | {labels} | {stability} | {help} |\n"));
    }
    text
}

#[cfg(test)]
mod tests;

//! The exposed text against the table.

use std::collections::{BTreeMap, HashSet};

use crate::daemon::control::fake::{Fake, protected};
use crate::daemon::metrics::*;
use crate::units::PathField;
use crate::volume::status::Unreadable;

fn text() -> String {
    let mut status = VolumeStatus {
        loss_window_seconds: Some(0.25),
        commits: 7,
        source: "/secret/source".into(),
        store: "/secret/store".into(),
        rescan_reasons: BTreeMap::from([("map_full".to_string(), 2)]),
        instant_age_seconds: Some(0.5),
        commits_by_consistency: BTreeMap::from([("instant".to_string(), 6), ("never_quiet".to_string(), 1)]),
        hook_runs: BTreeMap::from([("before".to_string(), 5), ("after".to_string(), 5)]),
        hook_failures: BTreeMap::from([("before".to_string(), 2), ("after".to_string(), 0)]),
        capture_failures: BTreeMap::from([("scrub".to_string(), 1)]),
        kernel_counters: BTreeMap::from([("marks".to_string(), 5)]),
        unreadable: vec![Unreadable { path: PathField::new(b"/secret/file"), cause: "EIO /secret".into() }],
        last_error: Some("/secret/error".into()),
        ..protected("db")
    };
    status.flush_histogram.observe(0.02);
    status.flush_histogram.observe(100.0);
    status.pause_histogram.observe(0.02);
    let control: Arc<dyn Control> = Arc::new(Fake::new(vec![status, protected("www")]));
    render(&control, &Arc::new(Process::new())).unwrap()
}

/// Name, labels, value of every sample.
fn samples(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
        let label = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.to_string(), value.trim_matches('"').to_string())
        };
        let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(label).collect();
        (name.to_string(), labels, value.parse().unwrap())
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

#[test]
fn every_metric_of_the_table_is_exposed_with_help_and_type_and_nothing_else_is() {
    let text = text();
    let samples = samples(&text);
    let mut named = HashSet::new();
    for metric in METRICS {
        let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        assert!(text.contains(&format!("# HELP {family} ")), "HELP {family}\n{text}");
        assert!(text.contains(&format!("# TYPE {family} {}\n", metric.kind())), "TYPE {family}\n{text}");
        let own: Vec<_> = samples.iter().filter(|(name, ..)| belongs(metric, name)).collect();
        assert!(!own.is_empty(), "{} has a sample", metric.name);
        for (name, labels, _) in own {
            let mut keys: HashSet<&str> = labels.keys().map(String::as_str).collect();
            keys.remove("le");
            assert_eq!(keys, metric.labels.iter().copied().collect(), "{name}");
            named.insert(name.clone());
        }
    }
    for (name, ..) in &samples {
        assert!(named.contains(name), "{name} is in the table");
    }
    assert!(text.ends_with("# EOF\n"));
}

fn belongs(metric: &Metric, name: &str) -> bool {
    match metric.read {
        Read::Histogram(_) => ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{}{end}", metric.name)),
        _ => name == metric.name,
    }
}

#[test]
fn names_follow_the_rules() {
    let names: HashSet<&str> = METRICS.iter().map(|m| m.name).collect();
    assert_eq!(names.len(), METRICS.len(), "no name twice");
    for metric in METRICS {
        let name = metric.name;
        assert!(name.starts_with("tracker_"), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind() == "counter", "{name}");
        let family = name.strip_suffix("_total").unwrap_or(name);
        if let Some(unit) = metric.unit {
            assert!(family.ends_with(&format!("_{unit}")), "{name}");
        }
        let says_unit = ["_seconds", "_bytes"].iter().any(|unit| family.ends_with(unit));
        assert_eq!(says_unit, metric.unit.is_some(), "{name}");
        let forbidden = ["path", "file", "source", "store", "seq", "container"];
        assert!(metric.labels.iter().all(|label| !forbidden.contains(label)), "{name}");
    }
}

#[test]
fn no_path_is_exposed() {
    assert!(!text().contains("secret"));
}

#[test]
fn the_words_are_those_of_the_status() {
    let of = |label: &str| {
        METRICS.iter().find_map(|m| match m.read {
            Read::OneOf(name, words, _) if name == label => Some(words),
            _ => None,
        })
    };
    assert_eq!(
        of("state").unwrap(),
        ["starting", "waiting", "baseline", "verifying", "protected", "degraded", "fenced", "stopped"]
    );
    assert_eq!(of("backend").unwrap(), ["fentry", "kprobe", "tracepoint", "scan"]);
}

#[test]
fn values_arrive() {
    let samples = samples(&text());
    let value = |name: &str, want: &[(&str, &str)]| {
        let matches = |labels: &BTreeMap<String, String>| {
            want.iter().all(|(key, value)| labels.get(*key).map(String::as_str) == Some(*value))
        };
        let found: Vec<f64> = samples.iter().filter(|(n, l, _)| n == name && matches(l)).map(|s| s.2).collect();
        assert_eq!(found.len(), 1, "{name} {want:?}");
        found[0]
    };
    let db = ("volume", "db");
    assert_eq!(value("tracker_volume_loss_window_seconds", &[db]), 0.25);
    assert!(!text().contains("loss_window_seconds{volume=\"www\"}"), "absent before there is a baseline");
    assert_eq!(value("tracker_volume_commits_total", &[db]), 7.0);
    assert_eq!(value("tracker_volume_commits_total", &[("volume", "www")]), 0.0, "a series exists at 0");
    assert_eq!(value("tracker_volume_state", &[db, ("state", "protected")]), 1.0);
    assert_eq!(value("tracker_volume_state", &[db, ("state", "degraded")]), 0.0);
    assert_eq!(value("tracker_volume_rescans_by_reason_total", &[db, ("reason", "map_full")]), 2.0);
    let bucket = "tracker_volume_flush_duration_seconds_bucket";
    assert_eq!(value(bucket, &[db, ("le", "0.01")]), 0.0);
    assert_eq!(value(bucket, &[db, ("le", "0.025")]), 1.0);
    assert_eq!(value(bucket, &[db, ("le", "60.0")]), 1.0);
    assert_eq!(value(bucket, &[db, ("le", "+Inf")]), 2.0);
    assert_eq!(value("tracker_volume_flush_duration_seconds_count", &[db]), 2.0);
    assert_eq!(value("tracker_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn a_refused_reload_shows() {
    let process = Arc::new(Process::new());
    process.reloaded(None);
    let control: Arc<dyn Control> = Arc::new(Fake::default());
    let text = render(&control, &process).unwrap();
    assert!(text.contains("\ntracker_config_last_reload_successful 0\n"), "{text}");
    assert!(text.contains("# TYPE tracker_volume_loss_window_seconds gauge"), "described even without volumes");
}

/// TRACKER_BLESS=1 rewrites the page.
#[test]
fn the_reference_page_is_the_table() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(&page).unwrap_or_default();
    let intro = text.split("| name |").next().unwrap_or_default();
    let wanted = format!("{intro}{}", reference());
    if std::env::var_os("TRACKER_BLESS").is_some() {
        std::fs::write(&page, &wanted).unwrap();
    } else {
        assert!(text == wanted, "docs/metrics.md differs from the table: run this test with TRACKER_BLESS=1");
    }
}

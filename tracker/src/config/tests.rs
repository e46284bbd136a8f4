//! What a configuration file may contain, and the messages for what it may not.

use std::path::Path;
use std::time::Duration;

use engine::scrub::Rate;

use super::*;
use crate::capture::MapEntries;
use crate::error::{AppError, ExitCode};

const GOOD: &str = r#"
state_dir = "/var/lib/t"
[defaults]
store = "s3://bucket/prefix"
interval = "1s"
capture = "tracepoint"
scrub = "0.5%"
before = "/etc/quiesce stop"
[metrics]
listen = "127.0.0.1:9"
[[volume]]
source = "/srv/db"
[[volume]]
name = "web"
source = "/srv/www"
store = "file:///backup"
interval = "100ms"
capture = "scan"
consistency = "live"
pause = "0"
scrub = "off"
single_writer = true
create = true
replaced = "adopt"
max_delete = "off"
before = ""
after = "/etc/quiesce go"
hook_timeout = "1m"
"#;

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(Problem::to_string).collect()
}

fn volume(lines: &str) -> String {
    format!("[[volume]]\nname = \"v\"\nsource = \"/s\"\nstore = \"/b\"\n{lines}\n")
}

#[test]
fn defaults_apply_where_a_volume_says_nothing() {
    let (config, lines) = parse(GOOD).unwrap();
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/t")));
    assert_eq!(config.metrics_listen, Some("127.0.0.1:9".parse().unwrap()));
    let [db, web] = &config.volumes[..] else { panic!("{config:?}") };
    assert_eq!(
        (db.name.as_str(), db.options.interval.0, db.options.capture),
        ("db", Duration::from_secs(1), CaptureMode::Only(crate::capture::BackEnd::Tracepoint))
    );
    assert_eq!(db.store.to_string(), "s3://bucket/prefix");
    assert_eq!(web.store.local(), Some(Path::new("/backup")));
    let (db, web) = (&db.options, &web.options);
    assert!(!db.single_writer && web.single_writer && !db.create && web.create);
    assert_eq!((db.replaced, web.replaced), (Replaced::Stop, Replaced::Adopt));
    assert_eq!((db.consistency, web.consistency), (ConsistencyMode::Instant, ConsistencyMode::Live));
    assert_eq!((db.pause, web.pause), (Pause::default(), Pause::default()));
    assert_eq!((db.max_delete, web.max_delete), (MaxDelete::default(), MaxDelete(None)));
    assert_eq!((web.interval.0, web.capture), (Duration::from_millis(100), CaptureMode::SCAN));
    assert_eq!((db.scrub.0, web.scrub.0), (Rate { millionths: 5000 }, Rate::OFF));
    assert_eq!((db.before.get(), web.before.get()), (Some("/etc/quiesce stop"), None), "an empty one takes it back");
    assert_eq!((db.after.get(), web.after.get()), (None, Some("/etc/quiesce go")));
    assert_eq!((db.hook_timeout.0, web.hook_timeout.0), (Duration::from_secs(10), Duration::from_secs(60)));
    assert_eq!(lines, [11, 13]);
}

#[test]
fn metrics_listen_on_loopback_unless_turned_off() {
    let (config, _) = parse(&volume("")).unwrap();
    assert_eq!(config.volumes[0].options, VolumeOptions::default());
    assert_eq!(config.metrics_listen.unwrap().to_string(), "127.0.0.1:9750");
    let (config, _) = parse(&format!("[metrics]\nlisten = \"off\"\n{}", volume(""))).unwrap();
    assert_eq!(config.metrics_listen, None);
}

#[test]
fn every_error_names_its_line() {
    for (text, expected) in [
        (
            volume("intervall = \"1s\""),
            "line 5: unknown field `intervall`, expected one of `name`, `source`, `store`, `int",
        ),
        (format!("[defaults]\nsource = \"/s\"\n{}", volume("")), "line 2: unknown field `source`"),
        (format!("defaults = 1\n{}", volume("")), "line 1: a table is expected here"),
        ("volume = 1".into(), "line 1: volumes are written as [[volume]]"),
        ("[[volume]]\nname = \"v\"\nstore = \"/b\"".into(), "line 1: missing field `source`"),
        ("[[volume]]\nname = 1\nsource = \"/s\"\nstore = \"/b\"".into(), "line 2: invalid type"),
        (format!("\nx = 1\n{}", volume("")), "line 2: unknown field `x`"),
        (format!("[metrics]\nport = 1\n{}", volume("")), "line 2: unknown field `port`"),
        (volume("interval = \"5\""), "line 5: `5` is no duration"),
        (volume("interval = \"1ms\""), "line 5: the interval must lie between 10ms and 60m"),
        (volume("capture = \"magic\""), "line 5: unknown variant `magic`"),
        (volume("consistency = \"cut\""), "line 5: `cut` is no consistency (write instant or live)"),
        (volume("pause = \"1001ms\""), "line 5: writers are paused for at most 1s"),
        (volume("pause = \"-1\""), "line 5: `-1` is no duration"),
        (volume("scrub = \"5\""), "line 5: `5` is no share of the volume per hour"),
        (volume("scrub = \"200%\""), "line 5: `200%` is no share of the volume per hour"),
        (volume("scrub = \"NaN%\""), "line 5: `NaN%` is no share of the volume per hour"),
        (volume("scrub = \"-1%\""), "line 5: `-1%` is no share of the volume per hour"),
        (volume("single_writer = 1"), "line 5: invalid type"),
        (volume("hook_timeout = \"61s\""), "line 5: the time for a hook must lie between 100ms and 1m"),
        (volume("before = [\"sync\"]"), "line 5: invalid type"),
        (volume("after = \"a\\u0000\""), "line 5: a hook has no zero bytes"),
        (volume("nice = 20"), "line 5: `20` is no nice value: 0 (as the process) to 19"),
        (volume("nice = -1"), "line 5: `-1` is no nice value"),
        (volume("nice = \"5\""), "line 5: invalid type"),
        (format!("[defaults]\ninterval = \"x\"\n{}", volume("")), "line 2: `x` is no duration"),
        (format!("[metrics]\nlisten = \"9750\"\n{}", volume("")), "line 2: `9750` is no ADDRESS:PORT"),
        (format!("state_dir = \"state\"\n{}", volume("")), "line 1: `state_dir` must be an absolute path"),
        (format!("{}\n{}", volume(""), volume("")), "line 7: there is already a volume `v`"),
        ("[[volume]]\nsource = \"/a b\"\nstore = \"/b\"".into(), "line 2: the directory's name is no volume name"),
        ("[[volume]]\nsource = \"/s\"".into(), "line 1: the volume has no `store`"),
        ("[[volume]]\nsource = \"s\"\nstore = \"/b\"".into(), "line 2: `source` must be an absolute path"),
        ("[[volume]]\nsource = \"/s\"\nstore = \"b\"".into(), "line 3: `store` must be a URL or an absolute path"),
        ("[[volume]]\nsource = \"/s\"\nstore = \"ftp://b\"".into(), "line 3: `ftp://` is no kind of store"),
        ("[[volume]]\nname = \"a/b\"\nsource = \"/s\"\nstore = \"/b\"".into(), "line 2: `a/b` is no volume name"),
        ("[[volume]]\nsource = ".into(), "line 2: "),
        (String::new(), "there is no [[volume]] in it, and no `state_dir`"),
        ("[defaults]\nstore = \"/b\"".into(), "there is no [[volume]] in it, and no `state_dir`"),
    ] {
        let found = problems(&text);
        assert!(found.iter().any(|p| p.starts_with(expected)), "{text}\n{found:?}\nexpected {expected}");
    }
}

#[test]
fn a_file_without_volumes_names_a_state_directory() {
    let (config, lines) = parse("state_dir = \"/var/lib/t\"").unwrap();
    assert!(config.volumes.is_empty() && lines.is_empty());
}

#[test]
fn all_problems_are_told_at_once() {
    assert_eq!(problems(&volume("interval = \"5\"\nconsistency = \"cut\"")).len(), 2);
    // A wrong default is reported once, not once for each volume.
    let text =
        format!("x = 1\n[defaults]\nscrub = \"x\"\n[metrics]\nlisten = 5\n{}y = 2\n{}", volume(""), volume("z = 3"));
    let found = problems(&text);
    let lines: Vec<&str> = found.iter().filter_map(|p| p.split(':').next()).collect();
    assert_eq!(lines, ["line 1", "line 3", "line 5", "line 11", "line 12", "line 16"], "{found:?}");
}

#[test]
fn a_cycle_is_told_with_the_line_of_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("s")).unwrap();
    let file = root.join("tracker.toml");
    let root = root.display();
    std::fs::write(&file, format!("\n[[volume]]\nsource = \"{root}/s\"\nstore = \"{root}/s/backup\"\n")).unwrap();
    let error = load(&file, Path::new("/nonexistent/state")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("line 2: the store") && text.contains("lies inside the source"), "{text}");
    assert_eq!(AppError::from(error).code, ExitCode::Usage);
    std::fs::write(&file, format!("[[volume]]\nsource = \"{root}/s\"\nstore = \"{root}/backup\"\n")).unwrap();
    let config = load(&file, Path::new("/nonexistent/state")).unwrap();
    assert_eq!(config.file.as_deref(), Some(file.as_path()));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(Path::new("/no/such/file"), Path::new("/x")).unwrap_err();
    assert!(AppError::from(error).message.contains("/no/such/file: No such file"));
}

/// All volumes of a process share one capture, so one of the two values would be ignored silently.
#[test]
fn volumes_that_ask_for_two_back_ends_are_refused() {
    let two = |one: &str, other: &str| {
        let of = |name: &str, capture: &str| {
            format!("[[volume]]\nname = \"{name}\"\nsource = \"/{name}\"\nstore = \"/b\"\ncapture = \"{capture}\"\n")
        };
        of("one", one) + &of("two", other)
    };
    let found = problems(&two("kprobe", "tracepoint"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("asks for tracepoint, another volume for kprobe"), "{found:?}");
    for other in ["kprobe", "auto", "scan"] {
        assert!(parse(&two("kprobe", other)).is_ok(), "{other}");
    }
}

/// These sizes determine the kernel memory of the capture.
#[test]
fn sizes_of_the_kernel_maps_are_read_and_bounded() {
    let config = |lines: &str| parse(&format!("{lines}\n{}", volume(""))).map(|(config, _)| config.kernel_maps);
    let by_files = config("").unwrap();
    assert_eq!(by_files, MapEntries { watch: WATCH_BY_FILES, ..MapEntries::default() });
    // The smallest size that is computed from files is an ordinary size if it is set explicitly.
    assert_ne!(config("[kernel_maps]\nwatch = 262144").unwrap(), by_files);
    let small = config("[kernel_maps]\ndirty = 16\nwatch = 4096").unwrap();
    assert_eq!((small.dirty, small.watch, small.inode), (16, 4096, MapEntries::default().inode));
    assert!(config("[kernel_maps]\ninode = 7").unwrap_err()[0].to_string().starts_with("line 2: a map has from 8"));
    assert!(config("[kernel_maps]\nother = 100").is_err());
    assert_eq!(parse_map_entries("inflight=99"), Ok((KernelMap::Inflight, 99)));
    for wrong in ["dirty", "dirty=", "dirty=7", "other=99", "dirty=99999999"] {
        assert!(parse_map_entries(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_concerns_the_process_is_read_and_bounded() {
    let file = |text: &str| format!("{text}\n{}", volume(""));
    let (config, _) = parse(&file("")).unwrap();
    assert_eq!(config.process, ProcessConfig::default());
    let text = "stop_timeout = \"5s\"\n[tracking]\nkeep = false\nlease = \"90m\"\nmemory = \"64MiB\"";
    let (config, _) = parse(&file(text)).unwrap();
    let tracking = Tracking { keep: false, lease: Lease(Duration::from_secs(5400)), memory: Memory(64 << 20) };
    assert_eq!(config.process, ProcessConfig { stop_timeout: StopTimeout(Duration::from_secs(5)), tracking });
    for wrong in ["stop_timeout = \"0s\"", "[tracking]\nlease = \"1s\"", "[tracking]\nmemory = \"much\""] {
        assert!(problems(&file(wrong))[0].starts_with(if wrong.starts_with('[') { "line 2: " } else { "line 1: " }));
    }
}

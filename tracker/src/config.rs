//! The configuration of a daemon: a TOML file, or what `protect` was given on its command line.
//!
//! Reading and checking what is written; whether the paths make a cycle is `guard`'s to say. Unknown keys are errors:
//! a misspelt key must not quietly mean the default.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::audit::Rate;
use serde::Deserialize;
use toml::Spanned;

use crate::capture::{BackEnd, MapEntries};
use crate::config::guard::GuardedVolume;
use crate::error::{AppError, ExitCode};
use crate::repository::location;
use crate::store::StoreUrl;
use crate::units;

pub mod guard;
mod maps;
mod max_delete;
pub mod process;
mod replaced;

use maps::check_entries;
pub use maps::{ENTRIES_RANGE, KernelMap, WATCH_BY_FILES, default_maps, parse_map_entries};
pub use max_delete::{MAX_DELETE_DEFAULT, MaxDelete, parse_max_delete};
pub use process::ProcessConfig;
pub use replaced::{Allow, Replaced};

/// The gap between two flushes of a dirty volume unless the user says otherwise.
pub const INTERVAL_DEFAULT: Duration = Duration::from_millis(250);
/// Below this a flush would find nothing but its own overhead, above it "incremental" means nothing.
pub const INTERVAL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// Where a daemon serves its metrics unless the configuration says otherwise.
pub const METRICS_LISTEN_DEFAULT: &str = "127.0.0.1:9750";
/// Longest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Which capture back end to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Capture {
    /// The best one this kernel and user may use.
    #[default]
    Auto,
    Fentry,
    Kprobe,
    Tracepoint,
    /// Periodic comparison, without eBPF.
    Scan,
}

impl Capture {
    /// The one back end with programs that is asked for, if it is one.
    pub fn back_end(self) -> Option<BackEnd> {
        match self {
            Capture::Auto | Capture::Scan => None,
            Capture::Fentry => Some(BackEnd::Fentry),
            Capture::Kprobe => Some(BackEnd::Kprobe),
            Capture::Tracepoint => Some(BackEnd::Tracepoint),
        }
    }
}

/// How the blocks of one commit relate in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Each block as it was at some moment of the flush.
    #[default]
    Live,
    /// All files at one instant. Not available in this version.
    Cut,
}

/// One volume to protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeConfig {
    pub name: String,
    pub source: PathBuf,
    pub store: StoreUrl,
    /// Minimum gap between two flushes while the volume is dirty.
    pub interval: Duration,
    pub capture: Capture,
    /// How much of the volume the audit looks at in an hour.
    pub audit: Rate,
    /// The operator's word that no other host writes this volume: a store without working conditional puts is accepted.
    pub single_writer: bool,
    /// A local store's whole path is made where it is absent, not only its last part.
    pub create: bool,
    /// What follows when another directory lies at the source's path.
    pub replaced: Replaced,
    /// Removals of more than this share of the files in one flush wait for a person, in percent; `None`: none do.
    pub max_delete: Option<u8>,
    /// What the operator allows this start to do.
    pub allow: Allow,
}

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from; `None` for `protect`.
    pub file: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// `None`: no HTTP endpoints.
    pub metrics_listen: Option<SocketAddr>,
    /// The command line said so, not the file.
    pub listen_by_command: bool,
    /// Sizes of the capture's maps, which bound its kernel memory.
    pub kernel_maps: MapEntries,
    pub process: ProcessConfig,
    pub volumes: Vec<VolumeConfig>,
}

/// One thing that is wrong, and the line it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: Option<usize>,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is longer than {max} bytes", .path.display())]
    TooLong { path: PathBuf, max: u64 },
    #[error("{}: {}", .path.display(), join(.problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl From<ConfigError> for AppError {
    fn from(error: ConfigError) -> AppError {
        AppError::new(ExitCode::Usage, crate::error::chain(&error))
            .hint("`tracker config check FILE` checks a configuration without starting anything")
    }
}

/// Reads and checks a file: grammar, keys, values, duplicates, and the paths by `guard::check_paths`.
/// `state_dir` is used where the file names none.
pub fn load(path: &Path, state_dir: &Path) -> Result<Config, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
    if std::fs::metadata(path).map_err(read)?.len() > FILE_BYTES_MAX {
        return Err(ConfigError::TooLong { path: path.to_path_buf(), max: FILE_BYTES_MAX });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let invalid = |problems| ConfigError::Invalid { path: path.to_path_buf(), problems };
    let (mut config, lines) = parse(&text).map_err(invalid)?;
    config.file = Some(path.to_path_buf());
    let state = config.state_dir.as_deref().unwrap_or(state_dir);
    let mut found = guard::check_paths(&config.guarded(), state, &guard::log_files());
    // A volume whose source is away waits for it, and is checked again when it is there.
    found.retain(|refused| refused.volume.is_none() || !refused.kind.is_away());
    if found.is_empty() {
        return Ok(config);
    }
    let line_of = |volume: &Option<String>| {
        let at = config.volumes.iter().position(|v| Some(&v.name) == volume.as_ref())?;
        lines.get(at).copied()
    };
    Err(invalid(found.iter().map(|e| Problem { line: line_of(&e.volume), what: e.to_string() }).collect()))
}

impl Config {
    /// What `guard` needs to know of the volumes.
    pub fn guarded(&self) -> Vec<GuardedVolume> {
        let guarded = |v: &VolumeConfig| GuardedVolume {
            name: v.name.clone(),
            source: v.source.clone(),
            store: v.store.local().map(Path::to_path_buf),
        };
        self.volumes.iter().map(guarded).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    state_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    defaults: RawDefaults,
    #[serde(default)]
    metrics: RawMetrics,
    #[serde(default)]
    kernel_maps: RawMaps,
    stop_timeout: Option<Spanned<String>>,
    #[serde(default)]
    tracking: process::RawTracking,
    #[serde(default)]
    volume: Vec<Spanned<RawVolume>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMaps {
    dirty: Option<Spanned<u32>>,
    inode: Option<Spanned<u32>>,
    watch: Option<Spanned<u32>>,
    inflight: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefaults {
    store: Option<Spanned<String>>,
    interval: Option<Spanned<String>>,
    capture: Option<Capture>,
    consistency: Option<Spanned<Consistency>>,
    audit: Option<Spanned<String>>,
    single_writer: Option<bool>,
    create: Option<bool>,
    replaced: Option<Replaced>,
    max_delete: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetrics {
    listen: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    name: Option<Spanned<String>>,
    source: Spanned<PathBuf>,
    store: Option<Spanned<String>>,
    interval: Option<Spanned<String>>,
    capture: Option<Capture>,
    consistency: Option<Spanned<Consistency>>,
    audit: Option<Spanned<String>>,
    single_writer: Option<bool>,
    create: Option<bool>,
    replaced: Option<Replaced>,
    max_delete: Option<Spanned<String>>,
}

/// Collects problems together with their lines.
struct Checker<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        before.bytes().filter(|b| *b == b'\n').count() + 1
    }

    fn problem(&mut self, span: &Range<usize>, what: impl fmt::Display) {
        let line = Some(self.line(span));
        self.problems.push(Problem { line, what: what.to_string() });
    }

    /// The parsed value, or a noted problem.
    fn parsed<T, U, E: fmt::Display>(&mut self, value: &Spanned<T>, parse: impl Fn(&T) -> Result<U, E>) -> Option<U> {
        parse(value.get_ref()).map_err(|e| self.problem(&value.span(), e)).ok()
    }

    fn absolute(&mut self, path: &Spanned<PathBuf>, key: &str) -> PathBuf {
        if !path.get_ref().is_absolute() {
            let shown = path.get_ref().display();
            self.problem(&path.span(), format_args!("`{key}` must be an absolute path, not `{shown}`"));
        }
        path.get_ref().clone()
    }

    fn no_cut(&mut self, consistency: Option<&Spanned<Consistency>>) {
        if let Some(value) = consistency
            && *value.get_ref() == Consistency::Cut
        {
            self.problem(&value.span(), CUT_UNAVAILABLE);
        }
    }
}

/// Said wherever `cut` is asked for.
pub const CUT_UNAVAILABLE: &str = "consistency `cut` is not available in this version, only `live`";

/// Reads an interval and holds it to `INTERVAL_RANGE`.
pub fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = units::parse_duration(text).map_err(|e| e.to_string())?;
    if INTERVAL_RANGE.contains(&interval) {
        return Ok(interval);
    }
    let show = units::show_duration;
    Err(format!("the interval must lie between {} and {}", show(*INTERVAL_RANGE.start()), show(*INTERVAL_RANGE.end())))
}

/// Highest rate of the audit: the whole volume once an hour. Tests cannot wait for that: `TRACKER_AUDIT_MAX` is another one.
fn audit_percent_max() -> f64 {
    std::env::var("TRACKER_AUDIT_MAX").ok().and_then(|text| text.parse().ok()).unwrap_or(100.0)
}

/// Reads the audit's rate: a percentage of the volume per hour, `off` or 0 for none.
pub fn parse_audit(text: &str) -> Result<Rate, String> {
    if text == "off" || text == "0" {
        return Ok(Rate::OFF);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=audit_percent_max()).contains(&percent) => {
            Ok(Rate { millionths: (percent * 10_000.0).round() as u64 })
        }
        _ => Err(format!(
            "`{text}` is no share of the volume per hour (write for example 1%, 0.25%, or off; at most 100%)"
        )),
    }
}

/// Reads where to serve the metrics: `ADDRESS:PORT`, or `off`.
pub fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| format!("`{text}` is no ADDRESS:PORT (write for example {METRICS_LISTEN_DEFAULT}, or off)"))
}

/// Everything that the text alone can tell. The second value holds the line of each volume.
#[expect(clippy::too_many_lines, reason = "it is to be cut where it turns a corner")]
pub fn parse(text: &str) -> Result<(Config, Vec<usize>), Vec<Problem>> {
    let mut check = Checker { text, problems: Vec::new() };
    let raw: RawConfig = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(e) => {
            let line = e.span().map(|span| check.line(&span));
            return Err(vec![Problem { line, what: e.message().to_string() }]);
        }
    };
    let defaults = raw.defaults;
    check.no_cut(defaults.consistency.as_ref());
    let metrics_listen = match &raw.metrics.listen {
        Some(listen) => check.parsed(listen, |text| parse_listen(text)).flatten(),
        None => METRICS_LISTEN_DEFAULT.parse().ok(),
    };
    let state_dir = raw.state_dir.as_ref().map(|dir| check.absolute(dir, "state_dir"));
    let default_interval = match &defaults.interval {
        Some(text) => check.parsed(text, |t| parse_interval(t)),
        None => Some(INTERVAL_DEFAULT),
    };
    let default_audit = match &defaults.audit {
        Some(text) => check.parsed(text, |t| parse_audit(t)).unwrap_or(Rate::DEFAULT),
        None => Rate::DEFAULT,
    };
    let default_max_delete = defaults.max_delete.as_ref().and_then(|text| check.parsed(text, |t| parse_max_delete(t)));
    let mut kernel_maps = default_maps();
    for (map, entries) in [
        (KernelMap::Dirty, &raw.kernel_maps.dirty),
        (KernelMap::Inode, &raw.kernel_maps.inode),
        (KernelMap::Watch, &raw.kernel_maps.watch),
        (KernelMap::Inflight, &raw.kernel_maps.inflight),
    ] {
        if let Some(entries) = entries
            && check.parsed(entries, |entries| check_entries(*entries)).is_some()
        {
            *map.of(&mut kernel_maps) = *entries.get_ref();
        }
    }
    let process = process::read(&mut check, raw.stop_timeout.as_ref(), &raw.tracking);
    let listen_by_command = false;
    let (file, volumes) = (None, Vec::new());
    let mut config = Config { file, state_dir, metrics_listen, listen_by_command, kernel_maps, process, volumes };
    let mut lines = Vec::new();
    let mut names = HashSet::new();
    // The back end that some volume wants and no other: the programs of a process are of one.
    let mut asked: Option<BackEnd> = None;
    if raw.volume.is_empty() {
        check.problems.push(Problem { line: None, what: "there is no [[volume]] in it".to_string() });
    }
    for entry in raw.volume {
        let span = entry.span();
        let raw = entry.into_inner();
        let source = check.absolute(&raw.source, "source");
        let name = match &raw.name {
            Some(name) => check.parsed(name, |n| location::check_volume_name(n).map(|()| n.clone())),
            None => {
                let name = location::default_volume_name(&source);
                if name.is_none() {
                    check.problem(
                        &raw.source.span(),
                        "the directory's name is no volume name: give the volume a `name`",
                    );
                }
                name
            }
        };
        let store = match raw.store.as_ref().or(defaults.store.as_ref()) {
            Some(url) => check.parsed(url, |u| u.parse::<StoreUrl>()),
            None => {
                check.problem(&span, "the volume has no `store`, and [defaults] has none either");
                None
            }
        };
        if let (Some(StoreUrl::Local(path)), Some(url)) = (&store, raw.store.as_ref().or(defaults.store.as_ref()))
            && !path.is_absolute()
        {
            check.problem(
                &url.span(),
                format_args!("`store` must be a URL or an absolute path, not `{}`", path.display()),
            );
        }
        let interval = match &raw.interval {
            Some(text) => check.parsed(text, |t| parse_interval(t)),
            None => default_interval,
        };
        let audit = match &raw.audit {
            Some(text) => check.parsed(text, |t| parse_audit(t)).unwrap_or(default_audit),
            None => default_audit,
        };
        let max_delete = raw.max_delete.as_ref().and_then(|text| check.parsed(text, |t| parse_max_delete(t)));
        check.no_cut(raw.consistency.as_ref());
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            check.problem(&span, format_args!("there is already a volume `{name}`"));
        }
        lines.push(check.line(&span));
        if let (Some(name), Some(store), Some(interval)) = (name, store, interval) {
            let capture = raw.capture.or(defaults.capture).unwrap_or_default();
            if let (Some(back_end), Some(other)) = (capture.back_end(), asked)
                && back_end != other
            {
                let (one, other) = (back_end.name(), other.name());
                check.problem(
                    &span,
                    format_args!("it asks for {one}, another volume for {other}: all share one capture"),
                );
            }
            asked = asked.or(capture.back_end());
            let single_writer = raw.single_writer.or(defaults.single_writer).unwrap_or(false);
            let create = raw.create.or(defaults.create).unwrap_or(false);
            let replaced = raw.replaced.or(defaults.replaced).unwrap_or_default();
            let max_delete = max_delete.or(default_max_delete).unwrap_or(MAX_DELETE_DEFAULT);
            let allow = Allow::default();
            config.volumes.push(VolumeConfig {
                name,
                source,
                store,
                interval,
                capture,
                audit,
                single_writer,
                create,
                replaced,
                max_delete,
                allow,
            });
        }
    }
    if check.problems.is_empty() { Ok((config, lines)) } else { Err(check.problems) }
}

#[cfg(test)]
mod tests;

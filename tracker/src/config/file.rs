//! Reads a configuration file: grammar, keys, values, duplicates, each problem with its line. Unknown keys are errors: a
//! misspelt key must not silently mean the default.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::capture::{BackEnd, MapEntries};
use crate::config::guard::{self, GuardedVolume};
use crate::config::maps::{Entries, KernelMap, default_maps};
use crate::config::problem::{ConfigError, Problem};
use crate::config::process::{ProcessConfig, Tracking};
use crate::config::replaced::Allow;
use crate::config::values::{Listen, StopTimeout};
use crate::config::volume::{VolumeConfig, VolumeOptions};
use crate::repository::location;
use crate::store::StoreUrl;

/// Longest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from; `None` for `protect`.
    pub file: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    /// `None`: no HTTP endpoints.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether the address came from the command line, not the file.
    pub listen_by_command: bool,
    /// Sizes of the capture's maps, which bound its kernel memory.
    pub kernel_maps: MapEntries,
    pub process: ProcessConfig,
    pub volumes: Vec<VolumeConfig>,
}

impl Config {
    /// The volumes, for `guard`.
    pub fn guarded(&self) -> Vec<GuardedVolume> {
        self.volumes.iter().map(VolumeConfig::guarded).collect()
    }
}

/// Reads and checks a file: its text, and its paths by `guard::check_paths`. `state_dir` is used if the file names none.
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
    // A volume whose source is away waits for it, and is checked again when it appears.
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

/// The top-level keys other than `[defaults]` and `[[volume]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessKeys {
    state_dir: Option<Spanned<PathBuf>>,
    #[serde(default)]
    metrics: Metrics,
    #[serde(default)]
    kernel_maps: Maps,
    #[serde(default)]
    stop_timeout: StopTimeout,
    #[serde(default)]
    tracking: Tracking,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Metrics {
    listen: Listen,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Maps {
    dirty: Option<Entries>,
    inode: Option<Entries>,
    watch: Option<Entries>,
    inflight: Option<Entries>,
}

impl Maps {
    fn sizes(&self) -> MapEntries {
        let mut sizes = default_maps();
        for (map, entries) in [
            (KernelMap::Dirty, self.dirty),
            (KernelMap::Inode, self.inode),
            (KernelMap::Watch, self.watch),
            (KernelMap::Inflight, self.inflight),
        ] {
            if let Some(entries) = entries {
                *map.of(&mut sizes) = entries.into();
            }
        }
        sizes
    }
}

/// The keys of `[[volume]]` that are not settings but identify the volume. Of these, `[defaults]` has only `store`.
#[derive(Deserialize)]
struct Place {
    name: Option<Spanned<String>>,
    source: Spanned<PathBuf>,
    store: Option<Spanned<StoreUrl>>,
}

const PLACE_KEYS: &[&str] = &["name", "source", "store"];

/// Checks everything that can be checked in the text alone. The second value holds the line of each volume.
pub fn parse(text: &str) -> Result<(Config, Vec<usize>), Vec<Problem>> {
    let mut reading = Reading { text, problems: Vec::new() };
    let mut root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            reading.note(&error);
            return Err(reading.problems);
        }
    };
    let defaults = root.get_mut().remove("defaults");
    let volumes = root.get_mut().remove("volume");
    let process: Option<ProcessKeys> = reading.read(&mut root);
    let state_dir = process.as_ref().and_then(|process| process.state_dir.as_ref());
    let state_dir = state_dir.map(|dir| reading.absolute(dir, "state_dir"));
    let defaults = reading.defaults(defaults);
    let none = volumes.as_ref().is_none_or(|v| matches!(v.get_ref(), DeValue::Array(entries) if entries.is_empty()));
    let (volumes, lines) = reading.volumes(volumes, &defaults);
    // An empty file is a mistake. Whoever adds all volumes by requests names the state directory, where requests arrive.
    if none && state_dir.is_none() {
        let what =
            "there is no [[volume]] in it, and no `state_dir` for volumes that are added by `tracker volume add`";
        reading.problems.push(Problem { line: None, what: what.to_owned() });
    }
    let (Some(process), true) = (process, reading.problems.is_empty()) else {
        reading.problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        return Err(reading.problems);
    };
    let config = Config {
        file: None,
        state_dir,
        metrics_listen: process.metrics.listen.0,
        listen_by_command: false,
        kernel_maps: process.kernel_maps.sizes(),
        process: ProcessConfig { stop_timeout: process.stop_timeout, tracking: process.tracking },
        volumes,
    };
    Ok((config, lines))
}

/// Collects problems together with their lines.
struct Reading<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Reading<'t> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        before.bytes().filter(|b| *b == b'\n').count() + 1
    }

    fn problem(&mut self, span: &Range<usize>, what: impl fmt::Display) {
        let line = Some(self.line(span));
        self.problems.push(Problem { line, what: what.to_string() });
    }

    fn note(&mut self, error: &toml::de::Error) {
        let line = error.span().map(|span| self.line(&span));
        self.problems.push(Problem { line, what: error.message().to_owned() });
    }

    /// Deserializes the table, or reports all problems in it: a wrong key is reported and removed from the table, so that
    /// the next one is found.
    fn read<T: DeserializeOwned>(&mut self, table: &mut Spanned<DeTable<'t>>) -> Option<T> {
        let mut flawless = true;
        loop {
            let value = Spanned::new(table.span(), DeValue::Table(table.get_ref().clone()));
            match T::deserialize(ValueDeserializer::from(value)) {
                Ok(read) => return flawless.then_some(read),
                Err(error) => {
                    self.note(&error);
                    flawless = false;
                    let span = error.span()?;
                    let before = table.get_ref().len();
                    let keys = std::mem::take(table.get_mut()).into_iter();
                    *table.get_mut() = keys.filter(|(key, v)| key.span() != span && !holds(v, &span)).collect();
                    if table.get_ref().len() == before {
                        return None;
                    }
                }
            }
        }
    }

    fn absolute(&mut self, path: &Spanned<PathBuf>, key: &str) -> PathBuf {
        if !path.get_ref().is_absolute() {
            let shown = path.get_ref().display();
            self.problem(&path.span(), format_args!("`{key}` must be an absolute path, not `{shown}`"));
        }
        path.get_ref().clone()
    }

    /// `value` as a table, without keys that are not in `known`.
    fn table(&mut self, value: Spanned<DeValue<'t>>, known: &[&[&str]]) -> Spanned<DeTable<'t>> {
        let span = value.span();
        let mut table = match value.into_inner() {
            DeValue::Table(table) => table,
            other => {
                self.problem(&span, format_args!("a table is expected here, not a value ({})", other.type_str()));
                DeTable::new()
            }
        };
        let known = known.concat();
        table = table
            .into_iter()
            .filter(|(key, _)| {
                let name: &str = key.get_ref();
                let is_known = known.contains(&name);
                if !is_known {
                    let expected = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
                    self.problem(&key.span(), format_args!("unknown field `{name}`, expected one of {expected}"));
                }
                is_known
            })
            .collect();
        Spanned::new(span, table)
    }

    /// The valid part of `[defaults]`.
    fn defaults(&mut self, value: Option<Spanned<DeValue<'t>>>) -> DeTable<'t> {
        let Some(value) = value else { return DeTable::new() };
        let mut settings = self.table(value, &[&["store"], VolumeOptions::KEYS]);
        let store = settings.get_mut().remove_entry("store");
        // Reports and removes wrong values.
        let _: Option<VolumeOptions> = self.read(&mut settings);
        let mut defaults = settings.into_inner();
        defaults.extend(store);
        defaults
    }

    fn volumes(
        &mut self,
        value: Option<Spanned<DeValue<'t>>>,
        defaults: &DeTable<'t>,
    ) -> (Vec<VolumeConfig>, Vec<usize>) {
        let entries = match value.map(|value| (value.span(), value.into_inner())) {
            None => Vec::new(),
            Some((_, DeValue::Array(entries))) => entries.into_iter().collect(),
            Some((span, _)) => {
                self.problem(&span, "volumes are written as [[volume]]");
                return (Vec::new(), Vec::new());
            }
        };
        let (mut volumes, mut lines) = (Vec::new(), Vec::new());
        let mut seen = Seen::default();
        for entry in entries {
            let span = entry.span();
            lines.push(self.line(&span));
            let Some(volume) = self.volume(entry, defaults) else { continue };
            self.may_stand_beside(&volume, &mut seen, &span);
            volumes.push(volume);
        }
        (volumes, lines)
    }

    fn volume(&mut self, entry: Spanned<DeValue<'t>>, defaults: &DeTable<'t>) -> Option<VolumeConfig> {
        let span = entry.span();
        let mut settings = self.table(entry, &[PLACE_KEYS, VolumeOptions::KEYS]);
        for (key, value) in defaults {
            if !settings.get_ref().contains_key(key) {
                settings.get_mut().insert(key.clone(), value.clone());
            }
        }
        let mut place = Spanned::new(span.clone(), DeTable::new());
        for key in PLACE_KEYS {
            place.get_mut().extend(settings.get_mut().remove_entry(*key));
        }
        let place: Option<Place> = self.read(&mut place);
        let options: Option<VolumeOptions> = self.read(&mut settings);
        let (place, options) = (place?, options?);
        let source = self.absolute(&place.source, "source");
        let name = self.name(&place, &source);
        let Some(store) = place.store else {
            self.problem(&span, "the volume has no `store`, and [defaults] has none either");
            return None;
        };
        if let StoreUrl::Local(path) = store.get_ref()
            && !path.is_absolute()
        {
            let shown = path.display();
            self.problem(&store.span(), format_args!("`store` must be a URL or an absolute path, not `{shown}`"));
        }
        Some(VolumeConfig { name: name?, source, store: store.into_inner(), options, allow: Allow::default() })
    }

    fn name(&mut self, place: &Place, source: &Path) -> Option<String> {
        match &place.name {
            Some(name) => match location::check_volume_name(name.get_ref()) {
                Ok(()) => Some(name.get_ref().clone()),
                Err(error) => {
                    self.problem(&name.span(), error);
                    None
                }
            },
            None => {
                let name = location::default_volume_name(source);
                if name.is_none() {
                    let what = "the directory's name is no volume name: give the volume a `name`";
                    self.problem(&place.source.span(), what);
                }
                name
            }
        }
    }

    fn may_stand_beside(&mut self, volume: &VolumeConfig, seen: &mut Seen, span: &Range<usize>) {
        if !seen.names.insert(volume.name.clone()) {
            self.problem(span, format_args!("there is already a volume `{}`", volume.name));
        }
        let asked = volume.options.capture.back_end();
        if let (Some(back_end), Some(other)) = (asked, seen.asked)
            && back_end != other
        {
            let (one, other) = (back_end.name(), other.name());
            self.problem(span, format_args!("it asks for {one}, another volume for {other}: all share one capture"));
        }
        seen.asked = seen.asked.or(asked);
    }
}

/// Of the volumes read so far.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    /// The back end that a volume requires: all programs of a process belong to one back end.
    asked: Option<BackEnd>,
}

/// Whether `span` is inside `value`.
fn holds(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let is_here = value.span().start <= span.start && span.end <= value.span().end;
    is_here
        || match value.get_ref() {
            DeValue::Table(table) => table.iter().any(|(key, value)| key.span() == *span || holds(value, span)),
            DeValue::Array(items) => items.iter().any(|item| holds(item, span)),
            _ => false,
        }
}

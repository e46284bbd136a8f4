//! Mounted file systems for the matrix, and running cells against one capture.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::functions::FUNCTIONS;
use common::hooks::HOOKS;
use engine::model::Dev;
use tracker::capture::mounts::kernel_dev;
use tracker::capture::{Capture, Retired};

use super::marks::{Class, judge};
use super::tree::{self, Key, Tree};
use super::{Cell, Kind, Op, Promise, ops};
use crate::capture_mounts::Mount;
use crate::capture_rig::back_end;

/// One mounted file system.
#[derive(Debug)]
pub struct Place {
    pub fs: Kind,
    pub mount: Mount,
    /// Superblock of its events.
    pub dev: Dev,
}

impl Place {
    /// Mounts one; an overlay has the lower files of `runs` runs.
    ///
    /// # Errors
    /// Why it cannot be mounted here.
    pub fn new(fs: Kind, runs: usize) -> Result<Place, String> {
        let mount = Mount::with_lower(fs, |lower| {
            for (run, op) in (0..runs).flat_map(|run| ops::all().into_iter().map(move |op| (run, op))) {
                if let Some(fill) = op.below {
                    let dir = lower.join(format!("run{run}/tree")).join(op.id);
                    fs::create_dir_all(&dir)?;
                    fill(&dir)?;
                }
            }
            Ok(())
        })?;
        let dev = kernel_dev(mount.real()).map_err(|error| error.to_string())?;
        let place = Place { fs, mount, dev };
        if fs == Kind::Btrfs {
            // A subvolume: its files have another device number in `stat` than in events.
            for run in 0..runs {
                let output = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(place.root(run)).output();
                let output = output.map_err(|error| format!("btrfs: {error}"))?;
                if !output.status.success() {
                    return Err(format!("btrfs subvolume: {}", String::from_utf8_lossy(&output.stderr)));
                }
            }
        }
        Ok(place)
    }

    /// Where the cells of a run are.
    #[must_use]
    pub fn root(&self, run: usize) -> PathBuf {
        self.mount.root().join(format!("run{run}"))
    }

    pub(crate) fn real(&self, run: usize) -> PathBuf {
        self.mount.real().join(format!("run{run}"))
    }
}

/// The result of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Seen(Class),
    /// The kernel or the file system does not support it.
    Absent(String),
    /// It could not be executed.
    Failed(String),
}

/// One cell's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub op: &'static Op,
    pub fs: Kind,
    pub found: Found,
    /// What was missed.
    pub missed: Vec<String>,
    /// Hooks that saw something during its rounds: programs of tracepoints, kprobe programs of functions.
    pub hooks: Vec<&'static str>,
}

/// Why an operation that the kernel refuses counts as absent, if so.
#[must_use]
pub fn refused(error: &io::Error) -> Option<String> {
    let known = [
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EINVAL, "EINVAL"),
    ];
    let (_, name) = known.iter().find(|(number, _)| error.raw_os_error() == Some(*number))?;
    Some(format!("the kernel answers {name}"))
}

/// Runs these operations on one file system, each alone between two drains.
///
/// # Errors
/// When the capture fails or the tree cannot be read, which says nothing about the cells.
pub fn run(place: &Place, capture: &mut Capture, wanted: &[&'static Op], run: usize) -> io::Result<Vec<Outcome>> {
    let mut out = Vec::new();
    let mut cells = Vec::new();
    for op in wanted {
        let mut outcome =
            Outcome { op, fs: place.fs, found: Found::Failed(String::new()), missed: Vec::new(), hooks: Vec::new() };
        if let Promise::Absent(reason) = op.promise(place.fs, back_end()) {
            outcome.found = Found::Absent(reason.to_owned());
            out.push(outcome);
            continue;
        }
        match Cell::new(place.fs, &place.root(run), op.id).and_then(|mut cell| (op.setup)(&mut cell).map(|()| cell)) {
            Ok(cell) => cells.push((outcome, cell)),
            Err(error) => {
                outcome.found = match refused(&error) {
                    Some(reason) => Found::Absent(reason),
                    None => Found::Failed(format!("setup: {error}")),
                };
                out.push(outcome);
            }
        }
    }
    capture.track(place.dev, false).map_err(io::Error::other)?;
    let all = tree_of(&place.root(run).join("tree"), &place.real(run).join("tree"))?;
    watch(capture, place, &all)?;
    rustix::fs::syncfs(File::open(place.mount.real())?)?;
    drain(capture)?;
    drain(capture)?;
    for (mut outcome, mut cell) in cells {
        match one(place, capture, &mut outcome, &mut cell, run) {
            Ok(class) => outcome.found = Found::Seen(class),
            Err(Stop::Refused(error)) => {
                outcome.found = match refused(&error) {
                    Some(reason) => Found::Absent(reason),
                    None => Found::Failed(error.to_string()),
                };
            }
            Err(Stop::Broken(error)) => return Err(error),
        }
        out.push(outcome);
    }
    capture.untrack(place.dev).map_err(io::Error::other)?;
    Ok(out)
}

enum Stop {
    /// The operation failed.
    Refused(io::Error),
    /// The oracle failed.
    Broken(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Broken(error)
    }
}

fn one(
    place: &Place,
    capture: &mut Capture,
    outcome: &mut Outcome,
    cell: &mut Cell,
    run: usize,
) -> Result<Class, Stop> {
    let op = outcome.op;
    let real = place.real(run).join("tree").join(op.id);
    let parent = |dir: &Path| tree::entry(dir.parent().unwrap_or(dir), real.parent().unwrap_or(dir));
    let mut class = Class::Exact;
    let mut before = tree_of(&cell.dir, &real)?;
    let above = parent(&cell.dir)?.key;
    let mut counted = seen(capture)?;
    for round in 0..op.rounds {
        (op.run)(cell, round).map_err(Stop::Refused)?;
        let retired = drain(capture)?;
        if cell.slow.is_some() {
            // A write is in flight, and a reader may have to wait for it. Its range must count as changed.
            if retired.inflight.is_empty() {
                outcome.missed.push(format!("round {round}: the write under way is in no list"));
                class = Class::Missed;
            }
            continue;
        }
        // As in a flush: everything new is watched, then what is marked or new is written back, then read.
        let names = tree_of(&cell.dir, &real)?;
        watch(capture, place, &names)?;
        for (path, entry) in &names {
            let marked = matches!(entry.key, Key::Real(ino) if retired.inodes.contains_key(&(place.dev, ino)));
            let fresh = !before.values().any(|old| old.key == entry.key);
            if !entry.directory && entry.attributes.starts_with("100") && (marked || fresh) {
                let path = if real.join(path).exists() { real.join(path) } else { cell.dir.join(path) };
                File::open(path)?.sync_data()?;
            }
        }
        let after = tree_of(&cell.dir, &real)?;
        let (found, missed) = judge(&before, &after, &retired, place.dev, above);
        class = class.max(found);
        outcome.missed.extend(missed.into_iter().map(|text| format!("round {round}: {text}")));
        before = after;
    }
    let now = seen(capture)?;
    outcome.hooks =
        now.into_iter().filter(|(name, count)| counted.remove(name) != Some(*count)).map(|(name, _)| name).collect();
    Ok(class)
}

fn tree_of(dir: &Path, real: &Path) -> io::Result<Tree> {
    tree::read(dir, real).map_err(|error| io::Error::other(format!("{}: {error}", dir.display())))
}

fn watch(capture: &mut Capture, place: &Place, tree: &Tree) -> io::Result<()> {
    let real = |key: Key| if let Key::Real(ino) = key { Some((place.dev, ino)) } else { None };
    let inodes: Vec<_> = tree.values().filter_map(|entry| real(entry.key)).collect();
    capture.watch(&inodes).map(drop).map_err(io::Error::other)
}

/// Events of each hook so far.
fn seen(capture: &Capture) -> io::Result<BTreeMap<&'static str, u64>> {
    let counters = capture.counters().map_err(io::Error::other)?;
    let all: BTreeMap<_, _> = counters.named().collect();
    let names = HOOKS.iter().map(|hook| hook.program).chain(FUNCTIONS.iter().map(|function| function.probe));
    Ok(names.map(|name| (name, all.get(name).copied().unwrap_or(0))).collect())
}

fn drain(capture: &mut Capture) -> io::Result<Retired> {
    let mut whole = || {
        capture.swap()?;
        capture.grace()?;
        let retired = capture.read_retired()?;
        capture.clear_retired()?;
        Ok::<_, tracker::capture::CaptureError>(retired)
    };
    whole().map_err(io::Error::other)
}

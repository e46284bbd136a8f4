//! `tracker watch`: the capture alone. Prints changes as it drains them; uses no store and saves nothing.

pub mod tree;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use engine::model::{Dev, Ino, InodeId};
use engine::source::{Entry, FileOps, Stat};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::global::Global;
use crate::capture::choose::KernelFacts;
use crate::capture::{BackEnd, Capture, CaptureConfig, CaptureError, Problem, WatchOutcome, mount_of};
use crate::cli::watch::tree::{Change, Tree, World};
use crate::config::{self, Interval};
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::source::SourceRoot;
use crate::units::PathField;
use crate::volume::marks::retired::marks_by_superblock;
use crate::volume::startup::eligibility::can_be_marked;

/// Print changed paths, kinds and byte ranges as they happen. Needs no store.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The directory to watch.
    pub dir: PathBuf,
    /// Minimum gap between two drains.
    #[arg(long, value_name = "DURATION", default_value_t)]
    pub interval: Interval,
    /// Which capture back end to take.
    #[arg(long, value_enum, default_value_t)]
    pub capture: config::CaptureMode,
    /// End after this time [default: never].
    #[arg(long, value_name = "DURATION", value_parser = crate::units::parse_duration)]
    pub timeout: Option<Duration>,
}

/// What to watch, and for how long.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    pub interval: Duration,
    pub capture: config::CaptureMode,
    pub timeout: Option<Duration>,
}

#[derive(Serialize)]
struct Ready {
    r#type: &'static str,
    #[serde(flatten)]
    path: PathField,
    /// Inodes watched.
    inodes: usize,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    change: &'a Change,
}

pub(super) fn run(args: &WatchArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let options = WatchOptions { interval: args.interval.0, capture: args.capture, timeout: args.timeout };
    let dir = super::global::absolute(&args.dir)?;
    watch_dir(&dir, &options, out)
}

fn text(change: &Change) -> String {
    let kinds: Vec<String> = change.kinds.iter().map(|k| format!("{k:?}").to_lowercase()).collect();
    let ranges: Vec<String> = change.ranges.iter().map(|(offset, len)| format!("{offset}+{len}")).collect();
    format!("{}  {}  {}", change.path.for_people(), kinds.join(","), ranges.join(" ")).trim_end().to_string()
}

/// The opened tree and its capture.
struct Live {
    root: SourceRoot,
    dev: Dev,
    capture: Capture,
}

impl World for Live {
    type Error = CaptureError;

    fn list(&mut self, dir: &Path) -> Option<Vec<Entry>> {
        match self.root.entries(dir) {
            Ok(found) => Some(found.entries),
            Err(error) => {
                tracing::debug!(%error, "a directory cannot be listed");
                None
            }
        }
    }

    fn stat(&mut self, path: &Path) -> Option<Stat> {
        self.root.stat(path).ok().map(|found| found.stat)
    }

    fn watch(&mut self, inodes: &[Ino]) -> Result<(), CaptureError> {
        let keys: Vec<(Dev, Ino)> = inodes.iter().map(|ino| (self.dev, *ino)).collect();
        if let WatchOutcome::Full { .. } = self.capture.watch(&keys)? {
            tracing::warn!("too many inodes to watch each: the whole file system is marked");
        }
        Ok(())
    }

    fn clean(&mut self, path: &Path, inode: InodeId) {
        if let Err(error) = self.root.open_file(path, inode).map(|mut file| file.clean()) {
            tracing::debug!(%error, "a changed file was not written back");
        }
    }
}

impl Live {
    /// One drain, as a list of changes.
    fn drain(&mut self, tree: &mut Tree) -> Result<Vec<Change>, CaptureError> {
        self.capture.swap()?;
        self.capture.grace()?;
        let retired = self.capture.read_retired()?;
        let lost = self.capture.health()?.problems.iter().any(|problem| match problem {
            Problem::Widened { counter, .. } => *counter == "lost",
            _ => true,
        });
        let dev = self.dev;
        let overflow = &retired.overflow;
        let reread = |ino: Ino| lost || overflow.hit(dev, ino);
        let any = lost || overflow.any();
        let mine = marks_by_superblock(&retired).remove(&dev).unwrap_or_default();
        let changes = tree.apply(mine, any.then_some(&reread as &dyn Fn(Ino) -> bool), self)?;
        self.capture.clear_retired()?;
        Ok(changes)
    }
}

/// Where the pins are while a watch starts; none stay.
const PINS: &str = "/sys/fs/bpf/tracker/watch";

fn arm(dir: &Path, wanted: config::CaptureMode) -> Result<Live, AppError> {
    let hint = "`tracker doctor` explains what this kernel and user can do";
    if wanted == config::CaptureMode::SCAN {
        return Err(AppError::new(ExitCode::Usage, "watch has no scan mode: it needs the kernel's marks").hint(hint));
    }
    let wrong = "name a directory that is there and that this user may read";
    let root = SourceRoot::open(dir).map_err(|error| AppError::from_error(&error).hint(wrong))?;
    let real = root.upper().filter(|upper| upper.reachable()).map_or(root.path(), |upper| &upper.path);
    let fs = mount_of(real).map_err(|error| AppError::from_error(&error))?.fs_type;
    let facts = KernelFacts::gather_for(wanted.back_end());
    let capture = Capture::start_private(&CaptureConfig::new(PINS, BackEnd::Scan), facts)
        .map_err(|error| AppError::from_error(&error).hint(hint))?;
    if let Err(missing) = can_be_marked(|_| capture.supported(&fs), &root) {
        let why = format_args!("cannot watch {fs}: {}", missing.join(", "));
        return Err(AppError::new(ExitCode::Error, why).hint(hint));
    }
    let dev = root.marks_dev();
    Ok(Live { root, dev, capture })
}

/// Captures `dir` and prints every changed path, until `timeout`, a signal or a closed output.
fn watch_dir(dir: &Path, options: &WatchOptions, out: &mut Out) -> Result<ExitCode, AppError> {
    let failed =
        |error: std::io::Error| AppError::new(ExitCode::Error, format_args!("cannot listen for signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        // Before the first pin: a signal must not leave one behind. (If a kill does, the next start removes it.)
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut live = arm(dir, options.capture)?;
        let end = options.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let mut tree = None;
        async {
            let tree = tree.insert(start(&mut live)?);
            let (path, inodes) = (PathField::new(live.root.path().as_os_str().as_bytes()), tree.len());
            out.line("ready", &Ready { r#type: "ready", path, inodes })?;
            loop {
                let sleep = tokio::time::Instant::now() + options.interval;
                tokio::select! {
                    _ = interrupt.recv() => return Ok(ExitCode::Interrupted),
                    _ = terminate.recv() => return Ok(ExitCode::Ok),
                    () = tokio::time::sleep_until(end.map_or(sleep, |end| end.min(sleep))) => {}
                }
                for change in live.drain(tree).map_err(|error| AppError::from_error(&error))? {
                    out.line(text(&change), &Line { r#type: "change", change: &change })?;
                }
                if end.is_some_and(|end| tokio::time::Instant::now() >= end) {
                    return Ok(ExitCode::Ok);
                }
            }
        }
        .await
    })
}

/// Watches everything, then writes back dirty pages, which would mark no more, and forgets the marks made so far.
fn start(live: &mut Live) -> Result<Tree, AppError> {
    let failed = |error: CaptureError| AppError::from_error(&error);
    live.capture.track(live.dev, false).map_err(failed)?;
    // Otherwise every direct read would be reported as a change, because of a write that began earlier.
    live.capture.forget_earlier_dio().map_err(failed)?;
    let root = live.root.stat(Path::new("")).map_err(|error| AppError::from_error(&error))?.stat;
    let mut tree = Tree::walk(&root, live).map_err(failed)?;
    live.root.sync().map_err(|error| AppError::from_error(&error))?;
    live.drain(&mut tree).map_err(failed)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::watch::tree::ChangeKind;

    #[test]
    fn a_change_is_printed_in_its_form() {
        let change = Change {
            path: PathField::new(b"a/b"),
            kinds: vec![ChangeKind::Data, ChangeKind::Size],
            ranges: vec![(0, 4096)],
        };
        let json = serde_json::to_string(&Line { r#type: "change", change: &change }).unwrap();
        assert_eq!(json, r#"{"type":"change","path":"a/b","kinds":["data","size"],"ranges":[[0,4096]]}"#);
        assert_eq!(text(&change), "a/b  data,size  0+4096");
    }
}

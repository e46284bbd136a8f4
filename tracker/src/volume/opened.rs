//! A volume that was opened, and what its thread does with it besides the flush.

use std::sync::Arc;
use std::time::Instant;

use engine::catalog::Record;
use engine::dirty::Marks;
use engine::format::era::VolumeFormat;
use engine::model::{FileId, Ino, Kind, VolumeId};

use crate::capture::BackEnd;
use crate::catalog::Writer;
use crate::error::{AppError, ExitCode};
use crate::source::IdentityCheck;
use crate::store::meter::Meter;
use crate::volume::clock::now_ns;
use crate::volume::errors::failed;
use crate::volume::marks::compare::{COMPARE, Compare};
use crate::volume::marks::notes::{BASELINE, RUN};
use crate::volume::marks::subscriber::Subscriber;
use crate::volume::progress::Phase;
use crate::volume::selftest::schedule::SelfTestSchedule;
use crate::volume::selftest::scrub::Scrub;
use crate::volume::ways_on::{self, Obstacle};
use crate::volume::world::{VolumeWorld, WorldError};

/// A volume that can flush.
pub struct Opened {
    pub name: String,
    pub volume_id: VolumeId,
    pub format: VolumeFormat,
    pub writer: Writer,
    pub world: VolumeWorld,
    pub subscriber: Option<Arc<Subscriber>>,
    pub first_phase: Phase,
    /// Listings are compared with the records.
    pub compare: bool,
    /// `compare` holds only until the first pass is through.
    pub compare_once: bool,
    pub backend: BackEnd,
    pub reasons: Vec<String>,
    pub fenced_store: bool,
    pub meter: Arc<Meter>,
    /// Counts drains, including those without a dispatcher.
    pub scans: u64,
    pub last_scan: Option<Instant>,
    /// When the last drain began that this volume has used.
    pub drained: Instant,
    /// The self-tests of the capture, if there is one.
    pub self_tests: SelfTestSchedule,
    pub scrub: Scrub,
}

impl Opened {
    /// Drains for all volumes, or compares the tree once if no kernel marks it. `hurry`: what has changed up to now counts. Else the
    /// drain of another volume is as good as one of its own, if it began at `since` or later; of a volume that does so, the next round
    /// is due when the other's is, and so volumes of one interval come to share their drains.
    pub fn drain(&mut self, hurry: bool, since: Option<Instant>) -> Result<u64, WorldError> {
        self.world.begin_flush();
        self.world.note_mounts()?;
        if let Some((dispatcher, _)) = &self.world.dispatcher {
            let since = since.filter(|_| !hurry).unwrap_or_else(Instant::now);
            let (number, began) = dispatcher.drain_unless_since(since)?;
            (self.scans, self.drained) = (number, began);
            return Ok(self.scans);
        }
        let due = self.last_scan.is_none_or(|at| at.elapsed() >= SCAN_GAP) || hurry;
        if due {
            self.world.root.sync().map_err(WorldError::Source)?;
            self.mark_directories()?;
            self.last_scan = Some(Instant::now());
            self.drained = Instant::now();
        }
        self.scans += 1;
        Ok(self.scans)
    }

    /// The volume cannot use the capture of the process any more.
    pub(crate) fn scan_from_now_on(&mut self) -> Result<(), WorldError> {
        self.world.dispatcher = None;
        (self.compare, self.compare_once) = (true, false);
        // The next process must not trust marks, since none are made for this volume now.
        Ok(self.world.catalog.set_note(RUN, "0")?)
    }

    /// The first pass is complete: the catalog matches the tree, and marks keep it so.
    pub fn trust(&mut self) -> Result<(), WorldError> {
        if self.compare_once {
            self.compare = false;
            self.compare_once = false;
        }
        self.world.catalog.set_note(BASELINE, "committed")?;
        Ok(self.world.catalog.set_note(COMPARE, Compare::Nothing.word())?)
    }

    /// Whether the source is still the directory that was opened.
    pub fn check_source(&self) -> Result<(), Obstacle> {
        let path = self.world.root.path().display();
        match self.world.root.check_identity() {
            Ok(IdentityCheck::Same) => Ok(()),
            Ok(IdentityCheck::Vanished) => {
                let told = AppError::new(ExitCode::Guard, format_args!("the source {path} vanished"));
                let hint = "nothing was removed from the store; mount or make it again, and start again";
                Err(Obstacle::SourceAway(told.hint(hint)))
            }
            Ok(IdentityCheck::Replaced(_)) => {
                let text = format_args!("the source {path} was replaced by another directory");
                let told = AppError::new(ExitCode::Guard, text).hint(ways_on::go_on(&self.name));
                Err(Obstacle::SourceChanged(told))
            }
            Err(error) => Err(Obstacle::SourceAway(failed("cannot look at the source", error))),
        }
    }

    /// Marks every directory, so that it is listed.
    pub(crate) fn mark_directories(&self) -> Result<(), WorldError> {
        self.mark_all(|row| (row.meta.kind == Kind::Dir).then(Marks::names))
    }

    pub(crate) fn mark_all(&self, marks: impl Fn(&Record) -> Option<Marks>) -> Result<(), WorldError> {
        let (mut after, now) = (FileId(0), now_ns());
        loop {
            let rows = self.world.catalog.files_after(after, 4096)?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            let with_inode = rows.iter().filter(|row| row.inode.ino != Ino::NONE);
            let marked: Vec<(Ino, Marks)> =
                with_inode.filter_map(|row| marks(row).map(|marks| (row.inode.ino, marks))).collect();
            self.world.pending.add(&marked, now)?;
        }
    }
}

/// Time between two comparisons of the tree without kernel marks.
const SCAN_GAP: std::time::Duration = std::time::Duration::from_secs(1);

//! Bringing a volume up: source, store, catalog, capture, and what may be believed of what was before.
//!
//! ARM before anything is compared: inodes are watched first, then dirty pages are written back, then the tree is looked
//! at. After a restart in the same boot with pins intact nothing is looked at: the marks never stopped.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use engine::format::era::VolumeFormat;
use engine::model::{Seq, VolumeId};

use crate::capture::BackEnd;
use crate::catalog::{Catalog, Writer};
use crate::config::VolumeConfig;
use crate::error::{AppError, ExitCode};
use crate::repository;
use crate::repository::Reader;
use crate::selftest::failover::COMPARE;
use crate::selftest::schedule::SelfTestSchedule;
use crate::selftest::scrub::Scrub;
use crate::source::{IdentityCheck, SourceRoot};
use crate::store::meter::{Meter, Metered};
use crate::store::{Prefixed, Store};
use crate::volume::marks::dispatcher::{Dispatcher, Subscriber};
use crate::volume::marks::waiting::Pending;
use crate::volume::runner::progress::Phase;
use crate::volume::startup::claim::{agree_on_source, allowed, claim, use_up};
use crate::volume::startup::eligibility::{can_be_marked, marked_fs};
use crate::volume::startup::trust::Compare;
use crate::volume::startup::ways_on::Obstacle;
use crate::volume::startup::{store_home, ways_on};
use crate::volume::status::Backend;
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
    /// .. only until the first pass is through.
    pub compare_once: bool,
    pub backend: Backend,
    pub reasons: Vec<String>,
    pub fenced_store: bool,
    pub meter: Arc<Meter>,
    /// Drains, also those that no dispatcher counts.
    pub scans: u64,
    pub last_scan: Option<std::time::Instant>,
    /// Proves the capture, where there is one.
    pub self_tests: SelfTestSchedule,
    pub scrub: Scrub,
}

/// Why an upper layer is left alone, in `status`.
const METACOPY_HIDDEN: &str =
    "overlay: mounted with metacopy=on: which files of its upper layer have no data there shows to CAP_SYS_ADMIN only";

/// Name of the note that the baseline is committed.
pub(crate) const BASELINE: &str = "baseline";

pub(crate) fn failed(what: &str, error: impl std::fmt::Display) -> AppError {
    AppError::new(ExitCode::Error, format_args!("{what}: {error}"))
}

pub(crate) fn world_error(error: WorldError) -> AppError {
    match error {
        WorldError::Store(error) => AppError::from_store(&error),
        WorldError::Read(error) if !error.is_mismatch() => failed("cannot read the volume back", error),
        WorldError::Object { .. } | WorldError::Read(_) => AppError::new(ExitCode::Mismatch, error)
            .hint("`tracker verify` says what else is damaged; nothing was written"),
        error => failed("cannot start", error),
    }
}

/// What the kernel's capture came to, for one daemon.
pub struct ChosenCapture {
    pub dispatcher: Option<Arc<Dispatcher>>,
    /// Marks went on being made since the last daemon of this boot.
    pub resumed: bool,
    /// Why there is no dispatcher.
    pub reasons: Vec<String>,
    /// Counts the starts of capture with this state directory, this one included.
    pub run: u64,
}

/// A volume whose marks have a place to go: without it, a drain for another volume would clear this one's marks. It outlives
/// the tries to start the volume.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) subscriber: Arc<Subscriber>,
    /// Since before the first drain of this process. Only such a volume may trust that nothing was lost since the last one.
    pub(crate) first: bool,
    /// All that the catalog knew was watched once.
    pub(crate) watched: Arc<AtomicBool>,
}

impl Prepared {
    /// Registers a volume with a catalog for its marks.
    fn new(name: &str, dev: u32, catalog: Arc<Catalog>, dispatcher: &Dispatcher) -> Result<Prepared, WorldError> {
        let pending = Arc::new(Pending::load(Arc::clone(&catalog))?);
        let subscriber = Arc::new(Subscriber::new(name, dev, Arc::clone(&catalog), Arc::clone(&pending)));
        dispatcher.add(Arc::clone(&subscriber))?;
        Ok(Prepared { catalog, pending, subscriber, first: false, watched: Arc::default() })
    }

    /// Gives the place up, so that another one can take it: what was marked for it since the last drain is lost, and the next
    /// process must not believe otherwise.
    fn retire(self, dispatcher: &Dispatcher) -> Result<(), WorldError> {
        self.catalog.set_note(RUN, "0")?;
        dispatcher.remove(&self.subscriber);
        Ok(())
    }
}

/// Registers a volume that this state directory knows already; `None` for a new one, or one that cannot be opened now.
pub fn prepare(config: &VolumeConfig, state: &Path, dispatcher: &Dispatcher) -> Option<Prepared> {
    let location = Catalog::location(state, &config.name);
    if config.capture == crate::config::CaptureMode::Scan || !location.exists() {
        return None;
    }
    let root = SourceRoot::open(&config.source).ok()?;
    let catalog = Arc::new(Catalog::open(&location).ok()?);
    let prepared = Prepared::new(&config.name, root.marks_dev(), catalog, dispatcher).ok()?;
    Some(Prepared { first: true, ..prepared })
}

/// Name of the note in which run of capture a volume last had a place for its marks.
pub(crate) const RUN: &str = "capture run";

/// The run that a note names, if it was on superblock `dev`: a file system that is mounted again may have another number, under
/// which nothing was marked or watched.
pub(crate) fn run_on(note: &str, dev: u32) -> Option<u64> {
    let (run, on) = note.split_once(' ')?;
    run.parse().ok().filter(|_| on.parse() == Ok(dev))
}

/// The capture that a volume can use, and why it is not a better one.
fn capture_for(
    config: &VolumeConfig,
    root: &SourceRoot,
    capture: &ChosenCapture,
) -> (Option<Arc<Dispatcher>>, Vec<String>) {
    let mut reasons = capture.reasons.clone();
    let mut dispatcher = capture.dispatcher.clone();
    if let Some(there) = &dispatcher {
        let fs = marked_fs(root);
        if let Err(missing) = can_be_marked(|fs| there.supported(fs), root) {
            reasons.push(format!("{fs}: {}", missing.join(", ")));
            dispatcher = None;
        }
    }
    if root.upper().is_some_and(|upper| upper.metacopy_hidden) {
        reasons.push(METACOPY_HIDDEN.into());
    }
    if config.capture == crate::config::CaptureMode::Scan {
        dispatcher = None;
    }
    if dispatcher.is_some() && marked_fs(root) == "tmpfs" {
        reasons.push("tmpfs: repeated stores through a shared mapping leave no trace and are not seen".into());
    }
    (dispatcher, reasons)
}

/// Opens everything. Nothing is in the store yet when it returns, but the `format` object. `prepared` is filled as soon as the
/// volume has a place for its marks, also where this fails later, and is used by the next try.
pub fn open(
    config: &VolumeConfig,
    state: &Path,
    capture: &ChosenCapture,
    prepared: &mut Option<Prepared>,
) -> Result<Opened, Obstacle> {
    let root = SourceRoot::open(&config.source)
        .map_err(|error| Obstacle::SourceAway(failed("cannot open the source", error)))?;
    let root = Arc::new(root);
    let dev = root.marks_dev();
    if let (Some(dispatcher), Some(old)) =
        (&capture.dispatcher, prepared.take_if(|prepared| prepared.subscriber.dev != dev))
    {
        old.retire(dispatcher)?;
    }
    let catalog = match prepared {
        Some(prepared) => Arc::clone(&prepared.catalog),
        None => Arc::new(
            Catalog::open_or_create(&Catalog::location(state, &config.name))
                .map_err(|error| failed("cannot open the catalog", error))?,
        ),
    };
    let allow = allowed(&catalog, config)?;
    let adopted = agree_on_source(&catalog, &root, config, allow)?;

    // Before anything is asked of it: whatever it turns into later is noticed.
    let self_tests = SelfTestSchedule::new(
        &config.name,
        state,
        capture.dispatcher.as_ref().map_or(0, |dispatcher| dispatcher.failovers()),
    );
    let (dispatcher, reasons) = capture_for(config, &root, capture);
    if let (Some(dispatcher), None) = (&dispatcher, &prepared) {
        *prepared = Some(Prepared::new(&config.name, dev, Arc::clone(&catalog), dispatcher)?);
    }
    let pending = match prepared {
        Some(prepared) => Arc::clone(&prepared.pending),
        None => Arc::new(Pending::load(Arc::clone(&catalog)).map_err(|error| failed("catalog", error))?),
    };
    // Of a try before this one.
    pending.give_back_taken();
    pending.uncover();

    let meter = Arc::new(Meter::default());
    let whole = store_home::open_for_writing(config, &catalog, state)?;
    let fenced_store = whole.properties().fenced;
    let metered = Metered::new(whole, Arc::clone(&meter));
    let store: Arc<dyn Store> = Arc::new(Prefixed::new(metered, &config.name)?);

    let (volume_id, writer, format) = claim(&catalog, &*store, config, allow.store)?;
    store_home::remember(state, &config.store).map_err(|error| failed("cannot note the store", error))?;
    let backend = Backend::of(dispatcher.as_ref().map_or(BackEnd::Scan, |dispatcher| dispatcher.back_end()));
    let world = VolumeWorld::new(
        Arc::clone(&root),
        Arc::clone(&catalog),
        Arc::clone(&pending),
        store,
        dispatcher.map(|dispatcher| (dispatcher, dev)),
        format.era_len,
        writer.epoch,
        volume_id,
    );
    let mut opened = Opened {
        name: config.name.clone(),
        volume_id,
        format,
        writer,
        world,
        subscriber: None,
        first_phase: Phase::Baseline,
        compare: false,
        compare_once: false,
        backend,
        reasons,
        fenced_store,
        meter,
        scans: 0,
        last_scan: None,
        self_tests,
        scrub: Scrub::new(config.scrub),
    };
    let rebuilt = opened.agree_on_head()?;
    let anew = if rebuilt { Some("rebuild") } else { adopted.then_some("another source") };
    opened.arm(capture, prepared.as_ref(), anew)?;
    use_up(&catalog)?;
    Ok(opened)
}

impl Opened {
    /// Reads this volume's history up to `head`.
    pub fn reader(&self, head: Seq) -> Reader {
        repository::of_writer(Arc::clone(&self.world.store), &self.name, self.format.clone(), head)
    }

    /// SWAP .. clear for all volumes, or one look at the tree where no kernel marks it.
    pub fn drain(&mut self, hurry: bool) -> Result<u64, WorldError> {
        self.world.begin_flush();
        self.world.note_mounts()?;
        if let Some((dispatcher, _)) = &self.world.dispatcher {
            self.scans = dispatcher.drain()?;
            return Ok(self.scans);
        }
        let due = self.last_scan.is_none_or(|at| at.elapsed() >= SCAN_GAP) || hurry;
        if due {
            self.world.root.sync().map_err(WorldError::Source)?;
            self.mark_directories()?;
            self.last_scan = Some(std::time::Instant::now());
        }
        self.scans += 1;
        Ok(self.scans)
    }

    /// The capture of the process is none for this volume any more.
    pub(crate) fn scan_from_now_on(&mut self) -> Result<(), WorldError> {
        self.world.dispatcher = None;
        (self.compare, self.compare_once) = (true, false);
        // The next process must not trust marks that were not made for this volume.
        Ok(self.world.catalog.set_note(RUN, "0")?)
    }

    /// The first pass is through: what the catalog says is the tree, and marks keep it so.
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
}

/// Gap between two looks at the tree without kernel marks.
const SCAN_GAP: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    /// Mounted again under another number, nothing was marked: the run before does not count.
    #[test]
    fn a_run_on_another_superblock_does_not_count() {
        assert_eq!(crate::volume::startup::open::run_on("7 9", 9), Some(7));
        for note in ["7 8", "7", "", "x 9", "7 9 9"] {
            assert_eq!(crate::volume::startup::open::run_on(note, 9), None, "{note}");
        }
    }
}

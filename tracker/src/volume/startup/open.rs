//! Opening a volume: source, store, catalog, capture, and what of its earlier state may be trusted.
//!
//! ARM before anything is compared: first inodes are watched, then dirty pages are written back, then the tree is compared.
//! After a restart in the same boot with intact pins nothing is compared: the marks never stopped.

use std::path::Path;
use std::sync::Arc;

use crate::capture::BackEnd;
use crate::catalog::Catalog;
use crate::config::VolumeConfig;
use crate::pause;
use crate::repository::VolumeWriter;
use crate::source::SourceRoot;
use crate::store::meter::{Meter, Metered};
use crate::store::{Prefixed, Store};
use crate::volume::errors::failed;
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::waiting::Pending;
use crate::volume::opened::Opened;
use crate::volume::progress::Phase;
use crate::volume::selftest::schedule::SelfTestSchedule;
use crate::volume::selftest::scrub::Scrub;
use crate::volume::startup::claim::{agree_on_source, allowed, claim, use_up};
use crate::volume::startup::eligibility::{can_be_marked, marked_fs};
use crate::volume::startup::prepared::{ChosenCapture, Prepared};
use crate::volume::startup::store_home;
use crate::volume::ways_on::Obstacle;
use crate::volume::world::{VolumeWorld, WorldError};

/// Why the upper layer is not watched, in `status`.
const METACOPY_HIDDEN: &str =
    "overlay: mounted with metacopy=on: only CAP_SYS_ADMIN can tell which files of its upper layer have no data there";

/// Chooses the capture that a volume can use, and why it is not a better one.
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
    if config.options.capture == crate::config::CaptureMode::SCAN {
        dispatcher = None;
    }
    if dispatcher.is_some() && marked_fs(root) == "tmpfs" {
        reasons.push("tmpfs: repeated stores through a shared mapping leave no trace and are not seen".into());
    }
    (dispatcher, reasons)
}

/// Before anything else is tried: the groups may be those of databases.
fn undo_pause(volume: &str, note: &Path) {
    match pause::undo(note) {
        Ok(0) => {}
        Ok(groups) => tracing::warn!(volume, groups, "control groups go on that an earlier process had paused"),
        Err(error) => tracing::error!(volume, %error, "control groups may still be paused by an earlier process"),
    }
}

/// Opens everything. When it returns, the store has nothing new but the `format` object. `prepared` is set as soon as the
/// volume can receive its marks, even if a later step fails; the next try uses it.
pub fn open(
    config: &VolumeConfig,
    state: &Path,
    capture: &ChosenCapture,
    prepared: &mut Option<Prepared>,
) -> Result<Opened, Obstacle> {
    let pause_note = Catalog::location(state, &config.name).with_file_name("paused");
    undo_pause(&config.name, &pause_note);
    let root = SourceRoot::open(&config.source).map(Arc::new);
    let root = root.map_err(|error| Obstacle::SourceAway(failed("cannot open the source", error)))?;
    let dev = root.marks_dev();
    // The volume may have been captured before.
    let scans = config.options.capture == crate::config::CaptureMode::SCAN;
    if let (Some(dispatcher), Some(old)) =
        (&capture.dispatcher, prepared.take_if(|there| there.subscriber.dev != dev || scans))
    {
        match scans {
            true => dispatcher.let_go(&old.subscriber).map_err(WorldError::from)?,
            false => old.retire(dispatcher)?,
        }
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

    // Before the source is used, so that a later change of its state is noticed.
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
    // Left by an earlier try.
    pending.give_back_taken();
    pending.uncover();

    let meter = Arc::new(Meter::default());
    let whole = store_home::open_for_writing(config, &catalog, state)?;
    let fenced_store = whole.properties().fenced;
    let metered = Metered::new(whole, Arc::clone(&meter));
    let store: Arc<dyn Store> = Arc::new(Prefixed::new(metered, &config.name)?);

    let (volume_id, writer, format) = claim(&catalog, &*store, config, allow.store)?;
    store_home::remember(state, &config.store).map_err(|error| failed("cannot note the store", error))?;
    let backend = dispatcher.as_ref().map_or(BackEnd::Scan, |dispatcher| dispatcher.back_end());
    let mut world = VolumeWorld::new(
        Arc::clone(&root),
        Arc::clone(&catalog),
        Arc::clone(&pending),
        VolumeWriter::new(store, &config.name, format.clone(), writer.epoch),
        dispatcher.map(|dispatcher| (dispatcher, dev)),
    );
    world.pause_note = pause_note;
    world.store_dir = config.store.local().map(Path::to_owned);
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
        drained: std::time::Instant::now(),
        last_scan: None,
        self_tests,
        scrub: Scrub::new(config.options.scrub.0),
    };
    let rebuilt = opened.agree_on_head()?;
    let anew = if rebuilt { Some("rebuild") } else { adopted.then_some("another source") };
    opened.arm(capture, prepared.as_ref(), anew)?;
    use_up(&catalog)?;
    Ok(opened)
}

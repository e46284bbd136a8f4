//! Registers a volume for its marks, from before the first drain of the process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::catalog::Catalog;
use crate::config::{CaptureMode, VolumeConfig};
use crate::source::SourceRoot;
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::notes::RUN;
use crate::volume::marks::subscriber::Subscriber;
use crate::volume::marks::waiting::Pending;
use crate::volume::world::WorldError;
use engine::model::Dev;

/// The capture that one daemon has started, if any.
pub struct ChosenCapture {
    pub dispatcher: Option<Arc<Dispatcher>>,
    /// Changes were marked without a gap since the last daemon of this boot.
    pub resumed: bool,
    /// Why there is no dispatcher.
    pub reasons: Vec<String>,
    /// Counts the starts of capture with this state directory, this one included.
    pub run: u64,
}

/// A volume that is registered for its marks. Without it, a drain for another volume would clear this one's marks. It
/// outlives the attempts to start the volume.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) subscriber: Arc<Subscriber>,
    /// Registered before the first drain of this process. Only then may the volume trust that nothing was lost since the
    /// last process.
    pub(crate) first: bool,
    /// All files of the catalog were watched once.
    pub(crate) watched: Arc<AtomicBool>,
}

impl Prepared {
    /// Registers a volume, with the catalog that keeps its marks.
    pub(crate) fn new(
        name: &str,
        dev: Dev,
        catalog: Arc<Catalog>,
        dispatcher: &Dispatcher,
    ) -> Result<Prepared, WorldError> {
        let pending = Arc::new(Pending::load(Arc::clone(&catalog))?);
        let subscriber = Arc::new(Subscriber::new(name, dev, Arc::clone(&catalog), Arc::clone(&pending)));
        dispatcher.add(Arc::clone(&subscriber))?;
        Ok(Prepared { catalog, pending, subscriber, first: false, watched: Arc::default() })
    }

    /// Ends the registration, so that another volume can take its place. Marks since the last drain are lost, and the next
    /// process must know that.
    pub(crate) fn retire(self, dispatcher: &Dispatcher) -> Result<(), WorldError> {
        self.catalog.set_note(RUN, "0")?;
        dispatcher.remove(&self.subscriber);
        Ok(())
    }
}

/// Registers a volume that this state directory knows already; `None` for a new one, or one that cannot be opened now.
pub fn prepare(config: &VolumeConfig, state: &Path, dispatcher: &Dispatcher) -> Option<Prepared> {
    let location = Catalog::location(state, &config.name);
    if config.options.capture == CaptureMode::SCAN || !location.exists() {
        return None;
    }
    let root = SourceRoot::open(&config.source).ok()?;
    let catalog = Arc::new(Catalog::open(&location).ok()?);
    let prepared = Prepared::new(&config.name, root.marks_dev(), catalog, dispatcher).ok()?;
    Some(Prepared { first: true, ..prepared })
}

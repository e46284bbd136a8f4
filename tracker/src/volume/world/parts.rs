//! The parts of the world of one volume.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::flush::world::{Fails, Moved};
use engine::image::ImageError;
use engine::model::{Consistency, Dev, FileId, InodeId, Time};
use engine::tree::Memo;

use super::error::WorldError;
use super::paths::Paths;
use super::pool::Pool;
use super::quiet::Quiet;
use super::searches::Searches;
use super::worth::Worth;
use crate::catalog::Catalog;
use crate::pause::Held;
use crate::repository::VolumeWriter;
use crate::source::{Foreign, HowMarked, MountTable, OpenFile, SourceRoot};
use crate::urgent::Urgent;
use crate::volume::clock::wall_clock;
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::waiting::Pending;

/// The real world of one volume.
pub struct VolumeWorld {
    pub root: Arc<SourceRoot>,
    pub catalog: Arc<Catalog>,
    pub pending: Arc<Pending>,
    /// Puts the volume's objects into the store.
    pub writer: VolumeWriter,
    /// `None` with the scan back end.
    pub dispatcher: Option<(Arc<Dispatcher>, Dev)>,
    /// New files that are not in the catalog yet: parent and name, and inode.
    pub(super) placed: HashMap<FileId, ((FileId, Vec<u8>), InodeId)>,
    /// Files that the running flush found at another place than their committed one.
    pub(super) moved: Moved,
    /// Paths found from `placed`, `moved` and the catalog.
    pub(super) paths: RefCell<Paths>,
    pub(super) pool: Pool<OpenFile>,
    /// Names in the tree that are not part of the volume: mounts and subvolumes inside it.
    pub foreign: BTreeMap<PathBuf, Foreign>,
    /// The mount table, which changes; `None` if there is no `/proc`.
    pub(super) mounts: Option<MountTable>,
    /// Directories of `foreign` as noted in the catalog; `None` before the first note.
    pub(super) foreign_noted: Option<BTreeSet<PathBuf>>,
    /// The watch set was full: every inode of the superblock is marked now.
    pub watch_full: bool,
    /// Why the commit that this flush requested came back damaged, if it did.
    pub damaged: Option<String>,
    /// Looks for a quiet moment, once a flush has asked for one.
    pub(super) quiet: Option<Quiet>,
    /// Tells how the capture of this flush marks the writes of a file.
    pub(super) how_marked: Option<HowMarked>,
    /// For how long writers may be paused, so that there is one; 0: not at all.
    pub pause: Duration,
    /// Where that is noted.
    pub pause_note: PathBuf,
    /// The store, where it is a directory.
    pub store_dir: Option<PathBuf>,
    /// How the last pauses went.
    pub(super) worth: Worth,
    pub(super) searches: Searches,
    /// Values of parts of files that were computed for the last commits.
    pub(super) memo: RefCell<Memo>,
    /// Somebody waits for a commit of one instant.
    pub instant_is_waited_for: bool,
    /// The pause of them that lasts.
    pub(super) held: Option<Held>,
    /// While it looks at what changed, nothing is to come between.
    pub(super) urgent: Option<Urgent>,
    /// Wall clock before anything of this flush was read.
    pub(super) began: Time,
}

impl VolumeWorld {
    pub fn new(
        root: Arc<SourceRoot>,
        catalog: Arc<Catalog>,
        pending: Arc<Pending>,
        writer: VolumeWriter,
        dispatcher: Option<(Arc<Dispatcher>, Dev)>,
    ) -> VolumeWorld {
        let mounts = MountTable::open(root.path()).ok();
        VolumeWorld {
            root,
            catalog,
            pending,
            writer,
            dispatcher,
            placed: HashMap::new(),
            moved: Moved::new(),
            paths: RefCell::default(),
            pool: Pool::new(),
            foreign: BTreeMap::new(),
            mounts,
            foreign_noted: None,
            watch_full: false,
            damaged: None,
            quiet: None,
            how_marked: None,
            pause: Duration::ZERO,
            pause_note: PathBuf::new(),
            store_dir: None,
            worth: Worth::default(),
            searches: Searches::default(),
            memo: RefCell::default(),
            instant_is_waited_for: false,
            held: None,
            urgent: None,
            began: Time::default(),
        }
    }

    /// Records the begin of a flush: change times from shortly before on are not trusted.
    pub fn begin_flush(&mut self) {
        self.began = wall_clock();
        self.quiet = None;
        self.how_marked = None;
        self.held = None;
    }

    /// A flush that looked for an instant ended with this.
    pub fn search_ended(&mut self, found: Consistency) {
        self.searches.ended(found);
    }

    /// Files whose reading thread has not returned.
    pub fn stalled(&self) -> usize {
        self.pool.stalled()
    }
}

impl Fails for VolumeWorld {
    type Error = WorldError;

    fn plan_error(error: ImageError<WorldError>) -> WorldError {
        WorldError::Plan { cause: error.to_string() }
    }
}

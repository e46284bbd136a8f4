//! Arming a volume: watches its inodes and decides what has to be compared.

use std::path::Path;
use std::sync::Arc;

use engine::catalog::{CatalogChange, Record};
use engine::dirty::Marks;
use engine::model::{Dev, FileId, Ino, Kind, Meta, Time};

use crate::volume::clock::boot_id;
use crate::volume::marks::compare::{COMPARE, Compare};
use crate::volume::marks::notes::{BASELINE, RUN, run_on};
use crate::volume::marks::subscriber::Subscriber;
use crate::volume::opened::Opened;
use crate::volume::progress::Phase;
use crate::volume::startup::prepared::{ChosenCapture, Prepared};
use crate::volume::startup::trust::{Boot, StartFacts, must_compare};
use crate::volume::world::WorldError;

/// Name of the note that the inode flags of all files in the catalog were read, or are marked for reading.
const FLAGS: &str = "inode flags";

impl Opened {
    /// Arms and cleans, and decides what has to be compared. `anew`: why the inodes in the records are not to be trusted,
    /// if so.
    pub(crate) fn arm(
        &mut self,
        capture: &ChosenCapture,
        prepared: Option<&Prepared>,
        anew: Option<&'static str>,
    ) -> Result<(), WorldError> {
        self.bind_root()?;
        let world = &mut self.world;
        let renumbered = world.renumber(anew.is_some())?;
        let boot = boot_id();
        let last_boot = world.catalog.boot_id()?;
        let dev = world.dispatcher.as_ref().map_or(Dev::NONE, |(_, dev)| *dev);
        let last_run = world.catalog.note(RUN)?.and_then(|text| run_on(&text, dev));
        let facts = StartFacts {
            boot: Boot::of(last_boot.as_deref(), boot.as_deref(), world.catalog.head()?.is_some()),
            resumed: capture.resumed,
            registered: world.dispatcher.is_some() && prepared.is_some_and(|prepared| prepared.first),
            in_order: last_run.is_some_and(|run| run + 1 == capture.run),
            baseline: world.catalog.note(BASELINE)?.is_some(),
            rebuilt: anew.is_some(),
            renumbered,
            unfinished: Compare::of_word(world.catalog.note(COMPARE)?.as_deref()),
        };
        let compare = must_compare(&facts);
        tracing::debug!(volume = %self.name, ?facts, ?compare, "what is to be compared");
        // Before the notes that make the next process trust this one: this one may end before the comparison does.
        world.catalog.set_note(COMPARE, compare.word())?;
        let run = if world.dispatcher.is_some() { capture.run } else { 0 };
        world.catalog.set_note(RUN, &format!("{run} {}", dev.kernel()))?;
        if let (Some((dispatcher, dev)), Some(prepared)) = (&world.dispatcher, prepared) {
            self.subscriber = Some(Arc::clone(&prepared.subscriber));
            world.watch_full |= dispatcher.is_widened(*dev)?;
            // If the marks are trusted, the watch set has existed since they began.
            if compare != Compare::Nothing {
                world.watch_all()?;
            }
        }
        if let Some(boot) = &boot {
            world.catalog.set_boot_id(boot)?;
        }
        self.read_flags_once()?;
        let world = &mut self.world;
        self.first_phase = if facts.baseline { Phase::Verifying } else { Phase::Baseline };
        if compare == Compare::Nothing {
            world.recall_foreign()?;
            self.first_phase = Phase::Protected;
            return Ok(());
        }
        // The kernel reports a write-back error that nobody has seen yet once, to whoever syncs next, and has still tried
        // to write everything. A second sync tells whether the data is written now.
        if let Err(error) = world.root.sync() {
            tracing::warn!(volume = %self.name, %error, "the file system had lost writes before this start");
            world.root.sync().map_err(WorldError::Source)?;
        }
        self.compare = true;
        self.compare_once = world.dispatcher.is_some();
        if compare == Compare::Everything {
            let (catalog, pending) = (Arc::clone(&world.catalog), Arc::clone(&world.pending));
            let subscriber = self
                .subscriber
                .get_or_insert_with(|| Arc::new(Subscriber::new(&self.name, Dev::NONE, catalog, pending)));
            // A file without an inode is found by its name.
            subscriber.widen(anew.unwrap_or("reboot"), |ino| ino != Ino::NONE)?;
            // The marks are pending now and outlive this process.
            world.catalog.set_note(COMPARE, Compare::Listings.word())?;
        } else {
            self.mark_directories()?;
        }
        Ok(())
    }

    /// Binds the root's record to the inode of the source directory.
    fn bind_root(&self) -> Result<(), WorldError> {
        let world = &self.world;
        // The inode that listings and marks show. On an overlay it is the upper layer's, which a directory that is also in
        // a lower layer does not show.
        let root = world.root.stat(Path::new(""))?.stat.inode;
        let known = world.catalog.file(FileId::ROOT)?;
        if known.as_ref().is_none_or(|row| row.inode != root) {
            let meta = Meta {
                kind: Kind::Dir,
                mode: u32::MAX,
                uid: 0,
                gid: 0,
                mtime: Time::default(),
                rdev: 0,
                target: Vec::new(),
                xattrs: Vec::new(),
                flags: 0,
                project: 0,
            };
            let meta = known.map_or(meta, |row| row.meta);
            let record = Record {
                id: FileId::ROOT,
                inode: root,
                meta,
                size: 0,
                root: None,
                hole_bytes: 0,
                signed: false,
                ctime: None,
            };
            let change = CatalogChange { records: vec![record], next_id: Some(FileId(2)), ..CatalogChange::default() };
            world.catalog.apply(&change)?;
        }
        Ok(())
    }

    /// A catalog of a version that did not read inode flags lacks those of files that did not change since.
    fn read_flags_once(&self) -> Result<(), WorldError> {
        let catalog = &self.world.catalog;
        if catalog.head()?.is_some() && catalog.note(FLAGS)?.as_deref() != Some("read") {
            self.mark_all(|row| matches!(row.meta.kind, Kind::Dir | Kind::File).then(Marks::meta))?;
        }
        Ok(catalog.set_note(FLAGS, "read")?)
    }
}

//! Bringing a volume up: source, store, catalog, capture, and what may be believed of what was before.
//!
//! ARM before anything is compared: inodes are watched first, then dirty pages are written back, then the tree is looked
//! at. After a restart in the same boot with pins intact nothing is looked at: the marks never stopped.

use std::path::Path;
use std::sync::Arc;

use engine::dirty::Marks;
use engine::flush::world::Record;
use engine::format::era::VolumeFormat;
use engine::format::{Key, commit};
use engine::model::{FileId, Id, InodeId, Kind, Meta, NameChange, Root, Seq, Time};
use engine::plan::find_head;

use super::audit::Audit;
use super::claim::{claim, same_source};
use super::hub::{Hub, Sink};
use super::markable::{can_be_marked, marked_fs};
use super::pending::{Pending, now_ns};
use super::prover::Prover;
use super::renew::COMPARE;
use super::run::Phase;
use super::trust::{Boot, Compare, Facts, must_compare};
use super::world::{VolumeWorld, WorldError, to_row};
use crate::capture::BackEnd;
use crate::catalog::{self, Catalog, Writer};
use crate::config::VolumeConfig;
use crate::error::{AppError, ExitCode};
use crate::reading::{self, Reader};
use crate::source::{IdentityCheck, SourceRoot};
use crate::status::Backend;
use crate::store::meter::{Meter, Metered};
use crate::store::{self, Prefixed, Store, StoreOptions};

/// A volume that can flush.
pub struct Opened {
    pub name: String,
    pub volume_id: Id,
    pub format: VolumeFormat,
    pub writer: Writer,
    pub world: VolumeWorld,
    pub sink: Option<Arc<Sink>>,
    pub first_phase: Phase,
    /// Listings are compared with the records.
    pub compare: bool,
    /// .. only until the first pass is through.
    pub compare_once: bool,
    pub backend: Backend,
    pub reasons: Vec<String>,
    pub fenced_store: bool,
    pub meter: Arc<Meter>,
    /// Drains, also those that no hub counts.
    pub scans: u64,
    pub last_scan: Option<std::time::Instant>,
    /// Proves the capture, where there is one.
    pub prover: Prover,
    pub audit: Audit,
}

/// Why an upper layer is left alone, in `status`.
const METACOPY_HIDDEN: &str =
    "overlay: mounted with metacopy=on: which files of its upper layer have no data there shows to CAP_SYS_ADMIN only";

/// Name of the note that the baseline is committed.
const BASELINE: &str = "baseline";

pub(super) fn failed(what: &str, error: impl std::fmt::Display) -> AppError {
    AppError::new(ExitCode::Error, format_args!("{what}: {error}"))
}

pub(super) fn world_error(error: WorldError) -> AppError {
    match error {
        WorldError::Store(error) => AppError::from_store(&error),
        WorldError::Read(error) if !error.is_mismatch() => failed("cannot read the volume back", error),
        WorldError::Object { .. } | WorldError::Read(_) => AppError::new(ExitCode::Mismatch, error)
            .hint("`tracker verify` says what else is damaged; nothing was written"),
        error => failed("cannot start", error),
    }
}

/// What the kernel's capture came to, for one daemon.
pub struct CaptureFacts {
    pub hub: Option<Arc<Hub>>,
    /// Marks went on being made since the last daemon of this boot.
    pub resumed: bool,
    /// Why there is no hub.
    pub reasons: Vec<String>,
    /// Counts the starts of capture with this state directory, this one included.
    pub run: u64,
}

/// A volume whose marks have a place to go before the first drain of this process: without it, a drain for another volume
/// would clear this one's marks. Only such a volume may trust that nothing was lost since the last process.
pub struct Prepared {
    catalog: Arc<Catalog>,
    pending: Arc<Pending>,
    sink: Arc<Sink>,
}

/// Registers a volume that this state directory knows already; `None` for a new one, or one that cannot be opened now.
pub fn prepare(config: &VolumeConfig, state: &Path, hub: &Hub) -> Option<Prepared> {
    let location = Catalog::location(state, &config.name);
    if config.capture == crate::config::Capture::Scan || !location.exists() {
        return None;
    }
    let root = SourceRoot::open(&config.source).ok()?;
    let catalog = Arc::new(Catalog::open(&location).ok()?);
    let pending = Arc::new(Pending::load(Arc::clone(&catalog)).ok()?);
    let sink = Sink::new(&config.name, root.marks_dev(), Arc::clone(&catalog), Arc::clone(&pending));
    let sink = Arc::new(sink);
    hub.add(Arc::clone(&sink)).ok()?;
    Some(Prepared { catalog, pending, sink })
}

/// Name of the note in which run of capture a volume last had a place for its marks.
const RUN: &str = "capture run";

/// The run that a note names, if it was on superblock `dev`: a file system that is mounted again may have another number, under
/// which nothing was marked or watched.
fn run_on(note: &str, dev: u32) -> Option<u64> {
    let (run, on) = note.split_once(' ')?;
    run.parse().ok().filter(|_| on.parse() == Ok(dev))
}

/// Opens everything. Nothing is in the store yet when it returns, but the `format` object.
pub fn open(
    config: &VolumeConfig,
    state: &Path,
    capture: &CaptureFacts,
    prepared: Option<Prepared>,
) -> Result<Opened, AppError> {
    let root = SourceRoot::open(&config.source).map_err(|error| failed("cannot open the source", error))?;
    let root = Arc::new(root);
    let catalog = match &prepared {
        Some(prepared) => Arc::clone(&prepared.catalog),
        None => Arc::new(
            Catalog::open_or_create(&Catalog::location(state, &config.name))
                .map_err(|error| failed("cannot open the catalog", error))?,
        ),
    };
    same_source(&catalog, &root, config)?;

    let meter = Arc::new(Meter::default());
    let options = StoreOptions { create: true, single_writer: config.single_writer, ..StoreOptions::default() };
    let whole = store::open_for_writing(&config.store, &options).map_err(|error| AppError::from_store(&error))?;
    let fenced_store = whole.properties().fenced;
    let metered = Metered::new(whole, Arc::clone(&meter));
    let store: Arc<dyn Store> =
        Arc::new(Prefixed::new(metered, &config.name).map_err(|error| AppError::from_store(&error))?);

    let (volume_id, writer, format) = claim(&catalog, &*store, &config.store.to_string())?;
    let pending = match &prepared {
        Some(prepared) => Arc::clone(&prepared.pending),
        None => Arc::new(Pending::load(Arc::clone(&catalog)).map_err(|error| failed("catalog", error))?),
    };
    let mut reasons = capture.reasons.clone();
    let mut hub = capture.hub.clone();
    // Before anything is asked of it: whatever it turns into later is noticed.
    let prover = Prover::new(&config.name, state, hub.as_ref().map_or(0, |hub| hub.epoch()));
    if let Some(there) = &hub {
        let fs = marked_fs(&root);
        if let Err(missing) = can_be_marked(|fs| there.supported(fs), &root) {
            reasons.push(format!("{fs}: {}", missing.join(", ")));
            hub = None;
        }
    }
    if root.upper().is_some_and(|upper| upper.metacopy_hidden) {
        reasons.push(METACOPY_HIDDEN.into());
    }
    if config.capture == crate::config::Capture::Scan {
        hub = None;
    }
    if hub.is_some() && marked_fs(&root) == "tmpfs" {
        reasons.push("tmpfs: repeated stores through a shared mapping leave no trace and are not seen".into());
    }
    let backend = Backend::of(hub.as_ref().map_or(BackEnd::Scan, |hub| hub.back_end()));
    let dev = root.marks_dev();
    let world = VolumeWorld::new(
        Arc::clone(&root),
        Arc::clone(&catalog),
        Arc::clone(&pending),
        store,
        hub.clone().map(|hub| (hub, dev)),
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
        sink: None,
        first_phase: Phase::Baseline,
        compare: false,
        compare_once: false,
        backend,
        reasons,
        fenced_store,
        meter,
        scans: 0,
        last_scan: None,
        prover,
        audit: Audit::new(config.audit),
    };
    let rebuilt = opened.agree_on_head()?;
    opened.arm(capture, prepared, rebuilt).map_err(world_error)?;
    Ok(opened)
}

impl Opened {
    /// Reads this volume's history up to `head`.
    pub fn reader(&self, head: Seq) -> Reader {
        reading::of_writer(Arc::clone(&self.world.store), &self.name, self.format.clone(), head)
    }

    /// Compares the store's head with the catalog's. True: the catalog was made anew.
    fn agree_on_head(&mut self) -> Result<bool, AppError> {
        let world = &self.world;
        let ours = world.catalog.head().map_err(|error| failed("catalog", error))?.map_or(0, |head| head.seq);
        let intent = world.catalog.intent().map_err(|error| failed("catalog", error))?;
        let exists = |key: Key| world.store.exists(&key.to_string());
        let theirs = find_head(world.era_length, exists).map_err(|error| AppError::from_store(&error))?;
        if theirs == ours || (theirs == ours + 1 && intent.is_some()) {
            return Ok(false);
        }
        if theirs < ours {
            return Err(AppError::new(
                ExitCode::Mismatch,
                format_args!("the store's head is {theirs}, but this host has committed {ours}: commits were lost"),
            )
            .hint("bring the store's lost objects back; to go on without them, start anew under another --name"));
        }
        let key = Key::Commit(theirs).to_string();
        let bytes = world.store.get(&key).map_err(|error| AppError::from_store(&error))?;
        let expect = commit::Expect { volume: self.volume_id, seq: theirs };
        let header = commit::decode_header(&bytes, expect)
            .map_err(|error| AppError::new(ExitCode::Mismatch, format_args!("{key}: {error}")))?;
        if header.writer != self.writer.id {
            return Err(AppError::new(
                ExitCode::Locked,
                format_args!("another writer has committed: the store's head is {theirs}, ours was {ours}"),
            )
            .hint("one host writes a volume; this one must not go on"));
        }
        self.rebuild(theirs).map_err(world_error)?;
        Ok(true)
    }

    /// Our own commits are in the store and the catalog does not know them (it was set back, for instance by a power
    /// cut): it is thrown away, and every file is read and compared with the manifest.
    fn rebuild(&mut self, head: u64) -> Result<(), WorldError> {
        let world = &self.world;
        tracing::warn!(volume = %self.name, head, "the catalog is older than the store: all files are compared again");
        let manifest = self.reader(head).manifest(head)?;
        world.catalog.wipe_for_rebuild()?;
        let mut change = catalog::CatalogChange::default();
        let mut highest = FileId::ROOT;
        for (id, file) in manifest.files() {
            // An inode that no file has: what lies at a name now is new, with this file as the base it is compared to.
            let inode = InodeId { ino: 0, generation: id.0 };
            let record = Record {
                id,
                inode,
                meta: file.meta.clone(),
                size: file.size(),
                root: file.root,
                hole_bytes: 0,
                signed: false,
                ctime: None,
            };
            change.files.push(to_row(record, None));
            highest = highest.max(id);
        }
        change.names =
            manifest.names().map(|(parent, name, id)| NameChange::Set { parent, name: name.to_vec(), id }).collect();
        change.next_id = Some(FileId(highest.0 + 1));
        world.catalog.apply(&change)?;
        let at = manifest.position();
        world.catalog.set_head(&catalog::Head { seq: at.seq, hash: at.head, time: at.time })?;
        Ok(())
    }

    /// ARM, CLEAN; decides what has to be compared.
    fn arm(&mut self, capture: &CaptureFacts, prepared: Option<Prepared>, rebuilt: bool) -> Result<(), WorldError> {
        let world = &mut self.world;
        // That of the listings and the marks: on an overlay the upper layer's, which a directory that is also in a lower
        // layer does not show.
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
            };
            let meta = known.map_or(meta, |row| row.meta);
            let none: Option<Root> = None;
            let record = Record {
                id: FileId::ROOT,
                inode: root,
                meta,
                size: 0,
                root: none,
                hole_bytes: 0,
                signed: false,
                ctime: None,
            };
            let change = catalog::CatalogChange {
                files: vec![to_row(record, None)],
                next_id: Some(FileId(2)),
                ..catalog::CatalogChange::default()
            };
            world.catalog.apply(&change)?;
        }
        let boot = boot_id();
        let last_boot = world.catalog.boot_id()?;
        let dev = world.hub.as_ref().map_or(0, |(_, dev)| *dev);
        let last_run = world.catalog.note(RUN)?.and_then(|text| run_on(&text, dev));
        let clean = world.catalog.clean_shutdown()?;
        if clean.is_some() {
            // It speaks of that boot's end only.
            world.catalog.set_clean_shutdown(None)?;
        }
        let facts = Facts {
            boot: Boot::of(last_boot.as_deref(), boot.as_deref(), world.catalog.head()?.is_some()),
            resumed: capture.resumed,
            registered: world.hub.is_some() && prepared.is_some(),
            in_order: last_run.is_some_and(|run| run + 1 == capture.run),
            baseline: world.catalog.note(BASELINE)?.is_some(),
            rebuilt,
            clean: clean.is_some() && clean == last_boot,
            unfinished: Compare::of_word(world.catalog.note(COMPARE)?.as_deref()),
        };
        let compare = must_compare(&facts);
        tracing::debug!(volume = %self.name, ?facts, ?compare, "what is to be compared");
        // Before the notes by which the next process would trust this one: it may end before the comparison does.
        world.catalog.set_note(COMPARE, compare.word())?;
        let run = if world.hub.is_some() { capture.run } else { 0 };
        world.catalog.set_note(RUN, &format!("{run} {dev}"))?;
        if let Some((hub, dev)) = &world.hub {
            let sink = match prepared {
                Some(prepared) => prepared.sink,
                None => {
                    let (catalog, pending) = (Arc::clone(&world.catalog), Arc::clone(&world.pending));
                    let sink = Arc::new(Sink::new(&self.name, *dev, catalog, pending));
                    hub.add(Arc::clone(&sink))?;
                    sink
                }
            };
            self.sink = Some(sink);
            world.watch_full |= hub.is_widened(*dev)?;
            // Where the marks are trusted, the watch set has been kept since they began.
            if compare != Compare::Nothing {
                world.watch_all()?;
            }
        }
        if let Some(boot) = &boot {
            world.catalog.set_boot_id(boot)?;
        }
        self.first_phase = if facts.baseline { Phase::Verifying } else { Phase::Baseline };
        if compare == Compare::Nothing {
            world.recall_foreign()?;
            self.first_phase = Phase::Protected;
            return Ok(());
        }
        world.root.sync().map_err(WorldError::Source)?;
        self.compare = true;
        self.compare_once = world.hub.is_some();
        if compare == Compare::Everything {
            let (catalog, pending) = (Arc::clone(&world.catalog), Arc::clone(&world.pending));
            let sink = self.sink.get_or_insert_with(|| Arc::new(Sink::new(&self.name, 0, catalog, pending)));
            // A file of a rebuilt catalog has no inode yet; it is found by its name.
            sink.widen(if rebuilt { "rebuild" } else { "reboot" }, |ino| ino != 0)?;
            // They are pending now and outlive this process.
            world.catalog.set_note(COMPARE, Compare::Listings.word())?;
        } else {
            self.mark_directories()?;
        }
        Ok(())
    }

    /// Every directory is to be listed.
    fn mark_directories(&self) -> Result<(), WorldError> {
        let (mut after, now) = (FileId(0), now_ns());
        loop {
            let rows = self.world.catalog.files_after(after, 4096)?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            let dirs: Vec<(u64, Marks)> = rows
                .iter()
                .filter(|row| row.meta.kind == Kind::Dir && row.inode.ino != 0)
                .map(|row| (row.inode.ino, Marks::names()))
                .collect();
            self.world.pending.add(&dirs, now)?;
        }
    }

    /// SWAP .. clear for all volumes, or one look at the tree where no kernel marks it.
    pub fn drain(&mut self, hurry: bool) -> Result<u64, WorldError> {
        self.world.begin_flush();
        self.world.note_mounts()?;
        if let Some((hub, _)) = &self.world.hub {
            self.scans = hub.drain()?;
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
    pub(super) fn scan_from_now_on(&mut self) -> Result<(), WorldError> {
        self.world.hub = None;
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
    pub fn check_source(&self) -> Result<(), AppError> {
        let path = self.world.root.path().display();
        match self.world.root.check_identity() {
            Ok(IdentityCheck::Same) => Ok(()),
            Ok(IdentityCheck::Vanished) => {
                Err(AppError::new(ExitCode::Guard, format_args!("the source {path} vanished"))
                    .hint("nothing was removed from the store; mount or make it again, and start again"))
            }
            Ok(IdentityCheck::Replaced(_)) => {
                Err(AppError::new(ExitCode::Guard, format_args!("the source {path} was replaced by another directory"))
                    .hint("nothing was removed from the store; protect the new one under another --name"))
            }
            Err(error) => Err(failed("cannot look at the source", error)),
        }
    }
}

/// Gap between two looks at the tree without kernel marks.
const SCAN_GAP: std::time::Duration = std::time::Duration::from_secs(1);

fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    /// Mounted again under another number, nothing was marked: the run before does not count.
    #[test]
    fn a_run_on_another_superblock_does_not_count() {
        assert_eq!(super::run_on("7 9", 9), Some(7));
        for note in ["7 8", "7", "", "x 9", "7 9 9"] {
            assert_eq!(super::run_on(note, 9), None, "{note}");
        }
    }
}

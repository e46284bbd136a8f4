//! The self-test: makes changes of each kind to files of its own in the superblock of a volume; the capture must see them.
//!
//! Files are `O_TMPFILE`: no directory lists them, and creating them changes none. A rename needs a directory: one in the
//! state directory if that is in the same superblock; else one in the source, briefly and only by [`prove`]. Each kind has
//! its own file, since one mark may cover a whole folio. Only [`prove`] drains.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use engine::dirty::Marks;
use engine::model::{Dev, Ino};
use rustix::fs::FallocateFlags;

use crate::capture::{Capture, CaptureError};
use crate::source::{FsType, SourceRoot, store_mapped};
use crate::volume::marks::retired::marks_of;

/// The result of a self-test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelfTestOutcome {
    /// Every change that could be made was seen; `untried` says why others could not be made.
    Passed { kinds: Vec<&'static str>, untried: Vec<String> },
    /// No change can be made there, and why.
    NotPossible { why: String },
    /// Changes of this kind are not seen.
    Failed { kind: &'static str },
}

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;

/// Kind of the change that needs a directory.
pub const RENAME: &str = "a rename";

/// Name of the directory in which a rename is tried: briefly in the source, permanently in the state directory.
const DIRECTORY: &str = ".tracker-self-test";

#[repr(C, align(4096))]
struct Page([u8; BLOCK as usize]);

/// One kind of change to a file.
struct Kind {
    name: &'static str,
    /// Makes the change in the second block. `Unsupported` and `InvalidInput` mean that the file system has no such
    /// operation.
    change: fn(&File) -> io::Result<()>,
    seen: fn(&Marks) -> bool,
}

fn second_block(marks: &Marks) -> bool {
    marks.all_content() || marks.blocks_within(BLOCKS * BLOCK).contains(1)
}

/// ext4 with `inline_data` keeps a small file in its inode, where a write dirties no page (`ext4_write_inline_data_end`,
/// Linux 6.18).
const SMALL: &str = "a write to a file of some bytes";
const SMALL_BYTES: usize = 40;

static KINDS: [Kind; 6] = [
    Kind { name: "a write", change: |file| file.write_all_at(&[1; BLOCK as usize], BLOCK), seen: second_block },
    Kind { name: "a store through a mapping", change: |file| store_mapped(file, BLOCK, 2), seen: second_block },
    Kind { name: "a direct write", change: direct, seen: second_block },
    Kind { name: "a punched hole", change: punch, seen: second_block },
    Kind { name: "a change of mode", change: mode, seen: |marks| marks.meta },
    Kind {
        name: SMALL,
        change: |file| file.write_all_at(&[1; 10], 0),
        seen: |marks| marks.all_content() || marks.blocks_within(BLOCK).contains(0),
    },
];

fn direct(file: &File) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path)?;
    file.write_all_at(&Page([3; BLOCK as usize]).0, BLOCK)
}

fn punch(file: &File) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, BLOCK, BLOCK)?)
}

fn mode(file: &File) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(0o640))
}

/// An operation that this file system lacks is left out; any other error makes the test impossible.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

/// The open files to which changes are made. The caller watches [`SelfTest::inodes`].
pub struct SelfTest {
    dev: Dev,
    files: Vec<(&'static Kind, File, Ino)>,
    folder: Option<Folder>,
    untried: Vec<String>,
    /// Kinds of change that were made and not judged yet.
    made: Vec<&'static str>,
}

/// A directory whose entries may be renamed.
struct Folder {
    path: PathBuf,
    ino: Ino,
    /// Removed together with the self-test.
    passing: bool,
}

/// A state directory, and the volume for which it may keep a directory for renames.
#[derive(Clone, Copy, Debug)]
pub struct Home<'a> {
    pub state: &'a Path,
    pub volume: &'a str,
}

/// The directory behind a source in which its files are really created.
pub(crate) fn real_dir(root: &SourceRoot) -> &Path {
    root.upper().filter(|upper| upper.reachable()).map_or(root.path(), |upper| &upper.path)
}

impl SelfTest {
    /// Creates clean files in the superblock of a source: in `home`, the state directory, if that is on it, else beside the
    /// source's own files. With `in_source` a directory for renames may be created in the source. The error says why the
    /// test is impossible.
    pub fn open(root: &SourceRoot, home: Option<Home<'_>>, in_source: bool) -> Result<SelfTest, String> {
        let dev = root.marks_dev();
        let folder = home.map_or_else(|| DIRECTORY.to_owned(), |home| format!("{DIRECTORY}-{}", home.volume));
        let home = home.and_then(|home| SourceRoot::open(home.state).ok()).filter(|home| home.marks_dev() == dev);
        let dir = home.as_ref().map_or_else(|| real_dir(root), real_dir);
        let fs = root.upper().and_then(|upper| upper.fs()).unwrap_or(root.fs());
        let mut files = Vec::new();
        for kind in &KINDS {
            // tmpfs never reports stores through mappings; its volumes say so.
            if fs == FsType::Tmpfs && kind.name == "a store through a mapping" {
                continue;
            }
            let made = File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir);
            let found = made.and_then(|file| Ok((Ino(file.metadata()?.ino()), file)));
            let (ino, file) = found.map_err(|error| format!("no file can be made in it: {error}"))?;
            files.push((kind, file, ino));
        }
        let mut self_test = SelfTest { dev, files, folder: None, untried: Vec::new(), made: Vec::new() };
        let made = match &home {
            Some(home) => Some(Folder::make(home, &folder, false)),
            None => in_source.then(|| Folder::make(root, DIRECTORY, true)),
        };
        match made {
            Some(Ok(folder)) => self_test.folder = Some(folder),
            Some(Err(error)) => self_test.untried.push(format!("{RENAME}: no directory can be made: {error}")),
            None => self_test.untried.push(format!("{RENAME}: the state directory lies in another file system")),
        }
        self_test.prepare()?;
        Ok(self_test)
    }

    /// Superblock and inodes that the caller must watch.
    pub fn inodes(&self) -> (Dev, Vec<Ino>) {
        let folder = self.folder.as_ref().map(|folder| folder.ino);
        (self.dev, self.files.iter().map(|(_, _, ino)| *ino).chain(folder).collect())
    }

    /// Fills the files and writes them back: a page that is already dirty reports no further change, and punching a hole
    /// reports nothing either. The caller must drain these marks before the next [`SelfTest::change`].
    pub fn prepare(&mut self) -> Result<(), String> {
        for (kind, file, _) in &self.files {
            // Only as much as needed: the change is repeated for as long as the volume lives.
            let bytes = if kind.name == SMALL { SMALL_BYTES } else { (BLOCKS * BLOCK) as usize };
            let filled = file.write_all_at(&vec![0; bytes], 0).and_then(|()| file.sync_data());
            filled.map_err(|error| format!("{}: its file cannot be filled: {error}", kind.name))?;
        }
        Ok(())
    }

    /// Makes every change. The next drain must show all of them.
    pub fn change(&mut self) -> Result<(), String> {
        self.made.clear();
        for (kind, file, _) in &self.files {
            match (kind.change)(file) {
                Ok(()) => self.made.push(kind.name),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(format!("{}: {error}", kind.name)),
            }
        }
        if let Some(folder) = &self.folder {
            folder.rename().map_err(|error| format!("{RENAME}: {error}"))?;
            self.made.push(RENAME);
        }
        Ok(())
    }

    /// Judges the test by the marks since [`SelfTest::change`].
    pub fn judge(&self, marks: impl Fn(Ino) -> Marks) -> SelfTestOutcome {
        let folder = self.folder.iter().map(|folder| (RENAME, marks(folder.ino).names));
        let files = self.files.iter().map(|(kind, _, ino)| (kind.name, (kind.seen)(&marks(*ino))));
        let missed = files.chain(folder).find(|(kind, seen)| !seen && self.made.contains(kind));
        match missed {
            Some((kind, _)) => SelfTestOutcome::Failed { kind },
            None => SelfTestOutcome::Passed { kinds: self.made.clone(), untried: self.untried.clone() },
        }
    }
}

impl Folder {
    /// `passing`: removed together with the self-test; first removes what a killed process left of it.
    fn make(place: &SourceRoot, name: &str, passing: bool) -> io::Result<Folder> {
        let path = place.path().join(name);
        if passing && place.is_sealed() {
            // In an append-only directory it could be created but not removed.
            return Err(io::Error::other("the directory is immutable or append-only"));
        }
        if passing {
            remove(&path)?;
        }
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Marks carry the inode of the upper layer.
        let ino = fs::symlink_metadata(real_dir(place).join(name)).and_then(|meta| {
            if meta.is_dir() { Ok(Ino(meta.ino())) } else { Err(io::ErrorKind::NotADirectory.into()) }
        })?;
        let folder = Folder { path, ino, passing };
        File::create(folder.path.join("a"))?;
        Ok(folder)
    }

    fn rename(&self) -> io::Result<()> {
        let (a, b) = (self.path.join("a"), self.path.join("b"));
        if a.exists() { fs::rename(a, b) } else { fs::rename(b, a) }
    }
}

/// Removes a directory of ours, and in it only what is ours.
fn remove(path: &Path) -> io::Result<()> {
    for file in ["a", "b"] {
        match fs::remove_file(path.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.passing
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a directory of the self-test is left");
        }
    }
}

/// Tries every kind of change on the file system of a source, whose superblock is tracked from then on. It drains, so it
/// must not run on a capture that holds marks.
///
/// # Errors
/// When the capture itself fails.
pub fn prove(
    capture: &mut Capture,
    root: &SourceRoot,
    home: Option<Home<'_>>,
) -> Result<SelfTestOutcome, CaptureError> {
    let mut self_test = match SelfTest::open(root, home, true) {
        Ok(self_test) => self_test,
        Err(why) => return Ok(SelfTestOutcome::NotPossible { why }),
    };
    let (dev, inodes) = self_test.inodes();
    let keys: Vec<(Dev, Ino)> = inodes.iter().map(|ino| (dev, *ino)).collect();
    capture.track(dev, false)?;
    capture.watch(&keys)?;
    let mut outcome = || -> Result<SelfTestOutcome, CaptureError> {
        drain(capture)?;
        if let Err(why) = self_test.change() {
            return Ok(SelfTestOutcome::NotPossible { why });
        }
        let retired = drain(capture)?;
        Ok(self_test.judge(|ino| retired.inodes.get(&(dev, ino)).map_or_else(Marks::default, marks_of)))
    };
    let outcome = outcome();
    // While the files are still open: otherwise a file that reused the number could lose its watch.
    capture.unwatch(&keys)?;
    outcome
}

fn drain(capture: &mut Capture) -> Result<crate::capture::Retired, CaptureError> {
    capture.swap()?;
    capture.grace()?;
    let retired = capture.read_retired()?;
    capture.clear_retired()?;
    Ok(retired)
}

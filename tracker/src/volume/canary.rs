//! The self-test of a fresh capture: changes of each kind to a file without a name, beside the protected ones, must be seen.
//!
//! `O_TMPFILE` makes an inode in the source's own file system that no directory lists and whose making changes no
//! directory, so the tree shows nothing of it. It must not be run on a capture that holds marks: it drains.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use rustix::fs::FallocateFlags;

use crate::capture::{Capture, CaptureError, InodeMarks, flags};
use crate::source::{FsType, SourceRoot, store_mapped};

/// What the self-test came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every kind of change that the file system has was seen.
    Passed { kinds: Vec<&'static str> },
    /// No file can be made there; why.
    NotPossible { why: String },
    /// Changes of this kind are not seen.
    Failed { kind: &'static str },
}

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;

#[repr(C, align(4096))]
struct Page([u8; BLOCK as usize]);

/// One kind of change.
struct Kind {
    name: &'static str,
    /// Makes the change in the second block; `Unsupported` and `InvalidInput`: the file system has no such thing.
    change: fn(&File) -> io::Result<()>,
    seen: fn(&InodeMarks) -> bool,
}

fn second_block(marks: &InodeMarks) -> bool {
    marks.covers(BLOCK, 2 * BLOCK)
}

const KINDS: [Kind; 5] = [
    Kind { name: "a write", change: |file| file.write_all_at(&[1; BLOCK as usize], BLOCK), seen: second_block },
    Kind { name: "a store through a mapping", change: |file| store_mapped(file, BLOCK, 2), seen: second_block },
    Kind { name: "a direct write", change: direct, seen: second_block },
    Kind { name: "a punched hole", change: punch, seen: second_block },
    Kind { name: "a change of mode", change: mode, seen: |marks| marks.flags & flags::META != 0 },
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
    file.set_permissions(std::fs::Permissions::from_mode(0o640))
}

/// Tries every kind of change on the file system of a source, whose superblock is tracked from then on.
///
/// # Errors
/// When the capture itself fails.
pub fn prove(capture: &mut Capture, root: &SourceRoot) -> Result<Proof, CaptureError> {
    let dir = root.upper().filter(|upper| upper.reachable()).map_or(root.path(), |upper| &upper.path);
    let made = File::options()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(dir)
        .and_then(|file| file.write_all_at(&[0; (BLOCKS * BLOCK) as usize], 0).map(|()| file));
    let file = match made {
        Ok(file) => file,
        Err(error) => return Ok(Proof::NotPossible { why: format!("no file can be made in it: {error}") }),
    };
    let Ok(ino) = file.metadata().map(|meta| meta.ino()) else {
        return Ok(Proof::NotPossible { why: "its inode number cannot be read".into() });
    };
    let key = (root.marks_dev(), ino);
    capture.track(key.0, false)?;
    capture.watch(&[key])?;
    let proof = try_kinds(capture, &file, key, root.upper().and_then(|upper| upper.fs()).unwrap_or(root.fs()));
    capture.unwatch(&[key])?;
    proof
}

fn try_kinds(capture: &mut Capture, file: &File, key: (u32, u64), fs: FsType) -> Result<Proof, CaptureError> {
    let mut kinds = Vec::new();
    for kind in &KINDS {
        // tmpfs never tells of stores through mappings, which its volumes say.
        if fs == FsType::Tmpfs && kind.name == "a store through a mapping" {
            continue;
        }
        // Clean pages: one that is dirty already tells of no further change.
        if let Err(error) = file.sync_all() {
            return Ok(Proof::NotPossible { why: format!("its data cannot be written back: {error}") });
        }
        drain(capture, key)?;
        match (kind.change)(file) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => continue,
            Err(error) => return Ok(Proof::NotPossible { why: format!("{}: {error}", kind.name) }),
        }
        if !(kind.seen)(&drain(capture, key)?) {
            return Ok(Proof::Failed { kind: kind.name });
        }
        kinds.push(kind.name);
    }
    Ok(Proof::Passed { kinds })
}

/// The marks of one inode since the last drain.
fn drain(capture: &mut Capture, key: (u32, u64)) -> Result<InodeMarks, CaptureError> {
    capture.swap()?;
    capture.grace()?;
    let mut retired = capture.read_retired()?;
    capture.clear_retired()?;
    Ok(retired.inodes.remove(&key).unwrap_or_default())
}

//! The first oracle: whether the marks of one drain cover everything that changed, and how.

use std::collections::BTreeMap;
use std::path::Path;

use engine::model::Dev;
use tracker::capture::{InodeMarks, Retired, flags};

use super::tree::{BLOCK, Entry, Key, Tree};

/// How a cell was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The ranges that changed are marked, and the file is not read whole.
    Exact,
    /// A file is marked as changed anywhere, and is read whole.
    Rescan,
    /// Something changed and is not marked.
    Missed,
}

/// The marks of an inode, including direct writes in flight, which count as changed in every drain.
fn marks(retired: &Retired, dev: Dev, key: Key) -> InodeMarks {
    let Key::Real(ino) = key else { return InodeMarks::default() };
    let mut marks = retired.inodes.get(&(dev, ino)).cloned().unwrap_or_default();
    for write in retired.inflight.iter().filter(|write| (write.dev, write.ino) == (dev, ino)) {
        marks.flags |= write.flags;
        for block in write.start / BLOCK..write.start.saturating_add(write.len).div_ceil(BLOCK) {
            marks.blocks.extend(u32::try_from(block));
        }
    }
    if retired.overflow.hit(dev, ino) {
        marks.flags |= flags::RESCAN;
    }
    marks
}

/// Compares a drain with the truth; `above` is the directory that contains the tree. The texts say what was missed.
#[must_use]
pub fn judge(before: &Tree, after: &Tree, retired: &Retired, dev: Dev, above: Key) -> (Class, Vec<String>) {
    let known: BTreeMap<Key, &Entry> = before.values().map(|entry| (entry.key, entry)).collect();
    let mut missed = Vec::new();
    let mut whole = false;
    for (path, entry) in after {
        let of_entry = marks(retired, dev, entry.key);
        let Some(old) = known.get(&entry.key) else {
            // A new file needs its name marked in its directory, unless that is new too; its content is read whole. The top
            // directory is new when it is copied up from an overlay's lower layer.
            let above = marks(retired, dev, above);
            if path.as_os_str().is_empty() && above.flags & (flags::NAMES | flags::RESCAN) == 0 {
                missed.push(said(path, "it is new in a directory whose names are not marked", &above));
            }
            continue;
        };
        whole |= of_entry.flags & flags::WHOLE_CONTENT != 0;
        missed.extend(unmarked(old, entry, &of_entry).map(|what| said(path, &what, &of_entry)));
    }
    match (missed.is_empty(), whole) {
        (false, _) => (Class::Missed, missed),
        (true, true) => (Class::Rescan, missed),
        (true, false) => (Class::Exact, missed),
    }
}

fn unmarked(old: &Entry, now: &Entry, marks: &InodeMarks) -> Option<String> {
    // The flag for mappings accompanies blocks and says nothing about what changed: a hook that reports nothing else has
    // missed the change.
    let any = marks.flags & !flags::MAPPED != 0 || !marks.blocks.is_empty();
    let bare = |block: &u64| !marks.covers(block * BLOCK, block * BLOCK + 1);
    if old.names != now.names && marks.flags & (flags::NAMES | flags::RESCAN) == 0 {
        return Some(format!("its names changed: {:?} to {:?}", old.names, now.names));
    }
    if let Some(block) = old.changed_blocks(now).into_iter().find(bare) {
        return Some(format!("block {block} changed"));
    }
    if old.size != now.size && !any {
        return Some(format!("its size changed: {} to {}", old.size, now.size));
    }
    if old.attributes != now.attributes && !any {
        return Some(format!("its attributes changed: {} to {}", old.attributes, now.attributes));
    }
    (old.changed != now.changed && !any).then(|| "its change time moved".to_owned())
}

fn said(path: &Path, what: &str, marks: &InodeMarks) -> String {
    let blocks: Vec<u32> = marks.blocks.iter().take(8).collect();
    format!("{path:?}: {what}; marked: flags {:#x}, {}..{}, blocks {blocks:?}", marks.flags, marks.from, marks.end)
}

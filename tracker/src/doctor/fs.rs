//! How changes on each file system are seen on this kernel: the hook list and the programs' rules, in plain words.

use common::functions::FunctionId;
use common::hooks::{Fs, HOOKS, Role, Serves};
use serde::Serialize;

use super::Kernel;
use crate::capture::BackEnd;

/// How a kind of change is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seen {
    /// The blocks that changed, in units of the folio that contains them.
    Blocks,
    /// Everything from the place of the change to the end of the file.
    Tail,
    /// The whole file is read and compared.
    WholeFile,
    /// The inode is checked, or the directory listed; no content is read.
    Entry,
    /// Not always.
    Partly,
}

impl Seen {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Seen::Blocks => "changed blocks",
            Seen::Tail => "from there to the end",
            Seen::WholeFile => "whole file is read",
            Seen::Entry => "looked at, not read",
            Seen::Partly => "NOT ALWAYS SEEN",
        }
    }
}

/// One kind of change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub change: &'static str,
    pub seen: Seen,
    /// By which hooks, or under which condition it is not seen.
    pub by: String,
}

/// A tracepoint or function that this file system needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookState {
    pub name: &'static str,
    pub present: bool,
    pub why: &'static str,
}

/// One file system on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    pub name: String,
    pub backend: BackEnd,
    pub hooks: Vec<HookState>,
    pub changes: Vec<Row>,
    /// Why it is scanned.
    pub problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What is never seen.
    pub limits: Vec<&'static str>,
}

impl FileSystem {
    /// Whether changes can be missed, or cost more than they should.
    #[must_use]
    pub fn degraded(&self) -> bool {
        self.backend == BackEnd::Scan || self.changes.iter().any(|row| row.seen == Seen::Partly)
    }
}

/// The file systems that tracker knows.
pub const KNOWN: [&str; 5] = ["ext4", "xfs", "btrfs", "tmpfs", "overlay"];

const DEFRAGMENTATION: &str = "online defragmentation";
const REMAPPED: &str = "ext4_es_remove_extent";
const TICKS: &str = "inode_set_ctime_to_ts, ctime_ns_xchg, ctime_xchg_skip";
const FOLIO: &str = "writeback_dirty_folio";
const STORES_ON_TMPFS: &str = "the first store into a page that was not read before is; later ones, and those into a page \
                               that was mapped by a read, leave no trace";
const DIRECT: &str = "iomap_dio_rw_begin, iomap_dio_complete";

/// Judges the file system `name` if the machine uses `back_end`. `directory` judges an overlay by its upper layer's file
/// system; here it is judged by itself.
#[must_use]
pub fn judge(name: &str, kernel: &Kernel, back_end: BackEnd) -> FileSystem {
    let known = Fs::from_name(name);
    let hooks = known.map_or_else(Vec::new, |fs| states(fs, kernel, back_end));
    let mut problems = Vec::new();
    let mut fix = None;
    if back_end == BackEnd::Scan {
        problems.push("the machine scans: see the findings above".to_owned());
    } else if name == "overlay" {
        // As in Capture::supported: marks have the inodes of the upper layer.
    } else if known.is_none() {
        problems.push("its changes are not known to the back ends with programs".to_owned());
        fix = Some("keep the directory on ext4, xfs or btrfs".to_owned());
    } else {
        let missing: Vec<_> = hooks.iter().filter(|hook| !hook.present).map(|hook| hook.name).collect();
        if !missing.is_empty() {
            problems.push(format!("the kernel lacks {}", missing.join(", ")));
        }
        if known == Some(Fs::Xfs) && back_end == BackEnd::Tracepoint && !kernel.has_all(&["XFS_VNODE"]) {
            problems.push("the kernel lacks xfs_inode.i_vnode, from which its hooks find the file".to_owned());
        }
        let loaded = kernel.file_systems.contains(name);
        fix = (!problems.is_empty()).then(|| match loaded {
            true => "run a kernel that has them; docs/testing.md names releases".to_owned(),
            false => format!("{name} is not loaded: `modprobe {name}`, or mount one, and look again"),
        });
    }
    let scan = !problems.is_empty();
    let changes = match known {
        _ if scan => scanned(),
        Some(fs) if back_end == BackEnd::Tracepoint => traced(fs, kernel),
        Some(fs) => hooked(fs, kernel),
        None => overlay(),
    };
    // ext4_move_extents sets no change time: it is seen only by its function, and by the mapping that is dropped.
    let moves = changes.iter().any(|row| row.change == DEFRAGMENTATION);
    let backend = if scan { BackEnd::Scan } else { back_end };
    FileSystem { name: name.to_owned(), backend, hooks, changes, problems, fix, limits: limits(name, moves) }
}

/// As in `Capture::supported`. Hooked functions report everything but dirty folios.
fn states(fs: Fs, kernel: &Kernel, back_end: BackEnd) -> Vec<HookState> {
    let functions = matches!(back_end, BackEnd::Fentry | BackEnd::Kprobe);
    let needed = HOOKS.iter().filter(|hook| hook.role != Role::Write).filter(|hook| match hook.serves {
        Serves::All => !functions || hook.role == Role::Dirty,
        Serves::One(one) => !functions && one == fs,
    });
    let points = needed.map(|hook| (hook.tracepoint, kernel.tracepoints.contains(hook.tracepoint), hook.why));
    let tmpfs = Some(FunctionId::TmpfsDirty.get()).filter(|_| functions && fs == Fs::Tmpfs);
    let tmpfs = tmpfs.map(|function| (function.name, kernel.functions.contains(function.name), function.why));
    points.chain(tmpfs).map(|(name, present, why)| HookState { name, present, why }).collect()
}

fn row(change: &'static str, seen: Seen, by: impl Into<String>) -> Row {
    Row { change, seen, by: by.into() }
}

fn traced(fs: Fs, kernel: &Kernel) -> Vec<Row> {
    let entry = row("names, attributes", Seen::Entry, TICKS);
    let mapped = row("stores through a mapping", Seen::Blocks, FOLIO);
    let direct = row("direct I/O", Seen::Blocks, DIRECT);
    match fs {
        Fs::Ext4 => vec![
            row("writes of every kind", Seen::Blocks, FOLIO),
            mapped,
            direct,
            row("truncation", Seen::Tail, "ext4_truncate_exit"),
            row("punch, zero, fallocate", Seen::Blocks, "ext4_punch_hole, ext4_zero_range, ext4_fallocate_enter"),
            row("collapse, insert", Seen::Tail, "ext4_collapse_range, ext4_insert_range"),
            row(DEFRAGMENTATION, Seen::Blocks, REMAPPED),
            entry,
        ],
        Fs::Xfs => vec![
            row("writes of every kind", Seen::Blocks, FOLIO),
            mapped,
            direct,
            row("truncation", Seen::Tail, "xfs_itruncate_extents_start"),
            row("clone", Seen::Blocks, "xfs_reflink_remap_range"),
            row("punch, zero", Seen::WholeFile, "xfs_free_file_space, xfs_zero_file_space"),
            row("collapse, insert", Seen::WholeFile, "xfs_collapse_file_space, xfs_insert_file_space"),
            row("exchange of contents", Seen::WholeFile, "xfs_exchrange_mappings, xfs_swap_extent_after"),
            entry,
        ],
        Fs::Btrfs if kernel.has_all(&["REGS_SYSCALL", "REGS_IP", "REGS_ARGUMENT_2"]) => vec![
            row("write, pwrite, writev", Seen::Blocks, FOLIO),
            mapped,
            direct,
            row("truncate, ftruncate", Seen::Tail, format!("{TICKS}, with the system call that is under way")),
            row("writes by io_uring, AIO, splice, copy_file_range", Seen::WholeFile, TICKS),
            row("open with O_TRUNC, punch, zero, clone, other ioctls", Seen::WholeFile, TICKS),
            entry,
        ],
        Fs::Btrfs => vec![
            row("stores into a mapped page that is known to the file", Seen::Blocks, FOLIO),
            row(
                "everything else, attributes too",
                Seen::WholeFile,
                format!("{TICKS}; pt_regs is not that of x86-64, so no system call explains one"),
            ),
            row("names", Seen::Entry, TICKS),
        ],
        Fs::Tmpfs => vec![
            row("writes, truncation, punch", Seen::WholeFile, format!("{TICKS}; there is no {FOLIO} here")),
            row("stores through a mapping", Seen::Partly, STORES_ON_TMPFS),
            entry,
        ],
    }
}

/// The hooked functions of a list that the kernel has.
fn by(kernel: &Kernel, of: &[FunctionId]) -> String {
    let names = of.iter().map(|id| id.get().name).filter(|name| kernel.functions.contains(name));
    names.collect::<Vec<_>>().join(", ")
}

fn hooked(fs: Fs, kernel: &Kernel) -> Vec<Row> {
    use FunctionId::*;
    let by = |of: &[FunctionId]| by(kernel, of);
    let (begin, done) = (DioRw.get(), DioDone.get());
    let direct = [begin, done].map(|f| if kernel.tracepoints.contains(f.unless) { f.unless } else { f.name });
    let mut rows = match fs {
        Fs::Tmpfs => vec![
            row("writes of every kind", Seen::Blocks, by(&[TmpfsDirty])),
            row("stores through a mapping", Seen::Partly, STORES_ON_TMPFS),
        ],
        Fs::Ext4 | Fs::Xfs | Fs::Btrfs => vec![
            row("writes of every kind", Seen::Blocks, FOLIO),
            row("stores through a mapping", Seen::Blocks, FOLIO),
            row("direct I/O", Seen::Blocks, direct.join(", ")),
            row("clone, copy_file_range", Seen::Blocks, by(&[Clone, Copy])),
        ],
    };
    rows.extend([
        row("truncation", Seen::Tail, by(&[Setattr])),
        row("punch, zero, fallocate", Seen::Blocks, by(&[Fallocate])),
        row("collapse, insert", Seen::Tail, by(&[Fallocate])),
    ]);
    match fs {
        Fs::Ext4 if kernel.tracepoints.contains(REMAPPED) => rows.push(row(DEFRAGMENTATION, Seen::Blocks, REMAPPED)),
        Fs::Ext4 if kernel.functions.contains(MoveSource.get().name) => {
            rows.push(row(DEFRAGMENTATION, Seen::WholeFile, by(&[MoveSource])));
        }
        Fs::Btrfs if kernel.functions.contains(Encoded.get().name) => {
            rows.push(row("encoded writes", Seen::WholeFile, by(&[Encoded])));
        }
        _ => {}
    }
    let names = [InstantiateNew, Instantiate, Move, Exchange, Unlink, Rmdir];
    let attributes = [Setattr, Setxattr, Removexattr, SetAcl, RemoveAcl, Fileattr];
    rows.push(row("names", Seen::Entry, by(&names)));
    rows.push(row("attributes", Seen::Entry, by(&attributes)));
    rows
}

fn overlay() -> Vec<Row> {
    vec![row("every change", Seen::Blocks, "as the file system of the upper directory, see there")]
}

fn scanned() -> Vec<Row> {
    vec![
        row(
            "size, times or inode differ, new and lost names",
            Seen::WholeFile,
            "looked at once a second, after a syncfs",
        ),
        row("content under equal size, times and inode", Seen::Partly, "there is nothing that tells"),
    ]
}

fn limits(name: &str, moves: bool) -> Vec<&'static str> {
    const DEVICE: &str = "writes to the block device below it";
    match name {
        "ext4" if !moves => {
            vec![DEVICE, "EXT4_IOC_MOVE_EXT (online defragmentation) by programs that change content with it"]
        }
        "overlay" => vec!["changes of a lower layer, which overlayfs does not allow while it is mounted"],
        "tmpfs" => Vec::new(),
        "ext4" | "xfs" | "btrfs" => vec![DEVICE],
        _ => vec!["what other hosts write to a network file system, until the next look"],
    }
}

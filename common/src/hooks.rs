//! The hooks of the tracepoint back end: one list, used to attach, to decide which file systems can be protected, and to explain.

/// What a hook reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A folio of a file became dirty: range of the folio.
    Dirty,
    /// The range of a buffered write, also into what is dirty already; or that a mapping is made. Without them whole folios are marked.
    Write,
    /// A direct write begins, or completed.
    Direct,
    /// A range operation that needs no dirty folio.
    Range,
    /// A change time was set: covers names, attributes and everything without a hook of its own.
    Tick,
}

/// Which file systems cannot be protected without a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serves {
    /// Every one.
    All,
    /// This one only.
    One(Fs),
}

impl Serves {
    /// Whether `fs` is among them.
    #[must_use]
    pub fn needs(self, fs: Fs) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == fs,
        }
    }
}

/// File systems whose changes the tracepoint back end can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fs {
    /// ext4 (and its driver's ext2 and ext3).
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// tmpfs: no ranges, content is compared whole.
    Tmpfs,
}

impl Fs {
    /// The file system of this name in a mount table, if it is known here.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "ext4" | "ext3" | "ext2" => Self::Ext4,
            "xfs" => Self::Xfs,
            "btrfs" => Self::Btrfs,
            "tmpfs" => Self::Tmpfs,
            _ => return None,
        })
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }
}

/// One program and the tracepoint it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the kernel object.
    pub program: &'static str,
    /// Name of the raw tracepoint.
    pub tracepoint: &'static str,
    /// What it reports.
    pub role: Role,
    /// Which file systems need it.
    pub serves: Serves,
    /// Why it is needed.
    pub why: &'static str,
}

macro_rules! hooks {
    ($($id:ident $program:literal $tracepoint:literal $role:ident $serves:expr, $why:literal;)+) => {
        /// Position of each hook in `HOOKS`, for its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum HookId {
            $(
                #[doc = $why]
                $id
            ),+
        }
        /// Every hook, in the order of `HookId`.
        pub const HOOKS: &[Hook] = &[$(Hook {
            program: $program,
            tracepoint: $tracepoint,
            role: Role::$role,
            serves: $serves,
            why: $why,
        }),+];
    };
}

const EXT4: Serves = Serves::One(Fs::Ext4);
const XFS: Serves = Serves::One(Fs::Xfs);

hooks! {
    DirtyFolio "dirty_folio" "writeback_dirty_folio" Dirty Serves::All,
        "buffered writes, mapped stores and every other way through the page cache";
    DioBegin "dio_begin" "iomap_dio_rw_begin" Direct Serves::All,
        "range of a direct write, and whether it is one";
    DioComplete "dio_complete" "iomap_dio_complete" Direct Serves::All,
        "the moment from which a direct write can be read back";
    CtimeSet "ctime_set" "inode_set_ctime_to_ts" Tick Serves::All,
        "names, attributes, size, and content without a range hook";
    CtimeXchg "ctime_xchg" "ctime_ns_xchg" Tick Serves::All,
        "as inode_set_ctime_to_ts, when the time stored is a fine-grained one";
    CtimeSkip "ctime_skip" "ctime_xchg_skip" Tick Serves::All,
        "as inode_set_ctime_to_ts, when the time did not move";
    Ext4Fallocate "ext4_fallocate" "ext4_fallocate_enter" Range EXT4,
        "fallocate dirties no folio";
    Ext4Punch "ext4_punch" "ext4_punch_hole" Range EXT4,
        "an aligned punch dirties no folio";
    Ext4Zero "ext4_zero" "ext4_zero_range" Range EXT4,
        "an aligned zero range dirties no folio";
    Ext4Collapse "ext4_collapse" "ext4_collapse_range" Range EXT4,
        "moves everything behind the offset";
    Ext4Insert "ext4_insert" "ext4_insert_range" Range EXT4,
        "moves everything behind the offset";
    Ext4Truncate "ext4_truncate" "ext4_truncate_exit" Range EXT4,
        "content behind the new size is gone, also when the file grows again";
    Ext4Remap "ext4_remap" "ext4_es_remove_extent" Range EXT4,
        "content that changes by other blocks being mapped, without a dirty folio: exchanged extents, a swapped boot loader";
    XfsRemap "xfs_remap" "xfs_reflink_remap_range" Range XFS,
        "a clone replaces content without a dirty folio";
    XfsExchange "xfs_exchange" "xfs_exchrange_mappings" Range XFS,
        "exchanges content of two files";
    XfsSwap "xfs_swap" "xfs_swap_extent_after" Range XFS,
        "exchanges content of two files";
    XfsCollapse "xfs_collapse" "xfs_collapse_file_space" Range XFS,
        "moves everything behind an offset";
    XfsInsert "xfs_insert" "xfs_insert_file_space" Range XFS,
        "moves everything behind an offset";
    XfsFree "xfs_free" "xfs_free_file_space" Range XFS,
        "a punch dirties no folio";
    XfsZero "xfs_zero" "xfs_zero_file_space" Range XFS,
        "an aligned zero range dirties no folio";
    XfsTruncate "xfs_truncate" "xfs_itruncate_extents_start" Range XFS,
        "content behind the new size is gone, also when the file grows again";
    Ext4Write "ext4_write" "ext4_write_end" Write EXT4,
        "what a buffered write has written of a large folio, where nothing is allocated later";
    Ext4DaWrite "ext4_da_write" "ext4_da_write_end" Write EXT4,
        "what a buffered write has written of a large folio";
    Ext4JournalledWrite "ext4_journalled" "ext4_journalled_write_end" Write EXT4,
        "that a file has its data journalled by now, and becomes dirty in another way";
    XfsWrite "xfs_write" "xfs_file_buffered_write" Write XFS,
        "what a buffered write is about to write of large folios";
    Mapping "mapping" "ma_write" Write Serves::All,
        "a mapping through which a dirty folio can be stored to without an event";
}

/// The counter cell of a hook.
#[must_use]
#[inline(always)]
pub const fn counter_cell(hook: HookId) -> u32 {
    crate::maps::counter::HOOK_BASE + hook as u32
}

#[cfg(test)]
mod tests {
    use super::HOOKS;

    #[test]
    fn names_are_unique() {
        for (at, hook) in HOOKS.iter().enumerate() {
            for other in &HOOKS[at + 1..] {
                assert_ne!(hook.program, other.program);
                assert_ne!(hook.tracepoint, other.tracepoint);
            }
        }
    }

    #[test]
    fn program_names_fit_the_kernel_which_cuts_at_fifteen_bytes() {
        for hook in HOOKS {
            assert!(hook.program.len() <= 15, "{}", hook.program);
        }
    }
}

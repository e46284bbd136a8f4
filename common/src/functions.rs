//! Kernel functions that the fentry and kprobe back ends hook in addition to the tracepoints. One list, used to attach, to
//! check prototypes against BTF, and to explain. The kernel object has the marks of each hook under the same name.

/// At which end of a function its hook marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// On entry only: the change is done already, or a reader waits for a lock that the caller holds.
    Entry,
    /// After the change. By kprobe also on entry; in between the change stays in INFLIGHT, so that a missed return leaves
    /// it marked instead of losing it.
    Exit,
}

/// How a function is hooked by the fentry back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By fentry or fexit, else by kprobe.
    Either,
    /// By kprobe only: it is in a module, or has more arguments than trampolines of old kernels support.
    Probe,
}

/// Whether capture works without a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No volume can be protected without it.
    Required,
    /// It is attached if the kernel has it.
    Optional,
}

/// One hooked function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Name of the kernel function.
    pub name: &'static str,
    /// At which end.
    pub when: When,
    /// By what.
    pub by: By,
    /// Whether it must be there.
    pub need: Need,
    /// A tracepoint that replaces it if the kernel has it; empty: none.
    pub unless: &'static str,
    /// Position and struct of the pointer arguments that are read; checked against BTF.
    pub arguments: &'static [(usize, &'static str)],
    /// Program for fentry (`When::Entry`) or fexit (`When::Exit`).
    pub trampoline: &'static str,
    /// Program for kprobe.
    pub probe: &'static str,
    /// Program for kretprobe, with `When::Exit`.
    pub probe_return: &'static str,
    /// Why it is needed.
    pub why: &'static str,
}

macro_rules! functions {
    ($($id:ident $stem:literal $name:literal $when:ident $by:ident $need:ident $unless:literal [$($at:literal $of:literal),*] $why:literal;)+) => {
        /// Position of each function in `FUNCTIONS`, for its counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum FunctionId {
            $(
                #[doc = $why]
                $id
            ),+
        }
        /// Every hooked function, in the order of `FunctionId`.
        pub const FUNCTIONS: &[Function] = &[$(Function {
            name: $name,
            when: When::$when,
            by: By::$by,
            need: Need::$need,
            unless: $unless,
            arguments: &[$(($at, $of)),*],
            trampoline: concat!("f_", $stem),
            probe: concat!("p_", $stem),
            probe_return: concat!("r_", $stem),
            why: $why,
        }),+];
    };
}

functions! {
    Setattr "setattr" "notify_change" Exit Either Required "" [1 "dentry", 2 "iattr"]
        "mode, owner, times and size";
    Fallocate "fallocate" "vfs_fallocate" Exit Either Required "" [0 "file"]
        "punch, zero, collapse and insert dirty no folio";
    ShmemFallocate "shmem_falloc" "shmem_fallocate" Exit Either Optional "inode_set_ctime_to_ts" [0 "file"]
        "a discard on a loop device calls it past the function above";
    BtrfsFallocate "btrfs_falloc" "btrfs_fallocate" Exit Probe Optional "inode_set_ctime_to_ts" [0 "file"]
        "the same on btrfs; ext4 and XFS have tracepoints for it";
    Clone "clone" "vfs_clone_file_range" Exit Either Required "" [2 "file"]
        "a clone replaces content without a dirty folio";
    Copy "copy" "vfs_copy_file_range" Exit Either Required "" [2 "file"]
        "a copy may be a clone";
    Setxattr "setxattr" "__vfs_setxattr_noperm" Exit Either Required "" [1 "dentry"]
        "extended attributes";
    Removexattr "removexattr" "__vfs_removexattr_locked" Exit Either Required "" [1 "dentry"]
        "extended attributes";
    SetAcl "set_acl" "vfs_set_acl" Exit Either Optional "" [1 "dentry"]
        "access lists, since 6.2 by a way of their own";
    RemoveAcl "remove_acl" "vfs_remove_acl" Exit Either Optional "" [1 "dentry"]
        "access lists, since 6.2 by a way of their own";
    Fileattr "fileattr" "vfs_fileattr_set" Exit Either Optional "" [1 "dentry"]
        "inode flags";
    Instantiate "instantiate" "d_instantiate" Entry Either Required "" [0 "dentry", 1 "inode"]
        "a new name";
    InstantiateNew "instant_new" "d_instantiate_new" Entry Either Required "" [0 "dentry", 1 "inode"]
        "a new name";
    Move "move" "d_move" Entry Either Required "" [0 "dentry", 1 "dentry"]
        "a name that moved";
    Exchange "exchange" "d_exchange" Entry Either Required "" [0 "dentry", 1 "dentry"]
        "names that changed places";
    Unlink "unlink" "vfs_unlink" Entry Either Required "" [1 "inode", 2 "dentry"]
        "a removed name";
    Rmdir "rmdir" "vfs_rmdir" Entry Either Required "" [1 "inode", 2 "dentry"]
        "a removed directory";
    TmpfsDirty "tmpfs_dirty" "noop_dirty_folio" Entry Either Optional "" [0 "address_space", 1 "folio"]
        "tmpfs has no tracepoint for dirty folios; here it also has their range";
    DioRw "dio_rw" "__iomap_dio_rw" Entry Probe Required "iomap_dio_rw_begin" [0 "kiocb", 1 "iov_iter"]
        "range of a direct write, before 6.12 without a tracepoint";
    DioDone "dio_done" "iomap_dio_complete" Exit Probe Required "iomap_dio_complete" [0 "iomap_dio"]
        "the moment from which a direct write can be read back, before 6.12 without a tracepoint";
    CtimeCurrent "ctime_current" "inode_set_ctime_current" Entry Probe Optional "inode_set_ctime_to_ts" [0 "inode"]
        "the catch-all of 6.6 to 6.12: whatever sets a change time";
    MoveSource "move_source" "ext4_move_extents" Exit Probe Optional "" [0 "file"]
        "exchanges content of two files, without any change time";
    MoveDonor "move_donor" "ext4_move_extents" Exit Probe Optional "" [1 "file"]
        "exchanges content of two files, without any change time";
    Encoded "encoded" "btrfs_do_encoded_write" Exit Probe Optional "" [0 "kiocb"]
        "compressed content written as it is";
    Write "write" "generic_write_checks" Entry Either Optional "inode_set_ctime_to_ts" [0 "kiocb"]
        "every write, also to pages that are dirty already, while an instant is looked for";
    WriteFault "write_fault" "file_update_time" Entry Either Optional "inode_set_ctime_to_ts" [0 "file"]
        "the first store to a page through a mapping, also to one that is dirty already, while an instant is looked for";
}

impl FunctionId {
    /// The function.
    #[must_use]
    pub const fn get(self) -> &'static Function {
        &FUNCTIONS[self as usize]
    }
}

/// The counter cell of a function.
#[must_use]
#[inline(always)]
pub const fn counter_cell(function: FunctionId) -> u32 {
    crate::maps::counter::HOOK_BASE + crate::hooks::HOOKS.len() as u32 + function as u32
}

// Every hook has its own cell among the counters.
const _: () = {
    let hooks = crate::hooks::HOOKS.len() + FUNCTIONS.len();
    assert!(crate::maps::counter::HOOK_BASE as usize + hooks <= crate::maps::counter::CELLS as usize);
};

#[cfg(test)]
mod tests {
    use super::FUNCTIONS;
    use crate::hooks::HOOKS;

    #[test]
    fn program_names_are_unique_and_fit_the_kernel_which_cuts_at_fifteen_bytes() {
        let names = || FUNCTIONS.iter().flat_map(|f| [f.trampoline, f.probe, f.probe_return]);
        let all = || names().chain(HOOKS.iter().map(|hook| hook.program));
        for name in all() {
            assert!(name.len() <= 15, "{name}");
            assert_eq!(all().filter(|other| *other == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn every_hook_reads_at_least_one_checked_argument() {
        for function in FUNCTIONS {
            assert!(!function.arguments.is_empty(), "{}", function.name);
        }
    }
}

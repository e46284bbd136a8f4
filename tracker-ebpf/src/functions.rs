//! The programs on functions: for each entry of `common::functions` one for the trampoline and one or two for probes, all
//! calling the same function of `calls`. User space loads those that the back end needs.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use common::functions::FunctionId;

use crate::calls;

macro_rules! entries {
    ($($id:ident $trampoline:ident $probe:ident $name:literal $marks:path;)+) => {
        $(
            #[fentry(function = $name)]
            pub(crate) fn $trampoline(ctx: FEntryContext) -> Option<()> {
                $marks(&ctx, FunctionId::$id)
            }
            #[kprobe(function = $name)]
            pub(crate) fn $probe(ctx: ProbeContext) -> Option<()> {
                $marks(&ctx, FunctionId::$id)
            }
        )+
    };
}

macro_rules! exits {
    ($($id:ident $trampoline:ident $probe:ident $probe_return:ident $name:literal $change:path;)+) => {
        $(
            #[fexit(function = $name)]
            pub(crate) fn $trampoline(ctx: FExitContext) -> Option<()> {
                calls::apply(&$change(&ctx)?, FunctionId::$id);
                Some(())
            }
            #[kprobe(function = $name)]
            pub(crate) fn $probe(ctx: ProbeContext) -> Option<()> {
                calls::enter(&$change(&ctx)?, FunctionId::$id);
                Some(())
            }
            #[kretprobe(function = $name)]
            pub(crate) fn $probe_return(_: RetProbeContext) -> u32 {
                calls::leave(FunctionId::$id);
                0
            }
        )+
    };
}

exits! {
    Setattr f_setattr p_setattr r_setattr "notify_change" calls::setattr;
    Fallocate f_fallocate p_fallocate r_fallocate "vfs_fallocate" calls::fallocate;
    ShmemFallocate f_shmem_falloc p_shmem_falloc r_shmem_falloc "shmem_fallocate" calls::fallocate;
    BtrfsFallocate f_btrfs_falloc p_btrfs_falloc r_btrfs_falloc "btrfs_fallocate" calls::fallocate;
    Clone f_clone p_clone r_clone "vfs_clone_file_range" calls::copy;
    Copy f_copy p_copy r_copy "vfs_copy_file_range" calls::copy;
    Setxattr f_setxattr p_setxattr r_setxattr "__vfs_setxattr_noperm" calls::attributes;
    Removexattr f_removexattr p_removexattr r_removexattr "__vfs_removexattr_locked" calls::attributes;
    SetAcl f_set_acl p_set_acl r_set_acl "vfs_set_acl" calls::attributes;
    RemoveAcl f_remove_acl p_remove_acl r_remove_acl "vfs_remove_acl" calls::attributes;
    Fileattr f_fileattr p_fileattr r_fileattr "vfs_fileattr_set" calls::attributes;
    DioDone f_dio_done p_dio_done r_dio_done "iomap_dio_complete" calls::dio_done;
    MoveSource f_move_source p_move_source r_move_source "ext4_move_extents" calls::exchanged::<0>;
    MoveDonor f_move_donor p_move_donor r_move_donor "ext4_move_extents" calls::exchanged::<1>;
    Encoded f_encoded p_encoded r_encoded "btrfs_do_encoded_write" calls::encoded;
}

entries! {
    Instantiate f_instantiate p_instantiate "d_instantiate" calls::instantiate;
    InstantiateNew f_instant_new p_instant_new "d_instantiate_new" calls::instantiate;
    Move f_move p_move "d_move" calls::moved;
    Exchange f_exchange p_exchange "d_exchange" calls::moved;
    Unlink f_unlink p_unlink "vfs_unlink" calls::removed;
    Rmdir f_rmdir p_rmdir "vfs_rmdir" calls::removed;
    TmpfsDirty f_tmpfs_dirty p_tmpfs_dirty "noop_dirty_folio" calls::tmpfs_dirty;
    DioRw f_dio_rw p_dio_rw "__iomap_dio_rw" calls::dio_rw;
    CtimeCurrent f_ctime_current p_ctime_current "inode_set_ctime_current" calls::ctime_current;
    Write f_write p_write "generic_write_checks" calls::written;
    WriteFault f_write_fault p_write_fault "file_update_time" calls::write_fault;
}

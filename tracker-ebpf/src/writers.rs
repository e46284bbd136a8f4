//! Who changes a volume, by cgroup.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use common::{
    limits,
    maps::{WriterKey, counter, ctrl, writer},
};

use crate::{
    atomic, kernel,
    maps::{self, WRITERS, count},
    record::NO_REPLACE,
};

/// Whether the current task is one of the daemon that looks for instants.
#[inline(always)]
pub(crate) fn is_daemon() -> bool {
    bpf_get_current_pid_tgid() >> 32 == maps::control(ctrl::DAEMON)
}

/// Counts a change of the current task.
#[inline(always)]
pub(crate) fn written_by(slot: u32) {
    // Not the files that belong to no volume: nobody asks who writes them.
    if slot == limits::SLOT_OF_NONE {
        return;
    }
    // What it changes are files of its own, for its self-test.
    if is_daemon() {
        return;
    }
    // SAFETY: a helper without arguments.
    let mut cgroup = unsafe { bpf_get_current_cgroup_id() };
    if cgroup == writer::ROOT && kernel::is_kernel_thread() {
        cgroup = writer::KERNEL;
    }
    let key = WriterKey::new(slot, cgroup);
    if let Some(at) = WRITERS.get_ptr_mut(key) {
        // SAFETY: a pointer the map just gave.
        unsafe { atomic::add(at, 1) };
    } else if WRITERS.insert(key, 1, NO_REPLACE).is_err() {
        // Another CPU may have been faster, and one change is missing then. Only who writes most is asked.
        if WRITERS.get_ptr(key).is_none() {
            count(counter::WRITERS_FULL);
        }
    }
}

//! A capture in operation: what this process holds of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::back_end::BackEnd;
use super::error::CaptureError;
use super::find::Known;
use super::keeper::Keeper;
use super::log;
use super::owner::Words;
use super::pin_files::{link_path, program_path};
use super::retired::Drained;
use super::sys::{self, Grace, Table};
use super::tables::{Maps, open_pin};

/// Values of the last health check.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) misses: std::collections::HashMap<&'static str, u64>,
    pub(super) counted: std::collections::HashMap<u32, u64>,
}

/// One attached program.
#[derive(Debug)]
pub(super) struct Attached {
    /// Name of the program.
    pub(super) name: &'static str,
    pub(super) program: OwnedFd,
    pub(super) link: OwnedFd,
    /// The program's id when it was opened.
    pub(super) id: u32,
}

/// A capture in operation: see the module.
///
/// If it is pinned, dropping it leaves the programs attached and marking; `detach` ends both.
#[derive(Debug)]
pub struct Capture {
    pub(super) pin_dir: PathBuf,
    pub(super) back_end: BackEnd,
    /// Whether the pins stay. Without pins, only this process keeps programs and maps alive.
    pub(super) pinned: bool,
    pub(super) maps: Maps,
    pub(super) attached: Vec<Attached>,
    pub(super) grace: Grace,
    /// Number of possible CPUs; a per-CPU value has one copy for each.
    pub(super) cpus: usize,
    /// The program that tells whether a file is mapped.
    pub(super) mapped_now: OwnedFd,
    /// The program that tells whether a file's writes are marked exactly.
    pub(super) exact_now: OwnedFd,
    /// The program that sets the slot of a watched inode.
    pub(super) set_slot: OwnedFd,
    /// How many marks had found no room at all before the last swap.
    pub(super) overflows: u64,
    /// How many marks had been inserted before the last swap into maps by block and by inode, if it was known then that the set
    /// that it gave to programs was empty.
    pub(super) inserted: Option<[u64; 2]>,
    /// What the last look found in the set that programs write.
    pub(super) known: Known,
    /// The same of the retired set, from before the swap that once gave it to programs: inserted marks, and those that found no room.
    pub(super) given: Option<([u64; 2], u64)>,
    /// Whether the retired set is known to be empty.
    pub(super) cleared: bool,
    /// Keys of the retired set that were read and not yet cleared.
    pub(super) drained: Drained,
    pub(super) seen: Seen,
    pub(super) _log: Option<log::Pump>,
    /// Renews the lease, if there is one.
    pub(super) keeper: Option<Keeper>,
    /// The record of the owner, if there is one.
    pub(super) owner: Option<Table<u32, Words>>,
}

impl Attached {
    /// Opens the pins of a program.
    pub(super) fn open(pin_dir: &Path, name: &'static str) -> Result<Self, CaptureError> {
        let link = open_pin(&link_path(pin_dir, name))?;
        let path = program_path(pin_dir, name);
        let program = open_pin(&path)?;
        let info = sys::program_info(program.as_fd());
        let id = info.map_err(|source| CaptureError::File { what: "program information of", path, source })?.id;
        Ok(Self { name, program, link, id })
    }
}

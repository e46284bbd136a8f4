//! The operations, in the order of the page.

mod attributes;
mod mapped;
mod names;
mod places;
mod ranges;
mod special;
mod uring;
mod writes;

use std::fs;
use std::io;

use super::{By, Cell, Fs, Op, Promise, Rule, SIZE, bytes};

/// Every operation.
#[must_use]
pub fn all() -> Vec<&'static Op> {
    let groups =
        [writes::OPS, uring::OPS, mapped::OPS, ranges::OPS, special::OPS, names::OPS, attributes::OPS, places::OPS];
    groups.into_iter().flatten().collect()
}

/// The file `f`.
fn file(cell: &mut Cell) -> io::Result<()> {
    fs::write(cell.path("f"), bytes(1, SIZE as usize))
}

/// The file `f`, and `source` outside of the tree.
fn two(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    fs::write(cell.out("source"), bytes(2, SIZE as usize))
}

/// A directory `sub` with a file `leaf`.
fn directory(cell: &mut Cell) -> io::Result<()> {
    fs::create_dir(cell.path("sub"))?;
    fs::write(cell.path("sub/leaf"), bytes(3, 5000))
}

/// Nothing but the cell's own directory.
fn empty(_: &mut Cell) -> io::Result<()> {
    Ok(())
}

/// The operation does not exist on these file systems.
const fn absent(on: &'static [Fs], reason: &'static str) -> Rule {
    Rule { on, by: By::Any, promise: Promise::Absent(reason) }
}

/// What it does on these file systems may be missed.
const fn unseen(on: &'static [Fs], by: By, reason: &'static str) -> Rule {
    Rule { on, by, promise: Promise::NotPromised(reason) }
}

/// Every file system but ext4, xfs and btrfs alone have an operation of their own.
const NOT_EXT4: &[Fs] = &[Fs::Xfs, Fs::Btrfs, Fs::Overlay, Fs::OverlayXfs, Fs::OverlayVolatile, Fs::Tmpfs];
const NOT_XFS: &[Fs] = &[Fs::Ext4, Fs::Btrfs, Fs::Overlay, Fs::OverlayXfs, Fs::OverlayVolatile, Fs::Tmpfs];
const NOT_BTRFS: &[Fs] = &[Fs::Ext4, Fs::Xfs, Fs::Overlay, Fs::OverlayXfs, Fs::OverlayVolatile, Fs::Tmpfs];
const NO_OVERLAY: &[Fs] = &[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs];
const TMPFS: &[Fs] = &[Fs::Tmpfs];
const EVERY: &[Fs] = &super::COLUMNS;

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

use super::{By, Cell, Kind, Op, Promise, Rule, SIZE, bytes};

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

/// The file `f`, and `source` outside the tree.
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
const fn absent(on: &'static [Kind], reason: &'static str) -> Rule {
    Rule { on, by: By::Any, promise: Promise::Absent(reason) }
}

/// Its changes on these file systems may be missed.
const fn unseen(on: &'static [Kind], by: By, reason: &'static str) -> Rule {
    Rule { on, by, promise: Promise::NotPromised(reason) }
}

/// Every file system but ext4, xfs and btrfs alone have an operation of their own.
const NOT_EXT4: &[Kind] =
    &[Kind::Xfs, Kind::Btrfs, Kind::Overlay, Kind::OverlayXfs, Kind::OverlayVolatile, Kind::Tmpfs];
const NOT_XFS: &[Kind] =
    &[Kind::Ext4, Kind::Btrfs, Kind::Overlay, Kind::OverlayXfs, Kind::OverlayVolatile, Kind::Tmpfs];
const NOT_BTRFS: &[Kind] =
    &[Kind::Ext4, Kind::Xfs, Kind::Overlay, Kind::OverlayXfs, Kind::OverlayVolatile, Kind::Tmpfs];
const NO_OVERLAY: &[Kind] = &[Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs];
const TMPFS: &[Kind] = &[Kind::Tmpfs];

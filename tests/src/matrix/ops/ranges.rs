//! Changes of ranges that need no dirty page: fallocate in all its modes, truncation, clones, dedupe.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags as Mode, fallocate, ioctl_ficlone};

use super::super::{Cell, Kind, Op, Rule, SIZE, bytes};
use super::{TMPFS, absent, file, two};
use crate::raw_calls::ioctl;

/// `FICLONERANGE` and `FIDEDUPERANGE` of `linux/fs.h`.
const CLONE_RANGE: u64 = 0x4020_940d;
const DEDUPE_RANGE: u64 = 0xc018_9436;

const NO_SHIFT: &[Rule] = &[
    absent(TMPFS, "tmpfs has no such mode of `fallocate`"),
    absent(&[Kind::Btrfs], "btrfs has no such mode of `fallocate`"),
];
const NO_ZERO: &[Rule] = &[absent(TMPFS, "tmpfs has no such mode of `fallocate`")];
const NO_CLONE: &[Rule] =
    &[absent(&[Kind::Ext4, Kind::Overlay, Kind::OverlayVolatile, Kind::Tmpfs], "the file system shares no blocks")];

/// tmpfs returns EINTR if the task has pending work, which io_uring creates for the completions of finished cells.
fn allocate(cell: &Cell, mode: Mode, start: u64, len: u64) -> io::Result<()> {
    let file = cell.open()?;
    Ok(rustix::io::retry_on_intr(|| fallocate(&file, mode, start, len))?)
}

fn punch() -> Mode {
    Mode::PUNCH_HOLE | Mode::KEEP_SIZE
}

fn source(cell: &Cell) -> io::Result<File> {
    File::open(cell.out("source"))
}

fn clone_range(cell: &Cell, from: u64, to: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let source = source(cell)?;
    ioctl(&cell.open()?, CLONE_RANGE, &mut [source.as_raw_fd() as u64, from, len, to]).map(drop)
}

/// Two files with the same content.
fn equal(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    fs::write(cell.out("source"), bytes(1, SIZE as usize))
}

pub(super) const OPS: &[Op] = &[
    Op::new("fallocate", "`fallocate` behind the end", file, |cell, _| allocate(cell, Mode::empty(), SIZE, 65_536)),
    Op::new("fallocate-keep", "`fallocate` with `KEEP_SIZE`, then a write there", file, |cell, _| {
        allocate(cell, Mode::KEEP_SIZE, SIZE, 65_536)?;
        cell.open()?.write_all_at(&bytes(51, 100), SIZE + 5000)
    }),
    Op::new("punch", "punch, aligned", file, |cell, _| allocate(cell, punch(), 65_536, 65_536)),
    Op::new("punch-unaligned", "punch, unaligned", file, |cell, _| allocate(cell, punch(), 65_636, 20_000)),
    Op::new("punch-write", "a write, then a punch elsewhere before the flush", file, |cell, _| {
        cell.open()?.write_all_at(&bytes(52, 100), 5)?;
        allocate(cell, punch(), 131_072, 65_536)
    }),
    Op::new("zero", "zero range, aligned", file, |cell, _| allocate(cell, Mode::ZERO_RANGE, 65_536, 65_536))
        .rules(NO_ZERO),
    Op::new("zero-unaligned", "zero range, unaligned", file, |cell, _| allocate(cell, Mode::ZERO_RANGE, 65_636, 300))
        .rules(NO_ZERO),
    Op::new("zero-keep", "zero range over the end with `KEEP_SIZE`", file, |cell, _| {
        allocate(cell, Mode::ZERO_RANGE | Mode::KEEP_SIZE, SIZE - 65_536, 131_072)
    })
    .rules(NO_ZERO),
    Op::new("collapse", "collapse range", file, |cell, _| allocate(cell, Mode::COLLAPSE_RANGE, 65_536, 65_536))
        .rules(NO_SHIFT),
    Op::new("insert", "insert range", file, |cell, _| allocate(cell, Mode::INSERT_RANGE, 65_536, 65_536))
        .rules(NO_SHIFT),
    Op::new(
        "unshare",
        "unshare range of a clone: same content",
        |cell| {
            two(cell)?;
            Ok(ioctl_ficlone(cell.open()?, source(cell)?)?)
        },
        |cell, _| allocate(cell, Mode::UNSHARE_RANGE, 0, 65_536),
    )
    .rules(NO_CLONE),
    Op::new("truncate-down", "`truncate`, down", file, |cell, _| {
        let path = std::ffi::CString::new(cell.path("f").into_os_string().into_encoded_bytes())?;
        crate::raw_calls::truncate(&path, 100_001)
    }),
    Op::new("ftruncate-down", "`ftruncate`, down", file, |cell, _| cell.open()?.set_len(100_001)),
    Op::new("ftruncate-up", "`ftruncate`, up", file, |cell, _| cell.open()?.set_len(SIZE + 100_000)),
    Op::new("truncate-down-up", "down to the middle of a block and up again", file, |cell, _| {
        cell.open()?.set_len(100_001)?;
        cell.open()?.set_len(SIZE)
    }),
    Op::new(
        "truncate-down-up-aligned",
        "down to the end of a block and up again: nothing is zeroed",
        file,
        |cell, _| {
            cell.open()?.set_len(131_072)?;
            cell.open()?.set_len(SIZE)
        },
    ),
    Op::new("write-truncate-up", "a write, then down and up again, before the flush", file, |cell, _| {
        let file = cell.open()?;
        file.write_all_at(&bytes(53, 5000), 40_960)?;
        file.set_len(131_072)?;
        file.set_len(SIZE)
    }),
    Op::new("open-truncate", "`open` with `O_TRUNC`", file, |cell, _| File::create(cell.path("f")).map(drop)),
    Op::new("clone", "`FICLONE` over a file of the same size, its times set back", two, |cell, _| {
        let file = cell.open()?;
        let times = fs::metadata(cell.path("f"))?.modified()?;
        ioctl_ficlone(&file, source(cell)?)?;
        file.set_modified(times)
    })
    .rules(NO_CLONE),
    Op::new("clone-range", "`FICLONERANGE`", two, |cell, _| clone_range(cell, 0, 65_536, 65_536)).rules(NO_CLONE),
    Op::new("clone-to-end", "`FICLONERANGE` of length 0: to the end of the source", two, |cell, _| {
        clone_range(cell, 65_536, 65_536, 0)
    })
    .rules(NO_CLONE),
    Op::new("dedupe", "`FIDEDUPERANGE`: same content", equal, |cell, _| {
        use std::os::fd::AsRawFd;
        let target = cell.open()?;
        // Source offset and length, one target; its descriptor, offset, bytes done, status.
        let mut words = [0, 65_536, 1, target.as_raw_fd() as u64, 0, 0, 0];
        ioctl(&source(cell)?, DEDUPE_RANGE, &mut words)?;
        match words[6] as u32 as i32 {
            0 if words[5] == 65_536 => Ok(()),
            0 => Err(io::Error::other(format!("{} bytes deduplicated", words[5]))),
            status => Err(io::Error::from_raw_os_error(-status)),
        }
    })
    .rules(NO_CLONE),
];

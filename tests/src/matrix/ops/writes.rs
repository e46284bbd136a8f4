//! Writes by system calls: buffered, direct, kernel AIO, and from other files and pipes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use rustix::io::ReadWriteFlags;

use super::super::{Cell, Op, SIZE, bytes};
use super::{TMPFS, absent, file, two};
use crate::raw_calls::{sendfile, splice};
use crate::raw_io::{Pages, SlowSource, aio_write};

pub(super) const OFF: u64 = 40_960;
pub(super) const LEN: usize = 5000;
const NO_DIRECT: &[super::Rule] = &[absent(TMPFS, "tmpfs keeps files in memory alone: a direct write is a plain one")];

const STALLED: &[super::Rule] =
    &[NO_DIRECT[0], absent(&[super::Kind::Btrfs], "btrfs writes files with checksums through the page cache")];

pub(super) fn at_offset(cell: &Cell) -> io::Result<File> {
    let mut file = cell.open()?;
    file.seek(SeekFrom::Start(OFF))?;
    Ok(file)
}

fn page(byte: u8) -> Pages<8192> {
    Pages([byte; 8192])
}

fn whole(written: usize, len: usize) -> io::Result<()> {
    if written == len { Ok(()) } else { Err(io::Error::other(format!("{written} bytes of {len}"))) }
}

fn copy(cell: &Cell, from: u64, to: u64, len: usize) -> io::Result<()> {
    let (source, target) = (File::open(cell.out("source"))?, cell.open()?);
    let (mut from, mut to) = (from, to);
    whole(rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len)?, len)
}

/// A direct write that waits for its second page until `fill`.
fn stall(cell: &mut Cell) -> io::Result<()> {
    let source = Arc::new(SlowSource::new(b'n')?);
    let (file, reader) = (cell.direct()?, Arc::clone(&source));
    let writer = std::thread::spawn(move || file.write_at(reader.bytes(), OFF));
    source.wait()?;
    cell.slow = Some((source, writer));
    Ok(())
}

fn resume(cell: &mut Cell) -> io::Result<()> {
    let (source, writer) = cell.slow.take().ok_or_else(|| io::Error::other("no write waits"))?;
    source.fill(b'n')?;
    whole(writer.join().map_err(|_| io::Error::other("the writer panicked"))??, 8192)
}

pub(super) const OPS: &[Op] = &[
    Op::new("write", "`write`", file, |cell, _| at_offset(cell)?.write_all(&bytes(11, LEN))),
    Op::new("pwrite", "`pwrite`", file, |cell, _| cell.open()?.write_all_at(&bytes(12, LEN), OFF)),
    Op::new("pwrite-one-byte", "`pwrite` of one byte", file, |cell, _| cell.open()?.write_all_at(b"!", OFF + 7)),
    Op::new("pwrite-again", "`pwrite` of the same block before and after a flush", file, |cell, round| {
        cell.open()?.write_all_at(&bytes(13 + round as u64, LEN), OFF)
    })
    .rounds(2),
    Op::new("writev", "`writev`", file, |cell, _| {
        let data = bytes(14, LEN);
        let (one, two) = data.split_at(LEN / 2);
        whole(at_offset(cell)?.write_vectored(&[IoSlice::new(one), IoSlice::new(two)])?, LEN)
    }),
    Op::new("pwritev2", "`pwritev2`", file, |cell, _| {
        let data = bytes(15, LEN);
        let (one, two) = data.split_at(LEN / 2);
        let parts = [IoSlice::new(one), IoSlice::new(two)];
        whole(rustix::io::pwritev2(cell.open()?, &parts, OFF, ReadWriteFlags::empty())?, LEN)
    }),
    Op::new("rwf-append", "`pwritev2` with `RWF_APPEND`", file, |cell, _| {
        let data = bytes(16, LEN);
        whole(rustix::io::pwritev2(cell.open()?, &[IoSlice::new(&data)], 0, ReadWriteFlags::APPEND)?, LEN)
    }),
    Op::new("append", "`write` with `O_APPEND`, by two openers in turn", file, |cell, _| {
        let open = || OpenOptions::new().append(true).open(cell.path("f"));
        let (mut one, mut two) = (open()?, open()?);
        one.write_all(&bytes(17, LEN))?;
        two.write_all(&bytes(18, LEN))
    }),
    Op::new("write-dsync", "`pwrite` with `O_DSYNC`", file, |cell, _| {
        let file = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(cell.path("f"))?;
        file.write_all_at(&bytes(19, LEN), OFF)
    }),
    Op::new(
        "write-sparse-end",
        "one byte at the end of a sparse file of 1 TiB",
        |cell| File::create(cell.path("f"))?.set_len(1 << 40),
        |cell, _| cell.open()?.write_all_at(b"!", (1 << 40) - 1),
    )
    .marks_only("an oracle that reads a tebibyte does not end"),
    Op::new("rewrite", "truncation on opening, then the same length anew", file, |cell, _| {
        fs::write(cell.path("f"), bytes(20, SIZE as usize))
    }),
    Op::new("direct-write", "`pwrite` with `O_DIRECT`", file, |cell, _| {
        cell.direct()?.write_all_at(&page(b'd').0, OFF)
    })
    .rules(NO_DIRECT),
    Op::new("direct-write-beyond", "`pwrite` with `O_DIRECT` behind a hole behind the end", file, |cell, _| {
        cell.direct()?.write_all_at(&page(b'd').0, SIZE + 8192)
    })
    .rules(NO_DIRECT),
    Op::new("direct-write-stalled", "`pwrite` with `O_DIRECT` that a flush overtakes half way", file, |cell, round| {
        if round == 0 { stall(cell) } else { resume(cell) }
    })
    .rounds(2)
    .rules(STALLED)
    .marks_only("a flush may wait for the writer"),
    Op::new("aio-write", "kernel AIO", file, |cell, _| aio_write(&cell.open()?, &bytes(21, LEN), OFF)),
    Op::new("aio-direct", "kernel AIO with `O_DIRECT`", file, |cell, _| aio_write(&cell.direct()?, &page(b'a').0, OFF))
        .rules(NO_DIRECT),
    Op::new("sendfile", "`sendfile`", two, |cell, _| {
        sendfile(&at_offset(cell)?, &File::open(cell.out("source"))?, LEN)
    }),
    Op::new("splice", "`splice` from a pipe", file, |cell, _| splice(&cell.open()?, &bytes(22, LEN), OFF, false)),
    Op::new("vmsplice", "`vmsplice` with gifted pages, then `splice`", file, |cell, _| {
        splice(&cell.open()?, &page(b'v').0[..LEN], OFF, true)
    }),
    Op::new("copy-range", "`copy_file_range`, unaligned", two, |cell, _| copy(cell, 100, OFF, LEN)),
    Op::new("copy-range-aligned", "`copy_file_range`, aligned", two, |cell, _| copy(cell, 0, 65_536, 65_536)),
];

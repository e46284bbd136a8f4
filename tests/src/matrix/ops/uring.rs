//! Everything that io_uring can do to a file or a name, without a separate system call.

use std::fs;
use std::path::Path;

use super::super::{Op, bytes};
use super::attributes::ATTRIBUTE;
use super::writes::{LEN, OFF};
use super::{TMPFS, absent, directory, file};
use crate::raw_calls::{Request, Way, uring, uring_write};
use crate::raw_io::Pages;

const NO_DIRECT: &[super::Rule] = &[absent(TMPFS, "tmpfs keeps files in memory alone: a direct write is a plain one")];
/// `FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE`.
const PUNCH: i32 = 3;

pub(super) const OPS: &[Op] = &[
    Op::new("uring-write", "io_uring write", file, |cell, _| {
        uring_write(&cell.open()?, &bytes(31, LEN), OFF, Way::Plain)
    }),
    Op::new("uring-worker", "io_uring write by a kernel worker", file, |cell, _| {
        uring_write(&cell.open()?, &bytes(32, LEN), OFF, Way::Worker)
    }),
    Op::new("uring-fixed-buffer", "io_uring write from a registered buffer", file, |cell, _| {
        uring_write(&cell.open()?, &bytes(33, LEN), OFF, Way::FixedBuffer)
    }),
    Op::new("uring-poll", "io_uring write by the polling thread", file, |cell, _| {
        uring_write(&cell.open()?, &bytes(34, LEN), OFF, Way::Poll)
    }),
    Op::new("uring-poll-fixed-file", "io_uring write to a registered file by the polling thread", file, |cell, _| {
        uring_write(&cell.open()?, &bytes(35, LEN), OFF, Way::PollFixedFile)
    }),
    Op::new("uring-direct", "io_uring write with `O_DIRECT`", file, |cell, _| {
        uring_write(&cell.direct()?, &Pages([b'u'; 8192]).0, OFF, Way::Plain)
    })
    .rules(NO_DIRECT),
    Op::new("uring-direct-worker", "io_uring write with `O_DIRECT` by a kernel worker", file, |cell, _| {
        uring_write(&cell.direct()?, &Pages([b'w'; 8192]).0, OFF, Way::Worker)
    })
    .rules(NO_DIRECT),
    Op::new("uring-truncate", "io_uring truncate, down", file, |cell, _| {
        uring(Request::Truncate(&cell.open()?, 100_001))
    }),
    Op::new("uring-punch", "io_uring fallocate: punch", file, |cell, _| {
        uring(Request::Allocate(&cell.open()?, PUNCH, 65_536, 65_536))
    }),
    Op::new("uring-open-truncate", "io_uring open with `O_TRUNC`", file, |cell, _| {
        uring(Request::Open(&cell.path("f"), libc::O_WRONLY | libc::O_TRUNC))
    }),
    Op::new("uring-create", "io_uring open with `O_CREAT`", file, |cell, _| {
        uring(Request::Open(&cell.path("new"), libc::O_WRONLY | libc::O_CREAT))
    }),
    Op::new("uring-rename", "io_uring rename", file, |cell, _| {
        uring(Request::Rename(&cell.path("f"), &cell.path("g")))
    }),
    Op::new("uring-link", "io_uring link", file, |cell, _| uring(Request::Link(&cell.path("f"), &cell.path("h")))),
    Op::new("uring-symlink", "io_uring symlink", file, |cell, _| {
        uring(Request::Symlink(Path::new("f"), &cell.path("s")))
    }),
    Op::new("uring-mkdir", "io_uring mkdir", file, |cell, _| uring(Request::MakeDirectory(&cell.path("d")))),
    Op::new("uring-unlink", "io_uring unlink", file, |cell, _| uring(Request::Unlink(&cell.path("f")))),
    Op::new("uring-setxattr", "io_uring setxattr", file, |cell, _| {
        uring(Request::SetAttribute(&cell.path("f"), ATTRIBUTE, b"v"))
    }),
    Op::new("uring-fsetxattr", "io_uring fsetxattr", file, |cell, _| {
        uring(Request::SetAttributeOf(&cell.open()?, ATTRIBUTE, b"v"))
    }),
    Op::new("uring-rename-directory", "io_uring rename of a directory, then a write below it", directory, |cell, _| {
        uring(Request::Rename(&cell.path("sub"), &cell.path("moved")))?;
        fs::write(cell.path("moved/leaf"), bytes(36, 5000))
    }),
];

//! Names: created, removed, moved, linked, by every system call.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, linkat, mknodat, renameat_with};

use super::super::{Cell, OVERLAYS, Op, SIZE, bytes};
use super::{absent, directory, empty, file};

fn rename_with(cell: &Cell, from: &str, to: &Path, flags: RenameFlags) -> io::Result<()> {
    Ok(renameat_with(CWD, cell.path(from), CWD, to, flags)?)
}

/// `f` and `g`.
fn pair(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    fs::write(cell.path("g"), bytes(71, 9000))
}

/// A directory `sub` in the tree, a directory `other` outside.
fn directories(cell: &mut Cell) -> io::Result<()> {
    directory(cell)?;
    fs::create_dir_all(cell.out("other/deep"))?;
    fs::write(cell.out("other/deep/leaf"), bytes(72, 7000))
}

fn outside(cell: &mut Cell) -> io::Result<()> {
    fs::write(cell.out("f"), bytes(73, 9000))
}

/// `f` has a second name outside the tree.
fn linked(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    fs::hard_link(cell.path("f"), cell.out("f"))
}

fn node(cell: &Cell, name: &str, kind: FileType, device: u64) -> io::Result<()> {
    Ok(mknodat(CWD, cell.path(name), kind, Mode::from_raw_mode(0o600), device)?)
}

pub(super) const OPS: &[Op] = &[
    Op::new("create", "`open` with `O_CREAT`, and a write", empty, |cell, _| {
        fs::write(cell.path("new"), bytes(74, 9000))
    }),
    Op::new("create-again", "a new file, written before and after a flush", empty, |cell, round| {
        let mut file = OpenOptions::new().create(true).append(true).open(cell.path("new"))?;
        file.write_all(&bytes(75 + round as u64, 9000))
    })
    .rounds(3),
    Op::new("create-removed", "created, written, removed before the flush", file, |cell, _| {
        fs::write(cell.path("new"), b"short-lived")?;
        fs::remove_file(cell.path("new"))
    }),
    Op::new("mkdir", "`mkdir`", empty, |cell, _| fs::create_dir(cell.path("d"))),
    Op::new("mkdir-deep", "directories in each other, with a file", empty, |cell, _| {
        fs::create_dir_all(cell.path("a/b/c"))?;
        fs::write(cell.path("a/b/c/leaf"), bytes(79, 5000))
    }),
    Op::new("mkfifo", "`mknod` of a fifo", empty, |cell, _| node(cell, "fifo", FileType::Fifo, 0)),
    Op::new("mknod-device", "`mknod` of a device", empty, |cell, _| {
        node(cell, "null", FileType::CharacterDevice, rustix::fs::makedev(1, 3))
    }),
    Op::new("socket", "a socket bound to a name", empty, |cell, _| {
        // The path is too long for a socket's address: use the directory's descriptor.
        use std::os::fd::AsRawFd;
        let dir = File::open(&cell.dir)?;
        std::os::unix::net::UnixListener::bind(format!("/proc/self/fd/{}/socket", dir.as_raw_fd())).map(drop)
    }),
    Op::new("symlink", "`symlink`", empty, |cell, _| symlink("f", cell.path("s"))),
    Op::new("link", "`link`", file, |cell, _| fs::hard_link(cell.path("f"), cell.path("h"))),
    Op::new("unlink", "`unlink`", file, |cell, _| fs::remove_file(cell.path("f"))),
    Op::new("rmdir", "`rmdir`", |cell| fs::create_dir(cell.path("d")), |cell, _| fs::remove_dir(cell.path("d"))),
    Op::new("rename", "`rename`", file, |cell, _| fs::rename(cell.path("f"), cell.path("g"))),
    Op::new("rename-write", "`rename`, then a write by the old descriptor", file, |cell, _| {
        let file = cell.open()?;
        fs::rename(cell.path("f"), cell.path("g"))?;
        file.write_all_at(&bytes(80, 100), 5)
    }),
    Op::new("rename-over", "`rename` over another file", pair, |cell, _| fs::rename(cell.path("f"), cell.path("g"))),
    Op::new("save", "an editor's way: write a new file, rename it over the old", file, |cell, round| {
        fs::write(cell.path("f.new"), bytes(81 + round as u64, 9000))?;
        fs::rename(cell.path("f.new"), cell.path("f"))
    })
    .rounds(2),
    Op::new("rename-noreplace", "`renameat2` with `RENAME_NOREPLACE`", file, |cell, _| {
        rename_with(cell, "f", &cell.path("g"), RenameFlags::NOREPLACE)
    }),
    Op::new("exchange", "`renameat2` with `RENAME_EXCHANGE`", pair, |cell, _| {
        rename_with(cell, "f", &cell.path("g"), RenameFlags::EXCHANGE)
    }),
    Op::new(
        "exchange-outside",
        "`RENAME_EXCHANGE` of a directory with one outside of the tree",
        directories,
        |cell, _| rename_with(cell, "sub", &cell.out("other"), RenameFlags::EXCHANGE),
    ),
    Op::new("whiteout", "`renameat2` with `RENAME_WHITEOUT`", file, |cell, _| {
        rename_with(cell, "f", &cell.path("g"), RenameFlags::WHITEOUT)
    })
    .rules(&[absent(OVERLAYS, "whiteouts are what an overlay is made of: it does not let itself be given any")]),
    Op::new("rename-directory", "`rename` of a directory, then a write below it", directory, |cell, _| {
        fs::rename(cell.path("sub"), cell.path("moved"))?;
        super::super::open(&cell.path("moved/leaf"))?.write_all_at(b"below", 10)
    }),
    Op::new(
        "move-in",
        "a directory moves into the tree, and is written below before and after a flush",
        directories,
        |cell, round| {
            if round == 0 {
                fs::rename(cell.out("other"), cell.path("other"))?;
            }
            super::super::open(&cell.path("other/deep/leaf"))?.write_all_at(&bytes(83 + round as u64, 50), 100)
        },
    )
    .rounds(2),
    Op::new("move-out-in", "out of the tree, written there, and back", file, |cell, _| {
        fs::rename(cell.path("f"), cell.out("f"))?;
        super::super::open(&cell.out("f"))?.write_all_at(&bytes(85, 5000), 40_960)?;
        fs::rename(cell.out("f"), cell.path("f"))
    }),
    Op::new("move-out", "a directory leaves the tree", directory, |cell, _| {
        fs::rename(cell.path("sub"), cell.out("sub"))
    }),
    Op::new(
        "link-in",
        "a file outside gets a name in the tree, and is written by the other name before and after a flush",
        outside,
        |cell, round| {
            if round == 0 {
                fs::hard_link(cell.out("f"), cell.path("f"))?;
            }
            super::super::open(&cell.out("f"))?.write_all_at(&bytes(86 + round as u64, 500), 100)
        },
    )
    .rounds(2),
    Op::new("write-by-outside-name", "a write by a name outside of the tree", linked, |cell, _| {
        super::super::open(&cell.out("f"))?.write_all_at(&bytes(88, 5000), 40_960)
    }),
    Op::new("tmpfile-link", "`O_TMPFILE`, written, then `linkat`", empty, |cell, round| {
        use std::os::fd::AsRawFd;
        let options =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(&cell.dir)?;
        options.write_all_at(&bytes(89 + round as u64, 9000), 0)?;
        let name = format!("/proc/self/fd/{}", options.as_raw_fd());
        Ok(linkat(CWD, name, CWD, cell.path(&format!("t{round}")), AtFlags::SYMLINK_FOLLOW)?)
    })
    .rounds(2),
    Op::new("inode-reuse", "`unlink`, and a new file that may get the same inode", file, |cell, round| {
        fs::remove_file(cell.path("f"))?;
        fs::write(cell.path("f"), bytes(91 + round as u64, SIZE as usize / 2))
    })
    .rounds(2),
    Op::new("strange-names", "a name of 255 bytes, and one that is no text", empty, |cell, _| {
        use std::os::unix::ffi::OsStrExt;
        fs::write(cell.dir.join("n".repeat(255)), b"long")?;
        fs::write(cell.dir.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n")), b"bytes")
    }),
];

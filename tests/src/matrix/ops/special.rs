//! Writers inside the kernel, and ioctls of single file systems that move content without a write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use super::super::{Cell, Op, SIZE, bytes};
use super::{NOT_BTRFS, NOT_EXT4, NOT_XFS, absent, file, two};
use crate::raw_calls::{accounting, ioctl};

/// `EXT4_IOC_MOVE_EXT`, `XFS_IOC_EXCHANGE_RANGE`, `XFS_IOC_SWAPEXT`, `BTRFS_IOC_ENCODED_WRITE`.
const MOVE_EXTENTS: u64 = 0xc028_660f;
const EXCHANGE_RANGE: u64 = 0x4028_5881;
const SWAP_EXTENTS: u64 = 0xc0c0_586d;
const ENCODED_WRITE: u64 = 0x4080_9440;

fn command(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(args).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(io::Error::other(format!("{program} {args:?}: {}", text(&output.stderr))))
}

/// A loop device over the file `f`, as long as `with` runs.
fn looped(cell: &Cell, with: fn(&str) -> io::Result<()>) -> io::Result<()> {
    let path: PathBuf = cell.path("f");
    let device = command("losetup", &["-f", "--show", &path.display().to_string()])?;
    let done = with(&device);
    command("losetup", &["-d", &device])?;
    done
}

/// The last exiting process makes the kernel write its record into `f`.
fn account(cell: &Cell) -> io::Result<()> {
    accounting(Some(&cell.path("f")))?;
    let done = Command::new("true").status();
    accounting(None)?;
    done.map(drop)
}

/// `f` in the tree and `donor` beside it, both written back.
fn donor(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    fs::write(cell.path("donor"), bytes(61, SIZE as usize))?;
    open_donor(cell)?.sync_all()?;
    cell.open()?.sync_all()
}

fn open_donor(cell: &Cell) -> io::Result<File> {
    super::super::open(&cell.path("donor"))
}

/// `struct xfs_swapext` with the times that the kernel compares.
fn swap_extents(cell: &Cell) -> io::Result<()> {
    let (target, other) = (cell.open()?, open_donor(cell)?);
    let meta = target.metadata()?;
    let mut words = [0u64; 24];
    (words[1], words[2], words[4]) = (target.as_raw_fd() as u64, other.as_raw_fd() as u64, SIZE);
    // `struct xfs_bstat` from word 7 on: modification time in its bytes 56.., change time in 72...
    words[7] = meta.ino();
    (words[7 + 7], words[7 + 8]) = (meta.mtime() as u64, meta.mtime_nsec() as u64);
    (words[7 + 9], words[7 + 10]) = (meta.ctime() as u64, meta.ctime_nsec() as u64);
    ioctl(&target, SWAP_EXTENTS, &mut words).map(drop)
}

/// One block of zstd, written encoded at the start of the file.
fn encoded(cell: &Cell) -> io::Result<()> {
    const ZSTD: u64 = 2;
    let plain = vec![b'e'; 8192];
    let packed = zstd_frame(&plain);
    let vector = [packed.as_ptr() as u64, packed.len() as u64];
    let mut words = [0u64; 16];
    (words[0], words[1]) = (vector.as_ptr() as u64, 1);
    // Offset and flags 0; length in the file, length of the plain bytes, offset in them, compression and encryption.
    (words[4], words[5], words[6], words[7]) = (8192, 8192, 0, ZSTD);
    ioctl(&cell.open()?, ENCODED_WRITE, &mut words).map(drop)
}

/// The smallest frame of equal bytes: a header with the content's size, and one run-length block.
fn zstd_frame(plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60];
    out.extend((plain.len() as u16 - 256).to_le_bytes());
    let header = 1 | 1 << 1 | (plain.len() as u32) << 3;
    out.extend(&header.to_le_bytes()[..3]);
    out.push(plain[0]);
    out
}

pub(super) const OPS: &[Op] = &[
    Op::new("accounting", "process accounting writes from inside the kernel", file, |cell, _| account(cell)),
    Op::new("core-dump", "a core dump", core_dump_setup, |cell, _| core_dump(cell)),
    Op::new("loop-write", "a write to a loop device over the file", file, |cell, _| {
        looped(cell, |device| {
            let device = OpenOptions::new().write(true).open(device)?;
            device.write_all_at(&bytes(62, 8192), 40_960)?;
            device.sync_all()
        })
    }),
    Op::new("loop-discard", "a discard on a loop device over the file", file, |cell, _| {
        looped(cell, |device| command("blkdiscard", &["-o", "65536", "-l", "65536", device]).map(drop))
    }),
    Op::new("move-extents", "`EXT4_IOC_MOVE_EXT`: exchange with a donor", donor, |cell, _| {
        let (target, donor) = (cell.open()?, open_donor(cell)?);
        // Reserved and donor; first blocks of both; count; moved.
        let mut words = [(donor.as_raw_fd() as u64) << 32, 4, 4, 8, 0];
        ioctl(&target, MOVE_EXTENTS, &mut words)?;
        // Otherwise the donor's old pages stay in memory, and hide its new content.
        for file in [&target, &donor] {
            file.sync_data()?;
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        if words[4] == 8 { Ok(()) } else { Err(io::Error::other(format!("{} blocks moved", words[4]))) }
    })
    .rules(&[absent(NOT_EXT4, "an operation of ext4")]),
    Op::new("exchange-range", "`XFS_IOC_EXCHANGE_RANGE`", donor, |cell, _| {
        let (target, other) = (cell.open()?, open_donor(cell)?);
        let mut words = [other.as_raw_fd() as u64, 65_536, 65_536, 65_536, 0];
        ioctl(&target, EXCHANGE_RANGE, &mut words).map(drop)
    })
    .rules(&[absent(NOT_XFS, "an operation of XFS")]),
    Op::new("swap-extents", "`XFS_IOC_SWAPEXT`", donor, |cell, _| swap_extents(cell))
        .rules(&[absent(NOT_XFS, "an operation of XFS")]),
    Op::new("encoded-write", "`BTRFS_IOC_ENCODED_WRITE`", file, |cell, _| encoded(cell))
        .rules(&[absent(NOT_BTRFS, "an operation of btrfs")]),
    Op::new("defragment", "`BTRFS_IOC_DEFRAG`: same content", file, |cell, _| {
        ioctl(&cell.open()?, 0x5000_9402, &mut [0; 512]).map(drop)
    })
    .rules(&[absent(NOT_BTRFS, "an operation of btrfs")]),
    Op::new(
        "direct-nodatacow",
        "direct write to a file without checksums (`chattr +C`)",
        |cell| {
            File::create(cell.path("f"))?;
            command("chattr", &["+C", &cell.path("f").display().to_string()])?;
            cell.open()?.write_all_at(&bytes(63, SIZE as usize), 0)
        },
        |cell, _| cell.direct()?.write_all_at(&crate::raw_io::Pages([b'c'; 8192]).0, 40_960),
    )
    .rules(&[absent(NOT_BTRFS, "an operation of btrfs")]),
];

fn core_dump_setup(cell: &mut Cell) -> io::Result<()> {
    two(cell)
}

/// A process that aborts in the cell's directory; if cores go elsewhere, there is none.
fn core_dump(cell: &Cell) -> io::Result<()> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    if pattern.starts_with(['|', '/']) {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Command::new("sh").args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(&cell.dir).output()?;
    let cores =
        fs::read_dir(&cell.dir)?.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("core"));
    if cores.count() == 1 { Ok(()) } else { Err(io::Error::other("no core was dumped")) }
}

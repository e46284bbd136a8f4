//! The same files reached in other ways: bind mounts, mount namespaces, lower layers of an overlay, subvolumes.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::super::{By, Cell, Kind, Op, Rule, SIZE, bytes, open};
use super::{NO_OVERLAY, NOT_BTRFS, absent, directory, empty, file, unseen};
use crate::raw_io::Mapping;

const OVERLAYS_ALONE: &[Rule] = &[absent(NO_OVERLAY, "an operation of overlays")];
const SUBVOLUME: &[Rule] = &[
    absent(NOT_BTRFS, "an operation of btrfs"),
    unseen(&[Kind::Btrfs], By::Any, "what lies in another subvolume is not part of the volume; `status` names it"),
];

fn succeeds(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// A file in the lower layer, with a directory beside it.
fn lower(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir.join("sub"))?;
    fs::write(dir.join("f"), bytes(101, SIZE as usize))?;
    fs::write(dir.join("sub/leaf"), bytes(102, 5000))
}

fn subvolume(cell: &Cell, name: &str) -> io::Result<()> {
    succeeds(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(cell.path(name)))
}

pub(super) const OPS: &[Op] = &[
    Op::new("bind-mount", "a write through a bind mount", file, |cell, _| {
        let point = cell.out("point");
        fs::create_dir(&point)?;
        mount_bind(&cell.dir, &point)?;
        let done = open(&point.join("f")).and_then(|file| file.write_all_at(&bytes(103, 5000), 40_960));
        unmount(&point, UnmountFlags::DETACH)?;
        done?;
        fs::write(cell.path("after"), b"after")
    }),
    Op::new("mount-namespace", "writes, names and modes from another mount namespace", directory, |cell, _| {
        let script = "mount --bind \"$1\" \"$2\" && cd \"$2\" && echo inside > sub/new && chmod 700 sub && mv sub/leaf leaf && echo more >> leaf";
        fs::create_dir(cell.out("point"))?;
        let mut command = Command::new("unshare");
        succeeds(command.args(["-m", "sh", "-ec", script, "sh"]).arg(&cell.dir).arg(cell.out("point")))
    }),
    Op::new("copy-up-write", "a write to a file of the lower layer, before and after a flush", empty, |cell, round| {
        cell.open()?.write_all_at(&bytes(104 + round as u64, 5000), 40_960)
    })
    .rounds(2)
    .below(lower)
    .rules(OVERLAYS_ALONE),
    Op::new("copy-up-chmod", "`chmod` of a file of the lower layer", empty, |cell, _| {
        fs::set_permissions(cell.path("f"), fs::Permissions::from_mode(0o600))
    })
    .below(lower)
    .rules(OVERLAYS_ALONE),
    Op::new("copy-up-map", "a store through a mapping of a file of the lower layer", empty, |cell, round| {
        Mapping::new(&cell.open()?, SIZE as usize)?.store(40_967, b'A' + round as u8);
        Ok(())
    })
    .rounds(2)
    .below(lower)
    .rules(OVERLAYS_ALONE),
    Op::new("copy-up-truncate", "truncation of a file of the lower layer", empty, |cell, _| {
        cell.open()?.set_len(100_001)
    })
    .below(lower)
    .rules(OVERLAYS_ALONE),
    Op::new("copy-up-rename", "`rename` of a file of the lower layer", empty, |cell, _| {
        fs::rename(cell.path("f"), cell.path("sub/g"))
    })
    .below(lower)
    .rules(OVERLAYS_ALONE),
    Op::new("lower-unlink", "`unlink` of a file of the lower layer", empty, |cell, _| fs::remove_file(cell.path("f")))
        .below(lower)
        .rules(OVERLAYS_ALONE),
    Op::new("lower-rmdir", "a directory of the lower layer is removed and made anew", empty, |cell, _| {
        fs::remove_dir_all(cell.path("sub"))?;
        fs::create_dir(cell.path("sub"))
    })
    .below(lower)
    .rules(OVERLAYS_ALONE),
    Op::new("subvolume-create", "a new subvolume in the tree", file, |cell, _| {
        subvolume(cell, "s")?;
        fs::write(cell.path("s/f"), bytes(106, 5000))
    })
    .rules(SUBVOLUME),
    Op::new(
        "subvolume-write",
        "a write to a subvolume in the tree",
        |cell| {
            subvolume(cell, "s")?;
            fs::write(cell.path("s/f"), bytes(107, 9000))
        },
        |cell, _| open(&cell.path("s/f"))?.write_all_at(b"below", 100),
    )
    .rules(SUBVOLUME),
    Op::new("snapshot", "a snapshot of a subvolume, made outside of the tree: nothing changes", file, |cell, _| {
        let made = subvolume(cell, "../../outside/snapshot/s");
        made?;
        succeeds(Command::new("btrfs").args(["-q", "subvolume", "snapshot"]).arg(cell.out("s")).arg(cell.out("t")))
    })
    .rules(&[absent(NOT_BTRFS, "an operation of btrfs")]),
];

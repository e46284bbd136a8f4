//! Eligibility: whether a capture's marks would show all changes of a source.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::source::{FsType, SourceRoot};
use crate::volume::selftest::changes::real_dir;

/// The name of a file system as the capture knows it.
fn fs_name(fs: FsType) -> &'static str {
    match fs {
        FsType::Ext4 => "ext4",
        FsType::Xfs => "xfs",
        FsType::Btrfs => "btrfs",
        FsType::Tmpfs => "tmpfs",
        FsType::Overlay => "overlay",
        FsType::Other(_) => "other",
    }
}

/// Name of the file system whose inodes appear in the marks of a source.
pub(crate) fn marked_fs(root: &SourceRoot) -> &'static str {
    let upper = root.upper().filter(|upper| upper.reachable()).and_then(|upper| upper.fs());
    fs_name(upper.unwrap_or(root.fs()))
}

/// Checks that the marks of a capture would show all changes of a source. `supported`: what the capture says of a file
/// system.
///
/// # Errors
/// What is missing.
pub(crate) fn can_be_marked(
    supported: impl FnOnce(&str) -> Result<(), Vec<&'static str>>,
    root: &SourceRoot,
) -> Result<(), Vec<&'static str>> {
    let fs = marked_fs(root);
    supported(fs)?;
    if keeps_content_in_inodes(root) { Err(vec![IN_INODES]) } else { Ok(()) }
}

/// Why such a file system is scanned.
pub(crate) const IN_INODES: &str = "its inline_data feature keeps small files where no hook sees a write to them";

/// `EXT4_INLINE_DATA_FL` of `fs/ext4/ext4.h`.
const INLINE_DATA: u32 = 0x1000_0000;

/// Whether the file system of a source keeps the content of small files in their inodes (ext4 with `inline_data`), where no
/// hook sees a write. False if no file can be created to find out.
pub(crate) fn keeps_content_in_inodes(root: &SourceRoot) -> bool {
    if marked_fs(root) != "ext4" {
        return false;
    }
    let made = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(real_dir(root));
    let Ok(file) = made else { return false };
    file.write_all_at(b"x", 0).is_ok()
        && rustix::fs::ioctl_getflags(&file).is_ok_and(|flags| flags.bits() & INLINE_DATA != 0)
}

//! What is known of a mount that is not in the kernel's list.

use std::path::PathBuf;

use engine::model::Dev;

use super::fs_type::FsType;
use crate::mountinfo::Mount;

/// What can be said without mountinfo: the device, if the file system numbers its inodes per superblock, so that `st_dev`
/// (major << 32 | minor here) is the superblock's.
pub(super) fn unlisted(id: u64, fs: FsType, device: Dev) -> Option<Mount> {
    let fs_type = match fs {
        FsType::Ext4 => "ext4",
        FsType::Xfs => "xfs",
        FsType::Tmpfs => "tmpfs",
        FsType::Btrfs | FsType::Overlay | FsType::Other(_) => return None,
    };
    let nowhere = PathBuf::new();
    let (root, mount_point, options) = (nowhere.clone(), nowhere, Vec::new());
    Some(Mount { id, kernel_dev: device, root, mount_point, fs_type: fs_type.into(), options, listed: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_line_the_device_is_known_where_it_is_the_superblocks() {
        let mount = unlisted(7, FsType::Ext4, Dev::new(254, 3).unwrap()).unwrap();
        assert_eq!((mount.id, mount.kernel_dev, mount.listed), (7, Dev::new(254, 3).unwrap(), false));
        for fs in [FsType::Btrfs, FsType::Overlay] {
            assert_eq!(unlisted(7, fs, Dev::of_kernel(45)), None, "{fs:?}");
        }
    }
}

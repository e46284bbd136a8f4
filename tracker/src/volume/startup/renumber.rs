//! After another mount: whether the inode numbers in the catalog are still valid, and if not, finding the files by name.

use engine::flush::rebind::{is_void, rebind};
use engine::model::{Ino, Kind};

use crate::volume::clock::boot_id;
use crate::volume::world::{VolumeWorld, WorldError};

/// Name of the note of the mount and the boot to which the inode numbers in the catalog belong.
const NUMBERS_OF: &str = "inode numbers of";

/// Whether inode numbers from the mount `known` are valid in `now`. A mount that cannot be identified counts as another
/// one.
fn numbers_hold(known: Option<&str>, now: Option<&str>) -> bool {
    known.is_some() && known == now
}

impl VolumeWorld {
    /// Binds files without a lasting inode to what is at their names, unless the mount is the one for which the numbers
    /// were noted. The root is bound already. Returns whether anything had to be bound; then all of it counts as changed.
    ///
    /// `rebuilt`: the catalog was rebuilt from the store.
    pub(crate) fn renumber(&mut self, rebuilt: bool) -> Result<bool, WorldError> {
        let mount = self.root.facts(boot_id().as_deref())?.mount;
        let known = self.catalog.note(NUMBERS_OF)?;
        let mut bound = false;
        if rebuilt || (!numbers_hold(known.as_deref(), mount.as_deref()) && self.catalog.has_void_inodes()?) {
            tracing::info!("inode numbers are of another mount: files are found by name and compared by content");
            // A file of a rebuilt catalog stays without an inode: the file at its name counts as new, with this one as its
            // base.
            let found = rebind(self, |record| match record.meta.kind {
                Kind::Dir => is_void(record.inode),
                _ => is_void(record.inode) && record.inode.ino != Ino::NONE,
            })?;
            tracing::debug!(found, "files were found by name");
            bound = true;
        }
        // Only now: an interrupted walk must be repeated.
        self.catalog.set_note(NUMBERS_OF, mount.as_deref().unwrap_or_default())?;
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::numbers_hold;

    #[test]
    fn numbers_hold_in_the_very_mount_they_are_of() {
        assert!(numbers_hold(Some("boot 1"), Some("boot 1")));
        assert!(!numbers_hold(Some("boot 1"), Some("boot 2")));
        assert!(!numbers_hold(Some("other 1"), Some("boot 1")));
        assert!(!numbers_hold(None, Some("boot 1")), "a catalog of an older version");
        assert!(!numbers_hold(Some(""), None), "a kernel that does not tell");
        assert!(!numbers_hold(None, None));
    }
}

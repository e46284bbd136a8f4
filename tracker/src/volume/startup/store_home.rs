//! Opens the store of a volume for writing. A new store is created; one that was used before must exist.
//!
//! If a disk is not mounted, its directory is empty or absent. Taken for a new store, it would be filled on the wrong disk,
//! and the volume started over. So the state directory remembers which local stores it has committed to.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::format::keys;

use crate::catalog::Catalog;
use crate::config::VolumeConfig;
use crate::store::error::AWAY;
use crate::store::{self, ErrorKind, Make, Op, Prefixed, Store, StoreError, StoreOptions, StoreUrl, probe};

/// Name of the file with the local stores that were used, one per line.
const USED: &str = "stores";

/// What may be created of an absent local directory. `known`: the volume has committed there. `used`: some volume of this
/// state directory has. `create`: the operator allows the whole path to be created.
fn what_to_make(known: bool, used: bool, create: bool) -> Make {
    match (known, used, create) {
        (true, _, _) | (false, true, false) => Make::Nothing,
        (false, _, true) => Make::Parents,
        (false, false, false) => Make::Last,
    }
}

/// Opens the store of `config` for writing.
///
/// # Errors
/// As [`store::open_for_writing`], and `StoreAbsent` with the code [`AWAY`] where this state directory has committed to a
/// local store that is absent or empty now.
pub(crate) fn open_for_writing(
    config: &VolumeConfig,
    catalog: &Catalog,
    state: &Path,
) -> Result<Arc<dyn Store>, StoreError> {
    probe::admit(found(config, is_known(config, catalog)?, state)?, config.options.single_writer)
}

/// Asks the store of `config` for one object, so that a wrong name or key is reported before anything is attached to the
/// kernel.
///
/// # Errors
/// As [`open_for_writing`], except those that only writing shows.
pub(crate) fn look(config: &VolumeConfig, state: &Path) -> Result<(), StoreError> {
    let location = Catalog::location(state, &config.name);
    // A catalog that cannot be opened is reported by the code that needs it.
    let known = match Catalog::open(&location) {
        Ok(catalog) => is_known(config, &catalog)?,
        Err(_) => false,
    };
    Prefixed::new(found(config, known, state)?, &config.name)?.exists(keys::FORMAT).map(|_| ())
}

/// Whether the volume has committed from this state directory.
fn is_known(config: &VolumeConfig, catalog: &Catalog) -> Result<bool, StoreError> {
    let failed = |error| StoreError::new(Op::Open, &config.store.to_string(), ErrorKind::Transient).with(error);
    Ok(catalog.volume_id().map_err(failed)?.is_some())
}

/// Finds the store at its place. An absent or empty directory is no store for a volume that is `known`.
fn found(config: &VolumeConfig, known: bool, state: &Path) -> Result<Arc<dyn Store>, StoreError> {
    let used = known || is_used(state, &config.store);
    let make = what_to_make(known, used, config.options.create);
    let options = StoreOptions { make, single_writer: config.options.single_writer, ..StoreOptions::default() };
    let away = || StoreError::new(Op::Open, &config.store.to_string(), ErrorKind::StoreAbsent).code(AWAY);
    let store = match store::open(&config.store, &options) {
        Err(error) if error.kind == ErrorKind::StoreAbsent && used && config.store.local().is_some() => {
            return Err(away().detail("the directory is not there, though this host has committed to it"));
        }
        opened => opened?,
    };
    // Before the probe, which writes.
    if make == Make::Nothing && config.store.local().is_some() && store.list("", None)?.entries.is_empty() {
        return Err(away().detail("the directory is empty, though this host has committed to it"));
    }
    Ok(store)
}

/// Records that a volume of this state directory uses `store`, so that it is never taken for a new one.
pub(crate) fn remember(state: &Path, store: &StoreUrl) -> std::io::Result<()> {
    if store.local().is_none() || is_used(state, store) {
        return Ok(());
    }
    let mut file = OpenOptions::new().create(true).append(true).open(list(state))?;
    file.write_all(format!("{}\n", line(store)).as_bytes())?;
    file.sync_data()
}

fn list(state: &Path) -> PathBuf {
    state.join(USED)
}

/// A store in one line, whatever characters its path has.
fn line(store: &StoreUrl) -> String {
    store.to_string().escape_default().to_string()
}

fn is_used(state: &Path, store: &StoreUrl) -> bool {
    // A list that cannot be read names no store: then only the volume's own catalog tells.
    let used = std::fs::read_to_string(list(state)).unwrap_or_default();
    used.lines().any(|used| used == line(store))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Allow, VolumeOptions};

    #[test]
    fn what_was_used_is_never_made() {
        for create in [false, true] {
            assert_eq!(what_to_make(true, true, create), Make::Nothing, "a volume's history is not begun anew");
        }
        assert_eq!(what_to_make(false, true, false), Make::Nothing);
        assert_eq!(what_to_make(false, true, true), Make::Parents, "a new volume, and a person said so");
        assert_eq!(what_to_make(false, false, false), Make::Last);
        assert_eq!(what_to_make(false, false, true), Make::Parents);
    }

    struct Home {
        dir: tempfile::TempDir,
        catalog: Catalog,
    }

    impl Home {
        fn new() -> Home {
            let dir = tempfile::tempdir().unwrap();
            let catalog = Catalog::create(&dir.path().join("state/c.db")).unwrap();
            Home { dir, catalog }
        }

        fn at(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn open(&self, store: &str, create: bool) -> Result<Arc<dyn Store>, StoreError> {
            let config = VolumeConfig {
                name: "v".into(),
                source: "/src".into(),
                store: StoreUrl::Local(self.at(store)),
                options: VolumeOptions { create, ..VolumeOptions::default() },
                allow: Allow::default(),
            };
            open_for_writing(&config, &self.catalog, &self.at("state"))
        }

        #[track_caller]
        fn is_away(&self, store: &str) {
            let error = self.open(store, false).err().expect("the store is away");
            assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::StoreAbsent, Some(AWAY)), "{error}");
            assert!(error.hint().contains("mount"), "{}", error.hint());
        }
    }

    #[test]
    fn a_store_below_nothing_needs_a_word() {
        let home = Home::new();
        let error = home.open("mnt/disk/store", false).err().expect("no parent");
        assert_eq!(error.kind, ErrorKind::StoreAbsent);
        assert!(error.hint().contains("--create"), "{}", error.hint());
        assert!(!home.at("mnt").exists(), "nothing was made");
        home.open("mnt/disk/store", true).unwrap();
        home.open("new", false).unwrap();
        assert!(home.at("new").is_dir() && home.at("mnt/disk/store").is_dir());
    }

    #[test]
    fn an_empty_mount_point_is_no_store_that_was_used() {
        let home = Home::new();
        let url = StoreUrl::Local(home.at("store"));
        home.open("store", false).unwrap().create("v/format", bytes::Bytes::from_static(b"x")).unwrap();
        for _ in 0..2 {
            remember(&home.at("state"), &url).unwrap();
        }
        assert_eq!(std::fs::read_to_string(home.at("state/stores")).unwrap().lines().count(), 1);
        home.open("store", false).unwrap();
        // Unmounted: the directory below the mount point, with at most what every file system has.
        std::fs::remove_dir_all(home.at("store")).unwrap();
        home.is_away("store");
        std::fs::create_dir_all(home.at("store/lost+found")).unwrap();
        home.is_away("store");
        assert_eq!(
            std::fs::read_dir(home.at("store")).unwrap().count(),
            1,
            "nothing was written below the mount point"
        );
        home.open("store", true).unwrap();
        // A volume that has committed there is not started over, whatever the operator allows.
        home.catalog.set_volume_id(&engine::model::VolumeId([7; 16])).unwrap();
        home.is_away("store");
        assert!(home.open("store", true).is_err());
    }
}

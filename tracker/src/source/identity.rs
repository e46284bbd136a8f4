//! Whether the directory at a source's path is the one that a volume was made of: what is noted of it, and a pure decision
//! over two such notes.
//!
//! A wrong "same" would mirror an empty mount point as the removal of everything, so what cannot be told apart is not
//! called the same. An inode number is weak evidence: every root of a FUSE file system is inode 1, every root of ext4 is
//! inode 2. A device number is no evidence after another mount: loop devices and reboots change it.

use std::collections::BTreeSet;

use engine::identity::Span;
use engine::model::{Dev, Ino, InodeId};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::error::SourceError;
use super::fs_type::FsType;
use super::root::SourceRoot;
use super::sys;

/// What is known of a source directory at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// `st_dev` as major << 32 | minor.
    #[serde(with = "numbers::dev")]
    pub device: Dev,
    #[serde(with = "numbers::ino")]
    pub ino: Ino,
    /// Birth of the directory (see `InodeId`); 0 if unknown.
    pub generation: u64,
    /// `f_type` of `statfs`; 0 in a note of an older version, which had only device, inode and birth.
    pub fs_type: u64,
    /// The file system's own identifier, hexadecimal: its UUID, or `f_fsid` if that is derived from it.
    pub fs_id: Option<String>,
    /// The directory's file handle, hexadecimal, if handles outlive a mount.
    pub handle: Option<String>,
    /// The boot, and the number of the mount in it, which is never reused (Linux 6.8 and later).
    pub mount: Option<String>,
    /// The directory is the root of that mount.
    pub mount_root: bool,
}

/// The result of one comparison. What follows from it is decided elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SameSource {
    Same,
    /// It is another directory, with the fact that shows it.
    Other(String),
    /// Nothing proves either. A mount point whose file system is away looks like this.
    CannotTell(String),
}

/// Names in the root: those in the catalog, and those there now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootNames {
    pub known: BTreeSet<Vec<u8>>,
    pub now: BTreeSet<Vec<u8>>,
}

impl RootNames {
    /// Whether at least half of the known names are still there; true if none were known, since then nothing can be lost.
    fn alike(&self) -> bool {
        self.known.intersection(&self.now).count() * 2 >= self.known.len()
    }
}

/// Compares what is at the path `now` with what was `known`. A fact that one of the two lacks is no evidence.
///
/// The truth table is in docs/guarantees.md.
pub fn same_source(known: &SourceFacts, now: &SourceFacts, names: &RootNames) -> SameSource {
    let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
    let equal = |a: &Option<String>, b: &Option<String>| a.is_some() && a == b;
    let other = |what: &str| SameSource::Other(what.into());
    if known.fs_type != 0 && known.fs_type != now.fs_type {
        return other("it lies on another kind of file system");
    }
    if differ(&known.fs_id, &now.fs_id) {
        return other("its file system has another id");
    }
    if differ(&known.handle, &now.handle) {
        return other("its file handle is another one");
    }
    let span = |facts: &SourceFacts| Span::of(InodeId { ino: facts.ino, generation: facts.generation });
    match (span(known), span(now)) {
        (Span::Always, Span::Always) if (known.ino, known.generation) == (now.ino, now.generation) => {
            return SameSource::Same;
        }
        (Span::Always, Span::Always) => return other("it is another inode"),
        // A note from before handles were used as generations.
        (Span::Mount, Span::Always) if known.ino != now.ino => return other("it is another inode"),
        _ => {}
    }
    // From here on the inode number does not identify one directory.
    if equal(&known.handle, &now.handle) && equal(&known.fs_id, &now.fs_id) {
        return SameSource::Same;
    }
    if equal(&known.mount, &now.mount) && known.mount_root && now.mount_root {
        return SameSource::Same;
    }
    if names.alike() {
        return SameSource::Same;
    }
    let (count, kept) = (names.known.len(), names.known.intersection(&names.now).count());
    SameSource::CannotTell(match names.now.is_empty() {
        true => format!("it is empty and had {count} names, and its file system has nothing else to know it by"),
        false => format!("it has {kept} of its {count} names, and its file system has nothing else to know it by"),
    })
}

impl SourceRoot {
    /// The facts that distinguish this directory from others. `boot` is the kernel's id of this boot.
    ///
    /// # Errors
    /// When the directory cannot be read at all. Facts that a file system does not have are left out.
    pub fn facts(&self, boot: Option<&str>) -> Result<SourceFacts, SourceError> {
        let fd = self.beneath.root();
        let fail = |source| SourceError::Root { path: self.path().to_path_buf(), source };
        let statfs = rustix::fs::fstatfs(fd).map_err(|errno| fail(errno.into()))?;
        let identity = self.identity();
        let handle = if self.fs().has_lasting_handles() { sys::name_to_handle(fd).ok() } else { None };
        let mount = sys::unique_mount(fd);
        Ok(SourceFacts {
            device: identity.device,
            ino: identity.inode.ino,
            generation: identity.inode.generation,
            fs_type: statfs.f_type as u64,
            fs_id: self.fs_id(),
            handle: handle.map(|handle| hex(&handle)),
            mount: boot.zip(mount).map(|(boot, mount)| format!("{boot} {mount}")),
            mount_root: self.births_of(false).stat_fd(fd).is_ok_and(|found| found.mount_root),
        })
    }

    /// The present names in it, from one pass.
    pub fn root_names(&self) -> Result<BTreeSet<Vec<u8>>, SourceError> {
        Ok(self.list(std::path::Path::new(""))?.into_iter().map(|entry| entry.name).collect())
    }

    fn fs_id(&self) -> Option<String> {
        let fd = self.beneath.root();
        match self.fs() {
            // Derived from the UUID: ext4_statfs, shmem_statfs (whose UUID is new for each mount), and btrfs_statfs, which
            // tells subvolumes apart, whose roots may share inode number and birth (Linux 6.18).
            FsType::Ext4 | FsType::Tmpfs | FsType::Btrfs => {
                let id = sys::fs_id(fd).ok()?;
                (id != 0).then(|| hex(&id.to_be_bytes()))
            }
            // An overlay does not always store its number.
            FsType::Overlay => None,
            // xfs_statfs derives `f_fsid` from the device number.
            FsType::Xfs | FsType::Other(_) => {
                let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(fd, c".", open, rustix::fs::Mode::empty()).ok()?;
                sys::fs_uuid(fd).ok().map(|uuid| hex(&uuid))
            }
        }
    }
}

/// The numbers of a note, as every version has written them.
mod numbers {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) mod ino {
        use engine::model::Ino;

        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(ino: &Ino, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_u64(ino.0)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Ino, D::Error> {
            u64::deserialize(from).map(Ino)
        }
    }

    pub(super) mod dev {
        use engine::model::Dev;
        use serde::de::Error;

        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(dev: &Dev, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_u64(dev.halves())
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dev, D::Error> {
            Dev::of_halves(u64::deserialize(from)?).ok_or_else(|| D::Error::custom("no device number"))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FUSE: u64 = 0x6573_5546;

    fn text(text: &str) -> Option<String> {
        Some(text.into())
    }

    /// ext4 with birth times.
    fn ext4() -> SourceFacts {
        SourceFacts {
            device: Dev::of_kernel(7),
            ino: Ino(12),
            generation: 1_700_000_000_123_456_789,
            fs_type: 0xef53,
            fs_id: text("a1"),
            handle: text("0c"),
            mount: text("boot 40"),
            mount_root: false,
        }
    }

    /// The root of any FUSE file system.
    fn fuse(mount: &str) -> SourceFacts {
        SourceFacts {
            device: Dev::of_kernel(50),
            ino: Ino(1),
            fs_type: FUSE,
            mount: text(mount),
            mount_root: true,
            ..SourceFacts::default()
        }
    }

    /// Notes of earlier versions are read, and those of this one look the same.
    #[test]
    fn the_numbers_of_a_note_are_written_as_ever() {
        let facts = SourceFacts { device: Dev::new(254, 3).unwrap(), ..ext4() };
        let text = serde_json::to_string(&facts).unwrap();
        assert!(text.starts_with(r#"{"device":1090921693187,"ino":12,"generation":"#), "{text}");
        assert_eq!(serde_json::from_str::<SourceFacts>(&text).unwrap(), facts);
    }

    fn names(known: &[&str], now: &[&str]) -> RootNames {
        let set = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        RootNames { known: set(known), now: set(now) }
    }

    #[derive(Debug, PartialEq)]
    enum Answer {
        Same,
        Other,
        CannotTell,
    }

    fn answer(known: &SourceFacts, now: &SourceFacts, names: &RootNames) -> Answer {
        match same_source(known, now, names) {
            SameSource::Same => Answer::Same,
            SameSource::Other(_) => Answer::Other,
            SameSource::CannotTell(_) => Answer::CannotTell,
        }
    }

    /// The rows of the table in docs/guarantees.md, in its order.
    #[test]
    fn a_source_is_known_by_what_its_file_system_has() {
        use Answer::*;
        let empty = names(&["a", "b"], &[]);
        let kept = names(&["a", "b", "c"], &["a", "b", "d"]);
        let few = names(&["a", "b", "c"], &["a", "x"]);
        let none = names(&[], &["x"]);
        let old = SourceFacts { fs_type: 0, fs_id: None, handle: None, mount: None, ..ext4() };
        let no_birth = SourceFacts { generation: 0, handle: None, fs_id: None, ..ext4() };
        for (what, known, now, names, expect) in [
            ("nothing differs", ext4(), ext4(), &empty, Same),
            (
                "another device and mount",
                ext4(),
                SourceFacts { device: Dev::of_kernel(9), mount: text("boot 41"), ..ext4() },
                &empty,
                Same,
            ),
            ("another kind of file system", ext4(), fuse("boot 41"), &kept, Other),
            ("another UUID", ext4(), SourceFacts { fs_id: text("b2"), ..ext4() }, &kept, Other),
            ("another handle", ext4(), SourceFacts { handle: text("0d"), ..ext4() }, &kept, Other),
            ("another birth", ext4(), SourceFacts { generation: 5, ..ext4() }, &kept, Other),
            ("another inode", ext4(), SourceFacts { ino: Ino(13), ..ext4() }, &kept, Other),
            ("a note of an older version", old.clone(), ext4(), &empty, Same),
            ("the same, replaced", old, SourceFacts { generation: 5, ..ext4() }, &empty, Other),
            (
                "no birth was noted, another inode",
                no_birth.clone(),
                SourceFacts { ino: Ino(13), ..ext4() },
                &kept,
                Other,
            ),
            ("no birth was noted, the same names", no_birth.clone(), ext4(), &kept, Same),
            ("no birth was noted, an empty root", no_birth, ext4(), &empty, CannotTell),
            ("the same FUSE mount, emptied", fuse("boot 40"), fuse("boot 40"), &empty, Same),
            ("mounted again, the same names", fuse("boot 40"), fuse("boot 41"), &kept, Same),
            ("mounted again, empty", fuse("boot 40"), fuse("boot 41"), &empty, CannotTell),
            ("mounted again, most names gone", fuse("boot 40"), fuse("boot 41"), &few, CannotTell),
            ("mounted again, nothing was there", fuse("boot 40"), fuse("boot 41"), &none, Same),
            (
                "a directory of the same FUSE mount, emptied",
                SourceFacts { ino: Ino(9), mount_root: false, ..fuse("boot 40") },
                SourceFacts { ino: Ino(9), mount_root: false, ..fuse("boot 40") },
                &empty,
                CannotTell,
            ),
        ] {
            assert_eq!(answer(&known, &now, names), expect, "{what}");
        }
    }

    fn facts() -> impl Strategy<Value = SourceFacts> {
        let some =
            |words: &'static [&'static str]| prop::option::of(prop::sample::select(words).prop_map(String::from));
        let ids = (some(&["a", "b"]), some(&["h", "i"]), some(&["boot 1", "boot 2"]));
        (0..2u32, 1..3u64, 0..3u64, prop::sample::select(vec![0, FUSE, 0xef53]), ids, any::<bool>()).prop_map(
            |(device, ino, generation, fs_type, (fs_id, handle, mount), mount_root)| SourceFacts {
                device: Dev::of_kernel(device),
                ino: Ino(ino),
                generation,
                fs_type,
                fs_id,
                handle,
                mount,
                mount_root,
            },
        )
    }

    proptest! {
        /// An empty root that had names counts as the same only with evidence that no other directory can have.
        #[test]
        fn an_empty_root_is_the_same_only_with_proof(known in facts(), now in facts()) {
            if answer(&known, &now, &names(&["a"], &[])) == Answer::Same {
                let birth = known.generation != 0 && (known.ino, known.generation) == (now.ino, now.generation);
                let handle = known.handle.is_some() && known.handle == now.handle;
                let mount = known.mount.is_some() && known.mount == now.mount && now.mount_root;
                prop_assert!(birth || handle || mount);
            }
        }

        /// Names never outvote a contradiction between two notes.
        #[test]
        fn names_do_not_outvote_a_difference(known in facts(), now in facts()) {
            let differ = known.fs_type != 0 && known.fs_type != now.fs_type
                || known.fs_id.is_some() && now.fs_id.is_some() && known.fs_id != now.fs_id
                || known.handle.is_some() && now.handle.is_some() && known.handle != now.handle;
            if differ {
                prop_assert_eq!(answer(&known, &now, &names(&["a"], &["a"])), Answer::Other);
            }
        }

        #[test]
        fn a_directory_is_not_another_one_than_itself(facts in facts()) {
            prop_assert_ne!(answer(&facts, &facts, &names(&["a"], &[])), Answer::Other);
            prop_assert_eq!(answer(&facts, &facts, &names(&["a"], &["a"])), Answer::Same);
        }
    }
}

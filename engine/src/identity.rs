//! How long an inode number identifies one file. Pure; the only place that decides it.
//!
//! Numbers are reused: at once by ext4, and from the start by a FUSE file system that is mounted again (sshfs numbers files
//! in the order in which they are looked up). Some file systems give one number to two files at the same time (bindfs over
//! several file systems). Only the generation, where there is one, tells two holders of a number apart. Without it a file
//! is identified by its name; its number is only a hint where it may have moved, and what is found there is read.

use crate::model::{FileId, InodeId, Kind, Time};
use crate::source::Stat;

/// For how long an inode's number and generation name the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// As long as the file exists, across mounts and boots: the generation identifies it.
    Always,
    /// At most until the file system is mounted again, and not even then for certain: there is no generation.
    Mount,
}

impl Span {
    pub fn of(inode: InodeId) -> Span {
        if inode.generation == 0 { Span::Mount } else { Span::Always }
    }
}

/// What two entries of one flush must share to be the same new file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NewKey {
    Inode {
        inode: InodeId,
        dir: bool,
    },
    /// Without a generation: names of an inode whose link count says that it has several.
    Links {
        inode: InodeId,
        nlink: u32,
        size: u64,
        mtime: Time,
        /// Two files may have the same number at the same time, and the same size and mtime: one is a copy of the other.
        /// The change time still differs, since no program can set it.
        ctime: Time,
    },
    /// Without a generation, and with one link: the name.
    Name {
        inode: InodeId,
        kind: Kind,
        dir: FileId,
        name: Vec<u8>,
    },
}

impl NewKey {
    pub fn of(stat: &Stat, dir: FileId, name: &[u8]) -> NewKey {
        let inode = stat.inode;
        match Span::of(inode) {
            Span::Always => NewKey::Inode { inode, dir: stat.kind == Kind::Dir },
            Span::Mount if has_links(stat) => {
                NewKey::Links { inode, nlink: stat.nlink, size: stat.size, mtime: stat.mtime, ctime: stat.ctime }
            }
            Span::Mount => NewKey::Name { inode, kind: stat.kind, dir, name: name.to_vec() },
        }
    }
}

fn has_links(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.nlink > 1
}

/// Whether `seen` may be another name of the file `other`, which was seen at about the same time with the same inode number
/// and no generation. For names that are committed as links, sizes and times are not compared: they change while the file
/// is written.
pub fn may_be_links(seen: &Stat, other: &Stat, committed: bool) -> bool {
    let attributes = |stat: &Stat| (stat.inode, stat.mode, stat.uid, stat.gid, stat.nlink);
    let times = |stat: &Stat| (stat.size, stat.mtime, stat.ctime);
    let alike = attributes(seen) == attributes(other) && (committed || times(seen) == times(other));
    has_links(seen) && has_links(other) && alike
}

/// Whether an inode that is seen under a new name may be taken for a known file by its number alone. Such a file must be
/// read under its new name before that name is committed.
pub fn may_be_claimed(seen: &Stat) -> bool {
    seen.kind == Kind::File
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Ino;
    use proptest::prelude::*;

    const ROOT: FileId = FileId::ROOT;

    fn file(ino: u64, generation: u64) -> Stat {
        Stat {
            inode: InodeId { ino: Ino(ino), generation },
            kind: Kind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            rdev: 0,
            size: 5000,
            nlink: 1,
            mtime: Time { sec: 100, nsec: 1 },
            ctime: Time { sec: 101, nsec: 2 },
        }
    }

    fn key(stat: &Stat, name: &str) -> NewKey {
        NewKey::of(stat, ROOT, name.as_bytes())
    }

    #[test]
    fn a_number_lasts_with_a_generation_alone() {
        assert_eq!(Span::of(InodeId { ino: Ino(7), generation: 1 }), Span::Always);
        assert_eq!(Span::of(InodeId { ino: Ino(7), generation: u64::MAX }), Span::Always);
        assert_eq!(Span::of(InodeId { ino: Ino(7), generation: 0 }), Span::Mount);
        assert_eq!(Span::of(InodeId { ino: Ino(0), generation: 0 }), Span::Mount);
    }

    #[test]
    fn with_a_generation_a_new_file_is_its_inode_whatever_its_name() {
        let seen = file(7, 9);
        let written = Stat { size: 1, nlink: 3, mtime: Time::default(), ctime: Time::default(), ..seen.clone() };
        assert_eq!(key(&seen, "a"), NewKey::of(&written, FileId(5), b"b"));
        assert_ne!(key(&seen, "a"), key(&file(7, 10), "a"), "the number was given again");
        // btrfs can give the same number to a file and a directory in two subvolumes.
        assert_ne!(key(&seen, "a"), key(&Stat { kind: Kind::Dir, ..seen.clone() }, "a"));
    }

    #[test]
    fn without_one_a_new_file_with_one_link_is_its_name() {
        let seen = file(7, 0);
        assert_eq!(key(&seen, "a"), key(&Stat { size: 1, mtime: Time::default(), ..seen.clone() }, "a"));
        assert_ne!(key(&seen, "a"), key(&seen, "b"), "a number that two files have");
        assert_ne!(key(&seen, "a"), NewKey::of(&seen, FileId(5), b"a"));
        assert_ne!(key(&seen, "a"), key(&file(8, 0), "a"));
        for kind in [Kind::Dir, Kind::Symlink, Kind::Fifo] {
            let other = Stat { kind, nlink: 2, ..seen.clone() };
            assert_ne!(key(&other, "a"), key(&other, "b"), "only a file has links that count");
        }
    }

    /// Each of these alone tells two files with one number apart.
    #[test]
    fn without_one_links_are_names_that_agree_in_all_that_links_share() {
        let seen = Stat { nlink: 2, ..file(7, 0) };
        assert_eq!(key(&seen, "a"), NewKey::of(&seen, FileId(5), b"b"));
        let later = Time { sec: 101, nsec: 3 };
        for other in [
            Stat { inode: InodeId { ino: Ino(8), generation: 0 }, ..seen.clone() },
            Stat { nlink: 3, ..seen.clone() },
            Stat { size: 5001, ..seen.clone() },
            Stat { mtime: later, ..seen.clone() },
            Stat { ctime: later, ..seen.clone() },
        ] {
            assert_ne!(key(&seen, "a"), key(&other, "a"), "{other:?}");
            assert!(!may_be_links(&seen, &other, false), "{other:?}");
        }
    }

    /// A file that is written while its names are listed shows other times at each of them. Its owner stays the same.
    #[test]
    fn committed_links_may_be_written_meanwhile() {
        let seen = Stat { nlink: 2, ..file(7, 0) };
        let written = Stat { size: 9, mtime: Time::default(), ctime: Time::default(), ..seen.clone() };
        assert!(may_be_links(&seen, &written, true) && !may_be_links(&seen, &written, false));
        for other in [
            Stat { uid: 9, ..seen.clone() },
            Stat { gid: 9, ..seen.clone() },
            Stat { mode: 0o600, ..seen.clone() },
            Stat { nlink: 3, ..seen.clone() },
            Stat { nlink: 1, ..seen.clone() },
            Stat { kind: Kind::Fifo, ..seen.clone() },
        ] {
            assert!(!may_be_links(&seen, &other, true), "{other:?}");
        }
        assert!(!may_be_links(&file(7, 0), &file(7, 0), true), "one name each");
    }

    #[test]
    fn only_what_can_be_read_and_compared_is_taken_by_its_number() {
        assert!(may_be_claimed(&file(7, 0)));
        for kind in [Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice] {
            assert!(!may_be_claimed(&Stat { kind, ..file(7, 0) }), "{kind:?}");
        }
    }

    fn stats() -> impl Strategy<Value = Stat> {
        let kind = prop_oneof![Just(Kind::File), Just(Kind::Dir), Just(Kind::Symlink)];
        let times = (0i64..2, 0i64..2);
        (0u64..3, 0u64..2, kind, 1u32..4, 0u64..2, times, 0u32..2).prop_map(
            |(ino, generation, kind, nlink, size, (mtime, ctime), uid)| Stat {
                kind,
                nlink,
                size,
                uid,
                mtime: Time { sec: mtime, nsec: 0 },
                ctime: Time { sec: ctime, nsec: 0 },
                ..file(ino, generation)
            },
        )
    }

    proptest! {
        /// Two entries are one new file only if they share number and generation. Without a generation they must share the
        /// name, or have several links and agree in size and times.
        #[test]
        fn one_new_file_has_one_number(a in stats(), b in stats(), same_name in any::<bool>()) {
            let one = key(&a, "a") == key(&b, if same_name { "a" } else { "b" });
            if one {
                prop_assert_eq!(a.inode, b.inode);
                prop_assert_eq!(a.kind == Kind::Dir, b.kind == Kind::Dir);
            }
            if one && Span::of(a.inode) == Span::Mount && !same_name {
                prop_assert!(a.kind == Kind::File && a.nlink > 1 && a.nlink == b.nlink);
                prop_assert_eq!((a.size, a.mtime, a.ctime), (b.size, b.mtime, b.ctime));
            }
            if Span::of(a.inode) == Span::Always && a.inode == b.inode && (a.kind == Kind::Dir) == (b.kind == Kind::Dir) {
                prop_assert!(one, "a generation is proof");
            }
        }

        /// The order in which two names are seen does not matter, and names that may be links uncommitted may be links
        /// committed.
        #[test]
        fn links_are_mutual(a in stats(), b in stats()) {
            for committed in [false, true] {
                prop_assert_eq!(may_be_links(&a, &b, committed), may_be_links(&b, &a, committed));
            }
            prop_assert!(!may_be_links(&a, &b, false) || may_be_links(&a, &b, true));
        }
    }
}

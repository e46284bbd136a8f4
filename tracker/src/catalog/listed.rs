//! Compares listings of directories with the catalog; for a large directory it returns only the differences.

use std::collections::BTreeSet;

use engine::catalog::Known;
use engine::model::FileId;
use engine::source::Entry;

use super::database::Catalog;
use super::digests::digest;
use super::error::Result;
use super::names;

impl Catalog {
    /// Removes entries from `seen` whose name, inode and kind are known. Returns what is known of all other names in `dir`,
    /// and of those that are left in `seen`. For a small directory, or one listed for the first time, it removes nothing
    /// and returns everything.
    pub fn others_in(&self, dir: FileId, seen: &mut Vec<Entry>) -> Result<Vec<(Vec<u8>, Known)>> {
        let mut listed = self.listed();
        listed.listings += 1;
        let now = listed.listings;
        let Some(dir_names) = listed.directories.get_mut(&dir) else {
            let known = self.known_in(dir)?;
            if known.len() >= listed.many {
                listed.make(dir, &known);
            }
            return Ok(known);
        };
        dir_names.used = now;
        let mut found = vec![false; dir_names.digests.len()];
        let places: Vec<Option<usize>> = seen
            .iter()
            .map(|entry| dir_names.find(digest(&entry.name, entry.stat.inode, entry.stat.kind)))
            .inspect(|at| at.and_then(|at| found.get_mut(at)).into_iter().for_each(|found| *found = true))
            .collect();
        let missed = found.iter().filter(|found| !**found).count();
        let new = places.iter().filter(|at| at.is_none()).count();
        if missed + new > dir_names.digests.len() / 8 {
            // Reading rows one by one would take longer than all at once.
            return self.known_in(dir);
        }
        let mut at = places.iter();
        seen.retain(|_| at.next().is_none_or(Option::is_none));
        let mut wanted: BTreeSet<Vec<u8>> = seen.iter().map(|entry| entry.name.clone()).collect();
        let left = wanted.clone();
        let ids: BTreeSet<FileId> =
            dir_names.digests.iter().zip(&found).filter(|(_, found)| !**found).map(|((_, id), _)| *id).collect();
        self.read(|conn| {
            for id in ids {
                let all = names::names_of(conn, id)?;
                wanted.extend(all.into_iter().filter(|(parent, _)| *parent == dir).map(|(_, name)| name));
            }
            let mut out = Vec::new();
            for name in wanted {
                let Some(known) = names::known_as(conn, dir, &name)? else { continue };
                // Another name of the same file may have been seen where this one is known.
                let at = dir_names.find(digest(&name, known.inode, known.kind));
                if left.contains(&name) || !at.and_then(|at| found.get(at)).copied().unwrap_or(false) {
                    out.push((name, known));
                }
            }
            Ok(out)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engine::catalog::{CatalogChange, Known, Record};
    use engine::dirty::DirtySet;
    use engine::model::{FileId, Ino, InodeId, Kind, NameChange, Seq, Time};
    use engine::source::{Entry, Stat};
    use proptest::prelude::*;

    use super::super::row::Handles;
    use super::super::{Catalog, tests};

    const DIR: FileId = FileId(2);

    /// One step: a change of the catalog, or only of what is on disk.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Set {
            name: u8,
            id: u64,
        },
        Unset {
            name: u8,
        },
        /// The file has another inode by now.
        Renumber {
            id: u64,
            ino: u64,
        },
        Gone {
            id: u64,
        },
        Failed {
            name: u8,
        },
        Seen {
            name: u8,
            ino: u64,
            dir: bool,
        },
        NotSeen {
            name: u8,
        },
        /// A listing of what the catalog had at the last listing, or has now.
        Listed {
            late: bool,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let (name, id, ino) = (0u8..90, 3u64..90, 1000u64..1100);
        let step = prop_oneof![
            4 => (name.clone(), id.clone()).prop_map(|(name, id)| Step::Set { name, id }),
            2 => name.clone().prop_map(|name| Step::Unset { name }),
            1 => (id.clone(), ino.clone()).prop_map(|(id, ino)| Step::Renumber { id, ino }),
            1 => id.prop_map(|id| Step::Gone { id }),
            1 => name.clone().prop_map(|name| Step::Failed { name }),
            2 => (name.clone(), ino, any::<bool>()).prop_map(|(name, ino, dir)| Step::Seen { name, ino, dir }),
            1 => name.prop_map(|name| Step::NotSeen { name }),
            4 => any::<bool>().prop_map(|late| Step::Listed { late }),
        ];
        prop::collection::vec(step, 1..60)
    }

    fn name_of(name: u8) -> Vec<u8> {
        vec![b'n', name]
    }

    fn entry(name: Vec<u8>, inode: InodeId, kind: Kind) -> Entry {
        let time = Time::default();
        let stat = Stat { inode, kind, mode: 0, uid: 0, gid: 0, rdev: 0, size: 0, nlink: 1, mtime: time, ctime: time };
        Entry { name, stat }
    }

    fn entries(catalog: &Catalog) -> Vec<Entry> {
        let known = catalog.known_in(DIR).unwrap().into_iter();
        known.map(|(name, known)| entry(name, known.inode, known.kind)).collect()
    }

    fn change(names: Vec<NameChange>) -> CatalogChange {
        CatalogChange { names, ..CatalogChange::default() }
    }

    /// Removed entries are known, and only their names are missing in the result.
    fn listed(catalog: &Catalog, mut before: Vec<Entry>, others: &BTreeMap<u8, Option<Entry>>) {
        let all: BTreeMap<Vec<u8>, Known> = catalog.known_in(DIR).unwrap().into_iter().collect();
        for (name, other) in others {
            // Seen twice, or not at all.
            match other {
                Some(other) => before.push(other.clone()),
                None => before.retain(|entry| entry.name != name_of(*name)),
            }
        }
        let mut after = before.clone();
        let answer: BTreeMap<Vec<u8>, Known> = catalog.others_in(DIR, &mut after).unwrap().into_iter().collect();
        let as_known = |entry: &Entry| {
            all.get(&entry.name).is_some_and(|known| known.inode == entry.stat.inode && known.kind == entry.stat.kind)
        };
        let taken: Vec<&Entry> = before.iter().filter(|entry| !after.contains(entry)).collect();
        assert!(taken.iter().all(|entry| as_known(entry)), "{taken:?}");
        assert!(answer.iter().all(|(name, known)| all.get(name) == Some(known)), "{answer:?}");
        for name in all.keys() {
            let (left, taken) =
                (after.iter().any(|entry| entry.name == *name), taken.iter().any(|entry| entry.name == *name));
            assert_eq!(answer.contains_key(name), left || !taken, "{name:?}: left {left}, taken out {taken}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_is_taken_out_of_a_listing_is_what_the_catalog_has(all in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let catalog = Catalog::create(&Catalog::location(folder.path(), "v")).unwrap();
            catalog.listed().many = 4;
            let files = (1..90).map(|id| tests::row(id, if id < 3 { Kind::Dir } else { Kind::File })).collect();
            let names = (0..64).map(|name| tests::set(DIR.0, &name_of(name), u64::from(name) + 3)).collect();
            catalog.apply(&CatalogChange { records: files, ..change(names) }).unwrap();
            let mut others: BTreeMap<u8, Option<Entry>> = BTreeMap::new();
            let mut disk = entries(&catalog);
            for step in all {
                match step {
                    Step::Set { name, id } => catalog.apply(&change(vec![tests::set(DIR.0, &name_of(name), id)])).unwrap(),
                    Step::Unset { name } => catalog.apply(&change(vec![tests::unset(DIR.0, &name_of(name))])).unwrap(),
                    Step::Renumber { id, ino } => {
                        let row = Record { inode: InodeId { ino: Ino(ino), generation: id }, ..tests::row(id, Kind::File) };
                        catalog.apply(&CatalogChange { records: vec![row], ..CatalogChange::default() }).unwrap();
                    }
                    Step::Gone { id } => {
                        catalog.apply(&CatalogChange { gone: vec![FileId(id)], ..CatalogChange::default() }).unwrap();
                    }
                    Step::Failed { name } => {
                        // No intent is open, so nothing of it is stored.
                        let intent = tests::intent(Seq(9));
                        catalog.settle_commit(&tests::head(9), &[], &DirtySet::default()).unwrap_err();
                        catalog.begin_commit(&intent, &change(vec![]), &Handles::new()).unwrap();
                        catalog.begin_commit(&intent, &change(vec![tests::unset(DIR.0, &name_of(name))]), &Handles::new()).unwrap_err();
                        catalog.settle_commit(&tests::head(9), &[], &DirtySet::default()).unwrap();
                    }
                    Step::Seen { name, ino, dir } => {
                        let kind = if dir { Kind::Dir } else { Kind::File };
                        others.insert(name, Some(entry(name_of(name), InodeId { ino: Ino(ino), generation: u64::MAX - (ino - 1000) }, kind)));
                    }
                    Step::NotSeen { name } => drop(others.insert(name, None)),
                    Step::Listed { late } => {
                        if !late {
                            disk = entries(&catalog);
                        }
                        listed(&catalog, disk, &others);
                        disk = entries(&catalog);
                        others.clear();
                    }
                }
            }
            listed(&catalog, disk, &others);
        }
    }

    /// This is the purpose of digests: a second listing returns the differences and nothing else.
    #[test]
    fn a_second_listing_of_a_large_directory_gives_what_differs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::create(&Catalog::location(folder.path(), "v")).unwrap();
        catalog.listed().many = 4;
        let files = (1..200).map(|id| tests::row(id, if id < 3 { Kind::Dir } else { Kind::File })).collect();
        let names = (3..200).map(|id| tests::set(DIR.0, &name_of(id as u8), id)).collect();
        catalog.apply(&CatalogChange { records: files, ..change(names) }).unwrap();
        let seen = |known: &[(Vec<u8>, Known)]| -> Vec<Entry> {
            known.iter().map(|(name, known)| entry(name.clone(), known.inode, known.kind)).collect()
        };
        let first = catalog.others_in(DIR, &mut Vec::new()).unwrap();
        let mut second = seen(&first);
        let vanished = second.remove(7).name;
        second.push(entry(b"new".to_vec(), InodeId { ino: Ino(5000), generation: 0 }, Kind::File));
        let answer = catalog.others_in(DIR, &mut second).unwrap();
        assert_eq!((first.len(), second.len(), answer.len()), (197, 1, 1));
        assert_eq!((second[0].name.as_slice(), answer[0].0.clone()), (b"new".as_slice(), vanished));
    }
}

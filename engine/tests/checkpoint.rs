//! Checkpoints: the manifest comes back, pages are shared, damage and foreign pages are refused.

mod common;

use common::*;
use engine::checkpoint::{CheckpointRoot, LoadError, load, page, write};
use engine::extent_map::{Extent, ExtentMap, Source};
use engine::format::{EncodeError, Key};
use engine::manifest::{FileParts, Manifest, Position};
use engine::model::*;
use std::collections::BTreeMap;

type Objects = BTreeMap<Key, Vec<u8>>;

fn objects(manifest: &Manifest) -> Objects {
    let mut out = Objects::new();
    write(manifest, |key, bytes| -> Result<(), EncodeError> {
        out.insert(key, bytes);
        Ok(())
    })
    .unwrap();
    out
}

fn back(objects: &Objects, seq: Seq) -> Result<Manifest, LoadError> {
    let root = CheckpointRoot::decode(&objects[&Key::Checkpoint(seq)], VOLUME, seq)?;
    load(&root, |hash| -> Result<_, LoadError> { Ok(objects[&Key::Page(*hash)].clone()) })
}

fn new_pages(before: &Objects, after: &Objects) -> usize {
    after.keys().filter(|key| matches!(key, Key::Page(_)) && !before.contains_key(key)).count()
}

/// 5,000 files in 50 directories, and one file of 4,000 extents.
fn big() -> Manifest {
    let position = Position {
        volume: VOLUME,
        seq: Seq(8),
        head: [4; 32],
        time: Time { sec: 9, nsec: 1 },
        standing: None,
        epoch: 2,
    };
    let dir = |id| (FileId(id), FileParts { meta: meta(Kind::Dir), root: None, extent_map: ExtentMap::default() });
    let mut files = vec![dir(1)];
    let mut names = Vec::new();
    for d in 0..50u64 {
        files.push(dir(2 + d));
        names.push((FileId::ROOT, format!("dir{d}").into_bytes(), FileId(2 + d)));
    }
    let run = |frame: u64, skip: u32, len| {
        let object = ObjectRef::Pack { seq: Seq(7), epoch: 2, n: 1 };
        let at = DataRef { object, frame_offset: 4 + frame * 1000, frame_bytes: 1000, skip };
        Extent { len, source: Source::Data(at) }
    };
    for f in 0..5_000u64 {
        let id = 100 + f;
        let extent_map: ExtentMap = [run(f, 5, 70), Extent { len: 4096, source: Source::Hole }].into_iter().collect();
        let root = Some(if f % 3 == 0 { Root::Sparse([1; 32]) } else { Root::Blake3([f as u8; 32]) });
        files.push((FileId(id), FileParts { meta: meta(Kind::File), root, extent_map }));
        names.push((FileId(2 + f % 50), format!("file{f}").into_bytes(), FileId(id)));
    }
    let extent_map: ExtentMap = (0..4_000).map(|n| run(n * 7 % 4_000, 0, 4096)).collect();
    assert_eq!(extent_map.extent_count(), 4_000);
    files.push((FileId(9_000), FileParts { meta: meta(Kind::File), root: Some(Root::Blake3([9; 32])), extent_map }));
    names.push((FileId::ROOT, b"big".to_vec(), FileId(9_000)));
    Manifest::from_parts(position, files, names).unwrap()
}

#[test]
fn manifests_come_back() {
    for manifest in [small(), big(), Manifest::new(VOLUME)] {
        let objects = objects(&manifest);
        assert_eq!(back(&objects, manifest.seq()).unwrap(), manifest);
        for (key, bytes) in &objects {
            if let Key::Page(hash) = key {
                assert_eq!(*hash, *blake3::hash(bytes).as_bytes());
            }
        }
    }
}

#[test]
fn what_did_not_change_is_shared() {
    let before = big();
    let first = objects(&before);
    assert!(first.len() > 12, "{} objects", first.len());
    let mut after = before.clone();
    let touched = FileChange { id: FileId(3_000), meta: Some(meta(Kind::File)), content: None };
    let mut touched = changes(vec![touched], vec![], &[]);
    touched.files[0].meta.as_mut().unwrap().mode = 0o600;
    let (bytes, mut commit) = next(&after, touched);
    commit.header.epoch = 2;
    after.apply(&commit, engine::format::commit::hash(&bytes)).unwrap();
    assert_eq!(new_pages(&first, &objects(&after)), 1, "one file, one page");

    let block =
        vec![Op::Copy { from: 0, len: 4096 }, Op::Hole { len: 4096 }, Op::Copy { from: 8192, len: 3_998 * 4096 }];
    let names = vec![unset(5, "file3"), set(5, "renamed", 103)];
    let (bytes, mut commit) = next(&after, changes(vec![write_to(9_000, block)], names, &[]));
    commit.header.epoch = 2;
    let second = objects(&after);
    after.apply(&commit, engine::format::commit::hash(&bytes)).unwrap();
    let third = objects(&after);
    assert!(new_pages(&second, &third) <= 4, "extents, file and names: {}", new_pages(&second, &third));
    assert_eq!(back(&third, after.seq()).unwrap(), after);
}

fn write_to(id: u64, ops: Vec<Op<Vec<u8>>>) -> FileChange<Vec<u8>> {
    common::write(id, Some(id), ops)
}

#[test]
fn a_page_is_believed_under_its_own_name_alone() {
    let manifest = small();
    let mut objects = objects(&manifest);
    let pages: Vec<Key> = objects.keys().filter(|key| matches!(key, Key::Page(_))).copied().collect();
    let bytes = objects[&pages[0]].clone();
    objects.insert(pages[1], bytes);
    assert!(back(&objects, manifest.seq()).is_err());
    assert!(CheckpointRoot::decode(&objects[&Key::Checkpoint(Seq(1))], VOLUME, Seq(2)).is_err());
    assert!(CheckpointRoot::decode(&objects[&Key::Checkpoint(Seq(1))], VolumeId([0; 16]), Seq(1)).is_err());
}

#[test]
fn hostile_pages_are_refused() {
    let objects = objects(&big());
    let pages = objects.iter().filter(|(key, _)| matches!(key, Key::Page(_)));
    for (_, bytes) in pages.take(6) {
        // Damage under a correct hash, as whoever wrote the root could produce: it is decoded or refused, without a panic.
        for n in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
            let mut bad = bytes.clone();
            bad[n] ^= 0x81;
            let hash = blake3::hash(&bad).into();
            let _ = page::decode(&hash, &bad);
            bad.truncate(n);
            let hash = blake3::hash(&bad).into();
            assert!(page::decode(&hash, &bad).is_err(), "a page cut at {n}");
        }
    }
}

//! Objects of each format version as they were written when the version was new. They must decode forever, encode to the
//! same bytes, and be refused with any bit flipped or any byte missing.
//!
//! `BLESS=1 cargo test -p engine --test format_golden` rewrites the files of the newest version. That is allowed only while
//! a version is not released; after that, a change of layout is a new version with its own files.

mod common;

use common::*;
use engine::checkpoint::{CheckpointRoot, LoadError, load, page, write as write_checkpoint};
use engine::format::commit::{self, Commit, Expect, Header};
use engine::format::era::{CheckpointRef, Era, VolumeFormat};
use engine::format::pack::PackBuilder;
use engine::format::seal::{SealLimits, seal_changes};
use engine::format::{DecodeError, EncodeError, Key, VERSION, frame, pack};
use engine::manifest::Manifest;
use engine::model::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

const PACK: ObjectRef = ObjectRef::Pack { seq: Seq(2), epoch: 3, n: 4096 };

/// Versions with golden files. Kinds that did not change have their files with the version that introduced them.
const COMMITS: [u8; 3] = [1, 2, 3];
/// Those of ends of eras, checkpoints and pages.
const VERSIONS: [u8; 2] = [1, 2];

fn golden(version: u8, name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    let folder = format!("testdata/format/v{version}");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    // Files of older versions are never rewritten.
    if std::env::var_os("BLESS").is_some() && version == VERSION {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every flipped bit and every truncation must be refused.
fn refused_when_damaged<T: std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>) {
    decode(bytes).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            assert!(decode(&bad).is_err(), "bit {bit} of byte {at} flipped");
        }
        assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert!(decode(&longer).is_err(), "one byte more");
}

fn text() -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog. ".repeat(20)
}

fn golden_changes(version: u8) -> ChangeSet<Vec<u8>> {
    let mut device = make(6, Kind::CharDevice);
    let attributes = device.meta.as_mut().unwrap();
    attributes.rdev = 0x103;
    attributes.mtime = Time { sec: -5, nsec: 999_999_999 };
    attributes.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])];
    if version > 1 {
        (attributes.flags, attributes.project) = (InodeFlags::NODUMP | InodeFlags::CASEFOLD, 300);
    }
    let mut link = make(7, Kind::Symlink);
    link.meta.as_mut().unwrap().target = b"d/a".to_vec();
    let mut sparse = write(
        4,
        Some(3),
        vec![Op::Hole { len: 3 << 30 }, Op::Copy { from: 5, len: 100 }, Op::Literal(b"tail".to_vec())],
    );
    sparse.content.as_mut().unwrap().root = Root::Sparse([0x5a; 32]);
    let ops = vec![
        Op::Copy { from: 0, len: 4096 },
        Op::Literal(text()),
        Op::Copy { from: 9, len: 8192 },
        Op::Literal(vec![1, 2, 3]),
    ];
    let files = vec![write(3, Some(3), ops), sparse, make(5, Kind::Dir), device, link];
    let names = vec![unset(1, "old"), set(1, "d", 5), set(5, "dev", 6), set(1, "l", 7), set(5, "\u{e9}", 4)];
    changes(files, names, &[8, 12])
}

fn golden_header(version: u8) -> Header {
    let standing = Standing { wall: Time { sec: 1_799_996_400, nsec: 5 }, steady_since: Seq(2), baseline: true };
    Header {
        volume: VOLUME,
        seq: Seq(2),
        commit: CommitId([0x22; 16]),
        writer: WriterId([0x33; 16]),
        epoch: 3,
        time: Time { sec: 1_800_000_000, nsec: 123_456_789 },
        standing: (version > 1).then_some(standing),
        parent: [0x44; 32],
        era: (version > 1).then_some([0x55; 32]),
        consistency: (version > 2).then_some(Consistency::Instant { window_us: 12_345, pause_us: 678 }),
    }
}

fn make_commit(version: u8, inline: usize) -> (Vec<u8>, Vec<(ObjectRef, Vec<u8>)>) {
    let limits = SealLimits { frame_plain: 600, inline, ..SealLimits::default() };
    let sealed = seal_changes(VOLUME, Seq(2), 3, 1, golden_changes(version), limits).unwrap();
    let bytes = commit::encode(&golden_header(version), &sealed.pack_infos, &sealed.changes, &sealed.inline).unwrap();
    (bytes, sealed.packs)
}

/// Literals of the changes in order, read by place.
fn literals(commit: &Commit, object: impl Fn(ObjectRef) -> Vec<u8>) -> Vec<u8> {
    let contents = commit.changes.files.iter().filter_map(|f| f.content.as_ref());
    let mut out = Vec::new();
    for op in contents.flat_map(|c| &c.ops) {
        if let Op::Literal(Stored { at, len }) = op {
            let bytes = object(at.object);
            let frame = &bytes[at.frame_offset as usize..][..at.frame_bytes as usize];
            out.extend(frame::read_run(&VOLUME, at, *len, frame).unwrap());
        }
    }
    out
}

/// The changes without the places of literals, so that they compare equal whatever zstd produced.
fn shape(changes: &ChangeSet<Stored>) -> ChangeSet<u64> {
    let mut out = ChangeSet { files: vec![], names: changes.names.clone(), gone: changes.gone.clone() };
    for file in &changes.files {
        let content = file.content.as_ref().map(|c| {
            let mut ops: Vec<Op<u64>> = Vec::new();
            for op in &c.ops {
                match (op, ops.last_mut()) {
                    (Op::Literal(run), Some(Op::Literal(len))) => *len += run.len,
                    (Op::Literal(run), _) => ops.push(Op::Literal(run.len)),
                    (Op::Copy { from, len }, _) => ops.push(Op::Copy { from: *from, len: *len }),
                    (Op::Hole { len }, _) => ops.push(Op::Hole { len: *len }),
                }
            }
            Content { size: c.size, root: c.root, base: c.base, ops }
        });
        out.files.push(FileChange { id: file.id, meta: file.meta.clone(), content });
    }
    out
}

#[test]
fn commits_with_inline_payload_and_with_packs() {
    COMMITS.into_iter().for_each(commits);
}

fn commits(version: u8) {
    let expect = Expect { volume: VOLUME, seq: Seq(2) };
    let inline = golden(version, "commit-inline.bin", || make_commit(version, 4096).0);
    let packed = golden(version, "commit-packed.bin", || make_commit(version, 0).0);
    let pack_bytes = golden(1, "pack.bin", || make_commit(1, 0).1.remove(0).1);
    assert_eq!((inline[3], packed[3]), (version, version));
    let plain = [text(), vec![1, 2, 3], b"tail".to_vec()].concat();
    let fresh = commit::decode(&make_commit(version, 4096).0, expect).unwrap();
    for bytes in [&inline, &packed] {
        let commit = commit::decode(bytes, expect).unwrap();
        assert_eq!(commit.header, golden_header(version));
        assert_eq!(commit::decode_header(bytes, expect).unwrap(), golden_header(version));
        assert_eq!(shape(&commit.changes), shape(&fresh.changes));
        assert_eq!(commit.encode().unwrap(), *bytes, "the same bytes again");
        let object = |at| if at == PACK { pack_bytes.clone() } else { inline.clone() };
        assert_eq!(literals(&commit, object), plain);
        refused_when_damaged(bytes, |b| commit::decode(b, expect));
    }
    let commit = commit::decode(&packed, expect).unwrap();
    assert_eq!(commit.packs[0].object(), PACK);
    assert_eq!((commit.packs[0].bytes, commit.packs[0].hash), (pack_bytes.len() as u64, commit::hash(&pack_bytes)));
}

#[test]
fn packs() {
    let bytes = golden(1, "pack.bin", || make_commit(1, 0).1.remove(0).1);
    let index = pack::verify(&VOLUME, PACK, &bytes).unwrap();
    let mut builder = PackBuilder::new(VOLUME, Seq(2), 3, 4096);
    let mut codecs = Vec::new();
    for entry in index {
        let frame = &bytes[entry.offset as usize..][..entry.frame_bytes as usize];
        let (codec, plain_len, stored) = frame::check(&VOLUME, PACK, entry.offset, frame).unwrap();
        codecs.push(codec);
        builder.push(&frame::Body { codec, plain_len, stored: stored.to_vec() });
    }
    assert!(codecs.contains(&frame::CODEC_ZSTD));
    assert_eq!(builder.finish().unwrap().1, bytes, "the same bytes again");
    refused_when_damaged(&bytes, |b| pack::verify(&VOLUME, PACK, b));
}

#[test]
fn format_and_era() {
    let volume = VolumeFormat::new(VOLUME, Time { sec: 1_700_000_000, nsec: 1 });
    let bytes = golden(1, "format.bin", || volume.encode().unwrap());
    assert_eq!(VolumeFormat::decode(&bytes), Ok(volume.clone()));
    assert_eq!(volume.encode().unwrap(), bytes, "the same bytes again");
    refused_when_damaged(&bytes, VolumeFormat::decode);

    let checkpoint = Some(CheckpointRef { seq: Seq(12_000), hash: [6; 32] });
    let time = Time { sec: 1_800_000_000, nsec: 7 };
    for version in VERSIONS {
        let standing = golden_header(version).standing;
        let era =
            Era { volume: VOLUME, era: 2, last_seq: Seq(12_287), chain: [5; 32], time, standing, epoch: 3, checkpoint };
        let bytes = golden(version, "era.bin", || era.encode().unwrap());
        assert_eq!(bytes[3], version);
        assert_eq!(Era::decode(&bytes, VOLUME, 2, 4096), Ok(era.clone()));
        assert_eq!(era.encode().unwrap(), bytes, "the same bytes again");
        refused_when_damaged(&bytes, |b| Era::decode(b, VOLUME, 2, 4096));
    }
}

/// The objects of a checkpoint of the small volume, in one golden file each.
fn checkpoint_objects(manifest: &Manifest) -> BTreeMap<Key, Vec<u8>> {
    let mut out = BTreeMap::new();
    write_checkpoint(manifest, |key, bytes| -> Result<(), EncodeError> {
        out.insert(key, bytes);
        Ok(())
    })
    .unwrap();
    out
}

/// Stored without compression, so that places are the same with any version of zstd.
fn golden_manifest(version: u8) -> Manifest {
    let mut manifest = Manifest::new(VOLUME);
    let ops = (0..1_400u64).flat_map(|n| [Op::Hole { len: 4096 }, Op::Literal(vec![n as u8; 10])]).collect();
    let mut flagged = make(2, Kind::Dir);
    if version > 1 {
        flagged.meta.as_mut().unwrap().flags = InodeFlags::APPEND;
    }
    let files = vec![
        make(1, Kind::Dir),
        flagged,
        write(3, None, vec![Op::Literal(vec![7; 9000]), Op::Hole { len: 5000 }]),
        write(2_000, None, ops),
    ];
    let names = vec![set(1, "d", 2), set(2, "a", 3), set(1, "b", 3), set(2, "big", 2_000)];
    let sealed = seal_changes(
        VOLUME,
        Seq(1),
        1,
        0,
        changes(files, names, &[]),
        SealLimits { level: 0, ..SealLimits::default() },
    );
    let sealed = sealed.unwrap();
    let mut header = Header { seq: Seq(1), parent: [0; 32], ..golden_header(version) };
    if let Some(standing) = &mut header.standing {
        standing.steady_since = Seq(0);
    }
    let commit = Commit { header, packs: sealed.pack_infos, changes: sealed.changes, inline: sealed.inline };
    manifest.apply(&commit, [0x77; 32]).unwrap();
    manifest
}

#[test]
fn checkpoint_and_pages() {
    VERSIONS.into_iter().for_each(checkpoints);
}

fn checkpoints(version: u8) {
    let manifest = golden_manifest(version);
    let objects = checkpoint_objects(&manifest);
    let root_bytes = golden(version, "checkpoint.bin", || objects[&Key::Checkpoint(Seq(1))].clone());
    assert_eq!(root_bytes[3], version);
    let root = CheckpointRoot::decode(&root_bytes, VOLUME, Seq(1)).unwrap();
    assert_eq!(root.encode().unwrap(), root_bytes, "the same bytes again");
    assert_eq!(objects[&Key::Checkpoint(Seq(1))], root_bytes, "the same manifest makes the same checkpoint");
    refused_when_damaged(&root_bytes, |b| CheckpointRoot::decode(b, VOLUME, Seq(1)));

    assert!(root.files.len() >= 2 && !root.names.is_empty() && root.extents.len() >= 2);
    let mut pages = BTreeMap::new();
    for (n, hash) in root.pages().enumerate() {
        let bytes = golden(version, &format!("page-{n}.bin"), || objects[&Key::Page(hash)].clone());
        page::decode(&hash, &bytes).unwrap();
        // Pages are large, and the hash covers every byte alike: a sample is enough.
        let sample = bytes.len() > 2000;
        for at in (0..bytes.len()).step_by(if sample { 37 } else { 1 }) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(page::decode(&hash, &bad).is_err(), "byte {at} of page {n} flipped");
            assert!(page::decode(&hash, &bytes[..at]).is_err(), "page {n} cut at {at}");
        }
        pages.insert(hash, bytes);
    }
    let back = load(&root, |hash| -> Result<_, LoadError> { Ok(pages[hash].clone()) }).unwrap();
    assert_eq!(back, manifest);
}

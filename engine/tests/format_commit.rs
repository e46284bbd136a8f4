//! Commits and packs: sealed content can be read back, costs little, and damage is refused.

use engine::checkpoint::{self, CheckpointRoot, page};
use engine::format::commit::{self, Commit, Expect, Header};
use engine::format::era::{self, Era, VolumeFormat};
use engine::format::seal::{PackWriter, SealLimits, seal_changes};
use engine::format::{
    DecodeError, EncodeError, FIRST_VERSION, MAGIC_CHECKPOINT, MAGIC_COMMIT, MAGIC_ERA, MAGIC_FORMAT, MAGIC_PAGE,
    STANDING_VERSION, VERSION,
};
use engine::format::{frame, pack};
use engine::model::*;
use proptest::prelude::*;
use std::collections::HashMap;

const VOLUME: VolumeId = VolumeId([0x11; 16]);

fn header(seq: Seq) -> Header {
    let time = Time { sec: 1_800_000_000, nsec: 999_999_999 };
    Header {
        volume: VOLUME,
        seq,
        commit: CommitId([0x22; 16]),
        writer: WriterId([0x33; 16]),
        epoch: 1,
        time,
        standing: Some(Standing { wall: time, steady_since: Seq(0), baseline: true }),
        parent: [0x44; 32],
        era: None,
        consistency: None,
    }
}

fn meta() -> Meta {
    let mtime = Time { sec: 1_799_999_999, nsec: 123_456_789 };
    let (target, xattrs) = (Vec::new(), Vec::new());
    Meta { kind: Kind::File, mode: 0o644, uid: 1000, gid: 1000, mtime, rdev: 0, target, xattrs, flags: 0, project: 0 }
}

/// Bytes that do not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn one_file(size: u64, meta: Option<Meta>, ops: Vec<Op<Vec<u8>>>) -> ChangeSet<Vec<u8>> {
    let base = ops.iter().any(|op| matches!(op, Op::Copy { .. })).then_some(FileId(700));
    let content = Some(Content { size, root: Root::Blake3([0x55; 32]), base, ops });
    ChangeSet { files: vec![FileChange { id: FileId(700), meta, content }], ..ChangeSet::default() }
}

fn sealed(seq: Seq, changes: ChangeSet<Vec<u8>>, limits: SealLimits) -> (Commit, HashMap<ObjectRef, Vec<u8>>) {
    let sealed = seal_changes(VOLUME, seq, 1, 2, changes, limits).unwrap();
    let commit =
        Commit { header: header(seq), packs: sealed.pack_infos, changes: sealed.changes, inline: sealed.inline };
    (commit, sealed.packs.into_iter().collect())
}

fn decode(bytes: &[u8], seq: Seq) -> Result<Commit, DecodeError> {
    commit::decode(bytes, Expect { volume: VOLUME, seq })
}

/// Reads all literals of the first file back by ranged reads alone.
fn literals(commit: &Commit, bytes: &[u8], packs: &HashMap<ObjectRef, Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for op in &commit.changes.files[0].content.as_ref().unwrap().ops {
        if let Op::Literal(Stored { at, len }) = op {
            let object = match at.object {
                ObjectRef::Commit(_) => bytes,
                pack => &packs[&pack],
            };
            let start = at.frame_offset as usize;
            let frame = &object[start..start + at.frame_bytes as usize];
            out.extend(frame::read_run(&VOLUME, at, *len, frame).unwrap());
        }
    }
    out
}

#[test]
fn one_block_of_a_big_file_costs_less_than_200_bytes() {
    let size = 10 << 30;
    let at = 7 << 30;
    let block = noise(4096, 1);
    let ops = vec![
        Op::Copy { from: 0, len: at },
        Op::Literal(block.clone()),
        Op::Copy { from: at + 4096, len: size - at - 4096 },
    ];
    let (commit, packs) = sealed(Seq(1_000_000), one_file(size, Some(meta()), ops), SealLimits::default());
    let bytes = commit.encode().unwrap();
    let cost = bytes.len() - block.len();
    println!("metadata of 1 block, attributes included: {cost} bytes");
    assert!(cost < 200, "{cost}");
    let back = decode(&bytes, Seq(1_000_000)).unwrap();
    assert_eq!(back, commit);
    assert_eq!(literals(&back, &bytes, &packs), block);
}

#[test]
fn scattered_blocks_cost_less_than_12_bytes_each() {
    let size: u64 = 10 << 30;
    let gap = size / 4096 / 1000 * 4096;
    let mut ops = Vec::new();
    let mut plain = Vec::new();
    for n in 0..1000 {
        let block = noise(4096, n);
        plain.extend_from_slice(&block);
        ops.push(Op::Literal(block));
        let (from, end) = (n * gap + 4096, if n == 999 { size } else { (n + 1) * gap });
        ops.push(Op::Copy { from, len: end - from });
    }
    let (commit, packs) = sealed(Seq(9), one_file(size, Some(meta()), ops), SealLimits::default());
    assert_eq!(packs.len(), 1, "4 MB do not go inline");
    let bytes = commit.encode().unwrap();
    let pack_cost: usize = packs.values().map(Vec::len).sum::<usize>() - plain.len();
    let each = (bytes.len() + pack_cost) as f64 / 1000.0;
    println!("metadata of 1,000 scattered blocks, commit and pack: {each} bytes each");
    assert!(each < 12.0, "{each}");
    let back = decode(&bytes, Seq(9)).unwrap();
    assert_eq!(back, commit);
    assert_eq!(literals(&back, &bytes, &packs), plain);
}

#[test]
fn the_writer_streams_packs_and_keeps_no_more_than_one() {
    let limits = SealLimits { pack: 1 << 20, ..SealLimits::default() };
    let mut writer = PackWriter::new(VOLUME, Seq(5), 1, 3, limits).unwrap();
    let mut packs = HashMap::new();
    let mut spans = Vec::new();
    for n in 0..40u64 {
        let literal = noise(100_000, n);
        spans.push((writer.push(&literal).unwrap(), literal));
        let mut taken = 0;
        while let Some((object, bytes)) = writer.take_full() {
            taken += 1;
            packs.insert(object, bytes);
        }
        assert!(taken <= 1);
    }
    assert!(packs.len() >= 3, "packs come out while literals go in");
    let sealed = writer.finish().unwrap();
    assert!(sealed.inline.is_empty());
    packs.extend(sealed.last);
    assert_eq!(sealed.packs.len(), packs.len());
    for info in &sealed.packs {
        let bytes = &packs[&info.object()];
        assert_eq!(info.bytes, bytes.len() as u64);
        assert_eq!(info.hash, *blake3::hash(bytes).as_bytes());
        let index = pack::verify(&VOLUME, info.object(), bytes).unwrap();
        let tail = &bytes[bytes.len() - 200..];
        assert_eq!(pack::decode_index(&VOLUME, info.object(), info.bytes, tail).unwrap(), index);
    }
    for (span, literal) in spans {
        let mut got = Vec::new();
        for run in sealed.places.runs(span) {
            let start = run.at.frame_offset as usize;
            let frame = &packs[&run.at.object][start..start + run.at.frame_bytes as usize];
            got.extend(frame::read_run(&VOLUME, &run.at, run.len, frame).unwrap());
        }
        assert_eq!(got, literal);
    }
}

#[test]
fn another_place_or_another_commit_is_refused() {
    let (commit, _) = sealed(Seq(9), one_file(3, None, vec![Op::Literal(b"abc".to_vec())]), SealLimits::default());
    let bytes = commit.encode().unwrap();
    assert!(matches!(
        decode(&bytes, Seq(10)),
        Err(DecodeError::Number { field: "commit seq", found: 9, expected: 10 })
    ));
    let other = commit::decode(&bytes, Expect { volume: VolumeId([0; 16]), seq: Seq(9) });
    assert!(matches!(other, Err(DecodeError::Identity { field: "commit volume", .. })));
    let mut newer = bytes.clone();
    newer[3] = VERSION + 1;
    assert!(matches!(decode(&newer, Seq(9)), Err(DecodeError::Version { found: 4, supported: VERSION, .. })));
    newer[3] = 0;
    assert!(matches!(decode(&newer, Seq(9)), Err(DecodeError::Version { found: 0, .. })));
}

#[test]
fn ops_that_do_not_fill_the_size_are_not_written() {
    let (commit, _) = sealed(Seq(9), one_file(4, None, vec![Op::Literal(b"abc".to_vec())]), SealLimits::default());
    assert!(commit.encode().is_err());
    let bad = ChangeSet {
        names: vec![NameChange::Set { parent: FileId::ROOT, name: b"../x".to_vec(), id: FileId(2) }],
        ..ChangeSet::default()
    };
    assert!(sealed(Seq(9), bad, SealLimits::default()).0.encode().is_err());
}

#[test]
fn a_symlink_that_no_restore_can_make_is_not_encoded() {
    for target in [&b""[..], b"a\0b"] {
        let link = Meta { kind: Kind::Symlink, target: target.to_vec(), ..meta() };
        let changes = ChangeSet {
            files: vec![FileChange { id: FileId(2), meta: Some(link), content: None }],
            ..ChangeSet::default()
        };
        let refused = sealed(Seq(9), changes, SealLimits::default()).0.encode();
        assert!(matches!(refused, Err(EncodeError::Unmakeable { .. })), "{refused:?}");
    }
}

fn any_meta() -> impl Strategy<Value = Meta> {
    let kinds = prop_oneof![
        Just(Kind::File),
        Just(Kind::Dir),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDevice),
        Just(Kind::BlockDevice)
    ];
    let xattrs = prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..9), any::<Vec<u8>>(), 0..3);
    let time = (any::<i64>(), 0..1_000_000_000u32);
    let flags = prop_oneof![Just((0, 0)), (0..=InodeFlags::ALL, any::<u32>())];
    let target = prop::collection::vec(1..=u8::MAX, 1..60);
    (kinds, 0..0o10000u32, any::<(u32, u32, u64)>(), time, target, xattrs, flags).prop_map(
        |(kind, mode, (uid, gid, rdev), (sec, nsec), target, xattrs, (flags, project))| Meta {
            kind,
            mode,
            uid,
            gid,
            mtime: Time { sec, nsec },
            rdev: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { rdev } else { 0 },
            target: if kind == Kind::Symlink { target } else { Vec::new() },
            xattrs: xattrs.into_iter().collect(),
            flags,
            project,
        },
    )
}

fn any_op() -> impl Strategy<Value = Op<Vec<u8>>> {
    let len = prop_oneof![1..20_000u64, (1..100_000u64).prop_map(|n| n * 4096)];
    prop_oneof![
        (0..1u64 << 40, len.clone()).prop_map(|(from, len)| Op::Copy { from, len }),
        len.prop_map(|len| Op::Hole { len }),
        prop::collection::vec(any::<u8>(), 1..300).prop_map(Op::Literal),
    ]
}

fn any_changes() -> impl Strategy<Value = ChangeSet<Vec<u8>>> {
    let ops = prop::collection::vec(any_op(), 0..12);
    let content = (ops, any::<Hash>(), any::<bool>(), any::<u64>()).prop_map(|(ops, hash, sparse, base)| {
        let size = ops.iter().map(|op| match op {
            Op::Copy { len, .. } | Op::Hole { len } => *len,
            Op::Literal(l) => l.len() as u64,
        });
        let base = ops.iter().any(|op| matches!(op, Op::Copy { .. })).then_some(FileId(base));
        let root = if sparse { Root::Sparse(hash) } else { Root::Blake3(hash) };
        Content { size: size.sum(), root, base, ops }
    });
    let file = (any::<u64>(), prop::option::of(any_meta()), prop::option::of(content));
    let name = "[a-z]{1,12}";
    let change = (any::<u64>(), name, prop::option::of(any::<u64>())).prop_map(|(parent, name, id)| {
        let (parent, name) = (FileId(parent), name.into_bytes());
        match id {
            Some(id) => NameChange::Set { parent, name, id: FileId(id) },
            None => NameChange::Unset { parent, name },
        }
    });
    let gone = prop::collection::vec(any::<u64>().prop_map(FileId), 0..4);
    (prop::collection::vec(file, 0..5), prop::collection::vec(change, 0..5), gone).prop_map(|(files, names, gone)| {
        let files = files.into_iter().map(|(id, meta, content)| FileChange { id: FileId(id), meta, content }).collect();
        ChangeSet { files, names, gone }
    })
}

fn any_consistency() -> impl Strategy<Value = Consistency> {
    let instant = any::<(u32, u32)>().prop_map(|(window_us, pause_us)| Consistency::Instant { window_us, pause_us });
    prop_oneof![instant, (0..NotInstant::ALL.len()).prop_map(|n| Consistency::Live(NotInstant::ALL[n]))]
}

#[test]
fn what_a_commit_may_not_say_of_its_instant_is_refused() {
    let says = |consistency| {
        let (mut commit, _) = sealed(Seq(9), ChangeSet::default(), SealLimits::default());
        commit.header.consistency = consistency;
        commit
    };
    // What follows the parent's hash: the kind, then numbers.
    let bytes = says(Some(Consistency::Live(NotInstant::Mapped))).encode().unwrap();
    let at = bytes.windows(32).position(|part| part == [0x44; 32]).unwrap() + 32;
    assert_eq!(bytes[at..at + 2], [2, 8]);
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        decode(&reseal(bytes), Seq(9))
    };
    for kind in [0, 3, 255] {
        assert!(matches!(with(at, kind), Err(DecodeError::Tag { field: "consistency", .. })), "kind {kind}");
    }
    for reason in [0, 11, 127] {
        let refused = with(at + 1, reason);
        assert!(matches!(refused, Err(DecodeError::Tag { field: "why it is not of one instant", .. })), "{refused:?}");
    }
    // The version says whether it is there; neither one without the other, and no older object with it.
    let flags = at - 33;
    assert_eq!(bytes[flags], 1 | 32);
    assert!(matches!(with(flags, 1), Err(DecodeError::Tag { field: "flags", found: 1 })));
    assert!(matches!(with(3, STANDING_VERSION), Err(DecodeError::Tag { field: "flags", found: 33 })));
    let without = says(None).encode().unwrap();
    assert_eq!(without[3], STANDING_VERSION);
    let mut newer = without;
    newer[3] = VERSION;
    assert!(decode(&reseal(newer), Seq(9)).is_err());
    let mut old = says(Some(Consistency::Instant { window_us: 1, pause_us: 0 }));
    old.header.standing = None;
    assert!(old.encode().is_err(), "version 1 has no place for it");
}

/// A commit with a bit of everything, to be damaged under a correct checksum.
fn mixed() -> Vec<u8> {
    let ops = vec![Op::Copy { from: 9, len: 70 }, Op::Literal(noise(900, 1)), Op::Hole { len: 4096 }];
    let mut changes = one_file(70 + 900 + 4096, Some(meta()), ops);
    changes.names.push(NameChange::Set { parent: FileId::ROOT, name: b"a".to_vec(), id: FileId(700) });
    changes.names.push(NameChange::Unset { parent: FileId::ROOT, name: b"b".to_vec() });
    changes.gone.push(FileId(12));
    let (mut commit, _) = sealed(Seq(77), changes, SealLimits { inline: 0, ..SealLimits::default() });
    commit.header.consistency = Some(Consistency::Instant { window_us: 900_000, pause_us: 7 });
    commit.encode().unwrap()
}

/// Corrects the checksum, as an attacker would.
fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(16));
    let sum = engine::format::codec::checksum(commit::CONTEXT, &bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn damage_under_a_right_checksum_does_no_harm(edits in prop::collection::vec(any::<(u16, u8)>(), 1..5), cut in 0usize..40) {
        let mut bytes = mixed();
        for (at, value) in edits {
            // Not the head, which is checked before everything else.
            let at = 4 + usize::from(at) % (bytes.len() - 4);
            bytes[at] = value;
        }
        if cut > 30 {
            bytes.truncate(bytes.len() - cut);
        }
        if let Ok(commit) = decode(&reseal(bytes), Seq(77)) {
            prop_assert!(commit.encode().is_ok(), "what is decoded is within the limits");
            for file in &commit.changes.files {
                if let Some(c) = &file.content {
                    let _ = engine::extent_map::ExtentMap::check(&c.ops, c.size, u64::MAX);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn commits_come_back(
        changes in any_changes(), frame_plain in 1usize..2000, inline in 0usize..2000,
        (wall, steady_since, baseline) in (prop::option::of((any::<i64>(), 0..1_000_000_000u32)), 0..=77u64, any::<bool>()),
        era: Option<Hash>, consistency in prop::option::of(any_consistency()),
    ) {
        let limits = SealLimits { frame_plain, inline, pack: 1500, level: 1 };
        let (mut commit, packs) = sealed(Seq(77), changes, limits);
        let wall = wall.map_or(commit.header.time, |(sec, nsec)| Time { sec, nsec });
        commit.header.standing = Some(Standing { wall, steady_since: Seq(steady_since), baseline });
        commit.header.era = era;
        commit.header.consistency = consistency;
        let bytes = commit.encode().unwrap();
        let back = decode(&bytes, Seq(77)).unwrap();
        prop_assert_eq!(&back, &commit);
        prop_assert_eq!(&commit::peek(&bytes).unwrap(), &commit.header);
        prop_assert_eq!(bytes[3], if consistency.is_some() { VERSION } else { STANDING_VERSION });
        prop_assert_eq!(back.encode().unwrap(), bytes);
        prop_assert!(commit.inline.len() <= inline);
        for info in &commit.packs {
            prop_assert!(pack::verify(&VOLUME, info.object(), &packs[&info.object()]).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&bytes, Seq(1)).is_err());
        let object = ObjectRef::Pack { seq: Seq(1), epoch: 1, n: 0 };
        prop_assert!(pack::verify(&VOLUME, object, &bytes).is_err());
        prop_assert!(frame::decode(&VOLUME, object, 0, &bytes).is_err());
    }

    #[test]
    fn any_bytes_under_a_right_checksum_do_no_harm(body in prop::collection::vec(any::<u8>(), 0..300), small: bool) {
        use engine::format::codec::checksum;
        // Small values produce valid counts and tags, so that decoding gets further.
        let body: Vec<u8> = body.into_iter().map(|b| if small { b % 8 } else { b }).collect();
        let sealed = |magic: [u8; 3], newest: u8, context: &str| {
            let mut bytes = [&magic[..], &[newest], &body].concat();
            let sum = checksum(context, &bytes);
            bytes.extend_from_slice(&sum);
            bytes
        };
        let _ = VolumeFormat::decode(&sealed(MAGIC_FORMAT, FIRST_VERSION, era::FORMAT_CONTEXT));
        prop_assert!(Era::decode(&sealed(MAGIC_ERA, STANDING_VERSION, era::ERA_CONTEXT), VOLUME, 0, 4096).is_err());
        prop_assert!(CheckpointRoot::decode(&sealed(MAGIC_CHECKPOINT, STANDING_VERSION, checkpoint::CONTEXT), VOLUME, Seq(1)).is_err());
        for version in [STANDING_VERSION, VERSION] {
            prop_assert!(decode(&sealed(MAGIC_COMMIT, version, commit::CONTEXT), Seq(1)).is_err());
        }
        let page = [&MAGIC_PAGE[..], &[STANDING_VERSION], &body].concat();
        let _ = page::decode(&commit::hash(&page), &page);
    }
}

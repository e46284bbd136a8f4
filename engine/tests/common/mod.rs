//! Small volumes for the tests of manifest, checkpoint and plan.
#![allow(dead_code, reason = "each test file uses its own part")]

use engine::format::commit::{self, Commit, Header};
use engine::format::seal::{SealLimits, seal_changes};
use engine::manifest::{Manifest, ManifestError};
use engine::model::*;

pub(crate) const VOLUME: VolumeId = VolumeId([0x11; 16]);

pub(crate) fn meta(kind: Kind) -> Meta {
    let (rdev, target, xattrs) = (0, Vec::new(), Vec::new());
    Meta {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time { sec: 1_000, nsec: 5 },
        rdev,
        target,
        xattrs,
        flags: 0,
        project: 0,
    }
}

pub(crate) fn make(id: u64, kind: Kind) -> FileChange<Vec<u8>> {
    FileChange { id: FileId(id), meta: Some(meta(kind)), content: None }
}

pub(crate) fn write(id: u64, base: Option<u64>, ops: Vec<Op<Vec<u8>>>) -> FileChange<Vec<u8>> {
    let size = ops.iter().map(|op| match op {
        Op::Copy { len, .. } | Op::Hole { len } => *len,
        Op::Literal(bytes) => bytes.len() as u64,
    });
    let content = Content { size: size.sum(), root: Root::Blake3([id as u8; 32]), base: base.map(FileId), ops };
    FileChange { id: FileId(id), meta: Some(meta(Kind::File)), content: Some(content) }
}

pub(crate) fn set(parent: u64, name: &str, id: u64) -> NameChange {
    NameChange::Set { parent: FileId(parent), name: name.as_bytes().to_vec(), id: FileId(id) }
}

pub(crate) fn unset(parent: u64, name: &str) -> NameChange {
    NameChange::Unset { parent: FileId(parent), name: name.as_bytes().to_vec() }
}

pub(crate) fn changes(files: Vec<FileChange<Vec<u8>>>, names: Vec<NameChange>, gone: &[u64]) -> ChangeSet<Vec<u8>> {
    ChangeSet { files, names, gone: gone.iter().map(|id| FileId(*id)).collect() }
}

/// The next commit, as object bytes and decoded.
pub(crate) fn next(manifest: &Manifest, changes: ChangeSet<Vec<u8>>) -> (Vec<u8>, Commit) {
    let at = manifest.position();
    let seq = at.seq + 1;
    let limits = SealLimits { frame_plain: 4096, ..SealLimits::default() };
    let sealed = seal_changes(VOLUME, seq, 1, 0, changes, limits).unwrap();
    let header = Header {
        volume: VOLUME,
        seq,
        commit: CommitId([seq.0 as u8; 16]),
        writer: WriterId([9; 16]),
        epoch: 1,
        time: Time { sec: 2_000 + seq.0 as i64, nsec: 0 },
        standing: Some(Standing::after(at.standing, at.time, seq, Time { sec: 2_000 + seq.0 as i64, nsec: 0 }, true)),
        parent: at.head,
        era: None,
        consistency: None,
    };
    let commit = Commit { header, packs: sealed.pack_infos, changes: sealed.changes, inline: sealed.inline };
    let bytes = commit.encode().unwrap();
    let back = commit::decode(&bytes, commit::Expect { volume: VOLUME, seq }).unwrap();
    assert_eq!(back, commit);
    (bytes, back)
}

pub(crate) fn apply(manifest: &mut Manifest, changes: ChangeSet<Vec<u8>>) -> Result<(), ManifestError> {
    let (bytes, commit) = next(manifest, changes);
    manifest.apply(&commit, commit::hash(&bytes))
}

/// `d/` (2), `d/a` (3, 10 bytes), `b` (4, a hard link `d/b2`), `d/e/` (5), `d/e/l` (6, a symlink).
pub(crate) fn small() -> Manifest {
    let mut manifest = Manifest::new(VOLUME);
    let mut link = make(6, Kind::Symlink);
    link.meta.as_mut().unwrap().target = b"../a".to_vec();
    let files = vec![
        make(1, Kind::Dir),
        make(2, Kind::Dir),
        write(3, None, vec![Op::Literal(b"0123456789".to_vec())]),
        write(4, None, vec![Op::Literal(vec![7; 9000]), Op::Hole { len: 5000 }]),
        make(5, Kind::Dir),
        link,
    ];
    let names = vec![set(1, "d", 2), set(2, "a", 3), set(1, "b", 4), set(2, "b2", 4), set(2, "e", 5), set(5, "l", 6)];
    apply(&mut manifest, changes(files, names, &[])).unwrap();
    manifest
}

//! Builds a volume by hand: scans directories with the standard library, and puts changes into a store with the engine's
//! encoders. Shares no code with the reader or with the daemon's writer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::checkpoint;
use engine::format::Key;
use engine::format::commit::{self, Commit, Header};
use engine::format::era::{CheckpointRef, Era, VolumeFormat, era_of, last_seq};
use engine::format::seal::{SealLimits, seal_changes};
use engine::manifest::Manifest;
use engine::model::*;
use engine::tree::{RootHasher, RootKind};
use rustix::fs::SeekFrom;
use tracker::store::{Created, Store, local::Local};

pub(crate) const VOLUME: VolumeId = VolumeId([0x42; 16]);
pub(crate) const NAME: &str = "vol";
const BLOCK: usize = 4096;

pub(crate) struct Volume {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) manifest: Manifest,
    /// The wall clock of the next commit; by default seq n is at `START + n` seconds.
    pub(crate) wall: Option<Time>,
    /// What the next commit records of the baseline; `None`: it is of format version 1.
    pub(crate) baseline: Option<bool>,
    /// What the next commit says of its instant.
    pub(crate) consistency: Option<Consistency>,
    era_len: u64,
    contents: HashMap<FileId, Vec<u8>>,
    /// By the file's first path.
    ids: BTreeMap<Vec<u8>, FileId>,
    next: u64,
    last_checkpoint: Option<CheckpointRef>,
}

/// Seconds since 1970 of "commit 0".
pub(crate) const START: i64 = 1_700_000_000;

/// Offsets and lengths.
type Holes = Vec<(u64, u64)>;

struct Entry {
    path: Vec<u8>,
    meta: Meta,
    inode: u64,
    content: Option<(Vec<u8>, Holes)>,
}

impl Volume {
    pub(crate) fn create(dir: &Path, era_len: u64) -> Volume {
        Volume::create_in(Arc::new(Local::open(dir, tracker::store::Make::Parents).unwrap()), era_len)
    }

    pub(crate) fn create_in(store: Arc<dyn Store>, era_len: u64) -> Volume {
        let format = VolumeFormat { era_len, ..VolumeFormat::new(VOLUME, Time { sec: START, nsec: 0 }) };
        let volume = Volume {
            store,
            manifest: Manifest::new(VOLUME),
            wall: None,
            baseline: Some(true),
            consistency: None,
            era_len,
            contents: HashMap::new(),
            ids: BTreeMap::new(),
            next: 2,
            last_checkpoint: None,
        };
        volume.put(Key::Format, format.encode().unwrap());
        volume
    }

    pub(crate) fn put(&self, key: Key, bytes: Vec<u8>) {
        let made = self.store.create(&format!("{NAME}/{key}"), bytes.into()).unwrap();
        assert!(made == Created::Yes || matches!(key, Key::Page(_)), "{key} is there already");
    }

    /// Commits the present state of a directory; `inline` is the limit above which literals go to packs.
    pub(crate) fn commit(&mut self, dir: &Path, inline: usize) -> Seq {
        let changes = self.changes(scan(dir));
        self.commit_changes(changes, inline)
    }

    pub(crate) fn commit_changes(&mut self, changes: ChangeSet<Vec<u8>>, inline: usize) -> Seq {
        let at = self.manifest.position().clone();
        let seq = at.seq + 1;
        let mut ended = None;
        if seq > Seq(1) && era_of(seq, self.era_len) > era_of(at.seq, self.era_len) {
            let era = era_of(at.seq, self.era_len);
            assert_eq!(last_seq(era, self.era_len), at.seq);
            let (time, chain, checkpoint, standing) = (at.time, at.head, self.last_checkpoint, at.standing);
            let era = Era { volume: VOLUME, era, last_seq: at.seq, chain, time, standing, epoch: 1, checkpoint };
            let bytes = era.encode().unwrap();
            ended = Some(blake3::hash(&bytes).into());
            self.put(Key::Era(era.era), bytes);
        }
        let limits = SealLimits { frame_plain: 8192, inline, pack: 64 << 10, ..SealLimits::default() };
        let sealed = seal_changes(VOLUME, seq, 1, 0, changes, limits).unwrap();
        for (object, bytes) in sealed.packs {
            self.put(Key::from(object), bytes);
        }
        let wall = self.wall.unwrap_or(Time { sec: START + seq.0 as i64, nsec: 0 });
        let time = Time::later_than(at.time, wall);
        let header = Header {
            volume: VOLUME,
            seq,
            commit: CommitId([seq.0 as u8; 16]),
            writer: WriterId([9; 16]),
            epoch: 1,
            time,
            standing: self.baseline.map(|baseline| Standing::after(at.standing, at.time, seq, wall, baseline)),
            parent: at.head,
            era: ended,
            consistency: self.consistency,
        };
        let commit = Commit { header, packs: sealed.pack_infos, changes: sealed.changes, inline: sealed.inline };
        let bytes = commit.encode().unwrap();
        self.manifest.apply(&commit, commit::hash(&bytes)).unwrap();
        self.put(Key::Commit(seq), bytes);
        seq
    }

    pub(crate) fn checkpoint(&mut self) -> CheckpointRef {
        let mut objects = Vec::new();
        let reference = checkpoint::write(&self.manifest, |key, bytes| {
            objects.push((key, bytes));
            Ok::<_, engine::format::EncodeError>(())
        });
        for (key, bytes) in objects {
            self.put(key, bytes);
        }
        let reference = reference.unwrap();
        self.last_checkpoint = Some(reference);
        reference
    }

    fn changes(&mut self, entries: Vec<Entry>) -> ChangeSet<Vec<u8>> {
        let mut out = ChangeSet::default();
        let mut by_inode: HashMap<u64, FileId> = HashMap::new();
        let mut ids: BTreeMap<Vec<u8>, FileId> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for entry in &entries {
            let old = self.ids.get(&entry.path).copied();
            let same_kind = |id: &FileId| self.manifest.get(*id).is_some_and(|f| f.meta.kind == entry.meta.kind);
            let id = match (by_inode.get(&entry.inode), old.filter(same_kind).filter(|id| !seen.contains(id))) {
                (Some(id), _) => *id,
                (None, Some(id)) => id,
                (None, None) if entry.path.is_empty() => FileId::ROOT,
                (None, None) => {
                    self.next += 1;
                    FileId(self.next)
                }
            };
            by_inode.insert(entry.inode, id);
            ids.insert(entry.path.clone(), id);
            if !seen.insert(id) {
                continue;
            }
            let known = self.manifest.get(id);
            let meta = known.is_none_or(|f| f.meta != entry.meta).then(|| entry.meta.clone());
            let content = entry.content.as_ref().and_then(|(bytes, holes)| {
                let old = self.contents.insert(id, bytes.clone());
                (old.as_ref() != Some(bytes)).then(|| content(id, old.as_deref(), bytes, holes))
            });
            if meta.is_some() || content.is_some() {
                out.files.push(FileChange { id, meta, content });
            }
        }
        let split = |path: &[u8]| -> (Vec<u8>, Vec<u8>) {
            let at = path.iter().rposition(|b| *b == b'/');
            (at.map_or(Vec::new(), |at| path[..at].to_vec()), path[at.map_or(0, |at| at + 1)..].to_vec())
        };
        for (path, id) in self.ids.iter().filter(|(path, _)| !path.is_empty()) {
            let (parent, name) = split(path);
            let parent = self.ids[&parent];
            let moved = ids.get(path) != Some(id) || ids.get(&split(path).0) != Some(&parent);
            if moved {
                out.names.push(NameChange::Unset { parent, name });
            }
        }
        for (path, id) in ids.iter().filter(|(path, _)| !path.is_empty()) {
            let (parent_path, name) = split(path);
            let parent = ids[&parent_path];
            if self.ids.get(path) != Some(id) || self.ids.get(&parent_path) != Some(&parent) {
                out.names.push(NameChange::Set { parent, name, id: *id });
            }
        }
        let replaced: BTreeSet<(FileId, Vec<u8>)> = out
            .names
            .iter()
            .filter_map(|n| match n {
                NameChange::Set { parent, name, .. } => Some((*parent, name.clone())),
                NameChange::Unset { .. } => None,
            })
            .collect();
        out.names.retain(|n| match n {
            NameChange::Unset { parent, name } => !replaced.contains(&(*parent, name.clone())),
            NameChange::Set { .. } => true,
        });
        out.gone = self.ids.values().copied().collect::<BTreeSet<_>>().difference(&seen).copied().collect();
        self.ids = ids;
        out
    }
}

/// Copies unchanged blocks and sends the others; whole blocks inside holes are holes.
fn content(id: FileId, old: Option<&[u8]>, bytes: &[u8], holes: &[(u64, u64)]) -> Content<Vec<u8>> {
    let hole_bytes: u64 = holes.iter().map(|(_, len)| *len).sum();
    let kind = if hole_bytes > 1 << 30 { RootKind::Sparse } else { RootKind::Blake3 };
    let mut hasher = RootHasher::new(kind);
    hasher.bytes(bytes);
    let mut ops: Vec<Op<Vec<u8>>> = Vec::new();
    for (n, block) in bytes.chunks(BLOCK).enumerate() {
        let at = (n * BLOCK) as u64;
        let end = at + block.len() as u64;
        let op = if holes.iter().any(|(from, len)| *from <= at && end <= from + len) {
            Op::Hole { len: block.len() as u64 }
        } else if old.and_then(|old| old.get(at as usize..end as usize)) == Some(block) {
            Op::Copy { from: at, len: block.len() as u64 }
        } else {
            Op::Literal(block.to_vec())
        };
        match (ops.last_mut(), op) {
            (Some(Op::Hole { len }), Op::Hole { len: more }) => *len += more,
            (Some(Op::Copy { len, .. }), Op::Copy { len: more, .. }) => *len += more,
            (Some(Op::Literal(run)), Op::Literal(more)) => run.extend(more),
            (_, op) => ops.push(op),
        }
    }
    let base = ops.iter().any(|op| matches!(op, Op::Copy { .. })).then_some(id);
    Content { size: bytes.len() as u64, root: hasher.finish(), base, ops }
}

fn scan(dir: &Path) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut pending = vec![(dir.to_path_buf(), Vec::new())];
    while let Some((at, rel)) = pending.pop() {
        let found = fs::symlink_metadata(&at).unwrap();
        let kind = found.file_type();
        let meta = Meta {
            kind: match () {
                () if kind.is_dir() => Kind::Dir,
                () if kind.is_symlink() => Kind::Symlink,
                () if kind.is_fifo() => Kind::Fifo,
                () => Kind::File,
            },
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            mtime: Time { sec: found.mtime(), nsec: found.mtime_nsec() as u32 },
            rdev: 0,
            target: if kind.is_symlink() {
                fs::read_link(&at).unwrap().into_os_string().into_vec()
            } else {
                Vec::new()
            },
            xattrs: xattrs(&at, kind.is_symlink()),
            flags: 0,
            project: 0,
        };
        if kind.is_dir() {
            for entry in fs::read_dir(&at).unwrap() {
                let name = entry.unwrap().file_name();
                let mut below = rel.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name.as_bytes());
                pending.push((at.join(&name), below));
            }
        }
        let content = (meta.kind == Kind::File).then(|| (fs::read(&at).unwrap(), holes(&at, found.len())));
        out.push(Entry { path: rel, meta, inode: found.ino(), content });
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

fn xattrs(path: &Path, symlink: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    if symlink {
        return Vec::new();
    }
    let mut names = vec![0; 4096];
    let len = match rustix::fs::listxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Vec::new(),
        other => other.unwrap(),
    };
    let names = names[..len].split(|b| *b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"security."));
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
        value[..len].to_vec()
    };
    let mut out: Vec<_> = names.map(|name| (name.to_vec(), value(name))).collect();
    out.sort();
    out
}

fn holes(path: &PathBuf, size: u64) -> Vec<(u64, u64)> {
    let file = fs::File::open(path).unwrap();
    let mut out = Vec::new();
    let mut at = 0;
    while at < size {
        let data = rustix::fs::seek(&file, SeekFrom::Data(at)).unwrap_or(size);
        if data > at {
            out.push((at, data - at));
        }
        if data >= size {
            break;
        }
        at = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
    }
    out
}

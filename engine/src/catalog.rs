//! What a host keeps of a volume between two flushes: the committed state, the intent, and the names that are missing.
//!
//! Only values. The catalog, and the simulation's model of it, store these types as they are.

use crate::format::DecodeError;
use crate::format::commit;
use crate::model::{CommitId, FileId, Hash, InodeId, Kind, Meta, NameChange, Root, Seq, Standing, Time};

/// What the catalog keeps of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: FileId,
    pub inode: InodeId,
    pub meta: Meta,
    /// Size of the committed image; 0 for everything but regular files.
    pub size: u64,
    /// Root of the committed image; `None` for everything but regular files.
    pub root: Option<Root>,
    /// Bytes of holes in the committed image (decides the kind of the root).
    pub hole_bytes: u64,
    /// Whether the catalog holds a signature of the whole image.
    pub signed: bool,
    /// Change time of the inode at which all of it was known to be committed; `None` is "unknown" (invariant I3).
    pub ctime: Option<Time>,
}

/// What the catalog has under one name, as far as it can be compared with a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub id: FileId,
    pub inode: InodeId,
    pub kind: Kind,
    pub size: u64,
    pub mtime: Time,
    /// As in [`Record`].
    pub ctime: Option<Time>,
}

/// A name that vanished without proof, and the drain in which it was first missed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    pub parent: FileId,
    pub name: Vec<u8>,
    pub drain: u64,
}

/// The newest commit this writer knows to be in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub seq: Seq,
    pub hash: Hash,
    pub time: Time,
    /// As in the commit's header; `None` if it is of version 1, or there is no commit.
    pub standing: Option<Standing>,
}

/// Header facts of a commit that is about to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub seq: Seq,
    pub commit_id: CommitId,
    pub hash: Hash,
    pub time: Time,
    pub standing: Option<Standing>,
    /// The exact bytes: while the outcome is unknown, only these may be put at `seq` (invariant I5).
    pub bytes: Vec<u8>,
}

impl Intent {
    /// As it was stored; the standing is taken from the bytes.
    pub fn of_bytes(
        seq: Seq,
        commit_id: CommitId,
        hash: Hash,
        time: Time,
        bytes: Vec<u8>,
    ) -> Result<Intent, DecodeError> {
        let standing = commit::peek(&bytes)?.standing;
        Ok(Intent { seq, commit_id, hash, time, standing, bytes })
    }
}

/// A node of a file's block tree (`tree`): file, level, index.
pub type NodeKey = (FileId, u8, u64);

/// Tree nodes to keep; `None` deletes.
pub type NodeChanges = Vec<(NodeKey, Option<Vec<u8>>)>;

/// Signatures to keep, by file and group; `None` deletes.
pub type SignatureChanges = Vec<((FileId, u64), Option<Vec<u8>>)>;

/// One change of the catalog, made in one transaction. It is always applied in this order: `gone`, `records`, names (all
/// `Unset`, then all `Set`), nodes, signatures, missing names, next id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogChange {
    /// New or changed files.
    pub records: Vec<Record>,
    pub names: Vec<NameChange>,
    /// Files to remove with their nodes and signatures. Their names are removed by `names`.
    pub gone: Vec<FileId>,
    pub nodes: NodeChanges,
    pub signatures: SignatureChanges,
    /// Replaces the list of names that wait for proof of their removal; `None` keeps the list as it is.
    pub missing: Option<Vec<Missing>>,
    /// Raises the next file id. A value below the current one is ignored; the next id is always above those of `records`.
    pub next_id: Option<FileId>,
}

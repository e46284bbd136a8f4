//! Why a commit cannot be applied to a state.

use crate::extent_map::RopeError;
use crate::model::{FileId, Hash, Kind, Seq, Time, VolumeId};
use thiserror::Error;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    #[error("commit of volume {found} on volume {expected}")]
    Volume { found: VolumeId, expected: VolumeId },
    #[error("commit {found} where {expected} comes next")]
    Seq { found: Seq, expected: Seq },
    #[error("commit {seq} follows {found:02x?}, but commit {} is {expected:02x?}: the chain is broken", *seq - 1)]
    Chain { seq: Seq, found: Box<Hash>, expected: Box<Hash> },
    #[error("commit {seq} has writer epoch {found}, the one before {expected}")]
    Epoch { seq: Seq, found: u64, expected: u64 },
    #[error("commit {seq} is of {found:?}, not later than the one before, {previous:?}")]
    Time { seq: Seq, found: Time, previous: Time },
    #[error("commit {seq} is of format version 1, the one before of a later one")]
    Older { seq: Seq },
    #[error("commit {seq} says that clocks did not fall since commit {found}, but that is commit {expected}")]
    Steady { seq: Seq, found: Seq, expected: Seq },
    #[error("file {id} is changed twice in one commit, or changed and gone")]
    Twice { id: FileId },
    #[error("file {id} is not known")]
    Unknown { id: FileId },
    #[error("new file {id} has no attributes")]
    NoMeta { id: FileId },
    #[error("new file {id} has no content")]
    NoContent { id: FileId },
    #[error("file {id} has content but is a {kind:?}")]
    NotRegular { id: FileId, kind: Kind },
    #[error("file {id} was a {previous:?} and is now a {found:?}")]
    Kind { id: FileId, previous: Kind, found: Kind },
    #[error("content of {id}: {source}")]
    Content { id: FileId, source: RopeError },
    #[error("{id} is named as a directory, but is none")]
    NotDir { id: FileId },
    #[error("a name in {parent} is removed that is not there")]
    NoSuchName { parent: FileId, name: Vec<u8> },
    #[error("a name in {parent} is changed twice in one commit")]
    NameTwice { parent: FileId, name: Vec<u8> },
    #[error("{name:?} in {parent} is not a name of a directory entry")]
    BadName { parent: FileId, name: Vec<u8> },
    #[error("file {id} has no name and is not gone")]
    Nameless { id: FileId },
    #[error("file {id} is gone but has a name")]
    GoneNamed { id: FileId },
    #[error("directory {id} is gone but has entries")]
    GoneFull { id: FileId },
    #[error("directory {id} has {links} names")]
    DirLinks { id: FileId, links: usize },
    #[error("directory {id} would lie in itself")]
    Cycle { id: FileId },
    #[error("the source directory is missing, gone, named or no directory")]
    SourceDir,
}

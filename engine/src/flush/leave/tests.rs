//! Marks of a file that was not read, beside marks that are kept for another reason.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;
use crate::catalog::{CatalogChange, Head, Intent, Missing, NodeKey, Record};
use crate::dirty::DirtySet;
use crate::flush::asked::Asked;
use crate::flush::world::{Fails, Moved};
use crate::flush::{FlushFacts, Limits, MaxDelete, Report, Steps};
use crate::format::EncodeError;
use crate::format::seal::{PackWriter, SealLimits};
use crate::image::ImageError;
use crate::model::{CommitId, Ino, InodeId, Meta, Seq, Time, VolumeId, WriterId};
use crate::reconcile::{Assigned, NamePlan};

const INO: Ino = Ino(11);

/// A catalog that has one file, and is asked for nothing else.
struct OneFile(Record);

impl Fails for OneFile {
    type Error = EncodeError;

    fn plan_error(_: ImageError<EncodeError>) -> EncodeError {
        unreachable!("nothing is planned")
    }
}

macro_rules! not_asked {
    ($($name:ident($($argument:ty),*) -> $result:ty;)+) => {
        $(fn $name(&self, $(_: $argument),*) -> Result<$result, EncodeError> {
            unreachable!("not asked for")
        })+
    };
}

impl CommittedState for OneFile {
    fn by_inode(&self, ino: Ino) -> Result<Vec<Record>, EncodeError> {
        Ok(if ino == INO { vec![self.0.clone()] } else { Vec::new() })
    }

    not_asked! {
        record(FileId) -> Option<Record>;
        children(FileId) -> Vec<(Vec<u8>, FileId)>;
        names_of(FileId) -> Vec<(FileId, Vec<u8>)>;
        node(NodeKey) -> Option<Vec<u8>>;
        signature(FileId, u64) -> Option<Vec<u8>>;
        files() -> u64;
        missing() -> Vec<Missing>;
        next_id() -> FileId;
        head() -> Head;
        intent() -> Option<Intent>;
    }

    fn bind(&mut self, _: &[(FileId, InodeId)]) -> Result<(), EncodeError> {
        unreachable!("not asked for")
    }

    fn begin_commit(&mut self, _: &Intent, _: CatalogChange) -> Result<(), EncodeError> {
        unreachable!("not asked for")
    }

    fn settle(&mut self, _: Head, _: &[Ino], _: &DirtySet) -> Result<(), EncodeError> {
        unreachable!("not asked for")
    }

    fn forget(&mut self, _: Vec<Record>, _: Vec<Missing>, _: &[Ino], _: &DirtySet) -> Result<(), EncodeError> {
        unreachable!("not asked for")
    }
}

fn record() -> Record {
    let meta = Meta {
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        rdev: 0,
        target: Vec::new(),
        xattrs: Vec::new(),
        flags: 0,
        project: 0,
    };
    let inode = InodeId { ino: INO, generation: 2 };
    Record { id: FileId(28), inode, meta, size: 0, root: None, hole_bytes: 0, signed: false, ctime: None }
}

fn facts() -> FlushFacts {
    FlushFacts {
        volume: VolumeId([1; 16]),
        writer: WriterId([2; 16]),
        epoch: 1,
        commit_id: CommitId([3; 16]),
        instant: None,
        prove_instant: false,
        now: Time::default(),
        drain: 1,
        compare: false,
        baseline: true,
        steps: Steps::ALL,
        limits: Limits::DEFAULT,
        max_delete: MaxDelete::OFF,
    }
}

fn nothing_read() -> Builder {
    let writer = PackWriter::new(VolumeId([1; 16]), Seq::FIRST, 1, 0, SealLimits::default()).unwrap();
    let (head, files) = (Head::default(), BTreeMap::new());
    Builder { seq: Seq::FIRST, head, epoch: 1, writer, files, changes: 0, meta_bytes: 0, ops: 0 }
}

fn nothing_listed() -> Gathered {
    Gathered {
        plan: NamePlan::default(),
        asked: Asked::default(),
        assigned: Assigned::new(FileId(29)),
        listings: Vec::new(),
        missing: Vec::new(),
        looked_at: Moved::new(),
        new_inodes: HashMap::new(),
        held_back: HashSet::new(),
        excluded: HashSet::new(),
        not_there: Vec::new(),
    }
}

/// A directory had the inode number before, and its mark is kept. The data marks of the file that has it now are kept too.
#[test]
fn data_marks_are_kept_beside_a_directorys_mark_of_the_same_number() {
    let mut taken = DirtySet::default();
    let marks = Marks { blocks: [3].into_iter().collect(), ..Marks::names() };
    taken.add(INO, &marks, 7);
    let (mut world, facts, mut report) = (OneFile(record()), facts(), Report::default());
    let kept = DirtySet::default();
    let mut flush = Flush { world: &mut world, taken: &taken, facts: &facts, report: &mut report, kept };
    flush.kept.add(INO, &Marks::names(), 7);
    keep_unread(&mut flush, &nothing_listed(), &nothing_read()).unwrap();
    let kept = flush.kept.get(INO).expect("it is kept");
    assert!(kept.marks.blocks.contains(3), "the block was not read, and its mark is gone: {kept:?}");
}

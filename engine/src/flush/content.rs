//! From what was read of a file to its new content: trims blocks whose value is unchanged, makes ops, pushes literals.

use super::commit::Builder;
use super::read::{self, FileImage, Part};
use super::world::{FileError, Piece, ReadJob, Record, World};
use super::{Facts, Report, attributes};
use crate::block;
use crate::format::seal::Span;
use crate::model::{BLOCK_BYTES, Content, FileChange, FileId, Op, Root};
use crate::tree::{self, Image, Nodes, Rules, Update};

/// Nodes of one file's committed image.
struct FileNodes<'w, W> {
    world: &'w W,
    id: FileId,
}

impl<W: World> Nodes for FileNodes<'_, W> {
    type Error = W::Error;

    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, W::Error> {
        self.world.node((self.id, level, index))
    }
}

/// Ops under construction; neighbours of a kind are joined.
#[derive(Default)]
struct Ops {
    ops: Vec<Op<Vec<u8>>>,
    at: u64,
}

impl Ops {
    fn copy_to(&mut self, end: u64) {
        if end <= self.at {
            return;
        }
        let (from, len) = (self.at, end - self.at);
        match self.ops.last_mut() {
            Some(Op::Copy { from: start, len: before }) if *start + *before == from => *before += len,
            _ => self.ops.push(Op::Copy { from, len }),
        }
        self.at = end;
    }

    fn hole_to(&mut self, end: u64) {
        if end <= self.at {
            return;
        }
        match self.ops.last_mut() {
            Some(Op::Hole { len }) => *len += end - self.at,
            _ => self.ops.push(Op::Hole { len: end - self.at }),
        }
        self.at = end;
    }

    fn literal(&mut self, bytes: &[u8]) {
        match self.ops.last_mut() {
            Some(Op::Literal(before)) => before.extend_from_slice(bytes),
            _ => self.ops.push(Op::Literal(bytes.to_vec())),
        }
        self.at += bytes.len() as u64;
    }

    /// What was not read: as it was, and hole beyond the old end.
    fn keep_to(&mut self, end: u64, old_size: u64) {
        self.copy_to(end.min(old_size));
        self.hole_to(end);
    }
}

/// Ops and block values of one file, fed in the order of its content.
struct Plan<'n, N: Nodes> {
    update: Update<'n, N>,
    ops: Ops,
    old: Image,
    size: u64,
    small: Option<Vec<u8>>,
}

impl<'n, N: Nodes> Plan<'n, N> {
    fn begin(nodes: &'n N, old: Image, size: u64, rules: Rules) -> Result<Self, tree::TreeError<N::Error>> {
        let update = Update::begin(nodes, old, size, rules)?;
        Ok(Plan { update, ops: Ops::default(), old, size, small: None })
    }

    /// Block-aligned at the start; ends on a block border or at the size.
    fn piece(&mut self, piece: Piece<'_>) -> Result<(), tree::TreeError<N::Error>> {
        match piece {
            Piece::Bytes { offset, bytes } => {
                self.ops.keep_to(offset, self.old.size);
                for (n, bytes) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
                    let index = offset / BLOCK_BYTES + n as u64;
                    let changed = self.update.set(index, tree::block_value(index, bytes))?;
                    if index == 0 && self.size <= BLOCK_BYTES {
                        self.small = Some(bytes.to_vec());
                    }
                    let end = index * BLOCK_BYTES + bytes.len() as u64;
                    // A block of zeros has one value at every length: its copy must not reach beyond the old end.
                    if changed || end > self.old.size {
                        self.ops.literal(bytes);
                    } else {
                        self.ops.copy_to(end);
                    }
                }
            }
            Piece::Hole { offset, len } => {
                self.ops.keep_to(offset, self.old.size);
                let end = offset + len;
                for index in offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES).min(block::count(self.old.size)) {
                    let block_end = ((index + 1) * BLOCK_BYTES).min(end);
                    if self.update.set(index, tree::HOLE)? || block_end > self.old.size {
                        self.ops.hole_to(block_end);
                    } else {
                        self.ops.copy_to(block_end);
                    }
                    if index == 0 && self.size <= BLOCK_BYTES {
                        self.small = Some(vec![0; end as usize]);
                    }
                }
                self.ops.hole_to(end);
                if offset == 0 && self.size <= BLOCK_BYTES && self.small.is_none() {
                    self.small = Some(vec![0; self.size as usize]);
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Image, tree::NodeWrites, Vec<Op<Vec<u8>>>), tree::TreeError<N::Error>> {
        self.ops.keep_to(self.size, self.old.size);
        if self.size <= BLOCK_BYTES {
            match &self.small {
                Some(bytes) => self.update.small_content(bytes),
                None if self.size == 0 => self.update.small_content(&[]),
                None => {}
            }
        }
        let (image, nodes) = self.update.finish()?;
        Ok((image, nodes, self.ops.ops))
    }
}

fn rules(facts: &Facts) -> Rules {
    Rules { sparse_bytes: facts.limits.sparse_hole_bytes, signature_bytes: facts.limits.signature_file_bytes }
}

fn image_of(record: Option<&Record>) -> Image {
    match record.and_then(|record| Some((record, record.root?))) {
        Some((record, root)) => Image {
            size: record.size,
            root,
            hole_blocks: record.hole_bytes / BLOCK_BYTES,
            signed: record.signed,
        },
        None => Image::empty(),
    }
}

impl Builder {
    /// Takes a file that was read into memory.
    pub(super) fn add_image<W: World>(
        &mut self,
        world: &mut W,
        job: &ReadJob,
        image: FileImage,
        base: Option<FileId>,
        facts: &Facts,
        report: &mut Report,
    ) -> Result<(), W::Error> {
        let record = world.record(job.id)?;
        let old = image_of(record.as_ref());
        let FileImage { stat, xattrs, size, short, parts, .. } = image;
        let (new, nodes, ops) = {
            let nodes = FileNodes { world: &*world, id: job.id };
            let mut plan = Plan::begin(&nodes, old, size, rules(facts)).map_err(W::tree_error)?;
            for part in &parts {
                let piece = match part {
                    Part::Bytes { offset, bytes } => {
                        report.bytes_read += bytes.len() as u64;
                        Piece::Bytes { offset: *offset, bytes }
                    }
                    Part::Hole { offset, len } => Piece::Hole { offset: *offset, len: *len },
                };
                plan.piece(piece).map_err(W::tree_error)?;
            }
            plan.finish().map_err(W::tree_error)?
        };
        report.files_read += 1;
        let ops = self.same_as_base(world, &new, base, record.as_ref())?.unwrap_or(ops);
        let base = base.filter(|_| record.is_none()).or(record.as_ref().map(|record| record.id));
        let meta = attributes::meta_of_file(&stat, xattrs);
        let unchanged = record.as_ref().is_some_and(|record| record.root == Some(new.root) && record.size == new.size)
            && nodes.is_empty();
        let content = if unchanged {
            None
        } else {
            let mut placed = Vec::with_capacity(ops.len());
            self.place(&FileNodes { world: &*world, id: job.id }, ops, &mut placed, report)?;
            let copies = placed.iter().any(|op| matches!(op, Op::Copy { .. }));
            Some(Content { size: new.size, root: new.root, base: base.filter(|_| copies), ops: placed })
        };
        self.nodes.extend(nodes.into_iter().map(|((level, index), blob)| ((job.id, level, index), blob)));
        let ctime = (!short).then_some(stat.ctime);
        self.add_file(record.as_ref(), job, meta, new, ctime, content);
        Ok(())
    }

    /// A new file with the bytes of the one whose name it took needs no literal.
    fn same_as_base<W: World>(
        &self,
        world: &W,
        new: &Image,
        base: Option<FileId>,
        record: Option<&Record>,
    ) -> Result<Option<Vec<Op<Vec<u8>>>>, W::Error> {
        let Some(base) = base.filter(|_| record.is_none() && new.size > 0) else { return Ok(None) };
        let same = world.record(base)?.is_some_and(|base| base.root == Some(new.root) && base.size == new.size);
        Ok(same.then(|| vec![Op::Copy { from: 0, len: new.size }]))
    }

    fn add_file(
        &mut self,
        record: Option<&Record>,
        job: &ReadJob,
        meta: crate::model::Meta,
        new: Image,
        ctime: Option<crate::model::Time>,
        content: Option<Content<Span>>,
    ) {
        let root: Option<Root> = Some(new.root);
        let changed_meta = record.is_none_or(|record| record.meta != meta).then(|| meta.clone());
        if changed_meta.is_some() || content.is_some() {
            self.changes.files.push(FileChange { id: job.id, meta: changed_meta, content });
        }
        self.ids.insert(job.id);
        self.records.push(Record {
            id: job.id,
            inode: job.inode,
            meta,
            size: new.size,
            root,
            hole_bytes: new.hole_blocks * BLOCK_BYTES,
            signed: new.signed,
            ctime,
        });
    }

    /// Reads and takes a large file; when all of it is read, in windows, so that memory does not follow its size. The
    /// inner error leaves the file pending; what was pushed of it is dead weight in the pack.
    pub(super) fn stream_file<W: World>(
        &mut self,
        world: &mut W,
        job: &ReadJob,
        base: Option<FileId>,
        facts: &Facts,
        report: &mut Report,
    ) -> Result<Result<(), FileError>, W::Error> {
        let mut file = match world.open(job) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        if job.committed_size.is_some() && !job.marks.all_content() {
            return match read::read_file(&mut file, job, facts.steps) {
                Ok(image) => Ok(Ok(self.add_image(world, job, image, base, facts, report)?)),
                Err(error) => Ok(Err(error)),
            };
        }
        let (stat, xattrs) = match read::prepare(&mut file, job, facts.steps) {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(error)),
        };
        let record = world.record(job.id)?;
        let old = image_of(record.as_ref());
        let nodes = FileNodes { world: &*world, id: job.id };
        let mut plan = Plan::begin(&nodes, old, stat.size, rules(facts)).map_err(W::tree_error)?;
        let mut ops: Vec<Op<Span>> = Vec::new();
        let mut failed: Option<W::Error> = None;
        let end = read::read_range(&mut file, 0, stat.size, &mut |piece| {
            if let Piece::Bytes { bytes, .. } = piece {
                report.bytes_read += bytes.len() as u64;
            }
            let done = plan.piece(piece).map_err(W::tree_error).and_then(|()| {
                let planned = std::mem::take(&mut plan.ops.ops);
                self.place(&nodes, planned, &mut ops, report)
            });
            match done {
                Ok(()) => Ok(()),
                Err(error) => {
                    failed = Some(error);
                    Err(FileError::Late)
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match end {
            Ok(end) if end == stat.size => {}
            Ok(_) => return Ok(Err(FileError::Unsteady { times: 1 })),
            Err(error) => return Ok(Err(error)),
        }
        let (new, writes, rest) = plan.finish().map_err(W::tree_error)?;
        self.place(&nodes, rest, &mut ops, report)?;
        report.files_read += 1;
        let copies = ops.iter().any(|op| matches!(op, Op::Copy { .. }));
        let unchanged = record.as_ref().is_some_and(|record| record.root == Some(new.root) && record.size == new.size)
            && writes.is_empty();
        let content = (!unchanged).then(|| Content {
            size: new.size,
            root: new.root,
            base: record.as_ref().map(|record| record.id).filter(|_| copies),
            ops,
        });
        self.nodes.extend(writes.into_iter().map(|((level, index), blob)| ((job.id, level, index), blob)));
        let meta = attributes::meta_of_file(&stat, xattrs);
        self.add_file(record.as_ref(), job, meta, new, Some(stat.ctime), content);
        Ok(Ok(()))
    }

    /// Pushes the literals of `planned` and appends what they become; copies and holes are joined with the last one.
    fn place<W: World>(
        &mut self,
        nodes: &FileNodes<'_, W>,
        planned: Vec<Op<Vec<u8>>>,
        ops: &mut Vec<Op<Span>>,
        report: &mut Report,
    ) -> Result<(), W::Error> {
        for op in planned {
            match (op, ops.last_mut()) {
                (Op::Copy { from, len }, Some(Op::Copy { from: start, len: before })) if *start + *before == from => {
                    *before += len;
                }
                (Op::Hole { len }, Some(Op::Hole { len: before })) => *before += len,
                (Op::Copy { from, len }, _) => ops.push(Op::Copy { from, len }),
                (Op::Hole { len }, _) => ops.push(Op::Hole { len }),
                (Op::Literal(bytes), _) => {
                    report.bytes_literal += bytes.len() as u64;
                    ops.push(Op::Literal(self.push(nodes.world, &bytes)?));
                }
            }
        }
        Ok(())
    }
}

//! Turns what was read of a file into its new content: runs the planners of `image` over the catalog's nodes and
//! signatures, and puts the literals into packs.

use std::cell::RefCell;

use super::attributes::OPS_MAX;
use super::builder::{Builder, Entry};
use super::facts::FlushFacts;
use super::read;
use super::running::Flush;
use super::world::{CommitStore, CommittedState, World};
use crate::catalog::Record;
use crate::format::limits;
use crate::format::seal::Span;
use crate::image::{self, BlockData, ImageError, WholePlan, WholePlanner};
use crate::model::{BLOCK_BYTES, Content, FileChange, FileId, Meta, Op, Time};
use crate::signature::{BaseSignature, SignatureWrites, Signatures};
use crate::source::{FileError, FileImage, FileOps, Part, Piece, ReadJob};
use crate::tree::{Image, Memo, NodeWrites, Nodes, Rules};
use crate::xattrs;

/// Nodes and signatures of one file's committed image.
struct Stored<'w, W> {
    world: &'w W,
    id: FileId,
}

impl<W: CommittedState> Nodes for Stored<'_, W> {
    type Error = W::Error;

    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, W::Error> {
        self.world.node((self.id, level, index))
    }

    fn memo(&self) -> Option<&RefCell<Memo>> {
        self.world.memo()
    }
}

impl<W: CommittedState> Signatures for Stored<'_, W> {
    type Error = W::Error;

    fn get(&self, group: u64) -> Result<Option<Vec<u8>>, W::Error> {
        self.world.signature(self.id, group)
    }
}

/// What a planner returned for one file; its literals are not pushed yet.
struct Planned {
    image: Image,
    base: Option<FileId>,
    ops: Vec<Op<Vec<u8>>>,
    nodes: NodeWrites,
    signatures: SignatureWrites,
}

impl From<image::Plan> for Planned {
    fn from(plan: image::Plan) -> Planned {
        Planned {
            image: plan.image,
            base: plan.content.base,
            ops: plan.content.ops,
            nodes: plan.node_writes,
            signatures: plan.signature_writes,
        }
    }
}

impl From<WholePlan> for Planned {
    fn from(plan: WholePlan) -> Planned {
        Planned {
            image: plan.image,
            base: plan.base,
            ops: plan.ops,
            nodes: plan.node_writes,
            signatures: plan.signature_writes,
        }
    }
}

/// Frames kept in reserve for what is pushed between two checks.
const FRAMES_SPARE: u64 = 1024;

fn no_frames() -> FileError {
    let bytes = (limits::FRAMES as u64 * limits::FRAME_PLAIN as u64) >> 30;
    FileError::Beyond { cause: format!("it has more new data than one commit holds, {bytes} GiB") }
}

fn rules(facts: &FlushFacts) -> Rules {
    Rules { sparse_bytes: facts.limits.sparse_hole_bytes, signature_bytes: facts.limits.signature_file_bytes }
}

fn image_of(record: &Record) -> Option<Image> {
    record.root.map(|root| Image {
        size: record.size,
        root,
        hole_blocks: record.hole_bytes / BLOCK_BYTES,
        signed: record.signed,
    })
}

/// The blocks that were read, in the form that the in-place planner takes.
fn blocks(parts: &[Part]) -> impl Iterator<Item = (u64, BlockData<'_>)> {
    parts.iter().flat_map(|part| {
        let (bytes, offset, len) = match part {
            Part::Bytes { offset, bytes } => (Some(bytes), *offset, bytes.len() as u64),
            Part::Hole { offset, len } => (None, *offset, *len),
        };
        (0..len.div_ceil(BLOCK_BYTES)).map(move |n| {
            let data = match bytes {
                Some(bytes) => {
                    let start = (n * BLOCK_BYTES) as usize;
                    BlockData::Bytes(&bytes[start..bytes.len().min(start + BLOCK_BYTES as usize)])
                }
                None => BlockData::Hole,
            };
            (offset / BLOCK_BYTES + n, data)
        })
    })
}

fn feed<N: Nodes>(planner: &mut WholePlanner<'_, N>, piece: Piece<'_>) -> Result<(), ImageError<N::Error>> {
    match piece {
        Piece::Bytes { bytes, .. } => planner.bytes(bytes),
        Piece::Hole { len, .. } => planner.hole(len),
    }
}

/// The base of a file's delta: itself, or the file whose name a new one took.
struct Base {
    id: FileId,
    image: Image,
    signature: Option<BaseSignature>,
}

fn base_of<W: CommittedState>(
    world: &W,
    job: &ReadJob,
    record: Option<&Record>,
    replaces: Option<FileId>,
) -> Result<Option<Base>, W::Error> {
    let base = match (record, replaces) {
        (Some(record), _) => Some(record.clone()),
        (None, Some(id)) => world.record(id)?,
        (None, None) => None,
    };
    let Some((base, image)) = base.and_then(|base| image_of(&base).map(|image| (base, image))) else {
        return Ok(None);
    };
    // An uncertain file is compared by block; signatures only help rewritten content.
    let wanted = base.id != job.id || job.marks.whole;
    let signature = if image.signed && wanted && image.size > 0 {
        BaseSignature::load(image.size, &Stored { world, id: base.id })?
    } else {
        None
    };
    Ok(Some(Base { id: base.id, image, signature }))
}

/// Adds a file that was read into memory. If the inner result is an error, the file stays pending.
pub(super) fn add_image<W: World>(
    builder: &mut Builder,
    flush: &mut Flush<'_, W>,
    job: &ReadJob,
    read: FileImage,
    replaces: Option<FileId>,
) -> Result<Result<(), FileError>, W::Error> {
    let (world, facts) = (&*flush.world, flush.facts);
    let record = world.record(job.id)?;
    let stored = Stored { world, id: job.id };
    for part in &read.parts {
        if let Part::Bytes { bytes, .. } = part {
            flush.report.bytes_read += bytes.len() as u64;
        }
    }
    flush.report.files_read += 1;
    let base = if read.whole { base_of(world, job, record.as_ref(), replaces)? } else { None };
    let planned: Option<Planned> = match base {
        Some(base) if base.signature.is_some() || base.id != job.id => {
            plan_whole(world, job, base, &read.parts, facts)?
        }
        _ => {
            let own = record.as_ref().and_then(image_of);
            let blocks = blocks(&read.parts);
            image::plan_in_place(job.id, own.as_ref(), &stored, &stored, read.size, blocks, rules(facts))
                .map_err(W::plan_error)?
                .map(Planned::from)
        }
    };
    let meta = builder.meta_of_file(job.id, record.as_ref(), &read.stat, read.xattrs);
    if let Err(error) = builder.has_room(&meta, planned.as_ref().map_or(0, |planned| planned.ops.len())) {
        return Ok(Err(error));
    }
    let (mut ops, mut planned) = (Vec::new(), planned);
    if let Some(planned) = &mut planned {
        flush.report.bytes_literal += builder.place(world, std::mem::take(&mut planned.ops), &mut ops)?;
    }
    // Where marks are not trusted, only a full re-read proves the content.
    let proven =
        !facts.compare || job.marks.all_content() || record.as_ref().is_none_or(|r| r.ctime == Some(read.stat.ctime));
    let ctime = (!read.short && proven).then_some(read.stat.ctime);
    builder.add_file(record.as_ref(), job, meta, planned, ops, ctime);
    Ok(Ok(()))
}

fn plan_whole<W: CommittedState>(
    world: &W,
    job: &ReadJob,
    base: Base,
    parts: &[Part],
    facts: &FlushFacts,
) -> Result<Option<Planned>, W::Error> {
    let nodes = Stored { world, id: base.id };
    let index = base.signature.as_ref().map(BaseSignature::index);
    let from = image::Base { id: base.id, image: base.image, nodes: &nodes, index: index.as_ref() };
    let mut planner = WholePlanner::new(job.id, Some(from), rules(facts));
    for part in parts {
        let piece = match part {
            Part::Bytes { offset, bytes } => Piece::Bytes { offset: *offset, bytes },
            Part::Hole { offset, len } => Piece::Hole { offset: *offset, len: *len },
        };
        feed(&mut planner, piece).map_err(W::plan_error)?;
    }
    let plan = planner.finish().map_err(W::plan_error)?;
    Ok((!plan.unchanged).then(|| plan.into()))
}

/// Reads a large file and adds it. A file that is read in full is read in windows, so that memory does not grow with its
/// size. If the inner result is an error, the file stays pending and what was pushed of it is wasted space in the pack.
pub(super) fn stream_file<W: World>(
    builder: &mut Builder,
    flush: &mut Flush<'_, W>,
    job: &ReadJob,
    replaces: Option<FileId>,
) -> Result<Result<(), FileError>, W::Error> {
    let steps = flush.facts.steps;
    let mut file = match flush.world.open(job) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    if job.committed_size.is_some() && !job.marks.all_content() {
        return match read::read_file(&mut file, job, steps) {
            Ok(image) => add_image(builder, flush, job, image, replaces),
            Err(error) => Ok(Err(error)),
        };
    }
    let prepared = read::prepare(&mut file, job, steps);
    let prepared = prepared.and_then(|prepared| builder.has_frames(&mut file, job, prepared.0.size).map(|()| prepared));
    let (stat, xattrs) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(Err(error)),
    };
    let record = flush.world.record(job.id)?;
    let (planned, ops) = match stream(builder, flush, job, &mut file, stat.size, (record.as_ref(), replaces))? {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    flush.report.files_read += 1;
    let meta = builder.meta_of_file(job.id, record.as_ref(), &stat, xattrs);
    if let Err(error) = builder.has_room(&meta, ops.len()) {
        return Ok(Err(error));
    }
    builder.add_file(record.as_ref(), job, meta, planned, ops, Some(stat.ctime));
    Ok(Ok(()))
}

/// What a streamed file becomes, its literals already pushed; `None` and no ops if it is as committed.
type Streamed = (Option<Planned>, Vec<Op<Span>>);

/// Reads the `size` bytes of a file and pushes its new parts window by window. `base` holds the file's record and the file
/// whose name it took.
fn stream<W: World>(
    builder: &mut Builder,
    flush: &mut Flush<'_, W>,
    job: &ReadJob,
    file: &mut W::File,
    size: u64,
    base: (Option<&Record>, Option<FileId>),
) -> Result<Result<Streamed, FileError>, W::Error> {
    let (world, report) = (&*flush.world, &mut *flush.report);
    let base = base_of(world, job, base.0, base.1)?;
    let nodes = Stored { world, id: base.as_ref().map_or(job.id, |base| base.id) };
    let index = base.as_ref().and_then(|base| base.signature.as_ref()).map(BaseSignature::index);
    let from =
        base.as_ref().map(|base| image::Base { id: base.id, image: base.image, nodes: &nodes, index: index.as_ref() });
    let mut planner = WholePlanner::new(job.id, from, rules(flush.facts));
    let mut ops: Vec<Op<Span>> = Vec::new();
    let mut failed: Option<W::Error> = None;
    let end = read::read_range(file, 0, size, &mut |piece| {
        if let Piece::Bytes { bytes, .. } = piece {
            report.bytes_read += bytes.len() as u64;
        }
        if ops.len() > OPS_MAX {
            return Err(FileError::Beyond { cause: format!("its content has more than {OPS_MAX} pieces") });
        }
        if builder.writer.frames_left() <= FRAMES_SPARE {
            return Err(no_frames());
        }
        let done = feed(&mut planner, piece)
            .map_err(W::plan_error)
            .and_then(|()| builder.place(world, planner.take_ops(), &mut ops));
        match done {
            Ok(literal) => {
                report.bytes_literal += literal;
                Ok(())
            }
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
        Ok(end) if end == size => {}
        Ok(_) => return Ok(Err(FileError::Unsteady { times: 1 })),
        Err(error) => return Ok(Err(error)),
    }
    let plan = planner.finish().map_err(W::plan_error)?;
    if plan.unchanged {
        return Ok(Ok((None, Vec::new())));
    }
    let mut planned = Planned::from(plan);
    report.bytes_literal += builder.place(world, std::mem::take(&mut planned.ops), &mut ops)?;
    Ok(Ok((Some(planned), ops)))
}

impl Builder {
    fn add_file(
        &mut self,
        record: Option<&Record>,
        job: &ReadJob,
        meta: Meta,
        planned: Option<Planned>,
        ops: Vec<Op<Span>>,
        ctime: Option<Time>,
    ) {
        self.ops += ops.len();
        let old = record.and_then(image_of);
        let image = match (&planned, old) {
            (Some(planned), _) => planned.image,
            (None, Some(old)) => old,
            (None, None) => Image::empty(),
        };
        let (mut nodes, mut signatures) = (NodeWrites::new(), SignatureWrites::new());
        let content = match planned {
            Some(planned) => {
                (nodes, signatures) = (planned.nodes, planned.signatures);
                Some(Content { size: image.size, root: image.root, base: planned.base, ops })
            }
            // A new file has content even if it is empty.
            None if record.is_none() => {
                Some(Content { size: image.size, root: image.root, base: None, ops: Vec::new() })
            }
            None => None,
        };
        let changed_meta = record.is_none_or(|record| record.meta != meta).then(|| meta.clone());
        self.meta_bytes += changed_meta.as_ref().map_or(0, |meta| xattrs::bytes_of(&meta.xattrs));
        let changed = changed_meta.is_some() || content.is_some();
        let change = changed.then_some(FileChange { id: job.id, meta: changed_meta, content });
        let record = Record {
            id: job.id,
            inode: job.inode,
            meta,
            size: image.size,
            root: Some(image.root),
            hole_bytes: image.hole_blocks * BLOCK_BYTES,
            signed: image.signed,
            ctime,
        };
        self.add(job.id, Entry { record, change, nodes, signatures });
    }

    /// Checks that the data of a new file fits into one commit. For a known file only new data counts, which is not known
    /// before it is read.
    fn has_frames(&self, file: &mut impl FileOps, job: &ReadJob, size: u64) -> Result<(), FileError> {
        let room = self.writer.frames_left().saturating_sub(FRAMES_SPARE) * limits::FRAME_PLAIN as u64;
        if job.committed_size.is_some() || size <= room {
            return Ok(());
        }
        let data: u64 = file.data_ranges(0, size)?.iter().map(|(start, end)| end - start).sum();
        if data <= room { Ok(()) } else { Err(no_frames()) }
    }

    /// Pushes the literals of `planned` and appends the resulting ops to those so far, joining adjacent copies and holes.
    /// Returns the bytes of the literals.
    fn place<W: CommitStore>(
        &mut self,
        store: &W,
        planned: Vec<Op<Vec<u8>>>,
        ops: &mut Vec<Op<Span>>,
    ) -> Result<u64, W::Error> {
        let mut literal = 0;
        for op in planned {
            match (op, ops.last_mut()) {
                (Op::Copy { from, len }, Some(Op::Copy { from: start, len: before })) if *start + *before == from => {
                    *before += len;
                }
                (Op::Hole { len }, Some(Op::Hole { len: before })) => *before += len,
                (Op::Copy { from, len }, _) => ops.push(Op::Copy { from, len }),
                (Op::Hole { len }, _) => ops.push(Op::Hole { len }),
                (Op::Literal(bytes), _) => {
                    literal += bytes.len() as u64;
                    ops.push(Op::Literal(self.push(store, &bytes)?));
                }
            }
        }
        Ok(literal)
    }
}

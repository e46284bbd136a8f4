//! Encoding of the file changes of a commit: a table of the frames they read, then the ops.
//!
//! Literals mostly appear in the order in which they were packed, so most ops say only "continue in the frame" or "begin
//! the next frame"; a scattered 4 KiB block costs four bytes. `docs/format.md` has the table of ops.

use super::codec::{DecodeError, EncodeError, Reader, Writer, below};
use super::frame::HEADER_BYTES;
use super::limits;
use super::parts::{delta, meta, object, put_delta, put_meta, put_object};
use crate::model::{BLOCK_BYTES, Content, DataRef, FileChange, FileId, ObjectRef, Op, Root, Seq, Stored};
use std::collections::HashMap;

/// What the encoding of a change refers to: the commit's own version, seq and time.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub version: u8,
    pub seq: Seq,
    pub sec: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FrameAt {
    object: ObjectRef,
    offset: u64,
    bytes: u32,
}

impl FrameAt {
    fn of(at: &DataRef) -> FrameAt {
        FrameAt { object: at.object, offset: at.frame_offset, bytes: at.frame_bytes }
    }

    fn follows(&self, previous: Option<&FrameAt>) -> bool {
        previous
            .is_some_and(|p| p.object == self.object && p.offset.checked_add(u64::from(p.bytes)) == Some(self.offset))
    }
}

/// Where the next literal is unless the op says otherwise.
#[derive(Default)]
struct Cursor {
    frame: usize,
    skip: u64,
}

const COPY_HERE: u64 = 0;
const COPY_FROM: u64 = 1;
pub(crate) const LITERAL_ON: u64 = 2;
pub(crate) const LITERAL_NEXT: u64 = 3;
pub(crate) const LITERAL_AT: u64 = 4;
pub(crate) const HOLE: u64 = 5;
const KIND_BITS: u32 = 3;
/// The length is counted in blocks.
const IN_BLOCKS: u64 = 8;
const OP_BITS: u32 = 4;

const HAS_META: u8 = 1;
const HAS_CONTENT: u8 = 2;
const SPARSE_ROOT: u8 = 4;
const BASE_SELF: u8 = 8;
const BASE_OTHER: u8 = 16;

pub(crate) fn put_files(w: &mut Writer, cx: Context, files: &[FileChange<Stored>]) -> Result<(), EncodeError> {
    let mut frames = Vec::new();
    let mut index = HashMap::new();
    let mut ops = 0;
    for op in files.iter().filter_map(|f| f.content.as_ref()).flat_map(|c| &c.ops) {
        ops += 1;
        if let Op::Literal(Stored { at, .. }) = op {
            let frame = FrameAt::of(at);
            index.entry(frame).or_insert_with(|| {
                frames.push(frame);
                frames.len() - 1
            });
        }
    }
    below("ops", ops, limits::OPS)?;
    w.count("frames", limits::FRAMES, frames.len())?;
    for (n, frame) in frames.iter().enumerate() {
        check_frame_bytes(frame.bytes).map_err(|(found, limit)| EncodeError::Limit {
            field: "frame bytes",
            found,
            limit,
        })?;
        let follows = frame.follows(n.checked_sub(1).and_then(|p| frames.get(p)));
        w.varint(u64::from(frame.bytes) << 1 | u64::from(follows));
        if !follows {
            put_object(w, frame.object, cx.seq);
            w.varint(frame.offset);
        }
    }
    w.count("files", limits::CHANGES, files.len())?;
    let mut previous = 0;
    let mut cursor = Cursor::default();
    for file in files {
        put_delta(w, file.id.0, &mut previous);
        put_file(w, cx, file, &index, &mut cursor)?;
    }
    Ok(())
}

fn put_file(
    w: &mut Writer,
    cx: Context,
    file: &FileChange<Stored>,
    index: &HashMap<FrameAt, usize>,
    cursor: &mut Cursor,
) -> Result<(), EncodeError> {
    let mut flags = 0;
    if file.meta.is_some() {
        flags |= HAS_META;
    }
    if let Some(content) = &file.content {
        flags |= HAS_CONTENT;
        flags |= if matches!(content.root, Root::Sparse(_)) { SPARSE_ROOT } else { 0 };
        flags |= match content.base {
            None => 0,
            Some(base) if base == file.id => BASE_SELF,
            Some(_) => BASE_OTHER,
        };
    }
    w.u8(flags);
    if let Some(meta) = &file.meta {
        // Not in `put_meta`: a checkpoint must be able to hold what an older commit brought.
        if let Some(what) = meta.unmakeable() {
            return Err(EncodeError::Unmakeable { what });
        }
        put_meta(w, meta, cx.sec, cx.version)?;
    }
    let Some(content) = &file.content else { return Ok(()) };
    let (Root::Blake3(hash) | Root::Sparse(hash)) = content.root;
    w.put(&hash);
    if let Some(base) = content.base.filter(|base| *base != file.id) {
        w.varint(base.0);
    }
    put_ops(w, content, index, cursor)
}

fn put_ops(
    w: &mut Writer,
    content: &Content<Stored>,
    index: &HashMap<FrameAt, usize>,
    cursor: &mut Cursor,
) -> Result<(), EncodeError> {
    w.count("ops", limits::OPS, content.ops.len())?;
    let mut offset = 0u64;
    let mut copied_to = 0u64;
    let mut copies = false;
    for op in &content.ops {
        let len = match op {
            Op::Copy { from, len } => {
                copies = true;
                if *from == offset {
                    put_op(w, COPY_HERE, *len)?;
                } else {
                    put_op(w, COPY_FROM, *len)?;
                    w.zigzag(from.wrapping_sub(copied_to) as i64);
                }
                copied_to = from.wrapping_add(*len);
                *len
            }
            Op::Literal(Stored { at, len }) => {
                let frame = index.get(&FrameAt::of(at)).copied().unwrap_or(usize::MAX);
                let skip = u64::from(at.skip);
                check_run(skip, *len).map_err(|(found, limit)| EncodeError::Limit { field: "run", found, limit })?;
                if frame == cursor.frame && skip == cursor.skip {
                    put_op(w, LITERAL_ON, *len)?;
                } else if frame == cursor.frame + 1 && skip == 0 {
                    put_op(w, LITERAL_NEXT, *len)?;
                } else {
                    put_op(w, LITERAL_AT, *len)?;
                    w.varint(frame as u64);
                    w.varint(skip);
                }
                *cursor = Cursor { frame, skip: skip + len };
                *len
            }
            Op::Hole { len } => {
                put_op(w, HOLE, *len)?;
                *len
            }
        };
        offset = offset.saturating_add(len);
    }
    if offset > limits::SIZE {
        return Err(EncodeError::Limit { field: "file size", found: offset, limit: limits::SIZE });
    }
    // The size is not written: it is the sum of the ops' lengths.
    if offset != content.size {
        return Err(EncodeError::Number { field: "bytes of all ops", found: offset, expected: content.size });
    }
    if copies != content.base.is_some() {
        let (found, expected) = (u64::from(content.base.is_some()), u64::from(copies));
        return Err(EncodeError::Number { field: "base", found, expected });
    }
    Ok(())
}

pub(crate) fn put_op(w: &mut Writer, kind: u64, len: u64) -> Result<(), EncodeError> {
    let (count, flag) = if len.is_multiple_of(BLOCK_BYTES) { (len / BLOCK_BYTES, IN_BLOCKS) } else { (len, 0) };
    let limit = u64::MAX >> OP_BITS;
    if len == 0 {
        return Err(EncodeError::Number { field: "op length", found: 0, expected: 1 });
    }
    if count > limit {
        return Err(EncodeError::Limit { field: "op length", found: len, limit });
    }
    w.varint(count << OP_BITS | flag | kind);
    Ok(())
}

pub(crate) fn op_head(r: &mut Reader<'_>) -> Result<(u64, u64), DecodeError> {
    let v = r.varint("op")?;
    let count = v >> OP_BITS;
    let len = if v & IN_BLOCKS != 0 { count.checked_mul(BLOCK_BYTES) } else { Some(count) };
    match len {
        // Each op has exactly one encoding: whole blocks are counted in blocks, and no length is 0.
        Some(len) if len > 0 && len.is_multiple_of(BLOCK_BYTES) == (v & IN_BLOCKS != 0) => {
            Ok((v & ((1 << KIND_BITS) - 1), len))
        }
        _ => Err(DecodeError::Tag { field: "op length", found: count }),
    }
}

pub(crate) fn check_frame_bytes(bytes: u32) -> Result<(), (u64, u64)> {
    let limit = (HEADER_BYTES + limits::FRAME_PLAIN) as u64;
    if u64::from(bytes) > limit { Err((u64::from(bytes), limit)) } else { Ok(()) }
}

pub(crate) fn check_run(skip: u64, len: u64) -> Result<(), (u64, u64)> {
    let limit = limits::FRAME_PLAIN as u64;
    let end = skip.saturating_add(len);
    if end > limit { Err((end, limit)) } else { Ok(()) }
}

/// `inside` says whether a frame at (object, offset, bytes) is possible: in the inline payload, or in a pack that the
/// commit names.
pub(crate) fn files(
    r: &mut Reader<'_>,
    cx: Context,
    inside: impl Fn(ObjectRef, u64, u32) -> Result<(), DecodeError>,
) -> Result<Vec<FileChange<Stored>>, DecodeError> {
    let count = r.count("frames", limits::FRAMES, 1)?;
    let mut frames: Vec<FrameAt> = Vec::with_capacity(count);
    for _ in 0..count {
        let v = r.bounded("frame bytes", u64::from(u32::MAX))?;
        let bytes = (v >> 1) as u32;
        check_frame_bytes(bytes).map_err(|(found, limit)| DecodeError::Limit { field: "frame bytes", found, limit })?;
        let frame = if v & 1 == 0 {
            let object = object(r, cx.seq)?;
            FrameAt { object, offset: r.varint("frame offset")?, bytes }
        } else {
            let last = frames.last().ok_or(DecodeError::Tag { field: "first frame", found: v })?;
            FrameAt { object: last.object, offset: last.offset.saturating_add(u64::from(last.bytes)), bytes }
        };
        inside(frame.object, frame.offset, bytes)?;
        frames.push(frame);
    }
    let count = r.count("files", limits::CHANGES, 2)?;
    let mut files = Vec::new();
    let mut previous = 0;
    let mut cursor = Cursor::default();
    let mut ops_left = limits::OPS;
    for _ in 0..count {
        let id = FileId(delta(r, "file id", &mut previous)?);
        files.push(file(r, cx, id, &frames, &mut cursor, &mut ops_left)?);
    }
    Ok(files)
}

fn file(
    r: &mut Reader<'_>,
    cx: Context,
    id: FileId,
    frames: &[FrameAt],
    cursor: &mut Cursor,
    ops_left: &mut usize,
) -> Result<FileChange<Stored>, DecodeError> {
    let flags = r.u8("file flags")?;
    let only_with_content = SPARSE_ROOT | BASE_SELF | BASE_OTHER;
    let known = HAS_META | HAS_CONTENT | only_with_content;
    let both = BASE_SELF | BASE_OTHER;
    if flags & !known != 0 || flags & both == both || (flags & HAS_CONTENT == 0 && flags & only_with_content != 0) {
        return Err(DecodeError::Tag { field: "file flags", found: u64::from(flags) });
    }
    let meta = if flags & HAS_META != 0 { Some(meta(r, cx.sec, cx.version)?) } else { None };
    if flags & HAS_CONTENT == 0 {
        return Ok(FileChange { id, meta, content: None });
    }
    let hash = r.array("file root")?;
    let root = if flags & SPARSE_ROOT != 0 { Root::Sparse(hash) } else { Root::Blake3(hash) };
    let base = match flags & both {
        0 => None,
        BASE_SELF => Some(id),
        _ => match r.varint("base")? {
            found if found == id.0 => return Err(DecodeError::Tag { field: "base", found }),
            other => Some(FileId(other)),
        },
    };
    let count = r.count("ops", *ops_left, 1)?;
    *ops_left -= count;
    let mut ops = Vec::new();
    let mut offset = 0u64;
    let mut copied_to = 0u64;
    let mut copies = false;
    for _ in 0..count {
        let (kind, len) = op_head(r)?;
        ops.push(match kind {
            COPY_HERE | COPY_FROM => {
                let mut from = offset;
                if kind == COPY_FROM {
                    from = copied_to.wrapping_add(r.zigzag("copy from")? as u64);
                    if from == offset {
                        return Err(DecodeError::Tag { field: "copy from", found: from });
                    }
                }
                copied_to = from.wrapping_add(len);
                copies = true;
                Op::Copy { from, len }
            }
            LITERAL_ON | LITERAL_NEXT | LITERAL_AT => {
                let explicit = kind == LITERAL_AT;
                let (frame, skip) = match kind {
                    LITERAL_ON => (cursor.frame, cursor.skip),
                    LITERAL_NEXT => (cursor.frame.saturating_add(1), 0),
                    _ => (r.bounded("literal frame", limits::FRAMES as u64)? as usize, r.varint("literal skip")?),
                };
                if explicit
                    && ((frame, skip) == (cursor.frame, cursor.skip) || (frame == cursor.frame + 1 && skip == 0))
                {
                    return Err(DecodeError::Tag { field: "literal frame", found: frame as u64 });
                }
                *cursor = Cursor { frame, skip: skip.saturating_add(len) };
                Op::Literal(Stored { at: run(frames, frame, skip, len)?, len })
            }
            HOLE => Op::Hole { len },
            found => return Err(DecodeError::Tag { field: "op", found }),
        });
        let limit = limits::SIZE;
        offset = match offset.checked_add(len) {
            Some(end) if end <= limit => end,
            end => return Err(DecodeError::Limit { field: "end of op", found: end.unwrap_or(u64::MAX), limit }),
        };
    }
    if copies != base.is_some() {
        let (found, expected) = (u64::from(base.is_some()), u64::from(copies));
        return Err(DecodeError::Number { field: "base", found, expected });
    }
    Ok(FileChange { id, meta, content: Some(Content { size: offset, root, base, ops }) })
}

fn run(frames: &[FrameAt], frame: usize, skip: u64, len: u64) -> Result<DataRef, DecodeError> {
    check_run(skip, len).map_err(|(found, limit)| DecodeError::Limit { field: "run", found, limit })?;
    let limit = frames.len() as u64;
    let at = frames.get(frame).ok_or(DecodeError::Limit { field: "literal frame", found: frame as u64, limit })?;
    Ok(DataRef { object: at.object, frame_offset: at.offset, frame_bytes: at.bytes, skip: skip as u32 })
}

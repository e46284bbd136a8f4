//! Pages of a checkpoint: runs of files, of names, or of one file's extents.
//!
//! A page's name is the BLAKE3 of its bytes. The reader checks it first, so a page needs no other checksum.

use crate::extent_map::{Extent, ExtentMap, Source};
use crate::format::codec::{DecodeError, EncodeError, Reader, Writer, below, head};
use crate::format::content::{
    HOLE, LITERAL_AT, LITERAL_NEXT, LITERAL_ON, check_frame_bytes, check_run, op_head, put_op,
};
use crate::format::limits;
use crate::format::parts::{delta, meta, name, object, put_delta, put_meta, put_name, put_object};
use crate::format::{FIRST_VERSION, HEAD_BYTES, MAGIC_PAGE, STANDING_VERSION};
use crate::manifest::File;
use crate::model::{DataRef, FileId, Hash, Kind, Meta, ObjectRef, Root, Seq};

const FILES: u8 = 0;
const NAMES: u8 = 1;
const EXTENTS: u8 = 2;

const ROOT_BLAKE3: u8 = 0;
const ROOT_SPARSE: u8 = 1;
/// Flag beside the kind of root: the extents are in pages of their own.
const PAGED: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub id: FileId,
    pub meta: Meta,
    pub root: Option<Root>,
    pub size: u64,
    /// `None`: the extents are in pages of their own.
    pub extent_map: Option<ExtentMap>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    Files(Vec<FileEntry>),
    /// (parent, name, id), sorted.
    Names(Vec<(FileId, Vec<u8>, FileId)>),
    Extents {
        id: FileId,
        start: u64,
        extents: Vec<Extent>,
    },
}

fn begin(kind: u8, version: u8) -> Writer {
    let mut w = Writer::object(MAGIC_PAGE, version);
    w.u8(kind);
    w
}

fn end(w: Writer) -> Result<Vec<u8>, EncodeError> {
    below("page", w.len(), limits::PAGE)?;
    Ok(w.into_bytes())
}

pub(super) fn encode_files(files: &[(FileId, &File, bool)]) -> Result<Vec<u8>, EncodeError> {
    // The oldest version that can hold the page, so that it stays byte-identical to the page of an older checkpoint.
    let version = if files.iter().any(|(_, file, _)| file.meta.has_flags()) { STANDING_VERSION } else { FIRST_VERSION };
    let mut w = begin(FILES, version);
    w.count("files", limits::CHANGES, files.len())?;
    let mut previous = 0;
    for (id, file, paged) in files {
        put_delta(&mut w, id.0, &mut previous);
        put_meta(&mut w, &file.meta, 0, version)?;
        let Some(root) = file.root else { continue };
        let (kind, hash) = match root {
            Root::Blake3(hash) => (ROOT_BLAKE3, hash),
            Root::Sparse(hash) => (ROOT_SPARSE, hash),
        };
        w.u8(if *paged { kind | PAGED } else { kind });
        w.put(&hash);
        w.varint(file.size());
        if !paged {
            put_extents(&mut w, file.extent_map.extents().map(|(_, e)| e), file.extent_map.extent_count())?;
        }
    }
    end(w)
}

pub(super) fn encode_names(names: &[(FileId, &[u8], FileId)]) -> Result<Vec<u8>, EncodeError> {
    let mut w = begin(NAMES, FIRST_VERSION);
    w.count("names", limits::CHANGES, names.len())?;
    let (mut last_parent, mut last_id) = (0, 0);
    for (parent, name, id) in names {
        put_delta(&mut w, parent.0, &mut last_parent);
        put_name(&mut w, name)?;
        put_delta(&mut w, id.0, &mut last_id);
    }
    end(w)
}

pub(super) fn encode_extents(id: FileId, start: u64, extents: &[Extent]) -> Result<Vec<u8>, EncodeError> {
    let mut w = begin(EXTENTS, FIRST_VERSION);
    w.varint(id.0);
    w.varint(start);
    put_extents(&mut w, extents.iter().copied(), extents.len())?;
    end(w)
}

/// Decodes a page that was read under the name `hash`.
pub fn decode(hash: &Hash, bytes: &[u8]) -> Result<Page, DecodeError> {
    if bytes.len() > limits::PAGE {
        let (found, limit) = (bytes.len() as u64, limits::PAGE as u64);
        return Err(DecodeError::Limit { field: "page", found, limit });
    }
    let version = head("page", MAGIC_PAGE, STANDING_VERSION, bytes)?;
    let found: Hash = blake3::hash(bytes).into();
    if found != *hash {
        return Err(DecodeError::Hash { field: "page", found: found.into(), expected: (*hash).into() });
    }
    let mut r = Reader::new(bytes.get(HEAD_BYTES..).unwrap_or_default());
    let page = match r.u8("kind of page")? {
        FILES => Page::Files(files(&mut r, version)?),
        NAMES => Page::Names(names(&mut r)?),
        EXTENTS => Page::Extents {
            id: FileId(r.varint("file id")?),
            start: r.varint("start of extents")?,
            extents: extents(&mut r, &mut { limits::EXTENTS })?,
        },
        found => return Err(DecodeError::Tag { field: "kind of page", found: u64::from(found) }),
    };
    r.finish("page")?;
    Ok(page)
}

fn files(r: &mut Reader<'_>, version: u8) -> Result<Vec<FileEntry>, DecodeError> {
    let count = r.count("files", limits::CHANGES, 10)?;
    let mut out: Vec<FileEntry> = Vec::new();
    let mut extents_left = limits::EXTENTS;
    let mut previous = 0;
    for _ in 0..count {
        let last = out.last().map(|entry| entry.id.0);
        let id = delta(r, "file id", &mut previous)?;
        if let Some(last) = last.filter(|last| *last >= id) {
            return Err(DecodeError::Order { field: "file id", previous: last, found: id });
        }
        let id = FileId(id);
        let meta = meta(r, 0, version)?;
        if meta.kind != Kind::File {
            out.push(FileEntry { id, meta, root: None, size: 0, extent_map: Some(ExtentMap::default()) });
            continue;
        }
        let flags = r.u8("kind of root")?;
        let hash = r.array("file root")?;
        let root = match flags & !PAGED {
            ROOT_BLAKE3 => Root::Blake3(hash),
            ROOT_SPARSE => Root::Sparse(hash),
            found => return Err(DecodeError::Tag { field: "kind of root", found: u64::from(found) }),
        };
        let size = r.bounded("file size", limits::SIZE)?;
        let extent_map =
            if flags & PAGED == 0 { Some(extents(r, &mut extents_left)?.into_iter().collect()) } else { None };
        out.push(FileEntry { id, meta, root: Some(root), size, extent_map });
    }
    Ok(out)
}

fn names(r: &mut Reader<'_>) -> Result<Vec<(FileId, Vec<u8>, FileId)>, DecodeError> {
    let count = r.count("names", limits::CHANGES, 4)?;
    let mut out = Vec::with_capacity(count);
    let (mut last_parent, mut last_id) = (0, 0);
    for _ in 0..count {
        let parent = FileId(delta(r, "parent", &mut last_parent)?);
        let name = name(r)?.to_vec();
        out.push((parent, name, FileId(delta(r, "named id", &mut last_id)?)));
    }
    Ok(out)
}

/// Where the next extent most likely continues.
struct Cursor {
    at: DataRef,
    end: u64,
}

const START: Cursor =
    Cursor { at: DataRef { object: ObjectRef::Commit(Seq::NONE), frame_offset: 0, frame_bytes: 0, skip: 0 }, end: 0 };

fn put_extents(w: &mut Writer, extents: impl Iterator<Item = Extent>, count: usize) -> Result<(), EncodeError> {
    w.count("extents", limits::EXTENTS, count)?;
    let mut cursor = START;
    for extent in extents {
        let Source::Data(at) = extent.source else {
            put_op(w, HOLE, extent.len)?;
            continue;
        };
        let last = cursor.at;
        let next = last.frame_offset.saturating_add(u64::from(last.frame_bytes));
        let same_frame = DataRef { skip: 0, ..at } == DataRef { skip: 0, ..last };
        if same_frame && u64::from(at.skip) == cursor.end {
            put_op(w, LITERAL_ON, extent.len)?;
        } else if at.object == last.object && at.frame_offset == next && at.skip == 0 {
            put_op(w, LITERAL_NEXT, extent.len)?;
            w.varint(u64::from(at.frame_bytes));
        } else {
            put_op(w, LITERAL_AT, extent.len)?;
            put_object(w, at.object, Seq::NONE);
            w.varint(at.frame_offset);
            w.varint(u64::from(at.frame_bytes));
            w.varint(u64::from(at.skip));
        }
        cursor = Cursor { at, end: u64::from(at.skip).saturating_add(extent.len) };
    }
    Ok(())
}

/// `left` bounds the extents of a whole page.
fn extents(r: &mut Reader<'_>, left: &mut usize) -> Result<Vec<Extent>, DecodeError> {
    let count = r.count("extents", *left, 1)?;
    *left -= count;
    let mut out = Vec::new();
    let mut cursor = START;
    let mut total = 0u64;
    for _ in 0..count {
        let (kind, len) = op_head(r)?;
        total = total.saturating_add(len);
        let last = cursor.at;
        let at = match kind {
            HOLE => {
                out.push(Extent { len, source: Source::Hole });
                continue;
            }
            LITERAL_ON => {
                check_run(cursor.end, len).map_err(run_limit)?;
                DataRef { skip: cursor.end as u32, ..last }
            }
            LITERAL_NEXT => DataRef {
                frame_offset: last.frame_offset.saturating_add(u64::from(last.frame_bytes)),
                frame_bytes: frame_bytes(r)?,
                skip: 0,
                ..last
            },
            LITERAL_AT => DataRef {
                object: object(r, Seq::NONE)?,
                frame_offset: r.varint("frame offset")?,
                frame_bytes: frame_bytes(r)?,
                skip: r.bounded("skip", limits::FRAME_PLAIN as u64)? as u32,
            },
            found => return Err(DecodeError::Tag { field: "extent", found }),
        };
        check_run(u64::from(at.skip), len).map_err(run_limit)?;
        cursor = Cursor { at, end: u64::from(at.skip) + len };
        out.push(Extent { len, source: Source::Data(at) });
    }
    if total > limits::SIZE {
        return Err(DecodeError::Limit { field: "bytes of all extents", found: total, limit: limits::SIZE });
    }
    Ok(out)
}

fn frame_bytes(r: &mut Reader<'_>) -> Result<u32, DecodeError> {
    let bytes = r.u32_varint("frame bytes")?;
    match check_frame_bytes(bytes) {
        Ok(()) => Ok(bytes),
        Err((found, limit)) => Err(DecodeError::Limit { field: "frame bytes", found, limit }),
    }
}

fn run_limit((found, limit): (u64, u64)) -> DecodeError {
    DecodeError::Limit { field: "run", found, limit }
}

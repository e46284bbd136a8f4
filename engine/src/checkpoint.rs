//! Checkpoints: the whole manifest as of a seq, as a root object and immutable pages named by their hash.
//!
//! Page borders are chosen so that a change moves no border elsewhere: files by fixed id ranges, names after entries whose
//! own hash says so, extents of big files at fixed offsets. So two checkpoints share the pages that did not change, and
//! `create if absent` uploads only the others. Pages are written and read one at a time, so memory is one page beside the
//! manifest.

pub mod page;

use crate::extent_map::ExtentMap;
use crate::format::Key;
use crate::format::codec::{
    DecodeError, EncodeError, ObjectKind, Reader, Writer, below, open, same_number, same_volume,
};
use crate::format::era::CheckpointRef;
use crate::format::limits;
use crate::format::parts::{delta, put_delta, put_standing, put_time, standing, time, version_of};
use crate::format::{CHECKSUM_BYTES, MAGIC_CHECKPOINT, STANDING_VERSION};
use crate::manifest::{FileParts, Manifest, ManifestError, Position};
use crate::model::{FileId, Hash, Seq, VolumeId};
use page::{FileEntry, Page};
use std::collections::BTreeMap;
use thiserror::Error;

/// BLAKE3 context of the checksum.
pub const CONTEXT: &str = "tracker format v1 checkpoint";
const ROOT: ObjectKind = ObjectKind {
    name: "checkpoint",
    magic: MAGIC_CHECKPOINT,
    newest: STANDING_VERSION,
    context: CONTEXT,
    limit: limits::PAGE,
};
/// File ids of one page of files.
pub const FILES_A_PAGE: u64 = 1024;
/// A page of names ends after an entry whose hash has this many zero bits ...
pub const NAME_CUT_BITS: u32 = 10;
/// ... or after this many entries.
pub const NAMES_A_PAGE: usize = 8192;
/// Most extents that are stored with their file; a file with more has pages of its own.
pub const EXTENTS_WITH_FILE: usize = 512;
/// Extents that a page of extents has on average.
pub const EXTENTS_A_PAGE: u64 = 1024;

/// Why a checkpoint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    #[error("checkpoint: {0}")]
    Decode(#[from] DecodeError),
    #[error("checkpoint: {0}")]
    Manifest(#[from] ManifestError),
}

/// A root object: what state it is, and the pages that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRoot {
    pub position: Position,
    /// By id range: `id / FILES_A_PAGE`.
    pub files: Vec<(u64, Hash)>,
    /// By the parent of their first entry.
    pub names: Vec<(FileId, Hash)>,
    /// By file and offset.
    pub extents: Vec<(FileId, u64, Hash)>,
}

/// Passes every object of a checkpoint to `put`, pages first, the root last. If the store already has a page of that name,
/// it has the same bytes.
pub fn write<E: From<EncodeError>>(
    manifest: &Manifest,
    mut put: impl FnMut(Key, Vec<u8>) -> Result<(), E>,
) -> Result<CheckpointRef, E> {
    let mut root = CheckpointRoot {
        position: manifest.position().clone(),
        files: Vec::new(),
        names: Vec::new(),
        extents: Vec::new(),
    };
    let mut page = |bytes: Vec<u8>| -> Result<Hash, E> {
        let hash: Hash = blake3::hash(&bytes).into();
        put(Key::Page(hash), bytes)?;
        Ok(hash)
    };
    let mut files: Vec<_> = Vec::new();
    let mut iter = manifest.files().peekable();
    while let Some((id, file)) = iter.next() {
        let paged = file.extent_map.extent_count() > EXTENTS_WITH_FILE;
        if paged {
            for (start, extents) in cut(&file.extent_map) {
                let hash = page(page::encode_extents(id, start, &extents)?)?;
                root.extents.push((id, start, hash));
            }
        }
        files.push((id, file, paged));
        let range = id.0 / FILES_A_PAGE;
        if iter.peek().is_none_or(|(next, _)| next.0 / FILES_A_PAGE != range) {
            let hash = page(page::encode_files(&files)?)?;
            root.files.push((range, hash));
            files.clear();
        }
    }
    let mut names = Vec::new();
    let mut iter = manifest.names().peekable();
    while let Some((parent, name, id)) = iter.next() {
        names.push((parent, name, id));
        if iter.peek().is_none() || names.len() >= NAMES_A_PAGE || ends_page(parent, name) {
            let first = names.first().map_or(parent, |(parent, ..)| *parent);
            root.names.push((first, page(page::encode_names(&names)?)?));
            names.clear();
        }
    }
    let bytes = root.encode()?;
    let seq = root.position.seq;
    let hash = blake3::hash(&bytes).into();
    put(Key::Checkpoint(seq), bytes)?;
    Ok(CheckpointRef { seq, hash })
}

fn ends_page(parent: FileId, name: &[u8]) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&parent.0.to_le_bytes());
    hasher.update(name);
    let &[a, b, c, d, ..] = hasher.finalize().as_bytes();
    u32::from_le_bytes([a, b, c, d]).trailing_zeros() >= NAME_CUT_BITS
}

/// Cuts an extent map at multiples of a width that changes only when the size or the number of extents doubles.
fn cut(extent_map: &ExtentMap) -> impl Iterator<Item = (u64, Vec<crate::extent_map::Extent>)> + '_ {
    let pages = (extent_map.extent_count() as u64).div_ceil(EXTENTS_A_PAGE).next_power_of_two();
    let width = (extent_map.size() / pages).checked_next_power_of_two().unwrap_or(u64::MAX).max(1);
    (0..extent_map.size().div_ceil(width)).map(move |n| (n * width, extent_map.slice(n * width, width)))
}

impl CheckpointRoot {
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let at = &self.position;
        let mut w = Writer::object(MAGIC_CHECKPOINT, version_of(at.standing.as_ref()));
        w.put(&at.volume.0);
        w.seq(at.seq);
        w.put(&at.head);
        put_time(&mut w, at.time, 0)?;
        put_standing(&mut w, at.standing.as_ref(), 0, at.seq, at.time)?;
        w.varint(at.epoch);
        w.count("pages of files", limits::PAGES, self.files.len())?;
        let mut previous = 0;
        for (range, hash) in &self.files {
            put_delta(&mut w, *range, &mut previous);
            w.put(hash);
        }
        w.count("pages of names", limits::PAGES, self.names.len())?;
        let mut previous = 0;
        for (parent, hash) in &self.names {
            put_delta(&mut w, parent.0, &mut previous);
            w.put(hash);
        }
        w.count("pages of extents", limits::PAGES, self.extents.len())?;
        let mut previous = 0;
        for (id, start, hash) in &self.extents {
            put_delta(&mut w, id.0, &mut previous);
            w.varint(*start);
            w.put(hash);
        }
        below("checkpoint", w.len(), limits::PAGE - CHECKSUM_BYTES)?;
        Ok(w.seal(CONTEXT))
    }

    pub fn decode(bytes: &[u8], volume: VolumeId, seq: Seq) -> Result<CheckpointRoot, DecodeError> {
        let (version, body) = open(&ROOT, bytes)?;
        let mut r = Reader::new(body);
        let position = position(&mut r, version)?;
        same_volume("checkpoint volume", position.volume, volume)?;
        same_number("checkpoint seq", position.seq.0, seq.0)?;
        let count = r.count("pages of files", limits::PAGES, 33)?;
        let mut files: Vec<(u64, Hash)> = Vec::with_capacity(count);
        let mut previous = 0;
        for _ in 0..count {
            let last = files.last().map(|(range, _)| *range);
            let range = delta(&mut r, "page of files", &mut previous)?;
            if let Some(last) = last.filter(|last| *last >= range) {
                return Err(DecodeError::Order { field: "page of files", previous: last, found: range });
            }
            files.push((range, r.array("page hash")?));
        }
        let count = r.count("pages of names", limits::PAGES, 33)?;
        let mut names = Vec::with_capacity(count);
        let mut previous = 0;
        for _ in 0..count {
            names.push((FileId(delta(&mut r, "page of names", &mut previous)?), r.array("page hash")?));
        }
        let count = r.count("pages of extents", limits::PAGES, 34)?;
        let mut extents = Vec::with_capacity(count);
        let mut previous = 0;
        for _ in 0..count {
            let id = FileId(delta(&mut r, "page of extents", &mut previous)?);
            extents.push((id, r.varint("start of extents")?, r.array("page hash")?));
        }
        r.finish("checkpoint")?;
        Ok(CheckpointRoot { position, files, names, extents })
    }

    /// All pages of the checkpoint: what prune must keep.
    pub fn pages(&self) -> impl Iterator<Item = Hash> + '_ {
        let files = self.files.iter().map(|(_, hash)| *hash);
        files.chain(self.names.iter().map(|(_, hash)| *hash)).chain(self.extents.iter().map(|(_, _, hash)| *hash))
    }
}

fn position(r: &mut Reader<'_>, version: u8) -> Result<Position, DecodeError> {
    let volume = VolumeId(r.array("checkpoint volume")?);
    let seq = r.seq("checkpoint seq")?;
    let head = r.array("head hash")?;
    let time = time(r, 0)?;
    let standing = standing(r, version, 0, seq, time)?.map(|(standing, _)| standing);
    Ok(Position { volume, seq, head, time, standing, epoch: r.varint("writer epoch")? })
}

/// Builds the manifest of a checkpoint. `fetch` reads one page by its hash.
pub fn load<E: From<LoadError>>(
    root: &CheckpointRoot,
    mut fetch: impl FnMut(&Hash) -> Result<Vec<u8>, E>,
) -> Result<Manifest, E> {
    let mut extent_maps: BTreeMap<FileId, ExtentMap> = BTreeMap::new();
    for (id, start, hash) in &root.extents {
        let extent_map = extent_maps.entry(*id).or_default();
        match decoded(hash, &fetch(hash)?)? {
            Page::Extents { id: found, start: at, extents }
                if found == *id && at == *start && at == extent_map.size() =>
            {
                extents.into_iter().for_each(|e| extent_map.push(e));
            }
            _ => return Err(wrong("page of extents")),
        }
    }
    let mut files = Vec::new();
    for (range, hash) in &root.files {
        let Page::Files(entries) = decoded(hash, &fetch(hash)?)? else { return Err(wrong("page of files")) };
        for FileEntry { id, meta, root, size, extent_map } in entries {
            if id.0 / FILES_A_PAGE != *range {
                return Err(wrong("file id in its page"));
            }
            let extent_map = match extent_map {
                Some(extent_map) => extent_map,
                None => extent_maps.remove(&id).ok_or_else(|| wrong("extents of a file"))?,
            };
            same_number("file size", extent_map.size(), size).map_err(LoadError::from)?;
            files.push((id, FileParts { meta, root, extent_map }));
        }
    }
    if !extent_maps.is_empty() {
        return Err(wrong("extents without a file"));
    }
    let mut names = Vec::new();
    for (first, hash) in &root.names {
        match decoded(hash, &fetch(hash)?)? {
            Page::Names(entries) if entries.first().is_some_and(|(parent, ..)| parent == first) => {
                names.extend(entries)
            }
            _ => return Err(wrong("page of names")),
        }
    }
    Ok(Manifest::from_parts(root.position.clone(), files, names).map_err(LoadError::from)?)
}

fn decoded(hash: &Hash, bytes: &[u8]) -> Result<Page, LoadError> {
    Ok(page::decode(hash, bytes)?)
}

/// The error for a page that matches its hash but not what the root says of it.
fn wrong<E: From<LoadError>>(field: &'static str) -> E {
    LoadError::from(DecodeError::Tag { field, found: 0 }).into()
}

//! One file's bytes in order, and its root: `cat` prints them, and `verify` checks large files without a disk.

use std::io::Write;

use engine::extent_map::{Extent, Source};
use engine::format::Key;
use engine::manifest::{File, Manifest};
use engine::model::{DataRef, Kind, ObjectRef};
use engine::tree::RootHasher;

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;

/// Bytes of one read ahead.
const AHEAD: u64 = 4 << 20;
/// Extents looked at for one read ahead.
const EXTENTS_AHEAD: usize = 4096;
/// Zeros written at a time.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Reader {
    /// Writes a file's bytes to `to`, in order. They can only be verified as a whole.
    ///
    /// # Errors
    /// `Plan` if the path is not in the manifest, `NotAFile`; `Root` at the end, when the bytes are already written.
    pub fn cat(&self, manifest: &Manifest, path: &[u8], to: &mut dyn Write) -> Result<(), ReadError> {
        let shown = || crate::quoting::quote_path(path);
        let file = manifest.resolve(path).and_then(|id| manifest.get(id));
        let file = file.ok_or_else(|| engine::plan::PlanError::NoSuchPath { path: path.to_vec() })?;
        if file.meta.kind != Kind::File {
            return Err(ReadError::NotAFile { path: shown(), kind: kind_name(file.meta.kind) });
        }
        self.stream(file, &shown(), Some(to)).map(|_| ())
    }

    /// Reads a regular file in order, writes its bytes to `to`, and checks its root. Returns the bytes read from the store.
    pub(crate) fn stream(&self, file: &File, path: &str, mut to: Option<&mut dyn Write>) -> Result<u64, ReadError> {
        let Some(expected) = file.root else { return Ok(0) };
        let mut hasher = RootHasher::new(expected.kind());
        let mut source = Window { reader: self, object: None, start: 0, bytes: Vec::new(), frame: None, fetched: 0 };
        let mut extents = file.extent_map.extents().map(|(_, extent)| extent);
        let mut ahead: std::collections::VecDeque<Extent> = extents.by_ref().take(EXTENTS_AHEAD).collect();
        while let Some(extent) = ahead.pop_front() {
            match extent.source {
                Source::Hole => {
                    hasher.hole(extent.len);
                    if let Some(to) = to.as_deref_mut() {
                        zeros(to, extent.len)?;
                    }
                }
                Source::Data(at) => {
                    let plain = source.plain(at, &ahead)?;
                    let part = self.run(at.object, plain, at.skip, extent.len)?;
                    hasher.bytes(part);
                    if let Some(to) = to.as_deref_mut() {
                        to.write_all(part).map_err(ReadError::Output)?;
                    }
                }
            }
            if ahead.len() < EXTENTS_AHEAD / 2 {
                ahead.extend(extents.by_ref().take(EXTENTS_AHEAD / 2));
            }
        }
        let found = hasher.finish();
        if found != expected {
            return Err(ReadError::Root { path: path.to_owned(), found, expected });
        }
        if let Some(to) = to {
            to.flush().map_err(ReadError::Output)?;
        }
        Ok(source.fetched)
    }
}

fn zeros(to: &mut dyn Write, mut left: u64) -> Result<(), ReadError> {
    while left > 0 {
        let step = left.min(ZEROS.len() as u64);
        to.write_all(ZEROS.get(..step as usize).unwrap_or(&ZEROS)).map_err(ReadError::Output)?;
        left -= step;
    }
    Ok(())
}

/// The stored bytes in memory, and the last decoded frame.
struct Window<'a> {
    reader: &'a Reader,
    object: Option<ObjectRef>,
    /// Offset of `bytes` in the object.
    start: u64,
    bytes: Vec<u8>,
    frame: Option<(ObjectRef, u64, Vec<u8>)>,
    fetched: u64,
}

impl Window<'_> {
    /// The plain bytes of a frame. `ahead` are the next extents: the same read includes frames that directly follow.
    fn plain(&mut self, at: DataRef, ahead: &std::collections::VecDeque<Extent>) -> Result<&[u8], ReadError> {
        let known =
            |(object, offset, _): &(ObjectRef, u64, Vec<u8>)| (*object, *offset) == (at.object, at.frame_offset);
        if !self.frame.as_ref().is_some_and(known) {
            let len = u64::from(at.frame_bytes);
            if self.stored(at, len).is_none() {
                let mut end = at.frame_offset.saturating_add(len);
                for next in ahead.iter().filter_map(|extent| match extent.source {
                    Source::Data(next) => Some(next),
                    Source::Hole => None,
                }) {
                    let next_end = next.frame_offset.saturating_add(u64::from(next.frame_bytes));
                    let behind =
                        next.object == at.object && next.frame_offset <= end && next.frame_offset >= at.frame_offset;
                    if !behind || next_end.saturating_sub(at.frame_offset) > AHEAD {
                        break;
                    }
                    end = end.max(next_end);
                }
                let len = end - at.frame_offset;
                self.bytes = self.reader.get_range(Key::from(at.object), at.frame_offset, len)?;
                (self.object, self.start) = (Some(at.object), at.frame_offset);
                self.fetched = self.fetched.saturating_add(len);
            }
            let stored = self.stored(at, len).unwrap_or_default();
            let plain = self.reader.decode_frame(at.object, at.frame_offset, stored)?;
            self.frame = Some((at.object, at.frame_offset, plain));
        }
        Ok(self.frame.as_ref().map(|(_, _, plain)| plain.as_slice()).unwrap_or_default())
    }

    fn stored(&self, at: DataRef, len: u64) -> Option<&[u8]> {
        let from = at.frame_offset.checked_sub(self.start).filter(|_| self.object == Some(at.object))?;
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(from.checked_add(len)?).ok()?);
        self.bytes.get(from..to)
    }
}

/// The name of a kind in output and messages.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char",
        Kind::BlockDevice => "block",
    }
}

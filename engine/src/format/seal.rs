//! From literal bytes to stored runs: cuts frames, fills packs, and decides whether everything fits into the commit.
//!
//! The flush pushes literals as it reads them and keeps the [`Span`] of each. Memory is one frame, one pack and 32 bytes
//! per frame. Only `finish` knows whether the payload is inline, so spans are converted to places at the end.

use super::codec::EncodeError;
use super::frame::{Body, HEADER_BYTES};
use super::limits;
use super::pack::{PackBuilder, PackInfo};
use super::version::{DEFAULT_LEVEL, DEFAULT_PACK_BYTES, HEAD_BYTES};
use crate::model::{ChangeSet, Content, DataRef, FileChange, ObjectRef, Op, Seq, Stored, VolumeId};
use std::collections::VecDeque;

/// Number of distinct attempts; after that many the numbers start again.
const ATTEMPTS: u32 = u32::MAX / super::limits::PACKS as u32;

/// How literal bytes are cut and packed.
#[derive(Clone, Copy, Debug)]
pub struct SealLimits {
    /// Plain bytes of a frame; at most [`limits::FRAME_PLAIN`].
    pub frame_plain: usize,
    /// Stored bytes up to which the payload goes into the commit; at most [`limits::INLINE`].
    pub inline: usize,
    /// A pack is closed once it has this many bytes.
    pub pack: usize,
    /// zstd level; 0 stores everything raw.
    pub level: i32,
}

impl Default for SealLimits {
    fn default() -> Self {
        SealLimits {
            frame_plain: limits::FRAME_PLAIN,
            inline: limits::INLINE,
            pack: DEFAULT_PACK_BYTES,
            level: DEFAULT_LEVEL,
        }
    }
}

/// A run of pushed bytes whose place is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    pub len: u64,
}

/// The place of one frame of the pushed bytes.
#[derive(Clone, Copy, Debug)]
struct Placed {
    plain_start: u64,
    object: ObjectRef,
    offset: u64,
    bytes: u32,
}

/// Takes literals and returns packs. See the head of this file.
pub struct PackWriter {
    volume: VolumeId,
    seq: Seq,
    epoch: u64,
    limits: SealLimits,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    open: Vec<u8>,
    plain: u64,
    /// Frames that may still go inline; moved to a pack when they exceed the limit.
    waiting: Vec<Body>,
    waiting_bytes: usize,
    inline_possible: bool,
    pack: Option<PackBuilder>,
    next: u32,
    last: u32,
    full: VecDeque<(ObjectRef, Vec<u8>)>,
    packs: Vec<PackInfo>,
    frames: Vec<Placed>,
}

impl PackWriter {
    /// For the literals of commit `seq` of `volume`, by the writer with this `epoch`.
    ///
    /// `attempt` is a number that no other attempt at the same seq and epoch has. A repeated flush must use pack numbers
    /// that no earlier attempt can have put, since an object is never put twice with other bytes (I5). Each attempt has
    /// [`super::limits::PACKS`] numbers of its own.
    pub fn new(volume: VolumeId, seq: Seq, epoch: u64, attempt: u32, limits: SealLimits) -> Result<Self, EncodeError> {
        let mut limits = limits;
        limits.frame_plain = limits.frame_plain.clamp(1, super::limits::FRAME_PLAIN);
        limits.inline = limits.inline.min(super::limits::INLINE);
        // Leaves room for the last frame and the index beyond the size at which a pack is closed.
        limits.pack = limits.pack.min(super::limits::PACK / 2);
        let level = limits.level;
        let compressor = match level {
            0 => None,
            _ => Some(zstd::bulk::Compressor::new(level).map_err(|_| EncodeError::Compress { level })?),
        };
        Ok(PackWriter {
            volume,
            seq,
            epoch,
            limits,
            compressor,
            open: Vec::new(),
            plain: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            inline_possible: true,
            pack: None,
            next: (attempt % ATTEMPTS) * super::limits::PACKS as u32,
            last: (attempt % ATTEMPTS) * super::limits::PACKS as u32 + (super::limits::PACKS - 1) as u32,
            full: VecDeque::new(),
            packs: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// Appends a literal. Its bytes are kept only until their pack is full and taken.
    pub fn push(&mut self, literal: &[u8]) -> Result<Span, EncodeError> {
        let span = Span { start: self.plain, len: literal.len() as u64 };
        let mut rest = literal;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(self.limits.frame_plain - self.open.len()));
            self.open.extend_from_slice(now);
            self.plain += now.len() as u64;
            rest = later;
            if self.open.len() == self.limits.frame_plain {
                self.close_frame()?;
            }
        }
        Ok(span)
    }

    /// Takes a pack that is complete and can be put. Call it after every push until it returns `None`.
    pub fn take_full(&mut self) -> Option<(ObjectRef, Vec<u8>)> {
        self.full.pop_front()
    }

    /// How many more frames may be pushed; each is sure of a pack.
    pub fn frames_left(&self) -> u64 {
        let frames = super::limits::FRAMES.saturating_sub(self.frames.len());
        // A pack is closed once it has `pack` bytes, so it holds at least this many frames however badly they compress.
        let a_pack = (self.limits.pack / (self.limits.frame_plain + super::frame::HEADER_BYTES)).max(1);
        let packs = (self.last + 1 - self.next.min(self.last + 1)) as usize;
        frames.min(packs.saturating_mul(a_pack)) as u64
    }

    /// Ends the last frame and pack, and fixes all places.
    pub fn finish(mut self) -> Result<Sealed, EncodeError> {
        self.close_frame()?;
        let mut inline = Vec::new();
        if self.inline_possible {
            let object = ObjectRef::Commit(self.seq);
            // Offsets count from the start of the commit object, so reserve the head's bytes while writing frames.
            inline.resize(HEAD_BYTES, 0);
            for (body, placed) in self.waiting.iter().zip(&mut self.frames) {
                placed.object = object;
                placed.offset = inline.len() as u64;
                body.write(&self.volume, object, &mut inline);
            }
            inline.drain(..HEAD_BYTES);
        }
        self.close_pack()?;
        Ok(Sealed {
            inline,
            last: self.full.into(),
            packs: self.packs,
            places: Places { frames: self.frames, plain: self.plain },
        })
    }

    fn close_frame(&mut self) -> Result<(), EncodeError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let level = self.limits.level;
        let compressed = match &mut self.compressor {
            Some(c) => Some(c.compress(&self.open).map_err(|_| EncodeError::Compress { level })?),
            None => None,
        };
        let body = Body::new(&self.open, compressed);
        self.frames.push(Placed {
            plain_start: self.plain - self.open.len() as u64,
            object: ObjectRef::Commit(self.seq),
            offset: 0,
            bytes: body.frame_bytes() as u32,
        });
        self.open.clear();
        if !self.inline_possible {
            return self.pack_frame(&body, self.frames.len() - 1);
        }
        self.waiting_bytes += body.frame_bytes();
        self.waiting.push(body);
        if self.waiting_bytes > self.limits.inline {
            self.inline_possible = false;
            for (n, body) in std::mem::take(&mut self.waiting).iter().enumerate() {
                self.pack_frame(body, n)?;
            }
        }
        Ok(())
    }

    fn pack_frame(&mut self, body: &Body, n: usize) -> Result<(), EncodeError> {
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let number = self.next;
                if number > self.last {
                    let (found, limit) = (u64::from(number), u64::from(self.last));
                    return Err(EncodeError::Limit { field: "pack number", found, limit });
                }
                // Cannot overflow: `ATTEMPTS` leaves the last numbers of all unused.
                self.next = number + 1;
                none.insert(PackBuilder::new(self.volume, self.seq, self.epoch, number))
            }
        };
        let entry = pack.push(body);
        let object = pack.object();
        let full = pack.len() >= self.limits.pack;
        if let Some(placed) = self.frames.get_mut(n) {
            placed.object = object;
            placed.offset = entry.offset;
        }
        if full { self.close_pack() } else { Ok(()) }
    }

    fn close_pack(&mut self) -> Result<(), EncodeError> {
        if let Some(pack) = self.pack.take() {
            let (info, bytes) = pack.finish()?;
            self.packs.push(info);
            self.full.push_back((info.object(), bytes));
        }
        Ok(())
    }
}

/// The result of a [`PackWriter`].
#[derive(Debug)]
pub struct Sealed {
    /// Frames for the commit's inline payload; empty if packs were made.
    pub inline: Vec<u8>,
    /// Packs not taken yet; put them before the commit.
    pub last: Vec<(ObjectRef, Vec<u8>)>,
    /// All packs, for the commit to name.
    pub packs: Vec<PackInfo>,
    pub places: Places,
}

/// The place of each [`Span`] of a [`PackWriter`].
#[derive(Debug)]
pub struct Places {
    frames: Vec<Placed>,
    plain: u64,
}

impl Places {
    /// The runs of a span, in order; more than one where it crosses frames. Empty for a span of another writer.
    pub fn runs(&self, span: Span) -> Vec<Stored> {
        let end = span.start.saturating_add(span.len).min(self.plain);
        let mut start = span.start;
        let mut n = self.frames.partition_point(|f| f.plain_start <= start).saturating_sub(1);
        let mut runs = Vec::new();
        while start < end {
            let Some(frame) = self.frames.get(n) else { break };
            let frame_end = self.frames.get(n + 1).map_or(self.plain, |f| f.plain_start);
            let at = DataRef {
                object: frame.object,
                frame_offset: frame.offset,
                frame_bytes: frame.bytes,
                skip: (start - frame.plain_start) as u32,
            };
            let len = frame_end.min(end) - start;
            runs.push(Stored { at, len });
            start += len;
            n += 1;
        }
        runs
    }

    /// The same changes with every span replaced by its runs.
    pub fn place(&self, changes: ChangeSet<Span>) -> ChangeSet<Stored> {
        let files = changes.files.into_iter().map(|file| FileChange {
            id: file.id,
            meta: file.meta,
            content: file.content.map(|c| Content {
                size: c.size,
                root: c.root,
                base: c.base,
                ops: self.place_ops(c.ops),
            }),
        });
        ChangeSet { files: files.collect(), names: changes.names, gone: changes.gone }
    }

    fn place_ops(&self, ops: Vec<Op<Span>>) -> Vec<Op<Stored>> {
        let mut out = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Copy { from, len } => out.push(Op::Copy { from, len }),
                Op::Hole { len } => out.push(Op::Hole { len }),
                Op::Literal(span) => out.extend(self.runs(span).into_iter().map(Op::Literal)),
            }
        }
        out
    }
}

/// A whole change set, sealed: the result of [`seal_changes`].
#[derive(Debug)]
pub struct SealedCommit {
    /// Put them before the commit, in any order.
    pub packs: Vec<(ObjectRef, Vec<u8>)>,
    pub pack_infos: Vec<PackInfo>,
    pub changes: ChangeSet<Stored>,
    pub inline: Vec<u8>,
}

/// Seals changes whose literals are all in memory. A flush, whose size is unknown, uses [`PackWriter`].
pub fn seal_changes(
    volume: VolumeId,
    seq: Seq,
    epoch: u64,
    attempt: u32,
    changes: ChangeSet<Vec<u8>>,
    limits: SealLimits,
) -> Result<SealedCommit, EncodeError> {
    let mut writer = PackWriter::new(volume, seq, epoch, attempt, limits)?;
    let mut files = Vec::with_capacity(changes.files.len());
    for file in changes.files {
        let content = match file.content {
            None => None,
            Some(c) => {
                let mut ops = Vec::with_capacity(c.ops.len());
                for op in c.ops {
                    ops.push(match op {
                        Op::Copy { from, len } => Op::Copy { from, len },
                        Op::Hole { len } => Op::Hole { len },
                        Op::Literal(bytes) => Op::Literal(writer.push(&bytes)?),
                    });
                }
                Some(Content { size: c.size, root: c.root, base: c.base, ops })
            }
        };
        files.push(FileChange { id: file.id, meta: file.meta, content });
    }
    let spans = ChangeSet { files, names: changes.names, gone: changes.gone };
    let sealed = writer.finish()?;
    let changes = sealed.places.place(spans);
    Ok(SealedCommit { packs: sealed.last, pack_infos: sealed.packs, changes, inline: sealed.inline })
}

const _: () = assert!(HEADER_BYTES + limits::FRAME_PLAIN < limits::INLINE);

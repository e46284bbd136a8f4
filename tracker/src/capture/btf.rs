//! A reader for BTF, the kernel's description of its own types: the offset of a member, the value of a constant, whether a
//! name exists.
//!
//! Input is untrusted: every length and reference is checked, and every walk is bounded. `layout` decides what is looked
//! for.

use std::sync::Arc;

/// Largest BTF that is read; a distribution kernel has about 6 MiB.
pub const BYTES_MAX: usize = 256 << 20;
/// Deepest nesting of anonymous structs and unions that is followed.
const DEPTH_MAX: u32 = 16;
/// Most members visited for one question.
const STEPS_MAX: u32 = 1 << 20;

pub(super) mod kind {
    pub(crate) const INT: u32 = 1;
    pub(crate) const PTR: u32 = 2;
    pub(crate) const ARRAY: u32 = 3;
    pub(crate) const STRUCT: u32 = 4;
    pub(crate) const UNION: u32 = 5;
    pub(crate) const ENUM: u32 = 6;
    pub(crate) const FWD: u32 = 7;
    pub(crate) const TYPEDEF: u32 = 8;
    pub(crate) const VOLATILE: u32 = 9;
    pub(crate) const CONST: u32 = 10;
    pub(crate) const RESTRICT: u32 = 11;
    pub(crate) const FUNC: u32 = 12;
    pub(crate) const FUNC_PROTO: u32 = 13;
    pub(crate) const VAR: u32 = 14;
    pub(crate) const DATASEC: u32 = 15;
    pub(crate) const FLOAT: u32 = 16;
    pub(crate) const DECL_TAG: u32 = 17;
    pub(crate) const TYPE_TAG: u32 = 18;
    pub(crate) const ENUM64: u32 = 19;
}

/// Why BTF cannot be used, or has no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// It is truncated, or a length or reference points outside.
    #[error("malformed BTF: {what} at byte {at}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// Byte offset in the input.
        at: usize,
    },
    /// A kind of type that this reader does not know, so that its size is unknown.
    #[error("BTF kind {kind} is not known to this version")]
    UnknownKind {
        /// Its number.
        kind: u32,
    },
    /// The member is a bit-field: it has no byte offset.
    #[error("member {member} of {container} is a bit-field")]
    BitField {
        /// Name of the struct.
        container: String,
        /// Name of the member.
        member: String,
    },
    /// Several types of this name disagree.
    #[error("{container}.{member} is ambiguous: types of this name disagree")]
    Ambiguous {
        /// Name of the struct or enum.
        container: String,
        /// Name of the member.
        member: String,
    },
    /// A walk through the types did not end within its bound.
    #[error("BTF nests too deeply below {container}")]
    TooDeep {
        /// Name of the struct.
        container: String,
    },
}

/// One type: the position of its record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) name: u32,
    pub(super) kind: u32,
    pub(super) count: u32,
    pub(super) flagged: bool,
    pub(super) size_or_type: u32,
    /// Byte offset of the data after the record's head.
    pub(super) body: usize,
}

/// A parsed BTF blob, possibly a module's that extends the kernel's.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Hash of the name and position of each named entry, sorted: a kernel has some 100,000 types, of which dozens are
    /// looked up.
    index: Vec<(u32, u32)>,
    strings: std::ops::Range<usize>,
    base: Option<Arc<Btf>>,
    /// Id of the first entry here.
    first_id: u32,
    /// String offset of the first string here.
    first_string: u32,
}

impl Btf {
    /// Parses a BTF blob. `base` is the kernel's if this one is a module's.
    ///
    /// # Errors
    /// `Malformed` and `UnknownKind`, as named there.
    pub fn parse(bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, BtfError> {
        if bytes.len() > BYTES_MAX {
            return Err(BtfError::Malformed { what: "size", at: bytes.len() });
        }
        let magic = u16::from_le_bytes([byte(&bytes, 0)?, byte(&bytes, 1)?]);
        if magic != 0xeb9f || byte(&bytes, 2)? != 1 {
            return Err(BtfError::Malformed { what: "magic or version", at: 0 });
        }
        let head = word(&bytes, 4)? as usize;
        let section = |offset_at: usize, what| -> Result<std::ops::Range<usize>, BtfError> {
            let offset = word(&bytes, offset_at)? as usize;
            let length = word(&bytes, offset_at + 4)? as usize;
            let start = head.checked_add(offset).ok_or(BtfError::Malformed { what, at: offset_at })?;
            let end = start.checked_add(length).ok_or(BtfError::Malformed { what, at: offset_at })?;
            if end > bytes.len() {
                return Err(BtfError::Malformed { what, at: end });
            }
            Ok(start..end)
        };
        let types = section(8, "type section")?;
        let strings = section(16, "string section")?;
        // Names are read up to their end marker: without the last one a search would leave the section.
        if bytes[strings.clone()].last().is_some_and(|&last| last != 0) {
            return Err(BtfError::Malformed { what: "end of strings", at: strings.end });
        }
        let mut entries = Vec::new();
        let mut at = types.start;
        while at < types.end {
            let entry = read_entry(&bytes, at)?;
            at = entry.body + body_bytes(&entry)?;
            if at > types.end {
                return Err(BtfError::Malformed { what: "type", at });
            }
            entries.push(entry);
        }
        let first_id = base.as_ref().map_or(1, |base| base.end_id());
        let first_string = base.as_ref().map_or(0, |base| base.end_string());
        let mut btf = Self { bytes, entries, index: Vec::new(), strings, base, first_id, first_string };
        let named = btf.entries.iter().enumerate().filter(|(_, entry)| entry.name != 0);
        let mut index: Vec<_> = named.map(|(at, entry)| (hash(btf.tail(entry.name)), at as u32)).collect();
        index.sort_unstable();
        btf.index = index;
        Ok(btf)
    }

    /// Byte offset of `member` in the struct `container`, also inside anonymous members; `None` if there is none.
    ///
    /// # Errors
    /// When the answer is not a single number: a bit-field, or types of the same name that disagree; or malformed input.
    pub fn member_offset(&self, container: &str, member: &str) -> Result<Option<u32>, BtfError> {
        let mut found = None;
        for entry in self.named(container.as_bytes(), &[kind::STRUCT, kind::UNION]) {
            let mut walk = Walk { btf: self, container, member, steps: 0 };
            match (walk.find(entry, 0, 0)?, found) {
                (Some(now), Some(before)) if now != before => {
                    return Err(BtfError::Ambiguous { container: container.into(), member: member.into() });
                }
                (Some(now), _) => found = Some(now),
                (None, _) => {}
            }
        }
        found
            .map(|bits: u32| {
                if bits.is_multiple_of(8) {
                    Ok(bits / 8)
                } else {
                    Err(BtfError::BitField { container: container.into(), member: member.into() })
                }
            })
            .transpose()
    }

    /// Value of `constant` in the enum `container`; `None` when there is none.
    ///
    /// # Errors
    /// `Ambiguous`, or malformed input.
    pub fn constant(&self, container: &str, constant: &str) -> Result<Option<u32>, BtfError> {
        let mut found = None;
        for entry in self.named(container.as_bytes(), &[kind::ENUM]) {
            for index in 0..entry.count as usize {
                let at = entry.body + index * 8;
                if self.string(self.word(at)?) != constant.as_bytes() {
                    continue;
                }
                let now = self.word(at + 4)?;
                if found.is_some_and(|before| before != now) {
                    return Err(BtfError::Ambiguous { container: container.into(), member: constant.into() });
                }
                found = Some(now);
            }
        }
        Ok(found)
    }

    /// Whether there is a typedef of this name. The kernel has one called `btf_trace_<name>` per tracepoint.
    #[must_use]
    pub fn has_typedef(&self, name: &str) -> bool {
        self.named(name.as_bytes(), &[kind::TYPEDEF]).next().is_some()
    }

    /// Types of this blob (not of its base) with this name and one of these kinds.
    pub(super) fn named<'a>(&'a self, name: &'a [u8], kinds: &'a [u32]) -> impl Iterator<Item = Entry> + 'a {
        let wanted = hash(name);
        let first = self.index.partition_point(|(hash, _)| *hash < wanted);
        let same = self.index.iter().skip(first).take_while(move |(hash, _)| *hash == wanted);
        same.filter_map(|(_, at)| self.entries.get(*at as usize).copied())
            .filter(move |entry| kinds.contains(&entry.kind) && self.string(entry.name) == name)
    }

    /// The type of this id; `None` for void and for ids that do not exist.
    pub(super) fn entry(&self, id: u32) -> Option<(&Self, Entry)> {
        if id < self.first_id {
            return self.base.as_deref().and_then(|base| base.entry(id));
        }
        self.entries.get((id - self.first_id) as usize).map(|&entry| (self, entry))
    }

    /// The name at this string offset; empty when there is none.
    pub(super) fn string(&self, offset: u32) -> &[u8] {
        self.tail(offset).split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// The bytes from this string offset on: a name, its end marker and other names; empty if there are none.
    fn tail(&self, offset: u32) -> &[u8] {
        if offset < self.first_string {
            return self.base.as_deref().map_or(&[], |base| base.tail(offset));
        }
        let start = self.strings.start + (offset - self.first_string) as usize;
        self.bytes.get(start..self.strings.end).unwrap_or(&[])
    }

    pub(super) fn word(&self, at: usize) -> Result<u32, BtfError> {
        word(&self.bytes, at)
    }

    fn end_id(&self) -> u32 {
        self.first_id.saturating_add(u32::try_from(self.entries.len()).unwrap_or(u32::MAX))
    }

    fn end_string(&self) -> u32 {
        self.first_string.saturating_add(u32::try_from(self.strings.len()).unwrap_or(u32::MAX))
    }

    /// The struct or union behind typedefs and qualifiers, if it is one.
    pub(super) fn aggregate(&self, mut id: u32) -> Option<(&Self, Entry)> {
        for _ in 0..DEPTH_MAX {
            let (owner, entry) = self.entry(id)?;
            match entry.kind {
                kind::STRUCT | kind::UNION => return Some((owner, entry)),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = entry.size_or_type;
                }
                _ => return None,
            }
        }
        None
    }
}

/// The search for one member.
struct Walk<'a> {
    btf: &'a Btf,
    container: &'a str,
    member: &'a str,
    steps: u32,
}

impl Walk<'_> {
    /// Bit offset of the member below `entry`, which itself is at bit `base`.
    fn find(&mut self, entry: Entry, base: u32, depth: u32) -> Result<Option<u32>, BtfError> {
        self.find_in(self.btf, entry, base, depth)
    }

    fn find_in(&mut self, owner: &Btf, entry: Entry, base: u32, depth: u32) -> Result<Option<u32>, BtfError> {
        let too_deep = || BtfError::TooDeep { container: self.container.into() };
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        for index in 0..entry.count as usize {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(too_deep());
            }
            let at = entry.body + index * 12;
            let (name, of, raw) = (owner.word(at)?, owner.word(at + 4)?, owner.word(at + 8)?);
            let (bits, width) = if entry.flagged { (raw & 0x00ff_ffff, raw >> 24) } else { (raw, 0) };
            let bits = base.checked_add(bits).ok_or(BtfError::Malformed { what: "member offset", at })?;
            if name != 0 && owner.string(name) == self.member.as_bytes() {
                if width != 0 {
                    return Err(BtfError::BitField { container: self.container.into(), member: self.member.into() });
                }
                return Ok(Some(bits));
            }
            if name == 0
                && let Some((inner_owner, inner)) = owner.aggregate(of)
                && let Some(found) = self.find_in(inner_owner, inner, bits, depth + 1)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// FNV-1a of a name, up to its end marker.
fn hash(name: &[u8]) -> u32 {
    let bytes = name.iter().take_while(|&&byte| byte != 0);
    bytes.fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, BtfError> {
    bytes.get(at).copied().ok_or(BtfError::Malformed { what: "header", at })
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|chunk| u32::from_le_bytes(*chunk))
        .ok_or(BtfError::Malformed { what: "word", at })
}

fn read_entry(bytes: &[u8], at: usize) -> Result<Entry, BtfError> {
    let info = word(bytes, at + 4)?;
    Ok(Entry {
        name: word(bytes, at)?,
        kind: info >> 24 & 0x1f,
        count: info & 0xffff,
        flagged: info >> 31 == 1,
        size_or_type: word(bytes, at + 8)?,
        body: at + 12,
    })
}

/// Bytes after the head of a type's record.
fn body_bytes(entry: &Entry) -> Result<usize, BtfError> {
    let count = entry.count as usize;
    Ok(match entry.kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * 12,
        kind::ENUM | kind::FUNC_PROTO => count * 8,
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => 0,
        kind => return Err(BtfError::UnknownKind { kind }),
    })
}

//! Encodings that commits and checkpoint pages share: times, attributes, names, references to objects.

use super::codec::{DecodeError, EncodeError, Reader, Writer};
use super::limits;
use super::version::{FIRST_VERSION, STANDING_VERSION};
use crate::model::{InodeFlags, Kind, Meta, ObjectRef, Seq, Standing, Time};

const NANOS: u32 = 1_000_000_000;

/// `sec` is written as the distance from `base`, which is small if both are close in time.
pub(crate) fn put_time(w: &mut Writer, time: Time, base: i64) -> Result<(), EncodeError> {
    if time.nsec >= NANOS {
        let (found, limit) = (u64::from(time.nsec), u64::from(NANOS - 1));
        return Err(EncodeError::Limit { field: "nanoseconds", found, limit });
    }
    w.zigzag(time.sec.wrapping_sub(base));
    w.u32(time.nsec);
    Ok(())
}

pub(crate) fn time(r: &mut Reader<'_>, base: i64) -> Result<Time, DecodeError> {
    let sec = base.wrapping_add(r.zigzag("seconds")?);
    let nsec = r.u32("nanoseconds")?;
    if nsec >= NANOS {
        let (found, limit) = (u64::from(nsec), u64::from(NANOS - 1));
        return Err(DecodeError::Limit { field: "nanoseconds", found, limit });
    }
    Ok(Time { sec, nsec })
}

/// Flag of a standing: the baseline is complete.
const BASELINE: u64 = 1;
/// The hash of the object that closes the previous era follows the parent's (commits only).
pub(crate) const NAMES_ERA: u64 = 2;
/// The wall clock differs from the commit's time, and follows.
const WALL: u64 = 4;
/// Wall clocks went back once; the seq since which they only rise follows.
const STEADY: u64 = 8;
/// Names or gone files follow the files (commits only).
pub(crate) const NAMES: u64 = 16;
/// What the commit says of its instant follows the hashes (commits alone). Not before version 3.
pub(crate) const CONSISTENCY: u64 = 32;

/// Objects that say nothing of clock and baseline are of the first version; what else commits say makes them newer.
pub(crate) fn version_of(standing: Option<&Standing>) -> u8 {
    if standing.is_some() { STANDING_VERSION } else { FIRST_VERSION }
}

/// `more` are further flags of the object. `seq` and `time` are those of the commit that the object describes.
pub(crate) fn put_standing(
    w: &mut Writer,
    standing: Option<&Standing>,
    more: u64,
    seq: Seq,
    time: Time,
) -> Result<(), EncodeError> {
    let Some(standing) = standing else {
        return match more {
            0 => Ok(()),
            found => Err(EncodeError::Number { field: "flags of version 1", found, expected: 0 }),
        };
    };
    if standing.steady_since > seq {
        return Err(EncodeError::Limit { field: "steady since", found: standing.steady_since.0, limit: seq.0 });
    }
    let baseline = if standing.baseline { BASELINE } else { 0 };
    let wall = if standing.wall == time { 0 } else { WALL };
    let steady = if standing.steady_since == Seq::NONE { 0 } else { STEADY };
    w.varint(more | baseline | wall | steady);
    if wall != 0 {
        put_time(w, standing.wall, time.sec)?;
    }
    if steady != 0 {
        w.seq(standing.steady_since);
    }
    Ok(())
}

/// Decodes the standing and the other flags; refuses flags not in `more`. `None` in version 1.
pub(crate) fn standing(
    r: &mut Reader<'_>,
    version: u8,
    more: u64,
    seq: Seq,
    at: Time,
) -> Result<Option<(Standing, u64)>, DecodeError> {
    if version < STANDING_VERSION {
        return Ok(None);
    }
    let flags = r.varint("flags")?;
    if flags & !(BASELINE | WALL | STEADY | more) != 0 {
        return Err(DecodeError::Tag { field: "flags", found: flags });
    }
    let wall = if flags & WALL != 0 { time(r, at.sec)? } else { at };
    let steady_since = if flags & STEADY != 0 { Seq(r.bounded("steady since", seq.0)?) } else { Seq::NONE };
    // Values that could have been omitted are refused.
    if (flags & WALL != 0 && wall == at) || (flags & STEADY != 0 && steady_since == Seq::NONE) {
        return Err(DecodeError::Tag { field: "flags", found: flags });
    }
    Ok(Some((Standing { wall, steady_since, baseline: flags & BASELINE != 0 }, flags)))
}

const KINDS: [Kind; 7] =
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
/// Bit of the kind byte: extended attributes follow.
const HAS_XATTRS: u8 = 0x80;
/// Bit of the kind byte: inode flags and project follow. Not in version 1.
const HAS_FLAGS: u8 = 0x40;

fn is_device(kind: Kind) -> bool {
    matches!(kind, Kind::CharDevice | Kind::BlockDevice)
}

pub(crate) fn put_meta(w: &mut Writer, meta: &Meta, base: i64, version: u8) -> Result<(), EncodeError> {
    let kind = KINDS.iter().position(|k| *k == meta.kind).unwrap_or(0) as u8;
    let xattrs = if meta.xattrs.is_empty() { 0 } else { HAS_XATTRS };
    let flags = if meta.has_flags() { HAS_FLAGS } else { 0 };
    w.u8(kind | xattrs | flags);
    if meta.mode > 0o7777 {
        return Err(EncodeError::Limit { field: "mode", found: u64::from(meta.mode), limit: 0o7777 });
    }
    w.varint(u64::from(meta.mode));
    w.varint(u64::from(meta.uid));
    w.varint(u64::from(meta.gid));
    put_time(w, meta.mtime, base)?;
    if meta.has_flags() {
        let unknown = meta.flags & !InodeFlags::ALL;
        if version < STANDING_VERSION || unknown != 0 {
            return Err(EncodeError::Number { field: "inode flags", found: u64::from(meta.flags), expected: 0 });
        }
        w.varint(u64::from(meta.flags));
        w.varint(u64::from(meta.project));
    }
    if is_device(meta.kind) {
        w.varint(meta.rdev);
    } else if meta.rdev != 0 {
        return Err(EncodeError::Number { field: "rdev", found: meta.rdev, expected: 0 });
    }
    if meta.kind == Kind::Symlink {
        w.bytes("symlink target", limits::SYMLINK_TARGET, &meta.target)?;
    } else if !meta.target.is_empty() {
        return Err(EncodeError::Number { field: "target length", found: meta.target.len() as u64, expected: 0 });
    }
    if !meta.xattrs.is_empty() {
        w.count("xattrs", limits::XATTRS, meta.xattrs.len())?;
        for pair in meta.xattrs.windows(2) {
            if pair[0].0 >= pair[1].0 {
                return Err(EncodeError::Name { field: "xattr order" });
            }
        }
        for (name, value) in &meta.xattrs {
            w.bytes("xattr name", limits::XATTR_NAME, name)?;
            w.bytes("xattr value", limits::XATTR_VALUE, value)?;
        }
    }
    Ok(())
}

pub(crate) fn meta(r: &mut Reader<'_>, base: i64, version: u8) -> Result<Meta, DecodeError> {
    let first = r.u8("kind")?;
    let known = if version < STANDING_VERSION { HAS_XATTRS } else { HAS_XATTRS | HAS_FLAGS };
    let kind =
        *KINDS.get(usize::from(first & !known)).ok_or(DecodeError::Tag { field: "kind", found: u64::from(first) })?;
    let mode = r.bounded("mode", 0o7777)? as u32;
    let uid = r.u32_varint("uid")?;
    let gid = r.u32_varint("gid")?;
    let mtime = time(r, base)?;
    let (flags, project) = if first & known & HAS_FLAGS != 0 { flags(r)? } else { (0, 0) };
    let rdev = if is_device(kind) { r.varint("rdev")? } else { 0 };
    let target =
        if kind == Kind::Symlink { r.bytes("symlink target", limits::SYMLINK_TARGET)?.to_vec() } else { Vec::new() };
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if first & HAS_XATTRS != 0 {
        let count = r.count("xattrs", limits::XATTRS, 2)?;
        if count == 0 {
            return Err(DecodeError::Tag { field: "xattrs", found: 0 });
        }
        for _ in 0..count {
            let name = r.bytes("xattr name", limits::XATTR_NAME)?.to_vec();
            if xattrs.last().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeError::Name { field: "xattr order" });
            }
            xattrs.push((name, r.bytes("xattr value", limits::XATTR_VALUE)?.to_vec()));
        }
    }
    Ok(Meta { kind, mode, uid, gid, mtime, rdev, target, xattrs, flags, project })
}

/// Inode flags and project. Both 0 is refused, since then the bit would not be set.
fn flags(r: &mut Reader<'_>) -> Result<(u32, u32), DecodeError> {
    let flags = r.u32_varint("inode flags")?;
    let project = r.u32_varint("project")?;
    if flags & !InodeFlags::ALL != 0 || (flags, project) == (0, 0) {
        return Err(DecodeError::Tag { field: "inode flags", found: u64::from(flags) });
    }
    Ok((flags, project))
}

/// Whether `name` may be a directory entry. Names that could lead a restore to another place are refused by writer and
/// reader.
pub fn is_entry_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= limits::NAME && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

pub(crate) fn put_name(w: &mut Writer, name: &[u8]) -> Result<(), EncodeError> {
    if !is_entry_name(name) {
        return Err(EncodeError::Name { field: "name" });
    }
    w.bytes("name", limits::NAME, name)
}

pub(crate) fn name<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let name = r.bytes("name", limits::NAME)?;
    if is_entry_name(name) { Ok(name) } else { Err(DecodeError::Name { field: "name" }) }
}

/// Ids are close together, so the distance is shorter than the number.
pub(crate) fn put_delta(w: &mut Writer, value: u64, previous: &mut u64) {
    w.zigzag(value.wrapping_sub(*previous) as i64);
    *previous = value;
}

pub(crate) fn delta(r: &mut Reader<'_>, field: &'static str, previous: &mut u64) -> Result<u64, DecodeError> {
    *previous = previous.wrapping_add(r.zigzag(field)? as u64);
    Ok(*previous)
}

const OBJECT_SELF: u8 = 0;
const OBJECT_COMMIT: u8 = 1;
const OBJECT_PACK: u8 = 2;

/// `own` is the seq of the commit that is being written, or 0 if there is none.
pub(crate) fn put_object(w: &mut Writer, object: ObjectRef, own: Seq) {
    match object {
        ObjectRef::Commit(seq) if seq == own => w.u8(OBJECT_SELF),
        ObjectRef::Commit(seq) => {
            w.u8(OBJECT_COMMIT);
            w.seq(seq);
        }
        ObjectRef::Pack { seq, epoch, n } => {
            w.u8(OBJECT_PACK);
            w.seq(seq);
            w.varint(epoch);
            w.varint(u64::from(n));
        }
    }
}

pub(crate) fn object(r: &mut Reader<'_>, own: Seq) -> Result<ObjectRef, DecodeError> {
    match r.u8("object")? {
        OBJECT_SELF => Ok(ObjectRef::Commit(own)),
        OBJECT_COMMIT => match r.seq("object seq")? {
            seq if seq == own => Err(DecodeError::Tag { field: "object", found: seq.0 }),
            seq => Ok(ObjectRef::Commit(seq)),
        },
        OBJECT_PACK => Ok(ObjectRef::Pack {
            seq: r.seq("pack seq")?,
            epoch: r.varint("pack epoch")?,
            n: r.u32_varint("pack number")?,
        }),
        found => Err(DecodeError::Tag { field: "object", found: u64::from(found) }),
    }
}

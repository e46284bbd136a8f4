//! Encodings that commits and checkpoint pages share: times, attributes, names, references to objects.

use super::codec::{DecodeError, EncodeError, Reader, Writer};
use super::limits;
use crate::model::{Kind, Meta, ObjectRef, Seq, Time};

const NANOS: u32 = 1_000_000_000;

/// `sec` is written as the distance from `base`, which is small where both are about the same moment.
pub(super) fn put_time(w: &mut Writer, time: Time, base: i64) -> Result<(), EncodeError> {
    if time.nsec >= NANOS {
        let (found, limit) = (u64::from(time.nsec), u64::from(NANOS - 1));
        return Err(EncodeError::Limit { field: "nanoseconds", found, limit });
    }
    w.zigzag(time.sec.wrapping_sub(base));
    w.u32(time.nsec);
    Ok(())
}

pub(super) fn time(r: &mut Reader<'_>, base: i64) -> Result<Time, DecodeError> {
    let sec = base.wrapping_add(r.zigzag("seconds")?);
    let nsec = r.u32("nanoseconds")?;
    if nsec >= NANOS {
        let (found, limit) = (u64::from(nsec), u64::from(NANOS - 1));
        return Err(DecodeError::Limit { field: "nanoseconds", found, limit });
    }
    Ok(Time { sec, nsec })
}

const KINDS: [Kind; 7] =
    [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
/// Bit of the kind byte: extended attributes follow.
const HAS_XATTRS: u8 = 0x80;

fn is_device(kind: Kind) -> bool {
    matches!(kind, Kind::CharDevice | Kind::BlockDevice)
}

pub(super) fn put_meta(w: &mut Writer, meta: &Meta, base: i64) -> Result<(), EncodeError> {
    let kind = KINDS.iter().position(|k| *k == meta.kind).unwrap_or(0) as u8;
    w.u8(if meta.xattrs.is_empty() { kind } else { kind | HAS_XATTRS });
    if meta.mode > 0o7777 {
        return Err(EncodeError::Limit { field: "mode", found: u64::from(meta.mode), limit: 0o7777 });
    }
    w.varint(u64::from(meta.mode));
    w.varint(u64::from(meta.uid));
    w.varint(u64::from(meta.gid));
    put_time(w, meta.mtime, base)?;
    if is_device(meta.kind) {
        w.varint(meta.rdev);
    } else if meta.rdev != 0 {
        return Err(EncodeError::Number { field: "rdev", found: meta.rdev, expected: 0 });
    }
    if meta.kind == Kind::Symlink {
        w.bytes("symlink target", limits::TARGET, &meta.target)?;
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

pub(super) fn meta(r: &mut Reader<'_>, base: i64) -> Result<Meta, DecodeError> {
    let first = r.u8("kind")?;
    let kind = *KINDS
        .get(usize::from(first & !HAS_XATTRS))
        .ok_or(DecodeError::Tag { field: "kind", found: u64::from(first) })?;
    let mode = r.bounded("mode", 0o7777)? as u32;
    let uid = r.u32_varint("uid")?;
    let gid = r.u32_varint("gid")?;
    let mtime = time(r, base)?;
    let rdev = if is_device(kind) { r.varint("rdev")? } else { 0 };
    let target = if kind == Kind::Symlink { r.bytes("symlink target", limits::TARGET)?.to_vec() } else { Vec::new() };
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
    Ok(Meta { kind, mode, uid, gid, mtime, rdev, target, xattrs })
}

/// May `name` stand in a directory? Whatever could lead a restore to another place is refused on both sides.
pub fn is_entry_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= limits::NAME && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

pub(super) fn put_name(w: &mut Writer, name: &[u8]) -> Result<(), EncodeError> {
    if !is_entry_name(name) {
        return Err(EncodeError::Name { field: "name" });
    }
    w.bytes("name", limits::NAME, name)
}

pub(super) fn name<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let name = r.bytes("name", limits::NAME)?;
    if is_entry_name(name) { Ok(name) } else { Err(DecodeError::Name { field: "name" }) }
}

/// Ids are near each other; the distance is shorter than the number.
pub(super) fn put_delta(w: &mut Writer, value: u64, previous: &mut u64) {
    w.zigzag(value.wrapping_sub(*previous) as i64);
    *previous = value;
}

pub(super) fn delta(r: &mut Reader<'_>, field: &'static str, previous: &mut u64) -> Result<u64, DecodeError> {
    *previous = previous.wrapping_add(r.zigzag(field)? as u64);
    Ok(*previous)
}

const OBJECT_SELF: u8 = 0;
const OBJECT_COMMIT: u8 = 1;
const OBJECT_PACK: u8 = 2;

/// `own` is the seq of the commit that is being written, where there is one (0 is none).
pub(super) fn put_object(w: &mut Writer, object: ObjectRef, own: Seq) {
    match object {
        ObjectRef::Commit(seq) if seq == own => w.u8(OBJECT_SELF),
        ObjectRef::Commit(seq) => {
            w.u8(OBJECT_COMMIT);
            w.varint(seq);
        }
        ObjectRef::Pack { seq, epoch, n } => {
            w.u8(OBJECT_PACK);
            w.varint(seq);
            w.varint(epoch);
            w.varint(u64::from(n));
        }
    }
}

pub(super) fn object(r: &mut Reader<'_>, own: Seq) -> Result<ObjectRef, DecodeError> {
    match r.u8("object")? {
        OBJECT_SELF => Ok(ObjectRef::Commit(own)),
        OBJECT_COMMIT => match r.varint("object seq")? {
            seq if seq == own => Err(DecodeError::Tag { field: "object", found: seq }),
            seq => Ok(ObjectRef::Commit(seq)),
        },
        OBJECT_PACK => Ok(ObjectRef::Pack {
            seq: r.varint("pack seq")?,
            epoch: r.varint("pack epoch")?,
            n: r.u32_varint("pack number")?,
        }),
        found => Err(DecodeError::Tag { field: "object", found: u64::from(found) }),
    }
}

//! One file as a row: conversion to and from columns. Bytes from the database are checked, not trusted: the file may be
//! damaged.

use std::collections::BTreeMap;

use engine::catalog::Record;
use engine::model::{FileId, Hash, Ino, InodeId, Kind, Meta, Root, Time, Xattrs};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{CatalogError, Result};

/// Results of `name_to_handle_at`, to open files without a path. Files on file systems without handles have none.
pub type Handles = BTreeMap<FileId, Vec<u8>>;

/// Bit of `flags`: the catalog holds a signature of the whole image.
const SIGNED: u32 = 1;

pub(super) const COLUMNS: &str = "id, kind, ino, generation, handle, size, root_kind, root, hole_bytes, mode, uid, gid, \
     mtime_sec, mtime_nsec, rdev, target, xattrs, ctime_sec, ctime_nsec, flags";

/// Stores a record. Without a `handle` the stored one stays, if it is for the same inode.
pub(super) fn upsert(conn: &Connection, file: &Record, handle: Option<&Vec<u8>>) -> Result<()> {
    let (root_kind, root) = match &file.root {
        None => (0, None),
        Some(Root::Blake3(hash)) => (1, Some(&hash[..])),
        Some(Root::Sparse(hash)) => (2, Some(&hash[..])),
    };
    conn.prepare_cached(
        "INSERT INTO files(id, kind, ino, generation, handle, size, root_kind, root, hole_bytes, mode, uid, gid, \
         mtime_sec, mtime_nsec, rdev, target, xattrs, ctime_sec, ctime_nsec, flags) \
         VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20) \
         ON CONFLICT(id) DO UPDATE SET handle = CASE \
         WHEN excluded.handle IS NOT NULL OR ino != excluded.ino OR generation != excluded.generation \
         THEN excluded.handle ELSE handle END, \
         kind = ?2, ino = ?3, generation = ?4, size = ?6, root_kind = ?7, root = ?8, hole_bytes = ?9, mode = ?10, \
         uid = ?11, gid = ?12, mtime_sec = ?13, mtime_nsec = ?14, rdev = ?15, target = ?16, xattrs = ?17, \
         ctime_sec = ?18, ctime_nsec = ?19, flags = ?20",
    )?
    .execute(params![
        file.id.0 as i64,
        kind_code(file.meta.kind),
        ino_column(file.inode.ino),
        file.inode.generation as i64,
        handle,
        file.size as i64,
        root_kind,
        root,
        file.hole_bytes as i64,
        file.meta.mode,
        file.meta.uid,
        file.meta.gid,
        file.meta.mtime.sec,
        file.meta.mtime.nsec,
        file.meta.rdev as i64,
        file.meta.target,
        encode_attributes(&file.meta)?,
        file.ctime.map(|time| time.sec),
        file.ctime.map(|time| time.nsec),
        if file.signed { SIGNED } else { 0 },
    ])?;
    Ok(())
}

pub(super) fn by_id(conn: &Connection, id: FileId) -> Result<Option<Record>> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM files WHERE id = ?1"))?
        .query_row([id.0 as i64], |row| Ok(read(row)))
        .optional()?
        .transpose()
}

/// The stored handle of a file.
pub(super) fn handle(conn: &Connection, id: FileId) -> Result<Option<Vec<u8>>> {
    let handle = conn
        .prepare_cached("SELECT handle FROM files WHERE id = ?1")?
        .query_row([id.0 as i64], |row| row.get::<_, Option<Vec<u8>>>(0))
        .optional()?;
    Ok(handle.flatten())
}

/// A row of `SELECT {COLUMNS}`.
pub(super) fn read(row: &Row<'_>) -> Result<Record> {
    let root: Option<Vec<u8>> = row.get(7)?;
    let root = match (row.get::<_, i64>(6)?, root) {
        (0, None) => None,
        (1, Some(hash)) => Some(Root::Blake3(hash_of("files", &hash)?)),
        (2, Some(hash)) => Some(Root::Sparse(hash_of("files", &hash)?)),
        _ => return Err(CatalogError::Damaged { table: "files", what: "root" }),
    };
    let ctime = match (row.get::<_, Option<i64>>(17)?, row.get::<_, Option<u32>>(18)?) {
        (Some(sec), Some(nsec)) => Some(Time { sec, nsec }),
        (None, None) => None,
        _ => return Err(CatalogError::Damaged { table: "files", what: "ctime" }),
    };
    let (flags, project, xattrs) = decode_attributes(&row.get::<_, Vec<u8>>(16)?)?;
    Ok(Record {
        id: FileId(row.get::<_, i64>(0)? as u64),
        inode: inode(row.get(2)?, row.get(3)?),
        meta: Meta {
            kind: kind_of(row.get(1)?)?,
            mode: row.get(9)?,
            uid: row.get(10)?,
            gid: row.get(11)?,
            mtime: Time { sec: row.get(12)?, nsec: row.get(13)? },
            rdev: row.get::<_, i64>(14)? as u64,
            target: row.get(15)?,
            xattrs,
            flags,
            project,
        },
        size: row.get::<_, i64>(5)? as u64,
        root,
        hole_bytes: row.get::<_, i64>(8)? as u64,
        signed: row.get::<_, u32>(19)? & SIGNED != 0,
        ctime,
    })
}

/// An inode number from its column.
pub(super) fn ino_of(column: i64) -> Ino {
    Ino(column as u64)
}

/// An inode number as its column holds it.
pub(super) fn ino_column(ino: Ino) -> i64 {
    ino.0 as i64
}

pub(super) fn inode(ino: i64, generation: i64) -> InodeId {
    InodeId { ino: ino_of(ino), generation: generation as u64 }
}

pub(super) fn kind_of(code: i64) -> Result<Kind> {
    Ok(match code {
        1 => Kind::File,
        2 => Kind::Dir,
        3 => Kind::Symlink,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice,
        7 => Kind::BlockDevice,
        _ => return Err(CatalogError::Damaged { table: "files", what: "kind" }),
    })
}

pub(super) fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice => 6,
        Kind::BlockDevice => 7,
    }
}

pub(super) fn hash_of(table: &'static str, bytes: &[u8]) -> Result<Hash> {
    bytes.try_into().map_err(|_| CatalogError::Damaged { table, what: "hash length" })
}

/// Inode flags and project, if any, come before the extended attributes, under the empty name, which no attribute has.
fn encode_attributes(meta: &Meta) -> Result<Vec<u8>> {
    let xattrs = encode_xattrs(&meta.xattrs)?;
    if !meta.has_flags() {
        return Ok(xattrs);
    }
    let value = [meta.flags.to_le_bytes(), meta.project.to_le_bytes()].concat();
    Ok([encode_xattrs(&[(Vec::new(), value)])?, xattrs].concat())
}

fn decode_attributes(bytes: &[u8]) -> Result<(u32, u32, Xattrs)> {
    let mut xattrs = decode_xattrs(bytes)?;
    if xattrs.first().is_none_or(|(name, _)| !name.is_empty()) {
        return Ok((0, 0, xattrs));
    }
    let (_, value) = xattrs.remove(0);
    let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(value) else {
        return Err(CatalogError::Damaged { table: "files", what: "inode flags" });
    };
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), xattrs))
}

/// `u32 name length, u32 value length, name, value` for each, little endian. No attributes: no bytes.
fn encode_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(xattrs.iter().map(|(name, value)| 8 + name.len() + value.len()).sum());
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len())
            .map(u32::to_le_bytes)
            .map_err(|_| CatalogError::Damaged { table: "files", what: "xattr too long to store" })
    };
    for (name, value) in xattrs {
        out.extend_from_slice(&length(name)?);
        out.extend_from_slice(&length(value)?);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    Ok(out)
}

fn decode_xattrs(mut bytes: &[u8]) -> Result<Xattrs> {
    const DAMAGED: CatalogError = CatalogError::Damaged { table: "files", what: "xattrs" };
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let (name_len, rest) = bytes.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let (value_len, rest) = rest.split_first_chunk::<4>().ok_or(DAMAGED)?;
        let name_len = u32::from_le_bytes(*name_len) as usize;
        let value_len = u32::from_le_bytes(*value_len) as usize;
        let (name, rest) = rest.split_at_checked(name_len).ok_or(DAMAGED)?;
        let (value, rest) = rest.split_at_checked(value_len).ok_or(DAMAGED)?;
        out.push((name.to_vec(), value.to_vec()));
        bytes = rest;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xattrs_survive_the_way_through_bytes() {
        let list = vec![(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), vec![0, 255, 7])];
        let bytes = encode_xattrs(&list).unwrap();
        assert_eq!(decode_xattrs(&bytes).unwrap(), list);
    }

    #[test]
    fn damaged_xattrs_are_an_error_at_every_cut() {
        let bytes = encode_xattrs(&[(b"user.a".to_vec(), b"value".to_vec())]).unwrap();
        for cut in 1..bytes.len() {
            assert!(decode_xattrs(&bytes[..cut]).is_err(), "cut at {cut} was accepted");
        }
        assert!(decode_xattrs(&[255; 8]).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(20_000))]

        /// Mutated attributes of a row are decoded or refused; what is decoded can be encoded again.
        #[test]
        fn mutated_attributes_do_no_harm(edits in proptest::collection::vec((0usize..64, proptest::arbitrary::any::<u8>()), 0..5), cut in 0usize..80) {
            let mut bytes = encode_xattrs(&[(Vec::new(), vec![9; 8]), (b"user.a".to_vec(), b"value".to_vec())]).unwrap();
            for (at, byte) in edits {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut.max(1));
            if let Ok((flags, project, xattrs)) = decode_attributes(&bytes) {
                let kept = encode_xattrs(&xattrs).unwrap();
                let front = if bytes[..4] == [0; 4] { 16 } else { 0 };
                proptest::prop_assert_eq!(kept.len() + front, bytes.len(), "{} {}", flags, project);
            }
        }
    }

    #[test]
    fn every_kind_has_its_own_code() {
        for code in 1..=7 {
            assert_eq!(kind_code(kind_of(code).unwrap()), code);
        }
        assert!(kind_of(0).is_err());
        assert!(kind_of(8).is_err());
    }
}

//! The key/value part of the catalog: who wrote it, of which source, up to which commit.

use std::sync::PoisonError;

use engine::catalog::Head;
use engine::model::{Dev, FileId, Ino, Seq, Standing, Time, VolumeId, WriterId};
use rusqlite::{Connection, OptionalExtension, params};

use super::database::Catalog;
use super::error::{CatalogError, Result};
use super::row;
use crate::source::SourceFacts;

/// Name of the note about the source directory.
const SOURCE_FACTS: &str = "source facts";

/// Who may commit: the holder of this catalog, with this fencing number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    pub id: WriterId,
    pub epoch: u64,
}

impl Catalog {
    /// The volume's id, as written in the store; `None` in a new catalog.
    pub fn volume_id(&self) -> Result<Option<VolumeId>> {
        self.read(|conn| Ok(fixed(conn, "volume_id")?.map(VolumeId)))
    }

    pub fn set_volume_id(&self, id: &VolumeId) -> Result<()> {
        self.write(|conn| put(conn, "volume_id", &id.0))
    }

    pub fn writer(&self) -> Result<Option<Writer>> {
        self.read(|conn| {
            let (id, epoch) = (fixed(conn, "writer_id")?, fixed(conn, "writer_epoch")?);
            match (id, epoch) {
                (Some(id), Some(epoch)) => Ok(Some(Writer { id: WriterId(id), epoch: u64::from_le_bytes(epoch) })),
                (None, None) => Ok(None),
                _ => Err(CatalogError::Damaged { table: "meta", what: "writer" }),
            }
        })
    }

    /// Durable when it returns: a host that forgot its epoch could commit under an older one.
    pub fn set_writer(&self, writer: &Writer) -> Result<()> {
        self.write_durably(|conn| {
            put(conn, "writer_id", &writer.id.0)?;
            put(conn, "writer_epoch", &writer.epoch.to_le_bytes())
        })
    }

    /// The next file id to give. The first is 2: 1 is the source directory.
    pub fn next_id(&self) -> Result<FileId> {
        self.read(next_id)
    }

    /// A number that this catalog never returned before, whatever crashes: packs are named by it. Numbers are reserved on
    /// disk 256 at a time, so that a flush does not pay an fsync for each; a restart skips the rest.
    pub fn next_attempt(&self) -> Result<u32> {
        let mut reserved = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = reserved.next() {
            return Ok(next);
        }
        *reserved = self.write_durably(|conn| {
            let first = fixed(conn, "attempts")?.map_or(0, u32::from_le_bytes);
            let end = first.checked_add(256).ok_or(CatalogError::AttemptsUsedUp)?;
            put(conn, "attempts", &end.to_le_bytes())?;
            Ok(first..end)
        })?;
        reserved.next().ok_or(CatalogError::AttemptsUsedUp)
    }

    /// The last commit this host knows to be in the store.
    pub fn head(&self) -> Result<Option<Head>> {
        self.read(head)
    }

    /// Moves the head without a flush: after the catalog was filled from a manifest.
    pub fn set_head(&self, head: &Head) -> Result<()> {
        self.write(|conn| put_head(conn, head))
    }

    /// Which directory the catalog describes; `None` in a new catalog.
    pub fn source_facts(&self) -> Result<Option<SourceFacts>> {
        if let Some(text) = self.note(SOURCE_FACTS)? {
            let damaged = |_| CatalogError::Damaged { table: "meta", what: "source facts" };
            return Ok(Some(serde_json::from_str(&text).map_err(damaged)?));
        }
        // Written by an older version: device, inode number, birth.
        let Some(bytes) = self.read(|conn| fixed::<24>(conn, "source"))? else { return Ok(None) };
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let device = Dev::of_halves(word(0)).ok_or(CatalogError::Damaged { table: "meta", what: "source" })?;
        Ok(Some(SourceFacts { device, ino: Ino(word(8)), generation: word(16), ..SourceFacts::default() }))
    }

    pub fn set_source_facts(&self, source: &SourceFacts) -> Result<()> {
        // Plain values can always be serialized.
        let text =
            serde_json::to_string(source).map_err(|_| CatalogError::Damaged { table: "meta", what: "source facts" })?;
        self.set_note(SOURCE_FACTS, &text)
    }

    /// The boot (`/proc/sys/kernel/random/boot_id`) in which the catalog was last in use.
    pub fn boot_id(&self) -> Result<Option<String>> {
        self.read(|conn| text(conn, "boot_id"))
    }

    pub fn set_boot_id(&self, boot: &str) -> Result<()> {
        self.write(|conn| put(conn, "boot_id", boot.as_bytes()))
    }

    /// A note of other code; the catalog does not interpret it.
    pub fn note(&self, name: &str) -> Result<Option<String>> {
        self.read(|conn| text(conn, &format!("note:{name}")))
    }

    pub fn set_note(&self, name: &str, value: &str) -> Result<()> {
        self.write(|conn| put(conn, &format!("note:{name}"), value.as_bytes()))
    }

    /// As [`Catalog::set_note`], and on the disk when it returns.
    pub fn set_note_durably(&self, name: &str, value: &str) -> Result<()> {
        self.write_durably(|conn| put(conn, &format!("note:{name}"), value.as_bytes()))
    }

    /// The store that holds the volume, as the operator wrote it.
    pub fn store(&self) -> Result<Option<String>> {
        self.read(|conn| text(conn, "store"))
    }

    pub fn set_store(&self, store: &str) -> Result<()> {
        self.write(|conn| put(conn, "store", store.as_bytes()))
    }
}

pub(super) fn next_id(conn: &Connection) -> Result<FileId> {
    Ok(FileId(fixed(conn, "next_id")?.map_or(FileId::ROOT.0 + 1, u64::from_le_bytes)))
}

/// Never lowers it: an id is never given twice.
pub(super) fn raise_next_id(conn: &Connection, next: FileId) -> Result<()> {
    if next > next_id(conn)? { put(conn, "next_id", &next.0.to_le_bytes()) } else { Ok(()) }
}

/// Seq, hash and time; then wall clock, since when it is steady, baseline.
const HEAD_BYTES: usize = 8 + 32 + 12;
const STANDING_BYTES: usize = 12 + 8 + 1;

fn head(conn: &Connection) -> Result<Option<Head>> {
    let Some(bytes) = get(conn, "head")? else { return Ok(None) };
    // Without the last part it is from a commit of format version 1.
    if ![HEAD_BYTES, HEAD_BYTES + STANDING_BYTES].contains(&bytes.len()) {
        return Err(CatalogError::Damaged { table: "meta", what: "head" });
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        word
    };
    let time = |at: usize| {
        let mut nsec = [0; 4];
        nsec.copy_from_slice(&bytes[at + 8..at + 12]);
        Time { sec: i64::from_le_bytes(word(at)), nsec: u32::from_le_bytes(nsec) }
    };
    let standing = (bytes.len() > HEAD_BYTES).then(|| Standing {
        wall: time(HEAD_BYTES),
        steady_since: Seq(u64::from_le_bytes(word(HEAD_BYTES + 12))),
        baseline: bytes[HEAD_BYTES + 20] != 0,
    });
    let hash = row::hash_of("meta", &bytes[8..40])?;
    Ok(Some(Head { seq: Seq(u64::from_le_bytes(word(0))), hash, time: time(40), standing }))
}

pub(super) fn put_head(conn: &Connection, head: &Head) -> Result<()> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + STANDING_BYTES);
    bytes.extend_from_slice(&head.seq.0.to_le_bytes());
    bytes.extend_from_slice(&head.hash);
    bytes.extend_from_slice(&head.time.sec.to_le_bytes());
    bytes.extend_from_slice(&head.time.nsec.to_le_bytes());
    if let Some(Standing { wall, steady_since, baseline }) = head.standing {
        bytes.extend_from_slice(&wall.sec.to_le_bytes());
        bytes.extend_from_slice(&wall.nsec.to_le_bytes());
        bytes.extend_from_slice(&steady_since.0.to_le_bytes());
        bytes.push(u8::from(baseline));
    }
    put(conn, "head", &bytes)
}

fn get(conn: &Connection, key: &str) -> Result<Option<Vec<u8>>> {
    Ok(conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()?)
}

fn fixed<const N: usize>(conn: &Connection, key: &str) -> Result<Option<[u8; N]>> {
    get(conn, key)?
        .map(|bytes| bytes.try_into().map_err(|_| CatalogError::Damaged { table: "meta", what: "value length" }))
        .transpose()
}

fn text(conn: &Connection, key: &str) -> Result<Option<String>> {
    get(conn, key)?
        .map(|bytes| {
            String::from_utf8(bytes).map_err(|_| CatalogError::Damaged { table: "meta", what: "text is not UTF-8" })
        })
        .transpose()
}

fn put(conn: &Connection, key: &str, value: &[u8]) -> Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)")?.execute(params![key, value])?;
    Ok(())
}

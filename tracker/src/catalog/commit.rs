//! The two transactions of a commit: the intent with all new values before the PUT, head and marks after it.
//!
//! Between them the catalog already holds the new values and head is still the old one. A start in that state finds
//! the intent and puts the very same bytes again (I5), or learns that it was fenced and calls `wipe_for_rebuild`.

use engine::model::{FileId, Hash, Id, NameChange, Seq, Time};
use rusqlite::{Connection, OptionalExtension, params};

use super::identity::{Head, put_head, raise_next_id};
use super::{Catalog, CatalogError, FileRow, MissingRow, PendingRow, Result, pending, row};

/// A commit that is about to be put, or was put with an outcome not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub seq: Seq,
    /// The random id in the commit's header, by which its maker knows it again.
    pub commit_id: Id,
    /// BLAKE3 of `bytes`.
    pub hash: Hash,
    /// The commit's own time.
    pub time: Time,
    /// The exact object.
    pub bytes: Vec<u8>,
}

/// A tree node to store; `blob` of `None` deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeWrite {
    pub file: FileId,
    pub level: u8,
    pub idx: u64,
    pub blob: Option<Vec<u8>>,
}

/// A signature group to store; `blob` of `None` deletes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigWrite {
    pub file: FileId,
    pub group: u64,
    pub blob: Option<Vec<u8>>,
}

/// What one commit changes in the catalog. It is applied in this order, whatever the order inside each list: `gone`
/// and `drop_nodes_of`, then `files`, names (all `Unset`, then all `Set`), nodes, signatures, missing, next id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogChange {
    /// New or changed files, whole rows.
    pub files: Vec<FileRow>,
    pub names: Vec<NameChange>,
    /// Files to remove with their nodes and signatures. Their names are removed by `names`.
    pub gone: Vec<FileId>,
    pub nodes: Vec<NodeWrite>,
    pub sigs: Vec<SigWrite>,
    /// Files whose nodes and signatures are all dropped before the new ones are written: replaced content.
    pub drop_nodes_of: Vec<FileId>,
    /// All removals that wait, in place of the stored list; `None` leaves that as it is.
    pub missing: Option<Vec<MissingRow>>,
    /// Raises the next file id; a lower value than the stored one is ignored, and it is always above `files`.
    pub next_id: Option<FileId>,
}

impl Catalog {
    /// Records the intent and applies `change`, in one transaction; head does not move. `Unsettled` when another
    /// intent is still open.
    pub fn begin_commit(&self, intent: &Intent, change: &CatalogChange) -> Result<()> {
        self.write_change(change, |conn| {
            if let Some(seq) = open_seq(conn)? {
                return Err(CatalogError::Unsettled { seq });
            }
            conn.prepare_cached("INSERT INTO intent(only_row, seq, commit_id, hash, time_sec, time_nsec, bytes) VALUES(1,?1,?2,?3,?4,?5,?6)")?
                .execute(params![
                    intent.seq as i64,
                    &intent.commit_id[..],
                    &intent.hash[..],
                    intent.time.sec,
                    intent.time.nsec,
                    intent.bytes
                ])?;
            Ok(())
        })
    }

    /// The commit is in the store: in one transaction the intent is cleared, head moves to it, the marks of `forget`
    /// are dropped, and each row of `keep` takes the place of what was stored for its inode. `WrongIntent` unless the
    /// open intent is this seq's.
    pub fn settle_commit(&self, head: &Head, forget: &[u64], keep: &[PendingRow]) -> Result<()> {
        self.write(|conn| {
            let (found, seq) = (open_seq(conn)?, head.seq);
            if found != Some(seq) {
                return Err(CatalogError::WrongIntent { seq, found });
            }
            conn.execute("DELETE FROM intent", [])?;
            put_head(conn, head)?;
            pending::forget(conn, forget)?;
            keep.iter().try_for_each(|row| pending::put(conn, row))
        })
    }

    /// A flush that had nothing to put: in one transaction `change` (facts of this host, such as ctimes) is applied
    /// and the marks are dealt with as in [`Catalog::settle_commit`]. Head does not move.
    pub fn settle_without_commit(&self, change: &CatalogChange, forget: &[u64], keep: &[PendingRow]) -> Result<()> {
        self.write_change(change, |conn| {
            pending::forget(conn, forget)?;
            keep.iter().try_for_each(|row| pending::put(conn, row))
        })
    }

    /// Applies a change that is no commit of ours: filling the catalog from a manifest, or facts of this host only
    /// (inode numbers, handles, ctimes). One transaction.
    pub fn apply(&self, change: &CatalogChange) -> Result<()> {
        self.write_change(change, |_| Ok(()))
    }

    /// The commit whose outcome is not known, if any.
    pub fn intent(&self) -> Result<Option<Intent>> {
        self.read(|conn| {
            let found = conn
                .prepare_cached("SELECT seq, commit_id, hash, bytes, time_sec, time_nsec FROM intent")?
                .query_row([], |row| {
                    Ok((
                        row.get::<_, i64>(0)? as u64,
                        row.get::<_, Vec<u8>>(1)?,
                        row.get::<_, Vec<u8>>(2)?,
                        row.get::<_, Vec<u8>>(3)?,
                        Time { sec: row.get(4)?, nsec: row.get(5)? },
                    ))
                })
                .optional()?;
            let Some((seq, commit_id, hash, bytes, time)) = found else { return Ok(None) };
            let commit_id =
                commit_id.try_into().map_err(|_| CatalogError::Damaged { table: "intent", what: "commit id" })?;
            Ok(Some(Intent { seq, commit_id, hash: row::hash_of("intent", &hash)?, time, bytes }))
        })
    }

    /// Forgets by which inode each committed file was found, with its handle and time of change, and which names wait for
    /// proof: the source is another directory. The root keeps its own; content, names and pending marks stay. A file
    /// without an inode has number 0 and its id as generation, which no file of a file system has.
    pub fn forget_inodes(&self) -> Result<()> {
        let mut listed = self.listed();
        listed.clear();
        self.write(|conn| {
            for sql in [
                "UPDATE files SET ino = 0, generation = id, handle = NULL, ctime_sec = NULL, ctime_nsec = NULL WHERE id != 1",
                "DELETE FROM missing",
            ] {
                conn.execute(sql, [])?;
            }
            Ok(())
        })
    }

    /// Throws the committed image away (files, names, hashes, signatures, missing names, intent, head), because the
    /// store is not what the catalog says. Kept: pending marks, the ids of volume and writer, and the next file id,
    /// which must never go back.
    pub fn wipe_for_rebuild(&self) -> Result<()> {
        let mut listed = self.listed();
        listed.clear();
        let mut parents = self.parents();
        parents.clear();
        self.write(|conn| {
            for sql in [
                "DELETE FROM files",
                "DELETE FROM names",
                "DELETE FROM nodes",
                "DELETE FROM sigs",
                "DELETE FROM missing",
                "DELETE FROM intent",
                "DELETE FROM meta WHERE key IN ('head', 'clean_shutdown')",
            ] {
                conn.execute(sql, [])?;
            }
            Ok(())
        })
    }
}

fn open_seq(conn: &Connection) -> Result<Option<Seq>> {
    Ok(conn
        .prepare_cached("SELECT seq FROM intent")?
        .query_row([], |row| row.get::<_, i64>(0))
        .optional()?
        .map(|seq| seq as u64))
}

pub(super) fn apply(conn: &Connection, change: &CatalogChange) -> Result<()> {
    for id in change.gone.iter().chain(&change.drop_nodes_of) {
        conn.prepare_cached("DELETE FROM nodes WHERE file = ?1")?.execute([id.0 as i64])?;
        conn.prepare_cached("DELETE FROM sigs WHERE file = ?1")?.execute([id.0 as i64])?;
    }
    for id in &change.gone {
        conn.prepare_cached("DELETE FROM files WHERE id = ?1")?.execute([id.0 as i64])?;
    }
    for file in &change.files {
        row::upsert(conn, file)?;
    }
    names(conn, &change.names)?;
    for node in &change.nodes {
        let (file, idx) = (node.file.0 as i64, node.idx as i64);
        match &node.blob {
            Some(blob) => conn
                .prepare_cached("INSERT OR REPLACE INTO nodes(file, level, idx, blob) VALUES(?1, ?2, ?3, ?4)")?
                .execute(params![file, node.level, idx, blob])?,
            None => conn
                .prepare_cached("DELETE FROM nodes WHERE file = ?1 AND level = ?2 AND idx = ?3")?
                .execute(params![file, node.level, idx])?,
        };
    }
    for sig in &change.sigs {
        let (file, group) = (sig.file.0 as i64, sig.group as i64);
        match &sig.blob {
            Some(blob) => conn
                .prepare_cached("INSERT OR REPLACE INTO sigs(file, grp, blob) VALUES(?1, ?2, ?3)")?
                .execute(params![file, group, blob])?,
            None => {
                conn.prepare_cached("DELETE FROM sigs WHERE file = ?1 AND grp = ?2")?.execute(params![file, group])?
            }
        };
    }
    if let Some(missing) = &change.missing {
        conn.prepare_cached("DELETE FROM missing")?.execute([])?;
        missing.iter().try_for_each(|row| pending::put_missing(conn, row))?;
    }
    let above_files = change.files.iter().map(|file| FileId(file.id.0 + 1)).max();
    change.next_id.max(above_files).map_or(Ok(()), |next| raise_next_id(conn, next))
}

/// As a set: a swap of two names is two `Set`, a move is one `Unset` and one `Set`, in any order.
fn names(conn: &Connection, changes: &[NameChange]) -> Result<()> {
    let mut unset = conn.prepare_cached("DELETE FROM names WHERE parent = ?1 AND name = ?2")?;
    for change in changes {
        if let NameChange::Unset { parent, name } = change {
            unset.execute(params![parent.0 as i64, name])?;
        }
    }
    let mut set = conn.prepare_cached("INSERT OR REPLACE INTO names(parent, name, id) VALUES(?1, ?2, ?3)")?;
    for change in changes {
        if let NameChange::Set { parent, name, id } = change {
            set.execute(params![parent.0 as i64, name, id.0 as i64])?;
        }
    }
    Ok(())
}

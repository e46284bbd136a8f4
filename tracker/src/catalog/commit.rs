//! The two transactions of a commit: the intent with all new values before the PUT, head and marks after it.
//!
//! Between them the catalog already holds the new values, while the head is still the old one. A start in that state finds
//! the intent and puts exactly the same bytes again (I5), or learns that it was fenced and calls `wipe_for_rebuild`.

use engine::catalog::{CatalogChange, Head, Intent};
use engine::dirty::DirtySet;
use engine::model::{CommitId, FileId, Ino, NameChange, Seq, Time};
use rusqlite::{Connection, OptionalExtension, params};

use super::database::Catalog;
use super::digests::ListedNames;
use super::error::{CatalogError, Result};
use super::identity::{put_head, raise_next_id};
use super::late::{Late, Update};
use super::pending;
use super::row::{self, Handles};
use super::rows::Rows;

impl Catalog {
    /// Records the intent and applies `change`, in one transaction; the head does not move. `Unsettled` if another intent
    /// is still open.
    pub fn begin_commit(&self, intent: &Intent, change: &CatalogChange, handles: &Handles) -> Result<()> {
        self.write_change(change, handles, |conn| {
            if let Some(seq) = open_seq(conn)? {
                return Err(CatalogError::Unsettled { seq });
            }
            conn.prepare_cached("INSERT INTO intent(only_row, seq, commit_id, hash, time_sec, time_nsec, bytes) VALUES(1,?1,?2,?3,?4,?5,?6)")?
                .execute(params![
                    intent.seq.0 as i64,
                    &intent.commit_id.0[..],
                    &intent.hash[..],
                    intent.time.sec,
                    intent.time.nsec,
                    intent.bytes
                ])?;
            Ok(())
        })
    }

    /// Called when the commit is in the store. One transaction clears the intent, moves the head to it, drops the marks of
    /// `forget`, and replaces the stored marks of the inodes in `keep`. `WrongIntent` unless the open intent is for this
    /// seq.
    pub fn settle_commit(&self, head: &Head, forget: &[Ino], keep: &DirtySet) -> Result<()> {
        self.write(|conn| {
            let (found, seq) = (open_seq(conn)?, head.seq);
            if found != Some(seq) {
                return Err(CatalogError::WrongIntent { seq, found });
            }
            conn.execute("DELETE FROM intent", [])?;
            put_head(conn, head)?;
            pending::forget(conn, forget)?;
            pending::put_all(conn, keep)
        })
    }

    /// Ends a flush that had nothing to put. One transaction applies `change` (facts of this host, such as ctimes) and
    /// handles the marks as [`Catalog::settle_commit`] does. The head does not move.
    pub fn settle_without_commit(&self, change: &CatalogChange, forget: &[Ino], keep: &DirtySet) -> Result<()> {
        self.write_change(change, &Handles::new(), |conn| {
            pending::forget(conn, forget)?;
            pending::put_all(conn, keep)
        })
    }

    /// Applies a change that is not a commit of ours: filling the catalog from a manifest, or facts of this host only
    /// (inode numbers, ctimes). One transaction.
    pub fn apply(&self, change: &CatalogChange) -> Result<()> {
        self.apply_with(change, &Handles::new())
    }

    /// As [`Catalog::apply`], with handles of files in `change`.
    pub fn apply_with(&self, change: &CatalogChange, handles: &Handles) -> Result<()> {
        self.write_change(change, handles, |_| Ok(()))
    }

    /// One transaction: runs `work`, then changes the committed image. Updates the caches in memory afterwards.
    fn write_change(
        &self,
        change: &CatalogChange,
        handles: &Handles,
        work: impl FnOnce(&Connection) -> Result<()>,
    ) -> Result<()> {
        let mut listed = self.listed();
        let mut parents = self.parents();
        let mut late = self.late()?;
        let mut rows = self.rows();
        let written = self.write(|conn| {
            let before = listed.before(conn, change)?;
            work(conn)?;
            let values = apply(conn, &late, &mut rows, change, handles)?;
            Ok((ListedNames::after(conn, before)?, values))
        });
        match written {
            Ok((update, values)) => {
                listed.follow(update);
                parents.follow(change);
                late.follow(values);
            }
            Err(error) => {
                // Some errors do not tell whether the change took effect.
                listed.clear();
                parents.clear();
                late.clear();
                rows.clear();
                return Err(error);
            }
        }
        Ok(())
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
            let damaged = |_| CatalogError::Damaged { table: "intent", what: "commit id" };
            let commit_id = CommitId(commit_id.try_into().map_err(damaged)?);
            let hash = row::hash_of("intent", &hash)?;
            let intent = Intent::of_bytes(Seq(seq), commit_id, hash, time, bytes);
            Ok(Some(intent.map_err(|_| CatalogError::Damaged { table: "intent", what: "commit" })?))
        })
    }

    /// Forgets the inode of each committed file, with its handle and change time, and the names that wait for proof,
    /// because the source is another directory. The root keeps its inode; content, names and pending marks stay. A file
    /// without an inode has number 0 and its id as generation, which no real file has.
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

    /// Discards the committed image (files, names, hashes, signatures, missing names, intent, head), because the store does
    /// not agree with the catalog. Keeps pending marks, the ids of volume and writer, and the next file id, which must
    /// never go back.
    pub fn wipe_for_rebuild(&self) -> Result<()> {
        let mut listed = self.listed();
        listed.clear();
        let mut parents = self.parents();
        parents.clear();
        let mut late = self.late()?;
        late.clear();
        self.rows().clear();
        self.write(|conn| {
            for sql in [
                "DELETE FROM late",
                "DELETE FROM files",
                "DELETE FROM names",
                "DELETE FROM nodes",
                "DELETE FROM sigs",
                "DELETE FROM missing",
                "DELETE FROM intent",
                "DELETE FROM meta WHERE key = 'head'",
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
        .map(|seq| Seq(seq as u64)))
}

fn apply(conn: &Connection, late: &Late, rows: &mut Rows, change: &CatalogChange, handles: &Handles) -> Result<Update> {
    for id in &change.gone {
        for sql in
            ["DELETE FROM nodes WHERE file = ?1", "DELETE FROM sigs WHERE file = ?1", "DELETE FROM files WHERE id = ?1"]
        {
            conn.prepare_cached(sql)?.execute([id.0 as i64])?;
        }
    }
    for file in &change.records {
        row::upsert(conn, file, handles.get(&file.id))?;
    }
    names(conn, &change.names)?;
    let update = late.write(conn, rows, change)?;
    if let Some(missing) = &change.missing {
        conn.prepare_cached("DELETE FROM missing")?.execute([])?;
        missing.iter().try_for_each(|missing| pending::put_missing(conn, missing))?;
    }
    let above_files = change.records.iter().map(|file| FileId(file.id.0 + 1)).max();
    change.next_id.max(above_files).map_or(Ok(()), |next| raise_next_id(conn, next))?;
    Ok(update)
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

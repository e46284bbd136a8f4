//! Values of blocks and signatures that changed since their rows were written.
//!
//! A row of `nodes` or `sigs` has 512 of them, 14 or 16 KiB. A write to one block changes one value of each, so that the rows of a
//! commit of scattered blocks were larger than what it commits, and went to the disk twice: into the write-ahead log and into
//! their place. So a commit appends only what changed, one row of `late`, and reads lay that over the rows. When it has become
//! much, it all goes into the rows in one transaction, and `late` is empty again.
//!
//! Small rows, new ones, and those that change in large part are written at once.

use std::borrow::Cow;
use std::collections::BTreeMap;

use engine::catalog::CatalogChange;
use engine::model::FileId;
use engine::tree::VALUE_BYTES;
use rusqlite::Connection;

use super::error::{CatalogError, Result};
use super::rows::{Key, Rows, Table};

/// Most values that are kept aside: 2 MiB in memory.
const MOST_VALUES: usize = 32_768;
/// Most bytes of all rows of `late`. They may hold a value several times.
const MOST_BYTES: usize = 4 << 20;
/// Rows below this size are written in full.
const SMALL: usize = 2048;
/// A row of which more than one value in so many has changed is written in full.
const FEW: usize = 4;

/// What a row is to become: so many values, some of them others than in the row. Wherever it grew, the values are here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    len: u16,
    /// Shorter ones are filled up with zeros.
    values: BTreeMap<u16, [u8; VALUE_BYTES]>,
}

impl Changed {
    /// How `now` becomes `new`; `None` if that is better written in full.
    fn between(width: usize, now: &[u8], new: &[u8]) -> Option<Changed> {
        if new.len() < SMALL || !new.len().is_multiple_of(width) || !now.len().is_multiple_of(width) {
            return None;
        }
        let len = u16::try_from(new.len() / width).ok()?;
        let mut values = BTreeMap::new();
        for (at, (value, place)) in (0..len).zip(new.chunks_exact(width).zip((0..).step_by(width))) {
            if now.get(place..place + width) != Some(value) {
                let mut kept = [0; VALUE_BYTES];
                kept.get_mut(..width)?.copy_from_slice(value);
                values.insert(at, kept);
                if values.len() * FEW > usize::from(len) {
                    return None;
                }
            }
        }
        Some(Changed { len, values })
    }

    fn over(&self, width: usize, row: Option<&[u8]>) -> Vec<u8> {
        let mut out = row.unwrap_or_default().to_vec();
        out.resize(usize::from(self.len) * width, 0);
        for (at, value) in &self.values {
            let place = usize::from(*at) * width;
            if let (Some(to), Some(value)) = (out.get_mut(place..place + width), value.get(..width)) {
                to.copy_from_slice(value);
            }
        }
        out
    }

    /// First this, then `next`.
    fn then(&mut self, next: Changed) {
        self.values.split_off(&next.len);
        self.len = next.len;
        self.values.extend(next.values);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Changed(Key, Changed),
    /// The row was written in full, or is gone.
    Written(Key),
    /// All rows of a file are gone.
    Gone(FileId),
}

const CHANGED: u8 = 0;
const WRITTEN: u8 = 1;
const GONE: u8 = 2;

impl Record {
    fn put(&self, out: &mut Vec<u8>) {
        let mut head = |kind: u8, (file, table, level, index): Key| {
            out.extend([kind, u8::from(table == Table::Sigs), level]);
            out.extend(file.0.to_le_bytes());
            out.extend(index.to_le_bytes());
        };
        match self {
            Record::Changed(key, changed) => {
                head(CHANGED, *key);
                out.extend(changed.len.to_le_bytes());
                // No more than the length, which is 16 bits.
                out.extend((changed.values.len() as u16).to_le_bytes());
                for (at, value) in &changed.values {
                    out.extend(at.to_le_bytes());
                    out.extend(value.iter().take(key.1.width()));
                }
            }
            Record::Written(key) => head(WRITTEN, *key),
            Record::Gone(file) => head(GONE, (*file, Table::Nodes, 0, 0)),
        }
    }

    /// Takes one record from the front.
    fn take(bytes: &mut &[u8]) -> Option<Record> {
        let [kind, table, level] = split(bytes)?;
        let file = FileId(u64::from_le_bytes(split(bytes)?));
        let index = u64::from_le_bytes(split(bytes)?);
        let table = if table == 0 { Table::Nodes } else { Table::Sigs };
        let key = (file, table, level, index);
        match kind {
            CHANGED => {
                let (len, count) = (u16::from_le_bytes(split(bytes)?), u16::from_le_bytes(split(bytes)?));
                let mut values = BTreeMap::new();
                for _ in 0..count {
                    let at = u16::from_le_bytes(split(bytes)?);
                    let mut value = [0; VALUE_BYTES];
                    let (stored, rest) = bytes.split_at_checked(table.width())?;
                    value.get_mut(..table.width())?.copy_from_slice(stored);
                    *bytes = rest;
                    values.insert(at, value);
                }
                Some(Record::Changed(key, Changed { len, values }))
            }
            WRITTEN => Some(Record::Written(key)),
            GONE => Some(Record::Gone(file)),
            _ => None,
        }
    }
}

fn split<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// What is in `late`, in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    /// Whether `late` was read since the memory was last not to be trusted.
    read: bool,
    changed: BTreeMap<Key, Changed>,
    values: usize,
    bytes: usize,
}

/// What a transaction has done to `late`; memory follows it once it is committed.
pub(super) enum Update {
    Appended { records: Vec<Record>, bytes: usize },
    Emptied,
}

impl Late {
    pub(super) fn is_read(&self) -> bool {
        self.read
    }

    /// What memory has need not be what is stored.
    pub(super) fn clear(&mut self) {
        *self = Late::default();
    }

    pub(super) fn read(conn: &Connection) -> Result<Late> {
        let mut late = Late { read: true, ..Late::default() };
        let mut statement = conn.prepare_cached("SELECT records FROM late ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let stored: Vec<u8> = row.get(0)?;
            let (mut rest, mut records) = (&stored[..], Vec::new());
            while !rest.is_empty() {
                let damaged = CatalogError::Damaged { table: "late", what: "record" };
                records.push(Record::take(&mut rest).ok_or(damaged)?);
            }
            late.follow(Update::Appended { records, bytes: stored.len() });
        }
        Ok(late)
    }

    /// The values of a row as they are now; `row` is what the table has.
    pub(super) fn lay_over<'a>(&self, key: Key, row: Option<&'a [u8]>) -> Option<Cow<'a, [u8]>> {
        match self.changed.get(&key) {
            Some(changed) => Some(changed.over(key.1.width(), row).into()),
            None => row.map(Cow::Borrowed),
        }
    }

    /// Writes the values of `change`, after the rows of files that are gone were deleted.
    pub(super) fn write(&self, conn: &Connection, rows: &mut Rows, change: &CatalogChange) -> Result<Update> {
        let mut records = Vec::new();
        for id in &change.gone {
            rows.gone(*id);
            if self.changed.range((*id, Table::Nodes, 0, 0)..).next().is_some_and(|((file, ..), _)| file == id) {
                records.push(Record::Gone(*id));
            }
        }
        let nodes =
            change.nodes.iter().map(|((file, level, index), blob)| ((*file, Table::Nodes, *level, *index), blob));
        let sigs = change.signatures.iter().map(|((file, group), blob)| ((*file, Table::Sigs, 0, *group), blob));
        for (key, blob) in nodes.chain(sigs) {
            let known = self.changed.contains_key(&key) && !change.gone.contains(&key.0);
            let large = blob.as_ref().filter(|blob| blob.len() >= SMALL);
            let changed = match large {
                Some(new) => {
                    let row = rows.stored(conn, key)?;
                    let now = if known { self.lay_over(key, row) } else { row.map(Cow::Borrowed) };
                    now.and_then(|now| Changed::between(key.1.width(), &now, new))
                }
                None => None,
            };
            match changed {
                Some(changed) => records.push(Record::Changed(key, changed)),
                None => {
                    rows.put(conn, key, blob.as_deref())?;
                    records.extend(known.then_some(Record::Written(key)));
                }
            }
        }
        if records.is_empty() {
            return Ok(Update::Appended { records, bytes: 0 });
        }
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.put(&mut bytes));
        let more: usize =
            records.iter().map(|record| if let Record::Changed(_, c) = record { c.values.len() } else { 0 }).sum();
        if self.values + more > MOST_VALUES || self.bytes + bytes.len() > MOST_BYTES {
            return self.clone().empty(conn, rows, records);
        }
        conn.prepare_cached("INSERT INTO late(records) VALUES(?1)")?.execute([&bytes])?;
        Ok(Update::Appended { records, bytes: bytes.len() })
    }

    /// Writes everything into the rows.
    fn empty(mut self, conn: &Connection, rows: &mut Rows, records: Vec<Record>) -> Result<Update> {
        self.follow(Update::Appended { records, bytes: 0 });
        for (key, changed) in &self.changed {
            let row = changed.over(key.1.width(), rows.stored(conn, *key)?);
            rows.put(conn, *key, Some(&row))?;
        }
        conn.prepare_cached("DELETE FROM late")?.execute([])?;
        Ok(Update::Emptied)
    }

    /// The transaction of this update is committed.
    pub(super) fn follow(&mut self, update: Update) {
        let Update::Appended { records, bytes } = update else {
            *self = Late { read: true, ..Late::default() };
            return;
        };
        self.bytes += bytes;
        for record in records {
            match record {
                Record::Changed(key, next) => {
                    let changed = self.changed.entry(key).or_default();
                    self.values -= changed.values.len();
                    changed.then(next);
                    self.values += changed.values.len();
                }
                Record::Written(key) => self.forget(key),
                Record::Gone(file) => {
                    let first = (file, Table::Nodes, 0, 0);
                    let keys = self.changed.range(first..).map(|(key, _)| *key).take_while(|key| key.0 == file);
                    keys.collect::<Vec<_>>().into_iter().for_each(|key| self.forget(key));
                }
            }
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(changed) = self.changed.remove(&key) {
            self.values -= changed.values.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::Catalog;
    use super::super::tests::{fresh, row, set};
    use super::*;
    use engine::model::Kind;

    const FILE: FileId = FileId(3);

    fn values(width: usize, count: u16, of: impl Fn(u16) -> u8) -> Vec<u8> {
        (0..count).flat_map(|at| vec![of(at); width]).collect()
    }

    fn write(catalog: &Catalog, index: u64, node: Option<Vec<u8>>, sig: Option<Vec<u8>>) {
        let change = CatalogChange {
            nodes: vec![((FILE, 0, index), node)],
            signatures: vec![((FILE, index), sig)],
            ..CatalogChange::default()
        };
        catalog.apply(&change).unwrap();
    }

    fn with_file() -> (tempfile::TempDir, std::path::PathBuf, Catalog) {
        let (dir, path, catalog) = fresh();
        let records = vec![row(1, Kind::Dir), row(FILE.0, Kind::File)];
        catalog.apply(&CatalogChange { records, names: vec![set(1, b"f", FILE.0)], ..Default::default() }).unwrap();
        (dir, path, catalog)
    }

    fn rows_of_late(catalog: &Catalog) -> i64 {
        catalog.read(|conn| Ok(conn.query_row("SELECT count(*) FROM late", [], |row| row.get(0))?)).unwrap()
    }

    /// A row that grows, shrinks, changes here and there, goes and comes back, over several openings: always as it was last
    /// written, whether it lies in its table or aside.
    #[test]
    fn values_are_as_they_were_last_written() {
        let (_dir, path, mut catalog) = with_file();
        let mut random = 7u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut expected: BTreeMap<u64, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        let (mut aside, mut opened) = (0, 0);
        for round in 0..600u64 {
            let index = next(3);
            let (mut node, mut sig) = expected.get(&index).cloned().unwrap_or_default();
            match next(12) {
                0 => (node, sig) = (Vec::new(), Vec::new()),
                1 | 2 => {
                    let count = next(513) as u16;
                    node.resize(usize::from(count) * 32, round as u8);
                    sig.resize(usize::from(count) * 28, round as u8);
                }
                3 => (node, sig) = (values(32, 512, |at| at as u8), values(28, 512, |_| round as u8)),
                _ => {
                    for _ in 0..next(40) {
                        let at = next(512) as usize;
                        node.get_mut(at * 32..at * 32 + 32).into_iter().for_each(|value| value.fill(round as u8));
                        sig.get_mut(at * 28..at * 28 + 28).into_iter().for_each(|value| value.fill(round as u8));
                    }
                }
            }
            let some = |blob: &Vec<u8>| (!blob.is_empty()).then(|| blob.clone());
            write(&catalog, index, some(&node), some(&sig));
            expected.insert(index, (node, sig));
            if next(20) == 0 {
                drop(catalog);
                catalog = Catalog::open(&path).unwrap();
                opened += 1;
            }
            aside += i64::from(rows_of_late(&catalog) > 0);
            for (index, (node, sig)) in &expected {
                assert_eq!(catalog.node(FILE, 0, *index).unwrap(), some(node), "round {round}, node {index}");
                assert_eq!(catalog.sig(FILE, *index).unwrap(), some(sig), "round {round}, group {index}");
            }
        }
        assert!(aside > 300 && opened > 10, "{aside} rounds with values aside, {opened} openings");
    }

    /// What lies aside is bounded, and goes into the rows.
    #[test]
    fn values_aside_are_written_into_their_rows_before_they_are_too_many() {
        let (_dir, path, catalog) = with_file();
        write(&catalog, 0, Some(values(32, 512, |_| 1)), Some(values(28, 512, |_| 1)));
        let (mut most, mut emptied) = (0, 0);
        for round in 0..1300u16 {
            let new = |at: u16| if at % 8 == round % 8 { (round % 251) as u8 } else { 1 };
            write(&catalog, 0, Some(values(32, 512, new)), Some(values(28, 512, new)));
            let rows = rows_of_late(&catalog);
            emptied += u32::from(rows < most);
            most = if rows < most { rows } else { most.max(rows) };
        }
        assert!(emptied > 0, "never emptied");
        let bytes: i64 = catalog
            .read(|conn| Ok(conn.query_row("SELECT sum(length(records)) FROM late", [], |row| row.get(0))?))
            .unwrap();
        assert!(bytes <= MOST_BYTES as i64, "{bytes}");
        let last = |at: u16| if at % 8 == 1299 % 8 { (1299u16 % 251) as u8 } else { 1 };
        drop(catalog);
        assert_eq!(Catalog::open(&path).unwrap().node(FILE, 0, 0).unwrap(), Some(values(32, 512, last)));
    }

    /// A file that is gone takes what lies aside with it, and a rebuild begins with nothing.
    #[test]
    fn values_of_files_that_are_gone_go_too() {
        for wiped in [false, true] {
            let (_dir, path, catalog) = with_file();
            let first = |at: u16| at as u8;
            write(&catalog, 0, Some(values(32, 512, first)), Some(values(28, 512, first)));
            let then = |at: u16| if at == 9 { 0 } else { at as u8 };
            write(&catalog, 0, Some(values(32, 512, then)), Some(values(28, 512, then)));
            assert_eq!(rows_of_late(&catalog), 1);
            if wiped {
                catalog.wipe_for_rebuild().unwrap();
            } else {
                let names = vec![super::super::tests::unset(1, b"f")];
                catalog.apply(&CatalogChange { gone: vec![FILE], names, ..Default::default() }).unwrap();
            }
            for catalog in [catalog, Catalog::open(&path).unwrap()] {
                assert_eq!((catalog.node(FILE, 0, 0).unwrap(), catalog.sig(FILE, 0).unwrap()), (None, None), "{wiped}");
            }
        }
    }

    /// A catalog of version 1 has no such table, and goes on.
    #[test]
    fn a_catalog_of_version_1_is_taken_over() {
        let (_dir, path, catalog) = with_file();
        write(&catalog, 0, Some(values(32, 512, |_| 1)), None);
        drop(catalog);
        Connection::open(&path).unwrap().execute_batch("DROP TABLE late; PRAGMA user_version = 1").unwrap();
        let catalog = Catalog::open(&path).unwrap();
        let changed = values(32, 512, |at| u8::from(at != 77));
        write(&catalog, 0, Some(changed.clone()), None);
        assert_eq!((rows_of_late(&catalog), catalog.node(FILE, 0, 0).unwrap()), (1, Some(changed)));
    }

    #[test]
    fn damaged_values_are_told() {
        let (_dir, path, catalog) = with_file();
        for bytes in [&[9u8; 19][..], &[0; 30], &[1; 18]] {
            catalog.write(|conn| Ok(conn.execute("INSERT INTO late(records) VALUES(?1)", [bytes])?)).unwrap();
            let damaged = Catalog::open(&path).unwrap().node(FILE, 0, 0);
            assert!(matches!(damaged, Err(CatalogError::Damaged { table: "late", .. })), "{damaged:?}");
            catalog.write(|conn| Ok(conn.execute("DELETE FROM late", [])?)).unwrap();
        }
    }
}

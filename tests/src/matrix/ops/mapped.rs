//! Stores through shared mappings, in every state that a page can be in, and writers that reach a mapping from another
//! process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::super::{By, Cell, Op, Rule, SIZE, bytes};
use super::{TMPFS, file, two, unseen};
use crate::raw_calls::{read_into, store_from_afar};
use crate::raw_io::Mapping;

const AT: usize = 40_967;
/// tmpfs never cleans a page, so a store into one that is already mapped causes no event at all.
const AGAIN: &[Rule] = &[unseen(
    TMPFS,
    By::Any,
    "a store into a page of tmpfs that is mapped already, by an earlier store or read, is no event of any kind",
)];

fn map(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    cell.map().map(drop)
}

/// A page that is mapped and dirty before the baseline.
fn map_dirty(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    cell.map()?.store(AT, b'0');
    Ok(())
}

fn map_read(cell: &mut Cell) -> io::Result<()> {
    file(cell)?;
    let _ = cell.map()?.load(AT);
    Ok(())
}

fn store(cell: &mut Cell, round: usize) -> io::Result<()> {
    cell.mapped().store(AT, b'A' + round as u8);
    Ok(())
}

fn map_two(cell: &mut Cell) -> io::Result<()> {
    two(cell)?;
    cell.map().map(drop)
}

pub(super) const OPS: &[Op] = &[
    Op::new("map-first", "first store through a mapping", map, |cell, _| store(cell, 0)),
    Op::new("map-twice", "two stores into one page without a flush between", map, |cell, _| {
        store(cell, 0)?;
        store(cell, 1)
    }),
    Op::new("map-again", "stores into one page before and after a flush, three times", map, store)
        .rounds(3)
        .rules(AGAIN),
    Op::new("map-dirty-before", "store into a page that was dirty before capture began", map_dirty, store).rules(AGAIN),
    Op::new("map-after-read", "store into a page that was mapped by a read", map_read, store).rules(AGAIN),
    Op::new("map-after-fdatasync", "store, `fdatasync`, flush, store", map, |cell, round| {
        store(cell, round)?;
        cell.open()?.sync_data()
    })
    .rounds(2)
    .rules(AGAIN),
    Op::new(
        "map-after-write",
        "store into a page that was written by `pwrite`, before and after a flush",
        map,
        |cell, round| {
            cell.open()?.write_all_at(&bytes(41 + round as u64, 100), AT as u64 + 10)?;
            store(cell, round)
        },
    )
    .rounds(2)
    .rules(&[]),
    Op::new("map-new-mapping", "map, store, unmap", file, |cell, _| {
        Mapping::new(&cell.open()?, SIZE as usize)?.store(AT, b'n');
        Ok(())
    }),
    Op::new("map-unlinked", "store after the file was unlinked: gone, not resurrected", map, |cell, _| {
        fs::remove_file(cell.path("f"))?;
        store(cell, 0)
    }),
    Op::new("map-renamed", "store after the file was renamed", map, |cell, _| {
        fs::rename(cell.path("f"), cell.path("g"))?;
        store(cell, 0)
    }),
    Op::new(
        "map-tail",
        "store into the last page of a file that does not fill it",
        |cell| {
            fs::write(cell.path("f"), bytes(42, SIZE as usize - 1000))?;
            cell.map().map(drop)
        },
        |cell, _| {
            cell.mapped().store(SIZE as usize - 1001, b't');
            Ok(())
        },
    ),
    Op::new(
        "map-hole",
        "store into a hole",
        |cell| {
            File::create(cell.path("f"))?.set_len(SIZE)?;
            cell.map().map(drop)
        },
        |cell, _| store(cell, 0),
    ),
    Op::new("gup-direct-read", "direct read from another file into a mapping", map_two, |cell, _| {
        let source = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(cell.out("source"))?;
        read_into(&source, cell.mapped(), 40_960, 8192)
    }),
    Op::new("gup-process-vm", "`process_vm_writev` into a mapping", map, |cell, _| {
        store_from_afar(cell.mapped(), AT, &bytes(43, 100))
    }),
    Op::new("gup-proc-mem", "a write to `/proc/self/mem` in a mapping", map, |cell, _| {
        let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
        memory.write_all_at(&bytes(44, 100), cell.mapped().address(AT, 100) as u64)
    }),
];

//! The facts of a tree that is there: names, kinds, sizes, and the number in each slot of each file. What is at the top of a path
//! says how large the slots are.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::history::Facts;

pub const DIR: u64 = 1;
pub const FILE: u64 = 2;
pub const LINK: u64 = 3;
/// A slot of which a part is of another change.
pub const TORN: u64 = u64::MAX;
/// The attribute that holds a number.
pub const ATTRIBUTE: &str = "user.n";
/// Where the chains are, which have no numbers of the common order.
pub const CHAINS: &str = "x";

/// Bytes of a slot, and how many of them hold the number, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    pub bytes: usize,
    pub full: usize,
}

/// The slots of files in this directory of the top; `None`: their content is not looked at.
#[must_use]
pub fn slots(top: &str) -> Option<Slots> {
    let full = |bytes| Some(Slots { bytes, full: bytes });
    match top {
        // Two of one block.
        "f" => full(2048),
        "d" => full(4096),
        "u" => full(1024),
        "l" => full(64),
        "m" => Some(Slots { bytes: 1024, full: 8 }),
        "t" => None,
        _ => full(8),
    }
}

/// The bytes of one slot after change `number`.
#[must_use]
pub fn filled(number: u64, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(bytes / 8)
}

/// Everything below `root`.
///
/// # Errors
/// If something cannot be read.
pub fn facts(root: &Path) -> io::Result<Facts> {
    let mut facts = Facts::default();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        add(&mut facts, &entry.path(), &name, &name)?;
    }
    Ok(facts)
}

fn add(facts: &mut Facts, at: &Path, path: &str, top: &str) -> io::Result<()> {
    let meta = fs::symlink_metadata(at)?;
    let mut put = |fact: String, value: u64| _ = facts.insert(format!("{path}|{fact}"), value);
    let kind = if meta.is_dir() {
        DIR
    } else if meta.is_file() {
        FILE
    } else {
        LINK
    };
    put("kind".into(), kind);
    if top == "h" && path != top {
        put("mode".into(), u64::from(meta.mode() & 0o7777));
        put("time".into(), u64::try_from(meta.mtime()).unwrap_or(TORN));
        put("owner".into(), u64::from(meta.uid()));
        let mut bytes = [0; 8];
        if rustix::fs::getxattr(at, ATTRIBUTE, &mut bytes).is_ok() {
            put("attribute".into(), u64::from_le_bytes(bytes));
        }
    }
    if kind == FILE {
        put("size".into(), meta.len());
        if let Some(slots) = slots(top) {
            let bytes = fs::read(at)?;
            for (index, slot) in bytes.chunks(slots.bytes).enumerate() {
                put(index.to_string(), number(&slot[..slots.full.min(slot.len())]));
            }
        }
    }
    if kind == LINK {
        let target = fs::read_link(at)?;
        put("target".into(), target.to_string_lossy().parse().unwrap_or(TORN));
    }
    if kind == DIR {
        for entry in fs::read_dir(at)? {
            let entry = entry?;
            add(facts, &entry.path(), &format!("{path}/{}", entry.file_name().to_string_lossy()), top)?;
        }
    }
    Ok(())
}

/// The number that fills a slot.
fn number(slot: &[u8]) -> u64 {
    let mut words = slot.chunks(8).map(|word| word.try_into().map_or(TORN, u64::from_le_bytes));
    let first = words.next().unwrap_or(TORN);
    if words.all(|word| word == first) { first } else { TORN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_two_changes_is_torn() {
        let mut slot = filled(7, 64);
        assert_eq!(number(&slot), 7);
        slot[63] = 1;
        assert_eq!(number(&slot), TORN);
        assert_eq!(number(&slot[..5]), TORN);
    }

    #[test]
    fn a_tree_is_its_facts() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("c/sub")).unwrap();
        fs::write(dir.path().join("c/sub/one"), filled(5, 8)).unwrap();
        std::os::unix::fs::symlink("12", dir.path().join("c/link")).unwrap();
        let facts = facts(dir.path()).unwrap();
        let expected = [
            ("c/link|kind", LINK),
            ("c/link|target", 12),
            ("c/sub/one|0", 5),
            ("c/sub/one|kind", FILE),
            ("c/sub/one|size", 8),
            ("c/sub|kind", DIR),
            ("c|kind", DIR),
        ];
        assert_eq!(facts, expected.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
    }
}

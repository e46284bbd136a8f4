//! Writers without a lock, each of which makes two changes in turn: n into the first place, then n into the second. A tree of one
//! instant never has the second without the first.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::history::Facts;
use super::tree::CHAINS;
use crate::raw_io::{Mapping, Pages};

/// Bytes of each file.
const BYTES: usize = 4096;

/// How a number gets to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Written,
    Direct,
    Mapped,
    /// The number is the name.
    Named,
}

/// First and second place of each chain.
pub const ALL: [(Place, Place); 5] = [
    (Place::Written, Place::Written),
    (Place::Mapped, Place::Written),
    (Place::Written, Place::Direct),
    (Place::Written, Place::Named),
    (Place::Mapped, Place::Mapped),
];

/// One place.
struct Target {
    place: Place,
    dir: PathBuf,
    file: File,
    mapping: Option<Mapping>,
}

impl Target {
    fn new(dir: &Path, name: &str, place: Place) -> Target {
        let path = if place == Place::Named { dir.join("0.name") } else { dir.join(name) };
        let flags = if place == Place::Direct { libc::O_DIRECT } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
        let file = options.open(&path).expect("a file of a chain");
        if place != Place::Named {
            file.write_all_at(&Pages([0; BYTES]).0, 0).expect("its bytes");
        }
        let mapping = (place == Place::Mapped).then(|| Mapping::new(&file, BYTES).expect("its mapping"));
        Target { place, dir: dir.to_path_buf(), file, mapping }
    }

    fn put(&self, number: u64) {
        match (self.place, &self.mapping) {
            (Place::Direct, _) => {
                let mut page = Pages([0; BYTES]);
                page.0[..8].copy_from_slice(&number.to_le_bytes());
                self.file.write_all_at(&page.0, 0).expect("a direct write");
            }
            (Place::Named, _) => {
                let name = |number: u64| self.dir.join(format!("{number}.name"));
                fs::rename(name(number - 1), name(number)).expect("a rename");
            }
            (_, Some(mapping)) => mapping.store_word(0, number),
            (_, None) => self.file.write_all_at(&number.to_le_bytes(), 0).expect("a write"),
        }
    }
}

/// One writer.
pub struct Chain {
    first: Target,
    second: Target,
    number: u64,
}

impl Chain {
    /// All of them, with their files in `source`.
    ///
    /// # Panics
    /// When these cannot be made.
    #[must_use]
    pub fn all(source: &Path) -> Vec<Chain> {
        let chain = |(at, (first, second)): (usize, &(Place, Place))| {
            let dir = source.join(CHAINS).join(at.to_string());
            fs::create_dir_all(&dir).expect("a directory");
            Chain { first: Target::new(&dir, "first", *first), second: Target::new(&dir, "second", *second), number: 0 }
        };
        ALL.iter().enumerate().map(chain).collect()
    }

    /// How long it rests after each number: a direct write that is under way is no moment for a commit of one instant.
    #[must_use]
    pub fn rest(&self) -> Duration {
        Duration::from_millis(if self.second.place == Place::Direct { 50 } else { 0 })
    }

    /// The next number, with `pause` after each of the two changes.
    pub fn step(&mut self, mut pause: impl FnMut()) {
        self.number += 1;
        self.first.put(self.number);
        pause();
        self.second.put(self.number);
        pause();
    }
}

/// Takes the facts of the chains out of `facts`, and says which are not of one instant.
pub fn check(facts: &mut Facts) -> Vec<String> {
    let of_chains = |key: &str| key.split(['/', '|']).next() == Some(CHAINS);
    let own: Facts = facts.iter().filter(|(key, _)| of_chains(key)).map(|(key, value)| (key.clone(), *value)).collect();
    facts.retain(|key, _| !of_chains(key));
    let mut faults = Vec::new();
    for (at, places) in ALL.iter().enumerate() {
        let dir = format!("{CHAINS}/{at}");
        let first = own.get(&format!("{dir}/first|0")).copied();
        let second = if places.1 == Place::Named {
            let name = |key: &String| key.strip_prefix(&format!("{dir}/"))?.strip_suffix(".name|kind")?.parse().ok();
            let names: Vec<u64> = own.keys().filter_map(name).collect();
            if let [only] = names[..] { Some(only) } else { None }
        } else {
            own.get(&format!("{dir}/second|0")).copied()
        };
        let fits = matches!((first, second), (Some(first), Some(second)) if second <= first && first - second <= 1);
        if !fits {
            faults.push(format!("chain {at} {places:?}: the first has {first:?}, the second {second:?}"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn a_second_without_its_first_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut chains = Chain::all(dir.path());
        let now = || check(&mut tree::facts(dir.path()).unwrap());
        for chain in &mut chains {
            assert_eq!(now(), Vec::<String>::new());
            chain.step(|| assert_eq!(now(), Vec::<String>::new()));
        }
        for chain in &chains {
            chain.second.put(2);
        }
        assert_eq!(now().len(), ALL.len());
        for chain in &chains {
            chain.first.put(4);
        }
        assert_eq!(now().len(), ALL.len());
    }
}

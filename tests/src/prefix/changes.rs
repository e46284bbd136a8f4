//! The numbered changes: each is one call, made while the others wait, and can be told from the tree that it left.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Mode, RenameFlags, Timespec, Timestamps, XattrFlags, fallocate, renameat_with,
    utimensat,
};

use super::history::History;
use super::tree::{ATTRIBUTE, DIR, FILE, LINK, filled, slots};
use crate::load::Random;
use crate::raw_io::{Mapping, Pages, uring_write};

/// Bytes of a file with slots.
const BYTES: usize = 64 << 10;
/// Files that are written to.
const FILES: u64 = 4;
/// Files that others are renamed over, or exchanged.
const OVER: u64 = 4;
/// Names of one kind that are there at a time.
const NAMES: usize = 12;
/// Records after which the log begins anew.
const RECORDS: u64 = 120;
/// Mode and owner of what is made here.
const PLAIN: u64 = 0o644;

/// One change each, with how often it is made.
type Call = (u64, fn(&mut Changes));
const CALLS: [Call; 30] = [
    (8, Changes::write),
    (2, Changes::punch),
    (1, Changes::write_directly),
    (3, Changes::write_by_ring),
    (1, Changes::write_directly_by_ring),
    (6, Changes::store),
    (5, Changes::append),
    (1, Changes::empty_log),
    (2, Changes::truncate),
    (3, Changes::create),
    (4, Changes::write_created),
    (3, Changes::unlink),
    (2, Changes::rename),
    (2, Changes::rename_across),
    (2, Changes::stage),
    (3, Changes::write_staged),
    (3, Changes::rename_over),
    (1, Changes::exchange),
    (2, Changes::make_dir),
    (2, Changes::remove_dir),
    (1, Changes::rename_dir),
    (2, Changes::write_below_dir),
    (2, Changes::change_mode),
    (2, Changes::set_attribute),
    (1, Changes::set_time),
    (1, Changes::change_owner),
    (2, Changes::move_in),
    (2, Changes::move_out),
    (1, Changes::link),
    (1, Changes::symlink),
];

/// The tree, and what happened to it.
pub struct Changes {
    pub history: History,
    random: Random,
    source: PathBuf,
    /// A directory of the same file system that is not in the tree.
    outside: PathBuf,
    written: Vec<File>,
    direct: File,
    ring: File,
    mapped: Mapping,
    log: File,
    sized: File,
    /// What has a number for its name, oldest first.
    created: VecDeque<String>,
    staged: VecDeque<String>,
    dirs: VecDeque<String>,
    moved_in: VecDeque<String>,
    links: VecDeque<String>,
    symlinks: VecDeque<String>,
    renamed: String,
    crossing: String,
    renamed_dir: String,
}

impl Changes {
    /// Fills `source`.
    ///
    /// # Panics
    /// When a call fails.
    #[must_use]
    pub fn new(source: &Path, outside: &Path, seed: u64) -> Changes {
        let mut history = History::default();
        for top in
            ["a", "b", "c", "d", "f", "g", "g/0", "h", "h/dir", "i", "k", "l", "m", "o", "q", "r", "s", "t", "u", "y"]
        {
            fs::create_dir(source.join(top)).expect("a directory");
            history.put(top, "kind", DIR);
        }
        let mut file = |path: &str, bytes: usize, flags: i32| {
            let top = path.split('/').next().unwrap_or_default();
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).custom_flags(flags).open(source.join(path));
            let file = file.expect("a file");
            file.write_all_at(&Pages([0; BYTES]).0[..bytes], 0).expect("its bytes");
            history.put(path, "kind", FILE);
            history.put(path, "size", bytes as u64);
            if let Some(slots) = slots(top) {
                (0..bytes / slots.bytes).for_each(|slot| history.put(path, slot, 0));
            }
            file
        };
        let written = (0..FILES).map(|number| file(&format!("f/{number}"), BYTES, 0)).collect();
        let direct = file("d/file", BYTES, libc::O_DIRECT);
        let (ring, log, sized) = (file("u/file", BYTES, 0), file("l/log", 0, libc::O_APPEND), file("t/file", 0, 0));
        let mapped = Mapping::new(&file("m/file", BYTES, 0), BYTES).expect("a mapping");
        for path in ["r/0", "a/0", "g/0/one", "h/file"] {
            file(path, 8, 0);
        }
        for number in 0..OVER {
            file(&format!("o/{number}"), 8, 0);
        }
        for path in ["h/file", "h/dir"] {
            set_time(&source.join(path), 0);
            rustix::fs::chmod(source.join(path), Mode::from_raw_mode(PLAIN as u32)).expect("chmod");
            history.put(path, "mode", PLAIN);
            history.put(path, "time", 0);
            history.put(path, "owner", 0);
        }
        Changes {
            history,
            random: Random::new(seed),
            source: source.to_path_buf(),
            outside: outside.to_path_buf(),
            written,
            direct,
            ring,
            mapped,
            log,
            sized,
            created: VecDeque::new(),
            staged: VecDeque::new(),
            dirs: VecDeque::new(),
            moved_in: VecDeque::new(),
            links: VecDeque::new(),
            symlinks: VecDeque::new(),
            renamed: "r/0".into(),
            crossing: "a/0".into(),
            renamed_dir: "g/0".into(),
        }
    }

    /// Makes one change.
    ///
    /// # Panics
    /// When a call fails.
    pub fn step(&mut self) {
        let before = self.history.number();
        while self.history.number() == before {
            let mut at = self.random.below(CALLS.iter().map(|(weight, _)| weight).sum());
            let call = CALLS.iter().find(|(weight, _)| at.checked_sub(*weight).map(|rest| at = rest).is_none());
            call.expect("the weights end here").1(self);
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.source.join(path)
    }

    /// Slots of `bytes` each, which a write of some of them fills: first one, and how many.
    fn some_slots(&mut self, bytes: usize, most: u64) -> (u64, u64) {
        let count = 1 + self.random.below(most);
        (self.random.below((BYTES / bytes) as u64 - count + 1), count)
    }

    fn put_slots(&mut self, path: &str, first: u64, count: u64, number: u64) {
        (first..first + count).for_each(|slot| self.history.put(path, slot, number));
    }

    fn new_name(&mut self, top: &str, call: &str) -> String {
        let number = self.history.begin(format!("{call} in {top}"));
        format!("{top}/{number}")
    }

    fn write(&mut self) {
        let file = self.random.below(FILES);
        let (first, count) = self.some_slots(2048, 5);
        let path = format!("f/{file}");
        let number = self.history.begin(format!("write of {path} {first}+{count}"));
        let bytes = filled(number, 2048 * count as usize);
        let wrote = self.written[file as usize].write_at(&bytes, first * 2048);
        assert_eq!(wrote.expect("a write"), bytes.len());
        self.put_slots(&path, first, count, number);
    }

    fn punch(&mut self) {
        let file = self.random.below(FILES);
        let block = self.random.below(BYTES as u64 / 4096);
        let path = format!("f/{file}");
        self.history.begin(format!("hole in {path}, block {block}"));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.written[file as usize], flags, block * 4096, 4096).expect("a hole");
        self.put_slots(&path, block * 2, 2, 0);
    }

    fn direct_bytes(&mut self, call: &str) -> (u64, Pages<4096>, u64) {
        let slot = self.random.below(BYTES as u64 / 4096);
        let number = self.history.begin(format!("{call} of d/file {slot}"));
        let mut page = Pages([0; 4096]);
        page.0.copy_from_slice(&filled(number, 4096));
        self.history.put("d/file", slot, number);
        (slot, page, number)
    }

    fn write_directly(&mut self) {
        let (slot, page, _) = self.direct_bytes("direct write");
        assert_eq!(self.direct.write_at(&page.0, slot * 4096).expect("a direct write"), 4096);
    }

    fn write_directly_by_ring(&mut self) {
        let (slot, page, number) = self.direct_bytes("direct write by ring");
        uring_write(&self.direct, &page.0, slot * 4096, number.is_multiple_of(2)).expect("a direct write by ring");
    }

    fn write_by_ring(&mut self) {
        let (first, count) = self.some_slots(1024, 6);
        let number = self.history.begin(format!("ring write of u/file {first}+{count}"));
        let bytes = filled(number, 1024 * count as usize);
        uring_write(&self.ring, &bytes, first * 1024, number.is_multiple_of(2)).expect("a write by ring");
        self.put_slots("u/file", first, count, number);
    }

    fn store(&mut self) {
        let (slot, _) = self.some_slots(1024, 1);
        let number = self.history.begin(format!("store in m/file {slot}"));
        self.mapped.store_word(slot as usize * 1024, number);
        self.history.put("m/file", slot, number);
    }

    fn append(&mut self) {
        let number = self.history.begin("append");
        let size = self.history.get("l/log", "size").unwrap_or(0);
        assert_eq!(std::io::Write::write(&mut &self.log, &filled(number, 64)).expect("an append"), 64);
        self.history.put("l/log", size / 64, number);
        self.history.put("l/log", "size", size + 64);
    }

    fn empty_log(&mut self) {
        let records = self.history.get("l/log", "size").unwrap_or(0) / 64;
        if records < RECORDS {
            return;
        }
        self.history.begin("empty log");
        self.log.set_len(0).expect("ftruncate");
        (0..records).for_each(|record| self.history.forget("l/log", record));
        self.history.put("l/log", "size", 0);
    }

    fn truncate(&mut self) {
        let number = self.history.begin("truncate");
        // Up and down, and never twice the same.
        let size = number + 100_000 * (number % 2);
        self.sized.set_len(size).expect("ftruncate");
        self.history.put("t/file", "size", size);
    }

    fn made(&mut self, path: &str) {
        File::create_new(self.at(path)).expect("a new file");
        self.history.put(path, "kind", FILE);
        self.history.put(path, "size", 0);
    }

    /// The number is written to a small file.
    fn fill(&mut self, path: &str) {
        let number = self.history.begin(format!("write of {path}"));
        let file = OpenOptions::new().write(true).open(self.at(path)).expect("a small file");
        file.write_all_at(&filled(number, 8), 0).expect("a write");
        self.history.put(path, 0, number);
        self.history.put(path, "size", 8);
    }

    fn create(&mut self) {
        let path = self.new_name("c", "create");
        self.made(&path);
        self.created.push_back(path);
    }

    fn write_created(&mut self) {
        let newest = self.created.back().or(self.moved_in.back()).cloned();
        let one = if self.random.one_in(4) { self.moved_in.back().cloned() } else { newest };
        if let Some(path) = one {
            self.fill(&path);
        }
    }

    fn unlink(&mut self) {
        let all = [&mut self.created, &mut self.links, &mut self.symlinks];
        let Some(path) = all.into_iter().find(|names| names.len() > NAMES).and_then(VecDeque::pop_front) else {
            return;
        };
        self.history.begin(format!("unlink of {path}"));
        fs::remove_file(self.at(&path)).expect("unlink");
        self.history.remove(&path);
    }

    fn move_name(&mut self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).expect("rename");
        self.history.rename(from, to);
    }

    fn rename(&mut self) {
        let to = self.new_name("r", "rename");
        let from = std::mem::replace(&mut self.renamed, to.clone());
        self.move_name(&from, &to);
    }

    fn rename_across(&mut self) {
        let top = if self.crossing.starts_with('a') { "b" } else { "a" };
        let to = self.new_name(top, "rename across");
        let from = std::mem::replace(&mut self.crossing, to.clone());
        self.move_name(&from, &to);
    }

    fn stage(&mut self) {
        let path = self.new_name("s", "create");
        self.made(&path);
        self.staged.push_back(path);
    }

    fn write_staged(&mut self) {
        if let Some(path) = self.staged.back().cloned() {
            self.fill(&path);
        }
    }

    fn rename_over(&mut self) {
        let Some(from) = self.staged.pop_front() else { return };
        let to = format!("o/{}", self.random.below(OVER));
        self.history.begin(format!("rename of {from} over {to}"));
        self.move_name(&from, &to);
    }

    fn exchange(&mut self) {
        let (one, other) = (self.random.below(OVER), self.random.below(OVER));
        if one == other {
            return;
        }
        let (one, other) = (format!("o/{one}"), format!("o/{other}"));
        self.history.begin(format!("exchange of {one} and {other}"));
        renameat_with(CWD, self.at(&one), CWD, self.at(&other), RenameFlags::EXCHANGE).expect("an exchange");
        self.history.exchange(&one, &other);
    }

    fn make_dir(&mut self) {
        let path = self.new_name("q", "mkdir");
        fs::create_dir(self.at(&path)).expect("mkdir");
        self.history.put(&path, "kind", DIR);
        self.dirs.push_back(path);
    }

    fn remove_dir(&mut self) {
        if self.dirs.len() <= NAMES {
            return;
        }
        let path = self.dirs.pop_front().expect("more than some");
        self.history.begin(format!("rmdir of {path}"));
        fs::remove_dir(self.at(&path)).expect("rmdir");
        self.history.remove(&path);
    }

    fn rename_dir(&mut self) {
        let to = self.new_name("g", "rename of a directory");
        let from = std::mem::replace(&mut self.renamed_dir, to.clone());
        self.move_name(&from, &to);
    }

    fn write_below_dir(&mut self) {
        self.fill(&format!("{}/one", self.renamed_dir));
    }

    fn with_attributes(&mut self) -> &'static str {
        if self.random.one_in(2) { "h/file" } else { "h/dir" }
    }

    fn change_mode(&mut self) {
        let path = self.with_attributes();
        let number = self.history.begin(format!("chmod of {path}"));
        let mode = 0o600 | (number & 0o177);
        rustix::fs::chmod(self.at(path), Mode::from_raw_mode(mode as u32)).expect("chmod");
        self.history.put(path, "mode", mode);
    }

    fn set_attribute(&mut self) {
        let path = self.with_attributes();
        let number = self.history.begin(format!("setxattr of {path}"));
        rustix::fs::setxattr(self.at(path), ATTRIBUTE, &number.to_le_bytes(), XattrFlags::empty()).expect("setxattr");
        self.history.put(path, "attribute", number);
    }

    fn set_time(&mut self) {
        let path = self.with_attributes();
        let number = self.history.begin(format!("utimensat of {path}"));
        set_time(&self.at(path), number);
        self.history.put(path, "time", number);
    }

    fn change_owner(&mut self) {
        let path = self.with_attributes();
        let number = self.history.begin(format!("chown of {path}"));
        std::os::unix::fs::chown(self.at(path), Some(number as u32), None).expect("chown");
        self.history.put(path, "owner", number);
    }

    /// From outside, where a file has a number before it is in the tree.
    fn move_in(&mut self) {
        let path = self.new_name("i", "rename into the tree");
        let number = self.history.number();
        let from = self.outside.join("next");
        fs::write(&from, filled(number, 8)).expect("a file outside");
        fs::rename(&from, self.at(&path)).expect("rename");
        for (fact, value) in [("kind", FILE), ("size", 8), ("0", number)] {
            self.history.put(&path, fact, value);
        }
        self.moved_in.push_back(path);
    }

    fn move_out(&mut self) {
        if self.moved_in.len() <= NAMES {
            return;
        }
        let path = self.moved_in.pop_front().expect("more than some");
        self.history.begin(format!("rename of {path} out of the tree"));
        fs::rename(self.at(&path), self.outside.join("last")).expect("rename");
        self.history.remove(&path);
    }

    /// A second name of a file that is written to no more.
    fn link(&mut self) {
        if self.created.len() < 2 {
            return;
        }
        let from = self.created[0].clone();
        let path = self.new_name("k", &format!("link of {from}"));
        fs::hard_link(self.at(&from), self.at(&path)).expect("link");
        self.history.copy(&from, &path);
        self.links.push_back(path);
    }

    fn symlink(&mut self) {
        let path = self.new_name("y", "symlink");
        let number = self.history.number();
        std::os::unix::fs::symlink(number.to_string(), self.at(&path)).expect("symlink");
        self.history.put(&path, "kind", LINK);
        self.history.put(&path, "target", number);
        self.symlinks.push_back(path);
    }
}

fn set_time(path: &Path, seconds: u64) {
    let time = Timespec { tv_sec: seconds as i64, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::empty()).expect("utimensat");
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    /// After each change the tree is that after exactly this change, or after one that left no trace since.
    #[test]
    fn each_change_is_told_from_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (source, outside) = (dir.path().join("source"), dir.path().join("outside"));
        for dir in [&source, &outside] {
            fs::create_dir(dir).unwrap();
        }
        let mut changes = Changes::new(&source, &outside, 1);
        for _ in 0..400 {
            changes.step();
            let found = changes.history.check(&tree::facts(&source).unwrap()).unwrap();
            assert_eq!(*found.end(), changes.history.number());
            assert!(found.count() < 4, "a change that leaves no trace");
        }
    }
}

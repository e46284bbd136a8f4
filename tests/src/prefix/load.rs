//! The writers of the prefix oracle, as long as something else looks at the tree.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::chains::{self, Chain};
use super::changes::Changes;
use super::history::Facts;
use crate::cgroup::Group;
use crate::load::Random;
use crate::raw_io::Mapping;
use crate::stop::Stop;

/// Writers that make the numbered changes.
const WRITERS: u64 = 3;
/// The writers work for a part of each period, all at one pace, and rest until its end, each wherever it is. A debug build on a
/// machine with too much to do needs that: one look at so many files that move takes it tens of milliseconds.
const PERIOD: Duration = Duration::from_millis(700);
/// Shortest and longest of these parts.
const WORK_MS: (u64, u64) = (100, 400);
/// The longest pause between two changes of one writer, by pace, in microseconds.
const PAUSES_US: [u64; 4] = [1, 300, 2_000, 20_000];
/// The same of writers that never rest.
const RESTLESS_US: u64 = 600;

/// A tree with its writers.
pub struct Load {
    source: PathBuf,
    changes: Mutex<Changes>,
    chains: Vec<Chain>,
    seed: u64,
    /// A control group of threads that the writers are in. They never rest then.
    group: Option<PathBuf>,
}

impl Load {
    /// Fills the directory `source`; `outside` is one of the same file system.
    #[must_use]
    pub fn new(source: &Path, outside: &Path, seed: u64) -> Load {
        let changes = Mutex::new(Changes::new(source, outside, seed));
        Load { source: source.to_path_buf(), changes, chains: Chain::all(source), seed, group: None }
    }

    /// With writers that never rest, in a control group of threads.
    #[must_use]
    pub fn restless_in(self, group: &Path) -> Load {
        Load { group: Some(group.to_path_buf()), ..self }
    }

    /// Lets the writers work while `look` runs. `busy`: and others, as fast as they can, in that directory.
    pub fn run<T>(&mut self, busy: Option<&Path>, look: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        let (changes, seed, begun, group) = (&self.changes, self.seed, Instant::now(), self.group.as_deref());
        let join = || group.into_iter().for_each(Group::join);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for writer in 0..WRITERS {
                let (stop, mut pauses) = (&stop, Pauses::new(seed, writer, begun, group.is_none()));
                scope.spawn(move || {
                    let _all = Stop(stop);
                    join();
                    while !stop.load(SeqCst) {
                        changes.lock().unwrap_or_else(PoisonError::into_inner).step();
                        pauses.pause();
                    }
                });
            }
            for (at, chain) in (0..).zip(&mut self.chains) {
                let (stop, mut pauses) = (&stop, Pauses::new(seed, WRITERS + at, begun, group.is_none()));
                scope.spawn(move || {
                    join();
                    while !stop.load(SeqCst) {
                        chain.step(|| pauses.pause());
                        thread::sleep(chain.rest());
                    }
                });
            }
            let (stop, source) = (&stop, &self.source);
            scope.spawn(move || {
                join();
                let mut random = Random::new(seed ^ 0xff);
                while !stop.load(SeqCst) {
                    thread::sleep(Duration::from_millis(random.below(200)));
                    write_back(source, &mut random);
                }
            });
            for neighbour in busy.into_iter().flat_map(|dir| (0..2).map(|number| dir.join(number.to_string()))) {
                scope.spawn(move || disturb(&neighbour, stop));
            }
            look()
        })
    }

    /// Changes so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).history.number()
    }

    /// The changes after exactly which the tree was as `facts` say.
    ///
    /// # Errors
    /// If there are none, or a chain is not of one instant: what is wrong.
    pub fn check(&self, mut facts: Facts) -> Result<std::ops::RangeInclusive<u64>, String> {
        let broken = chains::check(&mut facts);
        let found = self.changes.lock().unwrap_or_else(PoisonError::into_inner).history.check(&facts);
        match (found, broken.is_empty()) {
            (Ok(range), true) => Ok(range),
            (Ok(range), false) => Err(format!("as after {range:?}, but {}", broken.join("\n  "))),
            (Err(fault), _) => Err([vec![fault], broken].concat().join("\n  ")),
        }
    }
}

/// Pauses of one writer. Now and then all writers are slower, or faster, together.
struct Pauses {
    random: Random,
    seed: u64,
    begun: Instant,
    rests: bool,
}

impl Pauses {
    fn new(seed: u64, writer: u64, begun: Instant, rests: bool) -> Pauses {
        Pauses { random: Random::new(seed.wrapping_mul(31) + writer + 1), seed, begun, rests }
    }

    fn pause(&mut self) {
        if !self.rests {
            return thread::sleep(Duration::from_micros(self.random.below(RESTLESS_US)));
        }
        thread::sleep(Duration::from_micros(self.random.below(self.longest())));
        // Also before what a writer does in the middle of a chain.
        while let Some(left) = self.rest() {
            thread::sleep(left);
        }
    }

    /// What all writers draw for this period.
    fn drawn(&self) -> (u32, Random) {
        let period = (self.begun.elapsed().as_micros() / PERIOD.as_micros()) as u32;
        (period, Random::new(self.seed ^ u64::from(period) << 8))
    }

    fn longest(&self) -> u64 {
        PAUSES_US[self.drawn().1.below(PAUSES_US.len() as u64) as usize]
    }

    /// How long nobody begins anything.
    fn rest(&self) -> Option<Duration> {
        let (period, mut random) = self.drawn();
        random.below(PAUSES_US.len() as u64);
        let work = Duration::from_millis(WORK_MS.0 + random.below(WORK_MS.1 - WORK_MS.0));
        let since = self.begun.elapsed().saturating_sub(PERIOD * period);
        (since > work).then(|| PERIOD.saturating_sub(since)).filter(|left| !left.is_zero())
    }
}

/// Writes one file of the tree to its disk.
fn write_back(source: &Path, random: &mut Random) {
    let paths = ["f/0", "f/1", "u/file", "m/file", "l/log", "x/0/first", "x/1/first", "x/4/second"];
    let file = File::open(source.join(paths[random.below(paths.len() as u64) as usize])).expect("a file of the tree");
    file.sync_data().expect("fdatasync");
}

/// Changes of all kinds in another directory of the file system.
fn disturb(dir: &Path, stop: &AtomicBool) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(dir).expect("a directory");
    let open = |name: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).open(dir.join(name)).expect("a file")
    };
    let (file, mapped) = (open("file"), open("mapped"));
    mapped.set_len(65_536).expect("ftruncate");
    let mapping = Mapping::new(&mapped, 65_536).expect("a mapping");
    while !stop.load(SeqCst) {
        let number = NUMBER.fetch_add(1, SeqCst);
        file.write_all_at(&[1; 5000], number % 50 * 4000).expect("a write");
        mapping.store_word((number % 8192) as usize * 8, number);
        let name = |number: u64| dir.join(format!("n{number}"));
        fs::write(name(number), [2; 100]).expect("a file");
        fs::rename(name(number), dir.join("renamed")).expect("rename");
        if number.is_multiple_of(16) {
            mapped.sync_data().expect("fdatasync");
        }
        thread::sleep(Duration::from_micros(100));
    }
}

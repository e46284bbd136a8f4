//! What all steps of a boot need: what the host tells of it, where things are, commands of the product, and acknowledged numbers.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{Answer, binary, utf8};

/// Volumes by their file systems, in the order of the disks after the first, which has store and state.
pub(super) const VOLUMES: [&str; 3] = ["ext4", "xfs", "btrfs"];
pub(super) const BASE: &str = "/run/cut";
/// If the power is not cut by then, it never will be.
pub(super) const UNCUT: Duration = Duration::from_secs(300);
/// Acknowledgements of a boot are numbered from a base of its own.
pub(super) const PER_BOOT: u64 = 1_000_000;
/// Places to which acknowledged numbers are written in turn.
pub(super) const PLACES: u64 = 16;

/// What the host tells of a boot.
pub(super) struct Boot {
    pub(super) number: u64,
    pub(super) seed: u64,
    /// The last number that was acknowledged in the previous boot.
    pub(super) acknowledged: Option<u64>,
    /// The load under which the previous boot was cut, as in `way`; or `idle`.
    pub(super) before: String,
    /// How this one ends: cut under a load of all kinds (`cut`); under one of which no daemon sees anything, since it is stopped
    /// (`still`); under the writers of `search.rs` (`search`); or not at all (`last`).
    pub(super) way: String,
}

impl Boot {
    pub(super) fn parse(args: &[String]) -> Boot {
        let [number, seed, acknowledged, before, way] = args else {
            panic!("started by `cargo xtask powercut` only, with: BOOT SEED ACKNOWLEDGED|- idle|WAY WAY");
        };
        let parse = |text: &str| text.parse::<u64>().expect("a number");
        Boot {
            number: parse(number),
            seed: parse(seed),
            acknowledged: (acknowledged != "-").then(|| parse(acknowledged)),
            before: before.clone(),
            way: way.clone(),
        }
    }
}

/// All volumes in parallel: the machine has two processors. A volume that fails ends the boot.
pub(super) fn each_volume(work: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for name in VOLUMES {
            let work = &work;
            scope.spawn(move || work(name));
        }
    });
}

pub(super) fn source(name: &str) -> PathBuf {
    Path::new(BASE).join(name).join("source")
}

pub(super) fn reference(name: &str) -> PathBuf {
    Path::new(BASE).join("store/store").join(name)
}

/// A command of the product, with this machine's state directory.
pub(super) fn tracker(args: &[&str]) -> Answer {
    let mut command = Command::new(binary());
    command.args(args).args(["--state-dir", &format!("{BASE}/store/state")]).stdin(Stdio::null());
    command.output().expect("tracker starts").into()
}

/// Restores a commit, or the newest one, in memory.
pub(super) fn restored(name: &str, to: &str, commit: Option<u64>) -> PathBuf {
    let target = std::env::temp_dir().join(format!("{to}-{name}"));
    let at = commit.map(|seq| format!("--at={seq}"));
    let reference = reference(name);
    let words: Vec<&str> = ["restore", utf8(&reference), utf8(&target)].into_iter().chain(at.as_deref()).collect();
    tracker(&words).expect(0);
    target
}

/// Writes numbers to all volumes and says which were acknowledged, until the power is cut. `instants`: each even one is only when it is
/// in a commit of one instant.
pub(super) fn numbers(boot: u64, instants: bool) {
    let (until, mut number) = (Instant::now() + UNCUT, boot * PER_BOOT);
    for name in VOLUMES {
        File::create(source(name).join("numbers")).expect("the numbers of this boot");
    }
    while Instant::now() < until {
        number += 1;
        for name in VOLUMES {
            let mut numbers = OpenOptions::new().append(true).open(source(name).join("numbers")).expect("open");
            writeln!(numbers, "{number}").expect("append");
            let places = OpenOptions::new().write(true).open(source(name).join("places")).expect("open");
            places.write_all_at(&number.to_le_bytes(), number % PLACES * 4096).expect("write");
        }
        let words = if instants && number.is_multiple_of(2) { 3 } else { 2 };
        let answer = tracker(&["sync", "--wait", "--instant"][..words]);
        if answer.code == Some(0) {
            println!("ACKNOWLEDGED {number}");
        } else {
            println!("not acknowledged: {:?}", answer.code);
        }
    }
}

/// The newest number in a tree.
pub(super) fn newest_number(tree: &Path) -> Option<u64> {
    // A last line may be half written where the tree is of no instant.
    fs::read_to_string(tree.join("numbers")).ok()?.lines().filter_map(|line| line.parse().ok()).max()
}

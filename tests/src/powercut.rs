//! One boot of a machine whose power is cut again and again: what survived the last cut is compared, then a load runs until
//! the next one. Three volumes, on ext4, xfs and btrfs, in one daemon; store and state are on a separate disk. All disks
//! have a volatile cache, which `xtask/src/vm/disk.rs` describes.
//!
//! Checked at each boot, for each volume:
//! - before any daemon runs: the store verifies, and its newest commit has everything that `sync --wait` acknowledged with
//!   0 before the cut. The host remembers that from the lines `ACKNOWLEDGED N`;
//! - the daemon reads every file again, whatever its times say, and `sync --wait` returns 0;
//! - each commit that says that it is of one instant is one, where the load was that of `powercut/search.rs`;
//! - then the restored tree equals the source, by the oracle of [`crate::compare`].
//!
//! A line `FOUND ..` is for people; it counts the files that the cut left with new data under the size, inode and times
//! from before the load: those that a comparison of times would have missed. `COUNT N what` is added up over all boots, and
//! `STEP` tells which step has ended. `COMPARING` and `LOAD` tell the host when to cut.

mod boot;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tracker::daemon::control::Client;

use self::boot::{
    BASE, Boot, PER_BOOT, PLACES, UNCUT, VOLUMES, each_volume, numbers, reference, restored, source, tracker,
};
use crate::compare::assert_same;
use crate::daemon::{binary, utf8};
use crate::load::Random;
use crate::loads::mixed::Mixed;
use crate::mounts::run;

/// Longest start, when an emulated processor on a busy machine verifies the programs.
const READY: Duration = Duration::from_secs(600);
/// Files that are overwritten in place, one after the other, with `fdatasync` after each: their data is on disk at once,
/// and their times only with the next commit of the file system's own journal.
const IN_PLACE: u64 = 64;
/// Pause after each: one round takes about as long as a load, so that at every moment there are files whose first overwrite
/// is not in the journal yet.
const IN_PLACE_PAUSE: Duration = Duration::from_millis(150);
const IN_PLACE_SIZE: usize = 12_288;
/// One boot, from the mounts to the cut or the end.
///
/// # Panics
/// When a check fails; the exit code tells the host.
pub fn main(args: &[String]) {
    // If a thread fails the boot ends, and the host sees that nothing was cut.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::exit(101);
    }));
    if let Some(("writer", args)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return search::writer(args);
    }
    let boot = Boot::parse(args);
    step("kernel");
    for (number, name) in ["store"].into_iter().chain(VOLUMES).enumerate() {
        let (point, kind) = (Path::new(BASE).join(name), if name == "store" { "ext4" } else { name });
        fs::create_dir_all(&point).expect("a mount point");
        let device = format!("/dev/vd{}", char::from(b'a' + number as u8));
        run(Command::new("mount").args(["-t", kind, &device]).arg(point));
    }
    step("mounts");
    each_volume(|name| match boot.number {
        0 => fill(&source(name)),
        _ => survived(name, &boot),
    });
    step("store");
    let daemon = Daemon::start();
    daemon.ready(boot.number > 0);
    step("comparison");
    if boot.number > 0 {
        // The others were rebuilt from the store, which reads every file whatever the rule for another boot is.
        let kept = VOLUMES.len() - daemon.log().matches("the catalog is older than the store").count();
        println!("FOUND {kept} catalogs are as new as their stores");
        println!("COUNT {kept} catalogs as new as their stores");
        assert!(
            boot.before != "still" || kept == VOLUMES.len(),
            "nothing was committed after the catalogs were synced"
        );
    }
    assert_eq!(tracker(&["sync", "--wait"]).code, Some(0), "{}", daemon.log());
    // Of a pause that the cut ended, whose control groups are gone.
    let notes = VOLUMES.iter().filter(|name| note_of_a_pause(name).exists()).count();
    assert_eq!(notes, 0, "a note of a pause is left");
    step("flush");
    let status = daemon.status().expect("a status");
    each_volume(|name| {
        let copy = restored(name, "copy", None);
        assert_same(&source(name), &copy);
        let files = facts(&source(name));
        if boot.number > 0 {
            let volume = status.iter().find(|volume| volume["volume"] == name).expect("the volume");
            let read = volume["files_read"].as_u64().unwrap_or_default();
            // A file has one inode, whatever its names.
            let inodes = files.values().map(|one| one.times[0].to_string()).collect::<BTreeSet<_>>().len();
            assert!(read >= inodes as u64, "{name}: {read} of {inodes} files were read after the cut");
        }
        fs::remove_dir_all(copy).expect("the copy goes");
        remember(name, &files);
    });
    println!("FOUND restored equals source on {}", VOLUMES.join(", "));
    step("restores");
    if boot.way == "last" {
        daemon.signal(Signal::TERM);
        daemon.end();
        return;
    }
    match &*boot.way {
        "search" => search::load(&boot, daemon.child.id()),
        "still" => daemon.signal(Signal::STOP),
        _ => {}
    }
    load(&boot);
}

/// Tells the host which step has ended; it has no other way to know where a boot spends its time.
fn step(ended: &str) {
    println!("STEP {ended}");
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("in-place")).expect("mkdir");
    let mut random = Random::new(1);
    for number in 0..IN_PLACE {
        fs::write(in_place(source, number), random.bytes(IN_PLACE_SIZE)).expect("a file");
    }
    fs::write(source.join("places"), vec![0; (PLACES * 4096) as usize]).expect("a file");
    fs::write(source.join("numbers"), "").expect("a file");
    rustix::fs::syncfs(File::open(source).expect("the source")).expect("syncfs");
}

fn in_place(source: &Path, number: u64) -> PathBuf {
    source.join(format!("in-place/{number}"))
}

fn note_of_a_pause(name: &str) -> PathBuf {
    Path::new(BASE).join("store/state/volumes").join(name).join("paused")
}

/// Checks what must have survived the cut, before a daemon runs.
fn survived(name: &str, boot: &Boot) {
    tracker(&["verify", utf8(&reference(name))]).expect(0);
    if note_of_a_pause(name).exists() {
        println!("COUNT 1 notes of a pause after a cut");
    }
    if let Some(last) = boot.acknowledged {
        let copy = restored(name, "survived", None);
        let numbers = fs::read_to_string(copy.join("numbers")).expect("text");
        let places = fs::read(copy.join("places")).expect("places");
        let first = last - last % PER_BOOT + 1;
        for number in first..=last {
            assert!(numbers.lines().any(|line| line == number.to_string()), "{name}: {number} of {last} is not there");
        }
        for number in first.max((last + 1).saturating_sub(PLACES))..=last {
            let at = (number % PLACES * 4096) as usize;
            let bytes = places.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).expect("a place");
            let found = u64::from_le_bytes(bytes);
            // Overwritten by a number that was never acknowledged.
            assert!(found >= number, "{name}: {found} where {number} was acknowledged");
        }
        println!("FOUND {name}: {} acknowledged changes are in the store", last + 1 - first);
        println!("COUNT {} acknowledged changes found in a store", last + 1 - first);
        fs::remove_dir_all(copy).expect("the copy goes");
    }
    if boot.before == "search" {
        search::survived(name, boot);
    }
    if boot.before != "idle" {
        let (before, after) = (remembered(name), facts(&source(name)));
        let common = before.iter().filter_map(|(path, old)| Some((old, after.get(path)?)));
        let (mut changed, mut unseen) = (0, 0);
        for (old, new) in common.filter(|(old, new)| old.hash != new.hash) {
            changed += 1;
            unseen += u32::from(old.times == new.times);
        }
        println!(
            "FOUND {name}: {changed} files with other data, {unseen} of them under their old size, inode and times"
        );
        println!("COUNT {changed} files with other data on {name}");
        println!("COUNT {unseen} files with other data under their old size, inode and times on {name}");
    }
}

/// What a comparison of times uses, and the file's content.
#[derive(Debug)]
struct Facts {
    times: Value,
    hash: String,
}

/// The facts of every regular file below `dir`.
fn facts(dir: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a listing") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("its attributes");
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() {
                let times =
                    json!([meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]);
                let hash = blake3::hash(&fs::read(&path).expect("its content")).to_string();
                all.insert(path, Facts { times, hash });
            }
        }
    }
    all
}

/// Saves facts beside the store, durably.
fn remember(name: &str, facts: &BTreeMap<PathBuf, Facts>) {
    let rows: Vec<Value> = facts.iter().map(|(path, one)| json!([utf8(path), one.times, one.hash])).collect();
    let mut file = File::create(format!("{BASE}/store/facts-{name}")).expect("the notes");
    file.write_all(Value::from(rows).to_string().as_bytes()).expect("the notes");
    rustix::fs::syncfs(&file).expect("syncfs");
}

fn remembered(name: &str) -> BTreeMap<PathBuf, Facts> {
    let text = fs::read(format!("{BASE}/store/facts-{name}")).expect("the notes");
    let rows: Vec<(PathBuf, Value, String)> = serde_json::from_slice(&text).expect("the notes");
    rows.into_iter().map(|(path, times, hash)| (path, Facts { times, hash })).collect()
}

/// The daemon of all volumes.
struct Daemon {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Daemon {
    fn start() -> Daemon {
        let (config, log) = (std::env::temp_dir().join("tracker.toml"), std::env::temp_dir().join("log"));
        let mut text = format!(
            "state_dir = \"{BASE}/store/state\"\n[metrics]\nlisten = \"off\"\n[defaults]\nstore = \"{BASE}/store/store\"\n\
             interval = \"100ms\"\npause = \"500ms\"\ncapture = \"fentry\"\n"
        );
        for name in VOLUMES {
            text.push_str(&format!("[[volume]]\nname = \"{name}\"\nsource = \"{}\"\n", source(name).display()));
        }
        fs::write(&config, text).expect("the configuration");
        let mut command = Command::new(binary());
        // When capture is attached is logged only on request.
        command.args(["--log", "info,tracker::capture::pins=debug"]);
        command.args(["daemon", "--config", utf8(&config)]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(File::create(&log).expect("the log")).spawn().expect("tracker starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Daemon { child, lines, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asked without the command, which an emulated machine takes longer to start than the daemon takes to answer.
    fn status(&self) -> Option<Vec<Value>> {
        let volumes = Client::new(Path::new(&format!("{BASE}/store/state"))).status().ok()?;
        volumes.iter().map(|volume| serde_json::to_value(volume).ok()).collect()
    }

    /// Waits for `ready` of all volumes. With `compares`, some volume must have shown `verifying` before, which is also
    /// told to the host.
    fn ready(&self, compares: bool) {
        let deadline = Instant::now() + READY;
        let (mut ready, mut attached, mut seen) = (0, false, BTreeSet::new());
        while ready < VOLUMES.len() {
            assert!(Instant::now() < deadline, "not ready; {}", self.log());
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => ready += usize::from(line.starts_with("ready ")),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the daemon ended; {}", self.log()),
            }
            // Asking earlier would take time from the kernel's verifier.
            if !attached && self.log().contains("capture is attached") {
                attached = true;
                step("programs");
            }
            if !compares || !attached {
                continue;
            }
            for volume in self.status().unwrap_or_default() {
                let text = |field: &str| volume[field].as_str().unwrap_or_default().to_owned();
                if seen.insert((text("volume"), text("state"))) && text("state") == "verifying" {
                    println!("COMPARING");
                }
            }
        }
        let compared = seen.iter().any(|(_, state)| state == "verifying");
        assert!(!compares || compared, "no volume was seen to be compared: {seen:?}");
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    fn end(mut self) {
        assert!(self.child.wait().expect("its end").success(), "{}", self.log());
    }
}

/// Writes to all volumes until the power is cut.
fn load(boot: &Boot) {
    println!("LOAD");
    for (index, name) in VOLUMES.into_iter().enumerate() {
        let source = source(name);
        let mut random = Random::new(boot.seed ^ (boot.number * 8 + index as u64 + 1));
        // What the boot before the previous one left is removed, under load as well.
        let (dir, old) = (source.join(format!("mixed-{}", boot.number)), boot.number.checked_sub(2));
        let seed = random.below(u64::MAX);
        thread::spawn(move || {
            if let Some(old) = old {
                // A cut in this very step may have removed it already.
                let _ = fs::remove_dir_all(dir.with_file_name(format!("mixed-{old}")));
            }
            fs::create_dir_all(&dir).expect("mkdir");
            let mut mixed = Mixed::new(&dir, seed);
            loop {
                mixed.changes(1);
                // A file that moves all the time is never synced; an emulated machine needs longer to see it at rest.
                thread::sleep(Duration::from_millis(400));
            }
        });
        let source = source.clone();
        thread::spawn(move || overwrite(&source, random));
    }
    let until = Instant::now() + UNCUT;
    while boot.way == "still" && Instant::now() < until {
        // No daemon runs that could acknowledge anything.
        thread::sleep(Duration::from_secs(1));
    }
    numbers(boot.number, false);
    panic!("the power was not cut");
}

/// Overwrites files in place; each is durable before the next one.
fn overwrite(source: &Path, mut random: Random) {
    for number in (0..IN_PLACE).cycle() {
        let file = OpenOptions::new().write(true).open(in_place(source, number)).expect("open");
        let at = random.below((IN_PLACE_SIZE - 5000) as u64);
        file.write_all_at(&random.bytes(5000), at).expect("write");
        rustix::fs::fdatasync(&file).expect("fdatasync");
        thread::sleep(IN_PLACE_PAUSE);
    }
}

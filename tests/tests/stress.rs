//! Seeded stress against the whole program: one file under every call, and trees under several threads, with syncs and kill
//! -9 between. Compares the end, and commits in between that were made while nothing changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tests::compare::assert_same;
use tests::daemon::{Daemon, READY, Volume, utf8};
use tests::load::{Random, number, seed};
use tests::loads::fsx::{Fsx, OPS};
use tests::loads::storm::Storm;
use tests::mounts::{Kind, Mount, run};

const SYNC: Duration = Duration::from_secs(60);
/// How many commits made at rest are restored at the end.
const RESTORED: usize = 4;

/// A number that a long run sets.
fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn volume(source: &Path) -> Volume {
    let mut volume = Volume::new(source);
    volume.extra = vec!["--interval".into(), "50ms".into()];
    volume
}

#[track_caller]
fn restored_at(volume: &Volume, seq: u64) -> PathBuf {
    let copy = volume.scratch(&format!("at-{seq}"));
    let reference = volume.reference();
    volume.tracker(&["restore", utf8(&reference), utf8(&copy), "--at", &seq.to_string()]).expect(0);
    copy
}

/// A daemon that is killed now and then. In half of the cases the new one is waited for only when something is requested.
struct Killed<'a> {
    volume: &'a Volume,
    daemon: Option<Daemon<'a>>,
    ready: bool,
    kills: u64,
}

impl<'a> Killed<'a> {
    fn start(volume: &'a Volume) -> Killed<'a> {
        Killed { volume, daemon: Some(volume.start_ready()), ready: true, kills: 0 }
    }

    fn kill(&mut self, random: &mut Random) {
        if let Some(running) = self.daemon.take() {
            running.kill9();
        }
        self.kills += 1;
        self.daemon = Some(self.volume.start());
        self.ready = false;
        if random.one_in(2) {
            self.wait();
        }
    }

    fn wait(&mut self) {
        if let (false, Some(daemon)) = (self.ready, &mut self.daemon) {
            daemon.wait_ready(READY);
            self.ready = true;
        }
    }

    /// Commits everything and returns the seq; nothing may change meanwhile.
    #[track_caller]
    fn commit(&mut self) -> u64 {
        self.wait();
        self.volume.sync(SYNC).expect(0);
        number(&self.volume.status(), "head_seq")
    }
}

fn fsx(name: &str, kind: Kind) {
    let Some(mount) = Mount::new_or_skip(name, kind) else { return };
    let (seed, ops) = (seed(), from_environment("TRACKER_FSX_OPS", 20_000));
    println!("{name}: seed {seed} (TRACKER_TEST_SEED sets another), {ops} calls (TRACKER_FSX_OPS)");
    let source = mount.dir("source");
    let mut fsx = Fsx::new(&source.join("f"), kind, seed);
    let mut random = Random::new(seed);
    let volume = volume(&source);
    let mut daemon = Killed::start(&volume);
    let mut rests: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut syncs = 0;
    let begun = Instant::now();
    for _ in 0..ops {
        fsx.step();
        if random.one_in(1200) {
            let seq = daemon.commit();
            syncs += 1;
            // A uniform sample of all.
            if rests.len() < RESTORED {
                rests.push((seq, fsx.content().to_vec()));
            } else if let Some(slot) = rests.get_mut(random.below(syncs) as usize) {
                *slot = (seq, fsx.content().to_vec());
            }
        } else if random.one_in(5000) {
            daemon.kill(&mut random);
        }
    }
    fsx.compare();
    let head = daemon.commit();
    let seconds = begun.elapsed().as_secs_f64();
    let status = volume.status();
    println!(
        "{name}: {seconds:.1} s, head {head}, {syncs} syncs, {} kills, rescans {} {}, by kind: {:?}",
        daemon.kills,
        status["rescans"],
        status["rescan_reasons"],
        OPS.iter().zip(fsx.done).collect::<Vec<_>>(),
    );
    assert_eq!(status["state"], "protected", "{status}");
    assert_same(&source, &restored_at(&volume, head));
    for (seq, content) in rests {
        let found = fs::read(restored_at(&volume, seq).join("f")).unwrap();
        assert!(found == content, "{name}: commit {seq} is not what the file was, seed {seed}");
    }
}

#[test]
fn fsx_on_ext4() {
    fsx("fsx_on_ext4", Kind::Ext4);
}

#[test]
fn fsx_on_xfs() {
    fsx("fsx_on_xfs", Kind::Xfs);
}

#[test]
fn fsx_on_btrfs() {
    fsx("fsx_on_btrfs", Kind::Btrfs);
}

#[test]
fn fsx_through_an_overlay() {
    fsx("fsx_through_an_overlay", Kind::Overlay);
}

#[test]
fn fsx_on_tmpfs() {
    fsx("fsx_on_tmpfs", Kind::Tmpfs);
}

fn storm(name: &str, kind: Kind) {
    let Some(mount) = Mount::new_or_skip(name, kind) else { return };
    let (seed, rounds) = (seed(), from_environment("TRACKER_STORM_ROUNDS", 8));
    println!("{name}: seed {seed} (TRACKER_TEST_SEED sets another), {rounds} rounds (TRACKER_STORM_ROUNDS)");
    let (source, snapshots) = (mount.dir("source"), mount.dir("snapshots"));
    let mut random = Random::new(seed);
    let volume = volume(&source);
    let mut daemon = Killed::start(&volume);
    let storm = Storm::start(&source, 4, seed, kind != Kind::Tmpfs);
    let mut rests: Vec<(u64, PathBuf)> = Vec::new();
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(300 + random.below(700)));
        if random.one_in(2) {
            daemon.kill(&mut random);
            std::thread::sleep(Duration::from_millis(random.below(300)));
        } else {
            let _rest = storm.rest();
            let seq = daemon.commit();
            let kept = snapshots.join(round.to_string());
            run(Command::new("cp").arg("-a").arg(&source).arg(&kept));
            rests.push((seq, kept));
            if rests.len() > RESTORED {
                let (_, gone) = rests.swap_remove(random.below(RESTORED as u64) as usize);
                fs::remove_dir_all(gone).unwrap();
            }
        }
    }
    let done = storm.stop();
    let head = daemon.commit();
    let status = volume.status();
    println!("{name}: head {head}, rescans {} {}, changes {done:?}", status["rescans"], status["rescan_reasons"]);
    assert_eq!(status["state"], "protected", "{status}");
    assert_same(&source, &restored_at(&volume, head));
    for (seq, kept) in rests {
        let copy = volume.scratch(&format!("at-{seq}"));
        if seq != head {
            restored_at(&volume, seq);
        }
        println!("{name}: commit {seq}");
        // In this order: `cp` makes holes of zeros that were written, and the copy must have the holes of the source.
        assert_same(&copy, &kept);
    }
}

#[test]
fn tree_storm_on_ext4() {
    storm("tree_storm_on_ext4", Kind::Ext4);
}

#[test]
fn tree_storm_on_xfs() {
    storm("tree_storm_on_xfs", Kind::Xfs);
}

#[test]
fn tree_storm_on_btrfs() {
    storm("tree_storm_on_btrfs", Kind::Btrfs);
}

#[test]
fn tree_storm_through_an_overlay() {
    storm("tree_storm_through_an_overlay", Kind::Overlay);
}

//! Checkpoints are made beside the flushes: while one is held up, or its process dies, commits and restores go on.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tests::daemon::Volume;
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(40);

/// A volume with eras of eight commits, the checkpoints of which are at 5, 13 and so on.
fn volume(source: &Path) -> Volume {
    fs::write(source.join("kept"), vec![7; 300_000]).unwrap();
    let mut volume = Volume::new(source);
    volume.keep_tracking();
    volume.environment.push(("TRACKER_ERA_LENGTH".into(), "8".into()));
    volume
}

fn commit(volume: &Volume, rounds: std::ops::Range<u32>) {
    for round in rounds {
        fs::write(volume.source.join(format!("file{round}")), format!("round {round}")).unwrap();
        volume.sync(SYNC).expect(0);
    }
}

fn head(volume: &Volume) -> u64 {
    volume.status()["head_seq"].as_u64().unwrap()
}

/// The seqs of all checkpoints in the store.
fn checkpoints(volume: &Volume) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(volume.reference().join("checkpoints")) else { return Vec::new() };
    let mut seqs: Vec<u64> =
        entries.filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().ok()).collect();
    seqs.sort_unstable();
    seqs
}

fn wait_for_checkpoint(volume: &Volume, seq: u64) {
    let begun = Instant::now();
    while !checkpoints(volume).contains(&seq) {
        assert!(begun.elapsed() < LIMIT, "no checkpoint of {seq}: {:?}", checkpoints(volume));
        thread::sleep(Duration::from_millis(20));
    }
}

/// Which checkpoint the end of an era names: 0 for none.
fn named(volume: &Volume, era: u64) -> u64 {
    use engine::format::era::{Era, VolumeFormat};
    let read = |name: &str| fs::read(volume.reference().join(name)).unwrap();
    let format = VolumeFormat::decode(&read("format")).unwrap();
    let era = Era::decode(&read(&format!("eras/{era:020}")), format.volume, era, format.era_len).unwrap();
    era.checkpoint.map_or(0, |named| named.seq.0)
}

/// The end of an era names the checkpoint that was made in it, and the next era one of its own.
#[test]
fn the_end_of_an_era_names_the_checkpoint_that_was_made_in_it() {
    let name = "the_end_of_an_era_names_the_checkpoint_that_was_made_in_it";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let volume = volume(&mount.dir("source"));
    let daemon = volume.start_ready();
    let commit_until = |seq| {
        while head(&volume) < seq {
            fs::write(volume.source.join("counter"), head(&volume).to_string()).unwrap();
            volume.sync(SYNC).expect(0);
        }
    };
    for seq in [5, 13] {
        // It is begun by the first flush that finds its commit in the store.
        commit_until(seq + 1);
        wait_for_checkpoint(&volume, seq);
        commit_until(seq + 4);
        assert_eq!(named(&volume, seq / 8), seq);
    }
    assert!(daemon.stop().success());
    volume.verify(true).expect(0);
    volume.restored("copy");
}

/// The store takes no checkpoint for the time of two eras. Commits are made and restored all the while; afterwards a checkpoint is
/// made and named.
#[test]
fn flushes_go_on_while_a_checkpoint_is_held_up() {
    let name = "flushes_go_on_while_a_checkpoint_is_held_up";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let mut volume = volume(&mount.dir("source"));
    let held = volume.scratch("held");
    fs::write(&held, "").unwrap();
    volume.environment.push(("TRACKER_CHECKPOINT_HELD".into(), held.to_str().unwrap().into()));
    let daemon = volume.start_ready();
    commit(&volume, 0..18);
    assert!(head(&volume) >= 18);
    assert_eq!((checkpoints(&volume), named(&volume, 0), named(&volume, 1)), (vec![], 0, 0));
    volume.restored("without");
    volume.verify(false).expect(0);
    // Also over a death in the middle of it.
    daemon.kill9();
    let daemon = volume.start_ready();
    commit(&volume, 18..20);
    volume.restored("after a death");
    fs::remove_file(&held).unwrap();
    wait_for_checkpoint(&volume, 13);
    commit(&volume, 20..26);
    assert!(head(&volume) > 24);
    assert!([13, 21].contains(&named(&volume, 2)), "{}", named(&volume, 2));
    assert!(daemon.stop().success());
    volume.verify(true).expect(0);
    volume.restored("with");
}

/// The daemon dies at each step of a checkpoint and of the end of an era. The next one goes on, and makes the same objects.
#[test]
fn a_death_in_a_checkpoint_or_at_the_end_of_an_era_is_made_good() {
    let name = "a_death_in_a_checkpoint_or_at_the_end_of_an_era_is_made_good";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    for step in ["page:1", "page:2", "checkpoint:1", "era:1"] {
        let mut volume = volume(&mount.dir(&step.replace(':', "-")));
        volume.environment.push(("TRACKER_FAILPOINT".into(), step.into()));
        let mut daemon = volume.start();
        daemon.wait_ready(LIMIT);
        let died = (0..20).any(|round| {
            fs::write(volume.source.join("counter"), round.to_string()).unwrap();
            volume.sync(SYNC).code != Some(0)
        });
        let status = daemon.wait_end(LIMIT);
        assert!(died && status.is_some_and(|status| !status.success()), "{step}: it did not die");
        drop(daemon);
        volume.environment.pop();
        let daemon = volume.start_ready();
        commit(&volume, 0..12);
        wait_for_checkpoint(&volume, 5);
        assert!(head(&volume) >= 16, "{step}");
        let named = named(&volume, 1);
        assert!([5, 13].contains(&named), "{step}: the second era names {named}");
        assert!(daemon.stop().success());
        volume.verify(true).expect(0);
        volume.restored("copy");
    }
}

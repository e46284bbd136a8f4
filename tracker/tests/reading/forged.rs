//! What somebody who may only add objects can do to a store, and what is noticed: the table in `docs/security.md`.

use std::fs;

use engine::checkpoint::{self, CheckpointRoot};
use engine::format::commit::{self, Expect};
use engine::format::era::{CheckpointRef, Era, last_seq};
use engine::format::{EncodeError, Key};
use engine::manifest::{Manifest, Position};
use engine::model::{Hash, Seq};

use crate::bed::{Bed, code, text, tracker};
use crate::volume::VOLUME;

/// Era length, with a history that has just begun its third era.
const ERA: u64 = 4;

fn bed(last: Seq) -> Bed {
    let mut bed = Bed::new(ERA);
    for seq in 4..=last.0 {
        fs::write(bed.path("source").join("counter"), format!("commit {seq}")).unwrap();
        if seq % ERA == 0 {
            bed.volume.checkpoint();
        }
        bed.commit(500_000);
    }
    bed
}

fn state(bed: &Bed, seq: Seq) -> Manifest {
    let mut state = Manifest::new(VOLUME);
    for at in 1..=seq.0 {
        let bytes = fs::read(bed.object(&Key::Commit(Seq(at)).to_string())).unwrap();
        let commit = commit::decode(&bytes, Expect { volume: VOLUME, seq: Seq(at) }).unwrap();
        state.apply(&commit, commit::hash(&bytes)).unwrap();
    }
    state
}

/// Adds a checkpoint of `seq`, at its place in the chain, that holds the state of the first commit. Returns its place and
/// name.
fn plant_checkpoint(bed: &Bed, seq: Seq) -> (Position, CheckpointRef) {
    let position = state(bed, seq).position().clone();
    let mut hash = Hash::default();
    let put = |key: Key, bytes: Vec<u8>| {
        let (key, bytes) = match key {
            Key::Checkpoint(_) => {
                let root = CheckpointRoot::decode(&bytes, VOLUME, Seq(1)).unwrap();
                let bytes = CheckpointRoot { position: position.clone(), ..root }.encode().unwrap();
                hash = blake3::hash(&bytes).into();
                (Key::Checkpoint(seq), bytes)
            }
            key => (key, bytes),
        };
        let path = bed.object(&key.to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
        Ok::<_, EncodeError>(())
    };
    checkpoint::write(&state(bed, Seq(1)), put).unwrap();
    (position, CheckpointRef { seq, hash })
}

fn restores(bed: &Bed, target: &str, seq: Seq) {
    let done = bed.restore(target, &["--at", &seq.to_string()]);
    assert_eq!(code(&done), 0, "{}", text(&done));
    bed.assert_state(target, seq.0 as usize);
}

fn verify_names(bed: &Bed, key: Key, word: &str) {
    let verified = tracker(&["verify", &bed.url()]);
    assert_eq!(code(&verified), 21, "{}", text(&verified));
    let line = text(&verified).lines().any(|line| line.contains(&key.to_string()) && line.contains(word));
    assert!(line, "{key}, {word}: {}", text(&verified));
}

#[test]
fn an_untouched_history_with_eras_and_checkpoints_is_ok() {
    for last in [7, 9] {
        let bed = bed(Seq(last));
        let verified = tracker(&["verify", &bed.url()]);
        assert_eq!(code(&verified), 0, "head {last}: {}", text(&verified));
        restores(&bed, "out", Seq(last));
    }
}

/// Without it no commit can be found by counting up. What a listing shows still exists, so the history is damaged, not new.
#[test]
fn a_first_commit_that_is_lost_is_damage_and_no_beginning() {
    let bed = bed(Seq(3));
    let key = Key::Commit(Seq(1)).to_string();
    fs::remove_file(bed.object(&key)).unwrap();
    let target = bed.path("out");
    let volume = bed.url();
    for verb in [&["verify", &volume][..], &["log", &volume], &["restore", &volume, target.to_str().unwrap()]] {
        let answer = tracker(verb);
        let said = text(&answer);
        assert_eq!(code(&answer), 21, "{verb:?}: {said}");
        assert!(said.contains(&key) && said.contains("not in the store"), "{verb:?}: {said}");
    }
}

#[test]
fn a_checkpoint_that_no_era_names_is_not_used_and_is_told() {
    let bed = bed(Seq(6));
    plant_checkpoint(&bed, Seq(5));
    restores(&bed, "at", Seq(5));
    restores(&bed, "after", Seq(6));
    verify_names(&bed, Key::Checkpoint(Seq(5)), "named by no commit");
}

/// A writer makes one ahead, and it may stay unnamed. It counts for nothing, and must hold what the commits give.
#[test]
fn a_checkpoint_that_was_made_ahead_must_agree_with_the_commits() {
    let at = Seq(6);
    let mut bed = bed(at);
    bed.volume.checkpoint();
    fs::write(bed.path("source").join("counter"), "behind it").unwrap();
    bed.commit(500_000);
    for args in [&["verify", &bed.url()][..], &["verify", &bed.url(), "--at", "1"]] {
        let verified = tracker(args);
        assert_eq!(code(&verified), 0, "{args:?}: {}", text(&verified));
    }
    fs::remove_file(bed.object(&Key::Checkpoint(at).to_string())).unwrap();
    plant_checkpoint(&bed, at);
    verify_names(&bed, Key::Checkpoint(at), "named by no commit");
    restores(&bed, "at", at);
}

#[test]
fn an_end_of_an_era_that_has_not_ended_is_not_used_and_is_told() {
    let bed = bed(Seq(6));
    let (at, named) = plant_checkpoint(&bed, Seq(6));
    let checkpoint = Some(named);
    for era in [1, 2, 5] {
        let last_seq = last_seq(era, ERA);
        let era = Era {
            volume: VOLUME,
            era,
            last_seq,
            chain: [7; 32],
            time: at.time,
            standing: at.standing,
            epoch: 1,
            checkpoint,
        };
        fs::write(bed.object(&Key::Era(era.era).to_string()), era.encode().unwrap()).unwrap();
    }
    // The head and all states are unchanged.
    let newest = bed.restore("newest", &["--expect-head", "6"]);
    assert_eq!(code(&newest), 0, "{}", text(&newest));
    bed.assert_state("newest", 6);
    restores(&bed, "old", Seq(5));
    verify_names(&bed, Key::Era(1), "named by no commit");
}

/// At the end of an era, its end and its checkpoint may exist before a commit names them, so both must agree with the
/// commits.
#[test]
fn a_false_end_at_the_head_is_not_used_and_is_told() {
    let bed = bed(Seq(7));
    let (at, named) = plant_checkpoint(&bed, Seq(7));
    let checkpoint = Some(named);
    let era = Era {
        volume: VOLUME,
        era: 1,
        last_seq: Seq(7),
        chain: at.head,
        time: at.time,
        standing: at.standing,
        epoch: 1,
        checkpoint,
    };
    fs::write(bed.object(&Key::Era(1).to_string()), era.encode().unwrap()).unwrap();
    restores(&bed, "out", Seq(7));
    verify_names(&bed, Key::Checkpoint(Seq(7)), "another state");
}

/// Somebody who may overwrite replaces the checkpoint, and the era that names it; the commit that names the era stays.
#[test]
fn an_era_that_was_replaced_does_not_fit_the_commit_that_names_it() {
    let bed = bed(Seq(9));
    let truth = fs::read(bed.object(&Key::Era(1).to_string())).unwrap();
    let era = Era::decode(&truth, VOLUME, 1, ERA).unwrap();
    let at = era.checkpoint.unwrap().seq;
    fs::remove_file(bed.object(&Key::Checkpoint(at).to_string())).unwrap();
    let replaced = Era { checkpoint: Some(plant_checkpoint(&bed, at).1), ..era };
    fs::write(bed.object(&Key::Era(1).to_string()), replaced.encode().unwrap()).unwrap();
    restores(&bed, "out", Seq(9));
    verify_names(&bed, Key::Era(1), "has the hash");
}

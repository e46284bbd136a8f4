//! Whose commit was read back.

use super::*;
use crate::format::commit::Header;
use crate::model::{ChangeSet, CommitId, Time, WriterId};

const VOLUME: VolumeId = VolumeId([5; 16]);

fn commit(volume: VolumeId, seq: Seq, id: u8) -> (Vec<u8>, Intent) {
    let header = Header {
        volume,
        seq,
        commit: CommitId([id; 16]),
        writer: WriterId([id; 16]),
        epoch: 1,
        time: Time { sec: 7, nsec: 0 },
        standing: None,
        parent: [0; 32],
        era: None,
        consistency: None,
    };
    let bytes = commit::encode(&header, &[], &ChangeSet::default(), &[]).expect("an empty commit");
    let hash = commit::hash(&bytes);
    (bytes.clone(), Intent { seq, commit_id: header.commit, hash, time: header.time, standing: None, bytes })
}

#[test]
fn ones_own_commit_damaged_in_any_way_is_never_taken_for_anothers() {
    let (bytes, intent) = commit(VOLUME, Seq(3), 1);
    assert_eq!(whose(&bytes, &intent, VOLUME), Whose::Ours);
    let is_nobodys = |bytes: &[u8]| matches!(whose(bytes, &intent, VOLUME), Whose::Nobodys { .. });
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(is_nobodys(&damaged), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(is_nobodys(&bytes[..len]), "cut to {len}");
    }
    assert!(is_nobodys(&[&bytes[..], b"x"].concat()));
}

#[test]
fn only_a_whole_commit_at_its_place_is_anothers() {
    let (_, intent) = commit(VOLUME, Seq(3), 1);
    assert_eq!(whose(&commit(VOLUME, Seq(3), 2).0, &intent, VOLUME), Whose::Others);
    for (what, bytes) in
        [("another seq", commit(VOLUME, Seq(2), 2).0), ("another volume", commit(VolumeId([6; 16]), Seq(3), 2).0)]
    {
        assert!(matches!(whose(&bytes, &intent, VOLUME), Whose::Nobodys { .. }), "{what}");
    }
}

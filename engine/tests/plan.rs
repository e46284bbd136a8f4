//! Restore plans, executed against objects in memory: the files come out as they went in.

mod common;

use common::*;
use engine::format::frame;
use engine::manifest::Manifest;
use engine::model::*;
use engine::plan::{ReadLimits, RestorePlan, merge};
use std::collections::HashMap;

type Objects = HashMap<ObjectRef, Vec<u8>>;

/// Reads as the plan says and nothing else; gives each file's bytes.
fn carry_out(plan: &RestorePlan, limits: ReadLimits, objects: &Objects) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = plan.files.iter().map(|f| vec![0xee; f.size as usize]).collect();
    for (out, file) in files.iter_mut().zip(&plan.files) {
        for (offset, len) in &file.holes {
            out[*offset as usize..(offset + len) as usize].fill(0);
        }
    }
    for read in merge(plan.frames.clone(), limits) {
        let bytes = &objects[&read.object][read.offset as usize..(read.offset + read.bytes) as usize];
        for f in &read.frames {
            let start = (f.offset - read.offset) as usize;
            let plain = frame::decode(&VOLUME, read.object, f.offset, &bytes[start..start + f.bytes as usize]).unwrap();
            for run in &f.runs {
                let part = &plain[run.skip as usize..run.skip as usize + run.len as usize];
                files[run.file as usize][run.offset as usize..][..run.len as usize].copy_from_slice(part);
            }
        }
    }
    files
}

/// The small volume, then a commit that changes a part of each file.
fn volume() -> (Manifest, Objects) {
    let mut objects = Objects::new();
    let mut manifest = Manifest::new(VOLUME);
    let steps = [
        changes(
            vec![
                make(1, Kind::Dir),
                make(2, Kind::Dir),
                write(3, None, vec![Op::Literal(b"0123456789".to_vec())]),
                write(4, None, vec![Op::Literal((0..20_000u32).map(|n| (n / 7) as u8).collect()), Op::Hole { len: 9 }]),
            ],
            vec![set(1, "d", 2), set(2, "a", 3), set(1, "b", 4), set(2, "b2", 4)],
            &[],
        ),
        changes(
            vec![
                write(
                    3,
                    Some(3),
                    vec![Op::Copy { from: 0, len: 4 }, Op::Literal(b"xy".to_vec()), Op::Copy { from: 4, len: 6 }],
                ),
                write(5, Some(4), vec![Op::Copy { from: 10_000, len: 8_000 }]),
            ],
            vec![set(1, "c", 5)],
            &[],
        ),
    ];
    for step in steps {
        let (bytes, commit) = next(&manifest, step);
        manifest.apply(&commit, engine::format::commit::hash(&bytes)).unwrap();
        objects.insert(ObjectRef::Commit(commit.header.seq), bytes);
    }
    (manifest, objects)
}

#[test]
fn a_plan_carried_out_gives_the_files() {
    let (manifest, objects) = volume();
    let whole: Vec<u8> = (0..20_000u32).map(|n| (n / 7) as u8).chain([0; 9]).collect();
    for limits in [ReadLimits::default(), ReadLimits { read: 1, gap: 0 }, ReadLimits { read: 10_000, gap: 0 }] {
        let plan = RestorePlan::new(&manifest).unwrap();
        let files = carry_out(&plan, limits, &objects);
        let paths: Vec<Vec<&[u8]>> = plan.files.iter().map(|f| f.paths.iter().map(|p| &p[..]).collect()).collect();
        assert_eq!(paths, [vec![&b"b"[..], b"d/b2"], vec![b"c"], vec![b"d/a"]]);
        assert_eq!(files, [whole.clone(), whole[10_000..18_000].to_vec(), b"0123xy456789".to_vec()]);
    }
}

#[test]
fn adjacent_frames_are_one_read_and_shared_frames_are_read_once() {
    let (manifest, _) = volume();
    let plan = RestorePlan::new(&manifest).unwrap();
    assert_eq!(merge(plan.frames.clone(), ReadLimits::default()).len(), 2, "one per object");
    let stats = plan.stats;
    assert_eq!((stats.dirs, stats.files, stats.hard_links), (2, 3, 1));
    assert_eq!((stats.bytes, stats.hole_bytes), (20_009 + 8_000 + 12, 9));
    let apart = merge(plan.frames.clone(), ReadLimits { read: 1, gap: 0 });
    assert!(apart.iter().all(|read| read.frames.len() == 1));
    let bytes: u64 = plan.frames.keys().map(|frame| u64::from(frame.bytes)).sum();
    assert_eq!(apart.iter().map(|read| read.bytes).sum::<u64>(), bytes, "no frame twice");
}

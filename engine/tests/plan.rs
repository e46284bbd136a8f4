//! Restore plans, executed against objects in memory: the files come out as they went in.

mod common;

use common::*;
use engine::format::frame;
use engine::manifest::Manifest;
use engine::model::*;
use engine::plan::{PlanError, PlanLimits, RestorePlan};
use std::collections::{BTreeSet, HashMap};

type Objects = HashMap<ObjectRef, Vec<u8>>;

/// Makes only the reads of the plan; returns each file's bytes.
fn carry_out(plan: &RestorePlan, objects: &Objects) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = plan.files.iter().map(|f| vec![0xee; f.size as usize]).collect();
    for (out, file) in files.iter_mut().zip(&plan.files) {
        for (offset, len) in &file.holes {
            out[*offset as usize..(offset + len) as usize].fill(0);
        }
    }
    for read in &plan.reads {
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
    for limits in [PlanLimits::default(), PlanLimits { read: 1, gap: 0 }, PlanLimits { read: 10_000, gap: 0 }] {
        let plan = RestorePlan::new(&manifest, None, limits).unwrap();
        let files = carry_out(&plan, &objects);
        let paths: Vec<Vec<&[u8]>> = plan.files.iter().map(|f| f.paths.iter().map(|p| &p[..]).collect()).collect();
        assert_eq!(paths, [vec![&b"b"[..], b"d/b2"], vec![b"c"], vec![b"d/a"]]);
        assert_eq!(files, [whole.clone(), whole[10_000..18_000].to_vec(), b"0123xy456789".to_vec()]);
    }
}

#[test]
fn adjacent_frames_are_one_read_and_shared_frames_are_read_once() {
    let (manifest, _) = volume();
    let plan = RestorePlan::new(&manifest, None, PlanLimits::default()).unwrap();
    assert_eq!(plan.reads.len(), 2, "one per object");
    let stats = plan.stats;
    assert_eq!((stats.dirs, stats.files, stats.hard_links, stats.objects), (2, 3, 1, 2));
    assert_eq!((stats.bytes, stats.hole_bytes, stats.reads), (20_009 + 8_000 + 12, 9, 2));
    let apart = RestorePlan::new(&manifest, None, PlanLimits { read: 1, gap: 0 }).unwrap();
    assert_eq!(apart.reads.len(), apart.reads.iter().map(|r| r.frames.len()).sum::<usize>());
    let frames = |p: &RestorePlan| p.reads.iter().flat_map(|r| r.frames.iter().map(|f| f.bytes as u64)).sum::<u64>();
    assert_eq!(apart.stats.read_bytes, frames(&plan), "no frame twice");
}

#[test]
fn a_selection_takes_what_is_below_and_the_way_to_it() {
    let (manifest, objects) = volume();
    let only = |paths: &[&[u8]]| {
        let paths: BTreeSet<Vec<u8>> = paths.iter().map(|p| p.to_vec()).collect();
        RestorePlan::new(&manifest, Some(&paths), PlanLimits::default())
    };
    let plan = only(&[b"d/a"]).unwrap();
    assert_eq!(plan.dirs.iter().map(|d| &d.path[..]).collect::<Vec<_>>(), [&b""[..], b"d"]);
    assert_eq!(carry_out(&plan, &objects), [b"0123xy456789"]);
    let plan = only(&[b"/d/"]).unwrap();
    assert_eq!(plan.files.len(), 2);
    assert_eq!(plan.files[1].paths, [b"d/b2"], "the link outside is not made");
    assert_eq!(only(&[b""]).unwrap(), RestorePlan::new(&manifest, None, PlanLimits::default()).unwrap());
    assert_eq!(only(&[b"nope"]), Err(PlanError::NoSuchPath { path: b"nope".to_vec() }));
}

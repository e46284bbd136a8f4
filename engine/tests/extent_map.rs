//! Extent maps against the simplest model: a vector of bytes per file.

use engine::extent_map::{Extent, ExtentMap, RopeError, Source};
use engine::model::*;
use proptest::prelude::*;

/// Literal number `n` is a frame of its own, at offset `n`; its plain bytes follow from `n`.
fn byte(n: u64, at: u64) -> u8 {
    (n.wrapping_mul(31).wrapping_add(at.wrapping_mul(7)) % 251) as u8 + 1
}

fn stored(n: u64, skip: u64, len: u64) -> Stored {
    let object = ObjectRef::Commit(Seq(1));
    Stored { at: DataRef { object, frame_offset: n, frame_bytes: 1, skip: skip as u32 }, len }
}

fn bytes_of(extents: impl IntoIterator<Item = Extent>) -> Vec<u8> {
    let mut out = Vec::new();
    for extent in extents {
        match extent.source {
            Source::Hole => out.extend((0..extent.len).map(|_| 0)),
            Source::Data(at) => {
                out.extend((0..extent.len).map(|i| byte(at.frame_offset, u64::from(at.skip) + i)));
            }
        }
    }
    out
}

fn whole(extent_map: &ExtentMap) -> Vec<u8> {
    let mut end = 0;
    let mut last: Option<Extent> = None;
    for (offset, extent) in extent_map.extents() {
        assert_eq!(offset, end, "extents lie end to end");
        assert!(extent.len > 0);
        end += extent.len;
        if let Some(last) = last {
            assert!(!(last.source == Source::Hole && extent.source == Source::Hole), "holes are joined");
            if let (Source::Data(a), Source::Data(b)) = (last.source, extent.source) {
                let runs_on = a.frame_offset == b.frame_offset && u64::from(a.skip) + last.len == u64::from(b.skip);
                assert!(!runs_on, "runs are joined");
            }
        }
        last = Some(extent);
    }
    assert_eq!(end, extent_map.size());
    bytes_of(extent_map.extents().map(|(_, e)| e))
}

#[derive(Clone, Debug)]
enum Step {
    /// Keeps the present bytes.
    Keep(u64),
    Move {
        from: u64,
        len: u64,
    },
    Literal {
        n: u64,
        skip: u64,
        len: u64,
    },
    Hole(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..60u64).prop_map(Step::Keep),
        2 => (0..200u64, 1..60u64).prop_map(|(from, len)| Step::Move { from, len }),
        2 => (0..4u64, 0..40u64, 1..30u64).prop_map(|(n, skip, len)| Step::Literal { n, skip, len }),
        1 => (1..40u64).prop_map(Step::Hole),
    ];
    prop::collection::vec(step, 0..8)
}

/// Makes valid ops from steps, and the bytes that they result in.
fn apply(steps: &[Step], base: &[u8]) -> (Vec<Op<Stored>>, Vec<u8>) {
    let mut ops = Vec::new();
    let mut out: Vec<u8> = Vec::new();
    let copy = |from: u64, len: u64, out: &mut Vec<u8>, ops: &mut Vec<_>| {
        let len = len.min((base.len() as u64).saturating_sub(from));
        if len > 0 {
            out.extend_from_slice(&base[from as usize..(from + len) as usize]);
            ops.push(Op::Copy { from, len });
        }
    };
    for step in steps {
        match *step {
            Step::Keep(len) => copy(out.len() as u64, len, &mut out, &mut ops),
            Step::Move { from, len } => copy(from, len, &mut out, &mut ops),
            Step::Literal { n, skip, len } => {
                out.extend((0..len).map(|i| byte(n, skip + i)));
                ops.push(Op::Literal(stored(n, skip, len)));
            }
            Step::Hole(len) => {
                out.extend((0..len).map(|_| 0));
                ops.push(Op::Hole { len });
            }
        }
    }
    (ops, out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn edits_give_the_bytes_of_the_model(rounds in prop::collection::vec(steps(), 1..8)) {
        let mut extent_map = ExtentMap::default();
        let mut model = Vec::new();
        for steps in &rounds {
            let (ops, bytes) = apply(steps, &model);
            let built = ExtentMap::build(Some(&extent_map), &ops, bytes.len() as u64).unwrap();
            extent_map.edit(&ops, bytes.len() as u64).unwrap();
            prop_assert_eq!(&whole(&extent_map), &bytes);
            prop_assert_eq!(&built, &extent_map, "an edit and a new extent_map are the same");
            model = bytes;
        }
    }

    #[test]
    fn slices_are_slices(steps in steps(), from in 0..300u64, len in 0..300u64) {
        let (ops, bytes) = apply(&steps, &[]);
        let extent_map = ExtentMap::build(None, &ops, bytes.len() as u64).unwrap();
        let from_here = bytes.iter().copied().skip(from as usize).take(len as usize).collect::<Vec<_>>();
        prop_assert_eq!(bytes_of(extent_map.slice(from, len)), from_here);
    }
}

#[test]
fn a_small_edit_of_a_big_file_is_cheap() {
    let mut extent_map: ExtentMap = (0..2_000_000).map(|n| Extent::from(stored(n, 0, 4096))).collect();
    let size = extent_map.size();
    // 20,000 edits of an extent map of 2 million extents: far below a second each way if none of them walks the whole map.
    let started = std::time::Instant::now();
    for n in 0..20_000u64 {
        let at = n * 409_600;
        let ops = [
            Op::Copy { from: 0, len: at },
            Op::Literal(stored(3_000_000 + n, 0, 4096)),
            Op::Copy { from: at + 4096, len: size - at - 4096 },
        ];
        let ops = if n == 0 { &ops[1..] } else { &ops[..] };
        extent_map.edit(ops, size).unwrap();
    }
    let took = started.elapsed();
    println!("20,000 edits of 2,000,000 extents: {took:?}");
    assert!(took.as_secs() < 10, "{took:?}");
    assert_eq!(extent_map.size(), size);
}

#[test]
fn copies_beyond_the_base_are_refused() {
    let mut extent_map: ExtentMap = [Extent::from(stored(1, 0, 10))].into_iter().collect();
    let before = extent_map.clone();
    let bad = [Op::Copy { from: 5, len: 6 }];
    assert_eq!(extent_map.edit(&bad, 6), Err(RopeError::BeyondBase { from: 5, len: 6, base: 10 }));
    let overflow = [Op::Copy { from: u64::MAX, len: 2 }];
    assert!(extent_map.edit(&overflow, 2).is_err());
    assert_eq!(extent_map.edit(&[Op::Hole { len: 3 }], 4), Err(RopeError::Unfilled { filled: 3, size: 4 }));
    assert_eq!(extent_map, before);
}

//! Deltas against a reference apply, hostile deltas, and lying signatures.

use proptest::prelude::*;

use super::*;
use crate::model::Op;
use crate::signature::{BaseSignature, group_signature};

fn signature(base: &[u8]) -> BaseSignature {
    let mut group = Vec::new();
    group_signature(base, &mut group);
    BaseSignature::assemble(base.len() as u64, [group]).unwrap()
}

fn apply(base: &[u8], ops: &[Op<Vec<u8>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for op in ops {
        match op {
            Op::Copy { from, len } => out.extend_from_slice(&base[*from as usize..(from + len) as usize]),
            Op::Literal(bytes) => out.extend_from_slice(bytes),
            Op::Hole { len } => out.resize(out.len() + *len as usize, 0),
        }
    }
    out
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn diff(base: &[u8], new: &[u8], window: usize) -> Vec<Op<Vec<u8>>> {
    let signature = signature(base);
    let index = signature.index();
    let mut ops = Ops::default();
    let mut differ = Differ::with_window(&index, window);
    differ.bytes(new, &mut ops).unwrap();
    differ.end(&mut ops).unwrap();
    ops.into_vec()
}

#[test]
fn a_shift_is_one_copy_across_all_windows() {
    let base = noise(1, 300_000);
    let new = [b"in front".as_slice(), &base].concat();
    for window in [8192, 20_001, 1 << 20] {
        let ops = diff(&base, &new, window);
        let copy = Op::Copy { from: 0, len: base.len() as u64 };
        assert_eq!(ops, [Op::Literal(b"in front".to_vec()), copy], "window {window}");
    }
}

#[test]
fn equal_blocks_are_copied_in_order() {
    let base = vec![5; 50 * 4096];
    let new = [vec![1; 100], base.clone()].concat();
    let ops = diff(&base, &new, 1 << 20);
    assert_eq!(apply(&base, &ops), new);
    assert!(ops.len() <= 8, "{} steps", ops.len());
}

#[test]
fn a_match_without_its_strong_hash_is_a_literal() {
    let base = noise(2, 8 * 4096);
    let mut group = Vec::new();
    group_signature(&base, &mut group);
    group[3 * 28 + 20] ^= 1;
    let lying = BaseSignature::assemble(base.len() as u64, [group]).unwrap();
    let ops = diff_windows(&lying.index(), [&base[..]]).unwrap();
    let literal = Op::Literal(base[3 * 4096..4 * 4096].to_vec());
    assert_eq!(ops, [Op::Copy { from: 0, len: 12288 }, literal, Op::Copy { from: 16384, len: 16384 }]);
}

#[test]
fn hostile_deltas_are_errors() {
    fn parse(bytes: &[u8]) -> Result<Vec<Command<'_>>, DeltaError> {
        Commands::new(bytes)?.collect()
    }
    let with = |tail: &[u8]| [&0x7273_0236u32.to_be_bytes()[..], tail].concat();
    assert_eq!(parse(b"rs"), Err(DeltaError::Truncated { at: 0 }));
    assert_eq!(parse(b"rs\x02\x37\0"), Err(DeltaError::Magic { magic: 0x7273_0237 }));
    assert_eq!(parse(&with(&[])), Err(DeltaError::Truncated { at: 4 }));
    assert_eq!(parse(&with(&[5, 1])), Err(DeltaError::Truncated { at: 5 }));
    assert_eq!(parse(&with(&[0x44, 255, 255, 255, 255, 255, 255, 255, 255])), Err(DeltaError::Truncated { at: 13 }));
    assert_eq!(parse(&with(&[0x45, 0, 0])), Err(DeltaError::Empty { at: 4 }));
    assert_eq!(parse(&with(&[0x55])), Err(DeltaError::Unknown { command: 0x55, at: 4 }));
    assert_eq!(parse(&with(&[0, 9])), Err(DeltaError::Trailing { bytes: 1 }));
    let copy = Command::Copy { from: 256, len: 3 };
    assert_eq!(parse(&with(&[0x49, 1, 0, 3, 1, 7, 0])), Ok(vec![copy, Command::Literal { bytes: &[7], len: 1 }]));
}

#[test]
fn exported_deltas_are_read_back() {
    let ops = vec![
        Op::Copy { from: 70_000, len: 5_000_000_000 },
        Op::Literal(vec![3; 65]),
        Op::Hole { len: 200_000 },
        Op::Copy { from: 0, len: 255 },
    ];
    let mut delta = Vec::new();
    export_rdiff(&ops, |bytes| -> Result<(), ()> {
        delta.extend_from_slice(bytes);
        Ok(())
    })
    .unwrap();
    let commands: Vec<_> = Commands::new(&delta).unwrap().map(Result::unwrap).collect();
    assert_eq!(commands[0], Command::Copy { from: 70_000, len: 5_000_000_000 });
    assert_eq!(commands[1], Command::Literal { bytes: &[3; 65], len: 65 });
    assert_eq!(commands[2], Command::Literal { bytes: &vec![0; 200_000], len: 200_000 });
    assert_eq!(commands[3], Command::Copy { from: 0, len: 255 });
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = (0u64..6, 0usize..20_000);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| {
        pieces.into_iter().flat_map(|(seed, len)| if seed == 0 { vec![0; len] } else { noise(seed, len) }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn applying_gives_the_new_content(base in content(), new in content(), window in 1usize..60_000) {
        let ops = diff(&base, &new, window);
        prop_assert_eq!(apply(&base, &ops), new);
    }

    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let delta = [&0x7273_0236u32.to_be_bytes()[..], &bytes].concat();
        prop_assert!(Commands::new(&delta).unwrap().count() <= 65);
    }
}

//! Both planners against a model of a file, step by step: bytes, holes, roots, nodes and signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::block::{self, BLOCK_LEN, GROUP_BYTES};
use crate::model::{BLOCK_BYTES, FileId, Op, Root};
use crate::signature::{BaseSignature, SignatureWrites};
use crate::tree::{Image, NoNodes, NodeWrites, Nodes, RootHasher, RootKind, Rules};

const ID: FileId = FileId(7);

/// A file's content; hole blocks hold zeros.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    bytes: Vec<u8>,
    holes: BTreeSet<u64>,
}

impl Model {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn resize(&mut self, size: u64) {
        let before = block::count(self.size());
        self.bytes.resize(size as usize, 0);
        self.holes.extend(before..block::count(size));
        self.holes.retain(|index| *index < block::count(size));
    }

    fn block(&self, index: u64) -> BlockData<'_> {
        let from = block::offset(index) as usize;
        if self.holes.contains(&index) {
            BlockData::Hole
        } else {
            BlockData::Bytes(&self.bytes[from..self.bytes.len().min(from + BLOCK_LEN)])
        }
    }

    fn write(&mut self, at: u64, len: u64, byte: Option<u8>) {
        let end = (at + len).min(self.size());
        if at >= end {
            return;
        }
        for (i, slot) in (at..end).zip(&mut self.bytes[at as usize..end as usize]) {
            *slot = byte.map_or(0, |byte| if byte == 0 { 0 } else { byte.wrapping_mul((i % 251) as u8) });
        }
        for index in at / BLOCK_BYTES..block::count(end) {
            let inside =
                block::offset(index) >= at && block::offset(index) + block::len(self.size(), index) as u64 <= end;
            match byte {
                Some(_) => drop(self.holes.remove(&index)),
                None if inside => drop(self.holes.insert(index)),
                None => {}
            }
        }
    }

    fn root(&self, kind: RootKind) -> Root {
        let mut hasher = RootHasher::new(kind);
        hasher.bytes(&self.bytes);
        hasher.finish()
    }

    /// Feeds everything, in pieces of `piece` bytes and in whole runs of holes.
    fn feed<N: Nodes<Error = Infallible>>(&self, planner: &mut WholePlanner<'_, N>, piece: usize) -> Vec<Op<Vec<u8>>> {
        let mut ops = Vec::new();
        let mut index = 0;
        while index < block::count(self.size()) {
            let hole = self.holes.contains(&index);
            let run = (index..block::count(self.size())).take_while(|b| self.holes.contains(b) == hole).count() as u64;
            let (from, to) = (block::offset(index), block::offset(index + run).min(self.size()));
            if hole {
                planner.hole(to - from).unwrap();
            } else {
                for piece in self.bytes[from as usize..to as usize].chunks(piece) {
                    planner.bytes(piece).unwrap();
                    ops.extend(planner.take_ops());
                }
            }
            index += run;
        }
        ops
    }
}

/// What the catalog has of one file.
#[derive(Default)]
struct Store {
    nodes: NodeWrites,
    signatures: SignatureWrites,
}

fn merge<K: Ord>(into: &mut BTreeMap<K, Option<Vec<u8>>>, writes: BTreeMap<K, Option<Vec<u8>>>) {
    for (key, write) in writes {
        if write.is_some() {
            into.insert(key, write)
        } else {
            into.remove(&key)
        };
    }
}

/// Reference apply: bytes, and which of them are hole.
fn apply(base: &Model, ops: &[Op<Vec<u8>>]) -> (Vec<u8>, Vec<bool>) {
    let (mut bytes, mut holes) = (Vec::new(), Vec::new());
    for op in ops {
        match op {
            Op::Copy { from, len } => {
                bytes.extend_from_slice(&base.bytes[*from as usize..(from + len) as usize]);
                holes.extend((*from..from + len).map(|at| base.holes.contains(&(at / BLOCK_BYTES))));
            }
            Op::Literal(literal) => {
                assert!(!literal.is_empty());
                bytes.extend_from_slice(literal);
                holes.resize(bytes.len(), false);
            }
            Op::Hole { len } => {
                bytes.resize(bytes.len() + *len as usize, 0);
                holes.resize(bytes.len(), true);
            }
        }
    }
    (bytes, holes)
}

fn check_ops(base: &Model, ops: &[Op<Vec<u8>>], new: &Model) {
    let (bytes, holes) = apply(base, ops);
    assert!(bytes == new.bytes, "the steps do not make the content");
    for (index, block) in holes.chunks(BLOCK_LEN).enumerate() {
        let hole = block.iter().all(|hole| *hole);
        assert_eq!(hole, new.holes.contains(&(index as u64)), "hole of block {index}");
    }
}

/// The model's image, built from nothing.
fn fresh(model: &Model, rules: Rules) -> (WholePlan, Store) {
    let mut planner = WholePlanner::<NoNodes>::new(ID, None, rules);
    let mut store = Store::default();
    let mut ops = model.feed(&mut planner, 100_000);
    merge(&mut store.nodes, planner.take_node_writes());
    let plan = planner.finish().unwrap();
    ops.extend(plan.ops.iter().cloned());
    check_ops(&Model::default(), &ops, model);
    assert_eq!(plan.base, None);
    merge(&mut store.nodes, plan.node_writes.clone());
    merge(&mut store.signatures, plan.signature_writes.clone());
    (plan, store)
}

fn check_image(store: &Store, image: Image, model: &Model, rules: Rules) {
    let (plan, made) = fresh(model, rules);
    assert_eq!(Image { signed: plan.image.signed, ..image }, plan.image);
    assert_eq!(image.root, model.root(image.root.kind()));
    assert_eq!(image.root.kind(), rules.kind(model.holes.len() as u64));
    assert!(store.nodes == made.nodes, "nodes differ");
    let signatures = if image.signed { made.signatures } else { SignatureWrites::new() };
    assert!(store.signatures == signatures, "signatures differ");
    assert!(plan.image.signed || !image.signed);
}

#[derive(Clone, Debug)]
enum Way {
    InPlace,
    Rescan,
    RescanWithSignature,
}

#[derive(Clone, Debug)]
struct Step {
    way: Way,
    size: Option<u64>,
    writes: Vec<(u64, u64, Option<u8>)>,
    extra: Vec<u64>,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        0..3 * BLOCK_BYTES,
        0..5 * GROUP_BYTES / 2,
        (0u64..4).prop_map(|blocks| blocks * BLOCK_BYTES),
        (0u64..3, 0u64..3).prop_map(|(groups, more)| groups * GROUP_BYTES + more)
    ];
    let at = prop_oneof![0..20_000u64, 0..5 * GROUP_BYTES / 2];
    let len = prop_oneof![1u64..9000, 1..GROUP_BYTES];
    let write = (at, len, prop::option::weighted(0.7, 0u8..4));
    let way = prop_oneof![4 => Just(Way::InPlace), 1 => Just(Way::Rescan), 1 => Just(Way::RescanWithSignature)];
    (way, prop::option::of(size), prop::collection::vec(write, 0..4), prop::collection::vec(0u64..1300, 0..4))
        .prop_map(|(way, size, writes, extra)| Step { way, size, writes, extra })
}

fn in_place(store: &mut Store, image: Image, old: &Model, new: &Model, extra: &[u64], rules: Rules) -> Image {
    let differ = |index: &u64| {
        let there = *index < block::count(old.size());
        if there { old.block(*index) != new.block(*index) } else { new.block(*index) != BlockData::Hole }
    };
    let mut marks: BTreeSet<u64> = (0..block::count(new.size())).filter(differ).collect();
    let changed = marks.len() as u64;
    marks.extend(block::tails(old.size(), new.size()).into_iter().flatten());
    marks.extend(extra);
    let blocks = marks.iter().map(|index| {
        (*index, if *index < block::count(new.size()) { new.block(*index) } else { BlockData::Bytes(&[]) })
    });
    let plan = plan_in_place(ID, Some(&image), &store.nodes, &store.signatures, new.size(), blocks, rules).unwrap();
    let Some(plan) = plan else {
        assert_eq!(old, new);
        return image;
    };
    assert_ne!(old, new);
    assert!(plan.changed_blocks <= changed + 2);
    assert_eq!(plan.changed_blocks + plan.trimmed_blocks, marks.len() as u64);
    check_ops(old, &plan.content.ops, new);
    assert_eq!(plan.content.base.is_some(), plan.content.ops.iter().any(|op| matches!(op, Op::Copy { .. })));
    assert_eq!((plan.content.size, plan.content.root), (new.size(), plan.image.root));
    merge(&mut store.nodes, plan.node_writes);
    merge(&mut store.signatures, plan.signature_writes);
    plan.image
}

fn rescan(store: &mut Store, image: Image, old: &Model, new: &Model, signed: bool, rules: Rules) -> Image {
    let (plan, ops) = {
        let signature = BaseSignature::load(image.size, &store.signatures).unwrap().filter(|_| signed);
        let index = signature.as_ref().map(BaseSignature::index);
        let base = Base { id: ID, image, nodes: &store.nodes, index: index.as_ref() };
        let mut planner = WholePlanner::new(ID, Some(base), rules);
        let ops = new.feed(&mut planner, 77_777);
        (planner.finish().unwrap(), ops)
    };
    let ops = [ops, plan.ops].concat();
    check_ops(old, &ops, new);
    assert_eq!(plan.unchanged, old == new);
    assert_eq!(plan.base.is_some(), ops.iter().any(|op| matches!(op, Op::Copy { .. })));
    merge(&mut store.nodes, plan.node_writes);
    merge(&mut store.signatures, plan.signature_writes);
    plan.image
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn both_planners_follow_the_file(
        steps in prop::collection::vec(step(), 1..6),
        sparse in 0usize..3,
        signed in 0usize..3,
    ) {
        let rules = Rules {
            sparse_bytes: [0, 20 * BLOCK_BYTES, 1 << 30][sparse],
            signature_bytes: [5000, GROUP_BYTES, 1 << 28][signed],
        };
        let (mut store, mut image, mut model) = (Store::default(), Image::empty(), Model::default());
        for step in steps {
            let old = model.clone();
            if let Some(size) = step.size {
                model.resize(size);
            }
            for (at, len, byte) in step.writes {
                model.write(at, len, byte);
            }
            image = match step.way {
                Way::InPlace => in_place(&mut store, image, &old, &model, &step.extra, rules),
                Way::Rescan => rescan(&mut store, image, &old, &model, false, rules),
                Way::RescanWithSignature => rescan(&mut store, image, &old, &model, true, rules),
            };
            check_image(&store, image, &model, rules);
        }
    }
}

fn bytes_of(len: usize) -> Model {
    let mut model = Model::default();
    model.resize(len as u64);
    model.write(0, len as u64, Some(1));
    model
}

#[test]
fn a_caller_that_forgets_a_tail_is_told() {
    let rules = Rules::default();
    let old = bytes_of(10_000);
    let (plan, store) = fresh(&old, rules);
    let at = |size, blocks: Vec<(u64, BlockData<'static>)>| {
        plan_in_place(ID, Some(&plan.image), &store.nodes, &store.signatures, size, blocks, rules).unwrap_err()
    };
    static DATA: [u8; BLOCK_LEN] = [1; BLOCK_LEN];
    let block = |index| (index, BlockData::Bytes(&DATA));
    assert!(matches!(at(20_000, vec![block(4)]), ImageError::MissingTail { index: 2, .. }));
    assert!(matches!(at(20_000, vec![block(2)]), ImageError::MissingTail { index: 4, .. }));
    assert!(matches!(at(5000, vec![]), ImageError::MissingTail { index: 1, old_size: 10_000, new_size: 5000 }));
    assert!(matches!(at(10_000, vec![block(1), block(1)]), ImageError::Order { before: 1, index: 1 }));
    let short = (0, BlockData::Bytes(&DATA[1..]));
    assert!(matches!(at(10_000, vec![short]), ImageError::ShortBlock { index: 0, got: 4095, want: 4096 }));
}

#[test]
fn a_cut_tail_of_written_zeros_is_signed_anew() {
    let rules = Rules::default();
    let mut model = Model::default();
    model.resize(2159);
    model.write(0, 2159, Some(0));
    let (plan, mut store) = fresh(&model, rules);
    let old = model.clone();
    model.resize(1);
    let image = in_place(&mut store, plan.image, &old, &model, &[], rules);
    check_image(&store, image, &model, rules);
}

#[test]
fn marks_without_change_upload_nothing() {
    let rules = Rules::default();
    let model = bytes_of(3_000_000);
    let (plan, store) = fresh(&model, rules);
    let blocks = (0..block::count(model.size())).map(|index| (index, model.block(index)));
    let same = plan_in_place(ID, Some(&plan.image), &store.nodes, &store.signatures, 3_000_000, blocks, rules);
    assert_eq!(same.unwrap(), None);
}

#[test]
fn a_damaged_signature_is_dropped_not_believed() {
    let rules = Rules::default();
    let mut model = bytes_of(10_000);
    let (plan, mut store) = fresh(&model, rules);
    store.signatures.insert(0, Some(vec![1; 28]));
    model.write(5000, 1, Some(9));
    let blocks = [(1, model.block(1))];
    let plan = plan_in_place(ID, Some(&plan.image), &store.nodes, &store.signatures, 10_000, blocks, rules);
    let plan = plan.unwrap().unwrap();
    assert!(!plan.image.signed);
    assert_eq!(plan.signature_writes, SignatureWrites::from([(0, None)]));
}

/// Nodes of a tebibyte of data, generated when they are read.
struct Full;

impl Nodes for Full {
    type Error = Infallible;
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Infallible> {
        let blocks = block::count(1 << 40);
        Ok(Some(vec![7; 32 * block::entries(blocks, level, index)]))
    }
}

#[test]
fn a_million_marked_blocks_of_a_tebibyte() {
    let size = 1 << 40;
    // Sparse from the start: a change of kind would cost all level 0 nodes, which is not measured here.
    let image = Image { size, root: Root::Sparse([1; 32]), hole_blocks: 300_000, signed: false };
    let data = [5; BLOCK_LEN];
    // A million holes punched in 200 places, and a written block after each.
    let blocks = (0..200u64).flat_map(|run| {
        let first = run * 1_000_003;
        (first..first + 5000).map(|index| (index, BlockData::Hole)).chain([(first + 5000, BlockData::Bytes(&data))])
    });
    let none = SignatureWrites::new();
    let plan = plan_in_place(ID, Some(&image), &Full, &none, size, blocks, Rules::default()).unwrap().unwrap();
    assert_eq!((plan.changed_blocks, plan.literal_bytes), (1_000_200, 200 * BLOCK_BYTES));
    assert_eq!(plan.content.ops.len(), 600);
    assert_eq!(plan.image.root.kind(), RootKind::Sparse);
    assert_eq!(plan.image.hole_blocks, 1_300_000);
    let bytes: usize = plan.node_writes.values().flatten().map(Vec::len).sum();
    assert!(bytes < 40 << 20, "{bytes} bytes of nodes");
}

#[test]
fn a_tebibyte_of_hole_is_fed_whole_for_nothing() {
    let mut planner = WholePlanner::<NoNodes>::new(ID, None, Rules::default());
    planner.hole(1 << 40).unwrap();
    planner.bytes(b"end").unwrap();
    let plan = planner.finish().unwrap();
    let mut hasher = RootHasher::new(RootKind::Sparse);
    hasher.hole(1 << 40);
    hasher.bytes(b"end");
    assert_eq!(plan.image.root, hasher.finish());
    assert!(plan.node_writes.len() <= 4);
    assert_eq!(plan.ops, [Op::Hole { len: 1 << 40 }, Op::Literal(b"end".to_vec())]);
}

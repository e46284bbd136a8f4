//! Roots against `blake3::hash`, updates against trees built from nothing, and how much is read.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::block::{self, GROUP_BLOCKS, GROUP_BYTES};
use crate::model::{BLOCK_BYTES, Root};

/// Nodes in memory that count how often they are read.
#[derive(Default)]
struct Counted {
    nodes: NodeWrites,
    reads: Cell<usize>,
    memo: RefCell<Memo>,
}

impl Nodes for Counted {
    type Error = Infallible;
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Infallible> {
        self.reads.set(self.reads.get() + 1);
        Nodes::get(&self.nodes, level, index)
    }

    fn memo(&self) -> Option<&RefCell<Memo>> {
        Some(&self.memo)
    }
}

impl Counted {
    fn store(&mut self, writes: NodeWrites) {
        for (key, write) in writes {
            match write {
                Some(bytes) => self.nodes.insert(key, Some(bytes)),
                None => self.nodes.remove(&key),
            };
        }
    }
}

/// The image model: blocks that are not listed are holes.
#[derive(Clone, Debug, Default)]
struct Model {
    size: u64,
    blocks: BTreeMap<u64, u8>,
}

impl Model {
    fn bytes(&self, index: u64) -> Vec<u8> {
        vec![self.blocks.get(&index).copied().unwrap_or(0); block::len(self.size, index)]
    }

    fn value(&self, index: u64) -> Value {
        if self.blocks.contains_key(&index) { block_value(index, &self.bytes(index)) } else { HOLE }
    }

    fn root(&self, kind: RootKind) -> Root {
        let mut hasher = RootHasher::new(kind);
        let mut at = 0;
        for index in self.blocks.keys().filter(|index| block::offset(**index) < self.size) {
            hasher.hole(block::offset(*index) - at);
            hasher.bytes(&self.bytes(*index));
            at = (block::offset(*index) + BLOCK_BYTES).min(self.size);
        }
        hasher.hole(self.size - at);
        hasher.finish()
    }

    fn kind(&self, rules: Rules) -> RootKind {
        let data = self.blocks.keys().filter(|index| **index < block::count(self.size)).count() as u64;
        rules.kind(block::count(self.size) - data)
    }
}

/// Updates the stored image to the model by setting the values of `marks`.
fn update(store: &mut Counted, old: Image, new: &Model, marks: &[u64], rules: Rules) -> Image {
    let (image, writes) = {
        let mut update = Update::begin(&*store, old, new.size, rules).unwrap();
        for index in marks {
            update.set(*index, new.value(*index)).unwrap();
        }
        if new.size <= BLOCK_BYTES {
            update.small_content(&new.bytes(0));
        }
        update.finish().unwrap()
    };
    store.store(writes);
    image
}

fn all(model: &Model) -> Vec<u64> {
    model.blocks.keys().copied().collect()
}

#[test]
fn standard_roots_of_the_edge_sizes() {
    let group = GROUP_BYTES;
    for size in [0, 1, 1024, 1025, 4095, 4096, 4097, 8192, 12288, group - 1, group, group + 1, 3 * group + 5000] {
        let model = Model { size, blocks: (0..block::count(size)).map(|b| (b, (b % 250) as u8 + 1)).collect() };
        let content: Vec<u8> = (0..block::count(size)).flat_map(|b| model.bytes(b)).collect();
        let image = update(&mut Counted::default(), Image::empty(), &model, &all(&model), Rules::default());
        assert_eq!(image.root, Root::Blake3(blake3::hash(&content).into()), "size {size}");
        assert_eq!((image.size, image.hole_blocks), (size, 0));
    }
}

#[test]
fn a_standard_root_with_a_gibibyte_of_holes() {
    let size = (1 << 30) + 3 * GROUP_BYTES - 77;
    let blocks = (0..3 * GROUP_BLOCKS).map(|b| (b * 160 + 7, 9)).chain([(block::count(size) - 1, 3)]).collect();
    let model = Model { size, blocks };
    let rules = Rules::default();
    let image = update(&mut Counted::default(), Image::empty(), &model, &all(&model), rules);
    assert_eq!(image.root, model.root(RootKind::Blake3));
    assert_eq!(image.root.kind(), RootKind::Blake3);
}

#[test]
fn zeros_hash_alike_whether_hole_or_written() {
    let size = 3 * GROUP_BYTES + 100;
    let hole = Model { size, blocks: BTreeMap::from([(5, 1)]) };
    let mut written = hole.clone();
    written.blocks.extend((600..700).map(|index| (index, 0)));
    for sparse_bytes in [0, 1 << 30] {
        let rules = Rules { sparse_bytes, ..Rules::default() };
        let mut store = Counted::default();
        let first = update(&mut store, Image::empty(), &hole, &all(&hole), rules);
        let second = update(&mut store, first, &written, &all(&written), rules);
        assert_eq!(first.root, second.root);
        assert_eq!(first.hole_blocks, second.hole_blocks + 100);
        let third = update(&mut store, second, &hole, &all(&written), rules);
        assert_eq!(third, first);
    }
}

/// Only the parts that changed are folded again, and the root is the same.
#[test]
fn groups_that_change_again_and_again_have_the_roots_of_their_bytes() {
    let size = 5 * GROUP_BYTES + 3 * BLOCK_BYTES;
    let rules = Rules::default();
    let mut model = Model { size, blocks: (0..block::count(size)).map(|b| (b, (b % 250) as u8 + 1)).collect() };
    let mut store = Counted::default();
    let mut image = update(&mut store, Image::empty(), &model, &all(&model), rules);
    for round in 0..60u64 {
        let marks: BTreeSet<u64> =
            (0..7).map(|n| (round * 7 + n).wrapping_mul(0x9E37_79B9) % block::count(size)).collect();
        for index in &marks {
            // A hole, zeros, other bytes, and sometimes what is there already.
            match (round + index) % 4 {
                0 => _ = model.blocks.remove(index),
                other => _ = model.blocks.insert(*index, (other - 1) as u8),
            }
        }
        let marks: Vec<u64> = marks.into_iter().collect();
        image = update(&mut store, image, &model, &marks, rules);
        assert_eq!(image.root, model.root(RootKind::Blake3), "round {round}");
        assert_eq!(store.memo.borrow().groups(), 5, "each full group is remembered once");
    }
}

#[test]
fn a_tebibyte_with_one_block_costs_a_few_nodes() {
    let size = (1 << 40) + 1;
    let mut model = Model { size, blocks: BTreeMap::from([(1 << 28, 7)]) };
    let rules = Rules::default();
    let mut store = Counted::default();
    let image = update(&mut store, Image::empty(), &model, &[1 << 28], rules);
    assert_eq!(image.root, model.root(RootKind::Sparse));
    assert!(store.nodes.len() <= 4, "{} nodes", store.nodes.len());
    assert!(store.reads.get() < 20, "{} reads", store.reads.get());

    store.reads.set(0);
    model.size = 5000;
    let cut = update(&mut store, image, &model, &[1], rules);
    assert_eq!((cut.root, cut.hole_blocks), (model.root(RootKind::Blake3), 2));
    assert_eq!(store.nodes.len(), 0);
    assert!(store.reads.get() < 20, "{} reads", store.reads.get());
}

/// Nodes of a file full of data, generated when they are read.
struct Full {
    blocks: u64,
    reads: Cell<usize>,
}

impl Nodes for Full {
    type Error = Infallible;
    fn get(&self, level: u8, index: u64) -> Result<Option<Vec<u8>>, Infallible> {
        self.reads.set(self.reads.get() + 1);
        Ok(Some(vec![7; block::entries(self.blocks, level, index) * VALUE_BYTES]))
    }
}

#[test]
fn one_changed_block_of_ten_gibibytes_reads_a_handful_of_nodes() {
    let size = 10 << 30;
    let nodes = Full { blocks: block::count(size), reads: Cell::new(0) };
    let old = Image { size, root: Root::Blake3([1; 32]), hole_blocks: 0, signed: false };
    let mut update = Update::begin(&nodes, old, size, Rules::default()).unwrap();
    assert!(update.set(1_234_567, [8; 32]).unwrap());
    let (image, writes) = update.finish().unwrap();
    assert_ne!(image.root, old.root);
    assert_eq!(writes.keys().copied().collect::<Vec<_>>(), [(0, 2411), (1, 4), (2, 0)]);
    assert!(nodes.reads.get() <= 8, "{} reads", nodes.reads.get());
}

#[test]
fn damaged_nodes_are_errors() {
    let size = 2 * GROUP_BYTES;
    let old = Image { size, root: Root::Blake3([1; 32]), hole_blocks: 0, signed: false };
    let bad: NodeWrites = [((0, 0), Some(vec![1; 33]))].into();
    let mut update = Update::begin(&bad, old, size, Rules::default()).unwrap();
    assert!(matches!(update.set(0, [8; 32]), Err(TreeError::Malformed { level: 0, index: 0, bytes: 33 })));

    let missing = NodeWrites::new();
    let mut update = Update::begin(&missing, old, size, Rules::default()).unwrap();
    update.set(0, [8; 32]).unwrap();
    assert!(matches!(update.finish(), Err(TreeError::Incomplete { level: 1, index: 0, .. })));
}

#[test]
fn a_hasher_takes_pieces_of_any_size() {
    let content: Vec<u8> = (0..50_000u32).map(|i| if i / 9000 % 2 == 0 { 0 } else { (i % 255) as u8 + 1 }).collect();
    for kind in [RootKind::Blake3, RootKind::Sparse] {
        let mut whole = RootHasher::new(kind);
        whole.bytes(&content);
        let whole = whole.finish();
        for step in [1, 999, 4096, 5000, 20_000] {
            let mut pieces = RootHasher::new(kind);
            for piece in content.chunks(step) {
                if is_zero(piece) { pieces.hole(piece.len() as u64) } else { pieces.bytes(piece) }
            }
            assert_eq!(pieces.finish(), whole, "step {step}");
        }
    }
    assert_eq!(RootHasher::new(RootKind::Blake3).finish(), Image::empty().root);
}

fn step() -> impl Strategy<Value = (u64, Vec<(u64, Option<u8>)>)> {
    let size = prop_oneof![
        0u64..3 * BLOCK_BYTES,
        0..4 * GROUP_BYTES,
        Just(GROUP_BYTES),
        (1u64 << 30) - 5000..(1 << 30) + 3 * GROUP_BYTES,
        (1u64 << 39)..(1 << 41)
    ];
    let block = prop_oneof![0u64..4, 0u64..2048, 262_000u64..263_700, (1u64 << 27)..(1 << 29)];
    (size, prop::collection::vec((block, prop::option::weighted(0.7, 0u8..4)), 0..12))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any sequence of sizes and marks ends in the same image and nodes as building the last content at once.
    #[test]
    fn updates_equal_a_tree_made_from_nothing(steps in prop::collection::vec(step(), 1..6), limit in 0u64..3) {
        let rules = Rules { sparse_bytes: [0, 3 * BLOCK_BYTES, 8 * GROUP_BYTES][limit as usize], ..Rules::default() };
        let (mut store, mut image, mut model) = (Counted::default(), Image::empty(), Model::default());
        for (size, writes) in steps {
            let tails = block::tails(model.size, size);
            model.size = size;
            model.blocks.retain(|index, _| *index < block::count(size));
            let mut marks: std::collections::BTreeSet<u64> = tails.into_iter().flatten().collect();
            for (index, byte) in writes.into_iter().filter(|(index, _)| *index < block::count(size)) {
                marks.insert(index);
                match byte {
                    Some(byte) => model.blocks.insert(index, byte),
                    None => model.blocks.remove(&index),
                };
            }
            // A mark on block 0 makes a small file's bytes available, as the planner does.
            let marks: Vec<u64> = marks.into_iter().collect();
            image = update(&mut store, image, &model, &marks, rules);
            prop_assert_eq!(image.root.kind(), model.kind(rules));
            let (mut fresh, start) = (Counted::default(), Image::empty());
            prop_assert_eq!(image, update(&mut fresh, start, &model, &all(&model), rules));
            prop_assert_eq!(&store.nodes, &fresh.nodes);
            if image.root.kind() == RootKind::Sparse || size < 8 * GROUP_BYTES {
                prop_assert_eq!(image.root, model.root(image.root.kind()));
            }
        }
    }
}

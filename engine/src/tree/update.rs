//! Changes some block values of a committed image, and computes the resulting root.
//!
//! Reads a node only if a changed block is below it. Holds the changed nodes in memory until the caller stores them with
//! the commit. It sees values only; `image` handles bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::fold::{
    Span, blocks_root, full_group, group_value, sparse_root_of, sparse_value, values_root, values_value,
};
use super::memo::{ALL_PARTS, Parts, part_of};
use super::node::{HOLE, NodeWrites, Nodes, Overlay, TreeError, Value, ZERO, encode, load};
use super::rules::{Image, RootKind, Rules};
use crate::block::{self, FAN, GROUP_BLOCKS};
use crate::model::Root;

type Res<T, N> = Result<T, TreeError<<N as Nodes>::Error>>;

/// Values of one group while it is being changed.
struct Open {
    group: u64,
    values: Vec<Value>,
    changed: bool,
    parts: Parts,
}

/// One change of one image. Give blocks in ascending order, so that each group is read once.
pub struct Update<'n, N: Nodes> {
    nodes: Overlay<'n, N>,
    old: Image,
    new_size: u64,
    rules: Rules,
    hole_blocks: u64,
    open: Option<Open>,
    dirty: BTreeSet<u64>,
    /// Of groups in `dirty`: the parts that changed. Of others in it that is not known.
    parts: BTreeMap<u64, Parts>,
    small_root: Option<Root>,
}

impl<'n, N: Nodes> Update<'n, N> {
    /// Begins with the old image, truncated or extended with holes to `new_size` bytes.
    pub fn begin(nodes: &'n N, old: Image, new_size: u64, rules: Rules) -> Res<Self, N> {
        let (old_blocks, new_blocks) = (block::count(old.size), block::count(new_size));
        let hole_blocks = if new_blocks >= old_blocks {
            old.hole_blocks + (new_blocks - old_blocks)
        } else {
            // Count the holes on the shorter side of the cut only.
            let dropped = old_blocks - new_blocks;
            if new_blocks <= dropped {
                new_blocks - data_blocks(nodes, &old, 0, new_blocks)?
            } else {
                let counted = dropped - data_blocks(nodes, &old, new_blocks, old_blocks)?;
                let recorded = old.hole_blocks;
                recorded.checked_sub(counted).ok_or(TreeError::HoleCount { recorded, counted })?
            }
        };
        let nodes = Overlay { base: nodes, writes: NodeWrites::new() };
        let (dirty, parts) = (BTreeSet::new(), BTreeMap::new());
        Ok(Update { nodes, old, new_size, rules, hole_blocks, open: None, dirty, parts, small_root: None })
    }

    /// The current value of a block of the image; [`HOLE`] beyond its end.
    pub fn value(&mut self, index: u64) -> Res<Value, N> {
        let at = (index % GROUP_BLOCKS) as usize;
        Ok(self.open(index / GROUP_BLOCKS)?.values.get(at).copied().unwrap_or(HOLE))
    }

    /// Gives block `index` a new value; ignored beyond the new size. Returns whether the value changed.
    pub fn set(&mut self, index: u64, value: Value) -> Res<bool, N> {
        if index >= block::count(self.new_size) {
            return Ok(false);
        }
        let at = (index % GROUP_BLOCKS) as usize;
        let open = self.open(index / GROUP_BLOCKS)?;
        let Some(slot) = open.values.get_mut(at) else { return Ok(false) };
        let before = std::mem::replace(slot, value);
        if before == value {
            return Ok(false);
        }
        open.changed = true;
        open.parts |= part_of(index);
        self.hole_blocks = (self.hole_blocks + u64::from(value == HOLE)).saturating_sub(u64::from(before == HOLE));
        Ok(true)
    }

    /// The bytes of the whole content, needed when the new size is at most one block and anything changed.
    pub fn small_content(&mut self, bytes: &[u8]) {
        self.small_root = Some(Root::Blake3(blake3::hash(bytes).into()));
    }

    fn open(&mut self, group: u64) -> Res<&mut Open, N> {
        if self.open.as_ref().is_none_or(|open| open.group != group) {
            self.close();
            let mut values = load(&self.nodes, 0, group)?;
            // Values beyond the old end are holes whatever is stored, and values beyond the new end are dropped.
            if !self.nodes.writes.contains_key(&(0, group)) {
                values.truncate(block::entries(block::count(self.old.size), 0, group));
            }
            values.resize(block::entries(block::count(self.new_size), 0, group), HOLE);
            self.open = Some(Open { group, values, changed: false, parts: 0 });
        }
        // The branch above set it, so the closure never runs with another group.
        Ok(self.open.get_or_insert_with(|| Open { group, values: Vec::new(), changed: false, parts: 0 }))
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take()
            && open.changed
        {
            self.nodes.writes.insert((0, open.group), encode(&open.values));
            self.dirty.insert(open.group);
            *self.parts.entry(open.group).or_default() |= open.parts;
        }
    }

    /// Marks a group as changed although no value changed: its shape did.
    fn touch(&mut self, group: u64) -> Res<(), N> {
        let open = self.open(group)?;
        (open.changed, open.parts) = (true, ALL_PARTS);
        Ok(())
    }

    /// The new image, and the nodes to write with its commit.
    pub fn finish(mut self) -> Res<(Image, NodeWrites), N> {
        let (old_blocks, new_blocks) = (block::count(self.old.size), block::count(self.new_size));
        let groups = block::groups(self.new_size);
        if self.old.size != self.new_size && groups > 0 {
            let old_last = block::groups(self.old.size).saturating_sub(1).min(groups - 1);
            self.touch(old_last)?;
            self.touch(groups - 1)?;
        }
        self.close();
        let old_kind = self.old.root.kind();
        let kind = self.rules.kind(self.hole_blocks);
        let rebuild = kind != old_kind;
        let drop_from = if rebuild { 0 } else { new_blocks };
        if rebuild || new_blocks < old_blocks {
            let mut drop = Vec::new();
            let mut keep = Vec::new();
            walk_present(self.nodes.base, &self.old, drop_from, old_blocks, &mut |level, index| {
                if index >= block::nodes_at(new_blocks, level) || (rebuild && level > 0) {
                    drop.push((level, index));
                } else if rebuild {
                    keep.push(index);
                }
            })?;
            self.nodes.writes.extend(drop.into_iter().map(|key| (key, None)));
            self.dirty.extend(keep);
        }
        if kind == RootKind::Blake3 {
            // Holes have values in a standard tree, and there are few (`Rules::sparse_bytes`).
            let known = if rebuild { 0 } else { block::groups(self.old.size) };
            self.dirty.extend(known..groups);
        }
        let root = self.fold_up(kind, new_blocks)?;
        let image = Image { size: self.new_size, root, hole_blocks: self.hole_blocks, signed: self.old.signed };
        Ok((image, self.nodes.writes))
    }

    fn fold_up(&mut self, kind: RootKind, blocks: u64) -> Res<Root, N> {
        if self.dirty.is_empty() && self.old.size == self.new_size {
            return Ok(self.old.root);
        }
        if blocks == 0 {
            return Ok(Image::empty().root);
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        if block::top_level(blocks) > 0 {
            dirty = self.fold_groups_again(kind, &dirty)?;
        }
        for level in 1..block::top_level(blocks) {
            dirty = fold_level(&mut self.nodes, kind, self.new_size, level, &dirty)?;
        }
        root_of(&self.nodes, kind, self.new_size)?.or(self.small_root).ok_or(TreeError::OneBlockBytes)
    }

    /// Updates the parents with the values of the `dirty` groups; returns the parents.
    fn fold_groups_again(&mut self, kind: RootKind, dirty: &BTreeSet<u64>) -> Res<BTreeSet<u64>, N> {
        let mut children = Vec::with_capacity(dirty.len());
        let mut family = None;
        for group in dirty {
            let entries = load(&self.nodes, 0, *group)?;
            let parent = group / GROUP_BLOCKS;
            if family.as_ref().is_none_or(|(of, _)| *of != parent) {
                family = Some((parent, load(&self.nodes, 1, parent)?));
            }
            let before = family.as_ref().and_then(|(_, values)| values.get((group % GROUP_BLOCKS) as usize));
            let parts = self.parts.get(group).copied().unwrap_or(ALL_PARTS);
            children.push((*group, self.group_again(kind, *group, &entries, before.unwrap_or(&HOLE), parts)));
        }
        store_parents(&mut self.nodes, self.new_size, 0, &children)
    }

    /// The value of a group that was `before`, and of which `parts` changed.
    fn group_again(&self, kind: RootKind, group: u64, entries: &[Value], before: &Value, parts: Parts) -> Value {
        let width = block::entries(block::count(self.new_size), 0, group);
        let span = Span { first: group * GROUP_BLOCKS, width, size: self.new_size };
        match self.nodes.memo().filter(|_| kind == RootKind::Blake3 && width == FAN) {
            Some(memo) => full_group(&mut memo.borrow_mut(), entries, span, before, parts),
            None => group_value(kind, entries, group, self.new_size),
        }
    }
}

/// Updates the parents with the values of the `dirty` nodes of `level`, which is above 0; returns the parents.
fn fold_level<N: Nodes>(
    nodes: &mut Overlay<'_, N>,
    kind: RootKind,
    size: u64,
    level: u8,
    dirty: &BTreeSet<u64>,
) -> Res<BTreeSet<u64>, N> {
    let mut children = Vec::with_capacity(dirty.len());
    for index in dirty {
        let entries = load(nodes, level, *index)?;
        children.push((*index, upper_value::<N>(kind, &entries, size, level, *index)?));
    }
    store_parents(nodes, size, level, &children)
}

/// Stores the given values of nodes of `level` in their parents; returns the parents.
fn store_parents<N: Nodes>(
    nodes: &mut Overlay<'_, N>,
    size: u64,
    level: u8,
    children: &[(u64, Value)],
) -> Res<BTreeSet<u64>, N> {
    let up = level + 1;
    let mut parents = BTreeSet::new();
    for family in children.chunk_by(|a, b| a.0 / GROUP_BLOCKS == b.0 / GROUP_BLOCKS) {
        let Some(parent) = family.first().map(|(index, _)| index / GROUP_BLOCKS) else { continue };
        let mut entries = load(nodes, up, parent)?;
        entries.resize(block::entries(block::count(size), up, parent), HOLE);
        for (index, value) in family {
            if let Some(slot) = entries.get_mut((index % GROUP_BLOCKS) as usize) {
                *slot = *value;
            }
        }
        nodes.writes.insert((up, parent), encode(&entries));
        parents.insert(parent);
    }
    Ok(parents)
}

/// Folds all levels above level 0, given the values of the changed groups. Returns the root if it can be computed without
/// the bytes.
pub(crate) fn fold_groups<N: Nodes>(
    nodes: &mut Overlay<'_, N>,
    kind: RootKind,
    size: u64,
    groups: &[(u64, Value)],
) -> Res<Option<Root>, N> {
    let top = block::top_level(block::count(size));
    if top > 0 {
        let mut dirty = store_parents(nodes, size, 0, groups)?;
        for level in 1..top {
            dirty = fold_level(nodes, kind, size, level, &dirty)?;
        }
    }
    root_of(nodes, kind, size)
}

fn upper_value<N: Nodes>(kind: RootKind, entries: &[Value], size: u64, level: u8, index: u64) -> Res<Value, N> {
    let expected = block::entries(block::count(size), level, index);
    match kind {
        RootKind::Sparse => Ok(sparse_value(entries, expected)),
        RootKind::Blake3 => {
            complete::<N>(entries, expected, level, index)?;
            Ok(values_value(entries))
        }
    }
}

fn complete<N: Nodes>(entries: &[Value], expected: usize, level: u8, index: u64) -> Res<(), N> {
    let whole = entries.len() == expected && !entries.contains(&HOLE);
    if whole { Ok(()) } else { Err(TreeError::Incomplete { level, index, entries: entries.len(), expected }) }
}

/// Root from the top node; `None` for a standard root of at most one block, which needs the bytes.
fn root_of<N: Nodes>(nodes: &Overlay<'_, N>, kind: RootKind, size: u64) -> Res<Option<Root>, N> {
    let blocks = block::count(size);
    let level = block::top_level(blocks);
    let entries = load(nodes, level, 0)?;
    let width = block::entries(blocks, level, 0);
    if kind == RootKind::Sparse {
        let top = match sparse_value(&entries, width) {
            ZERO => HOLE,
            value => value,
        };
        return Ok(Some(sparse_root_of(size, &top)));
    }
    if blocks < 2 {
        return Ok((blocks == 0).then(|| Image::empty().root));
    }
    if level == 0 {
        return Ok(Some(blocks_root(&entries, Span { first: 0, width, size })));
    }
    complete::<N>(&entries, width, level, 0)?;
    Ok(Some(values_root(&entries)))
}

/// Calls `visit(level, index)` for every node of `image` that may be stored and covers a block of `from..to`,
/// parents first.
///
/// In a sparse image only non-hole subtrees are descended into; in a standard image every node of the range is visited
/// (its holes are few) and nothing is read.
pub fn walk_present<N: Nodes>(
    nodes: &N,
    image: &Image,
    from: u64,
    to: u64,
    visit: &mut dyn FnMut(u8, u64),
) -> Res<(), N> {
    let blocks = block::count(image.size);
    let to = to.min(blocks);
    if from >= to {
        return Ok(());
    }
    let top = block::top_level(blocks);
    if image.root.kind() == RootKind::Blake3 {
        for level in (0..=top).rev() {
            let unit = FAN as u64;
            let span = |block: u64| (0..=level).fold(block, |at, _| at / unit);
            (span(from)..=span(to - 1)).for_each(|index| visit(level, index));
        }
        return Ok(());
    }
    walk_sparse(nodes, (top, 0), from, to, visit)
}

fn walk_sparse<N: Nodes>(
    nodes: &N,
    (level, index): (u8, u64),
    from: u64,
    to: u64,
    visit: &mut dyn FnMut(u8, u64),
) -> Res<(), N> {
    visit(level, index);
    if level == 0 {
        return Ok(());
    }
    for (at, value) in load(nodes, level, index)?.iter().enumerate() {
        let child = index * GROUP_BLOCKS + at as u64;
        let end = block::end_of_node(level - 1, child);
        let start = if child == 0 { 0 } else { block::end_of_node(level - 1, child - 1) };
        if *value != HOLE && end > from && start < to {
            walk_sparse(nodes, (level - 1, child), from, to, visit)?;
        }
    }
    Ok(())
}

/// Blocks of `from..to` that are not hole.
fn data_blocks<N: Nodes>(nodes: &N, image: &Image, from: u64, to: u64) -> Res<u64, N> {
    let mut groups = Vec::new();
    walk_present(nodes, image, from, to, &mut |level, index| {
        if level == 0 {
            groups.push(index);
        }
    })?;
    let mut count = 0;
    for group in groups {
        let first = group * GROUP_BLOCKS;
        let values = load(nodes, 0, group)?;
        let inside = |at: usize| (from..to).contains(&(first + at as u64));
        count += values.iter().enumerate().filter(|(at, value)| inside(*at) && **value != HOLE).count() as u64;
    }
    Ok(count)
}

//! All of a file, fed in order: for new files, files that replace another, and files without exact marks.
//!
//! Blocks equal to the base's at the same offset (by value) are copied. What is between them is matched against the base's
//! signature, if there is one; the rest is literal. Holes stay holes, and nothing else becomes a hole.
//!
//! Memory: one group (2 MiB), one window of the delta, the steps not yet taken, and 0.8 % of the data for nodes, which may
//! be taken early for a file without a committed image.

use std::collections::BTreeMap;

use super::error::ImageError;
use crate::block::{self, BLOCK_LEN, FAN, GROUP_BLOCKS, GROUP_BYTES, GROUP_LEN};
use crate::delta::{Differ, Ops};
use crate::model::{BLOCK_BYTES, FileId, Op, Root};
use crate::signature::{ENTRY_BYTES, HOLE_ENTRY, Index, SignatureWrites, group_signature};
use crate::tree::{
    HOLE, Image, NodeWrites, Nodes, Overlay, RootKind, Rules, TreeError, Value, block_value, encode, fold_groups,
    group_value, load, walk_present,
};

type Res<T, N> = Result<T, ImageError<<N as Nodes>::Error>>;

/// The committed content that copies may read: the file's own, or that of the file it replaces.
#[derive(Debug)]
pub struct Base<'a, N> {
    pub id: FileId,
    pub image: Image,
    pub nodes: &'a N,
    /// Its signature, if `image.signed` and it could be read.
    pub index: Option<&'a Index<'a>>,
}

/// What the catalog stores, and what the commit says, of a file that was fed completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholePlan {
    pub image: Image,
    /// Whose content the copies read; `None` when there are none.
    pub base: Option<FileId>,
    /// The steps that were not taken earlier.
    pub ops: Vec<Op<Vec<u8>>>,
    pub node_writes: NodeWrites,
    pub signature_writes: SignatureWrites,
    /// Blocks that differ from the base at their offset; all blocks if there is no base.
    pub changed_blocks: u64,
    pub same_blocks: u64,
    /// Bytes of all literals, taken earlier or not.
    pub literal_bytes: u64,
    /// The base is the file itself and already has this image: nothing is to be committed.
    pub unchanged: bool,
}

/// Plans one file from all of its content.
pub struct WholePlanner<'a, N: Nodes> {
    id: FileId,
    base: Option<Base<'a, N>>,
    rules: Rules,
    /// Bytes fed.
    pos: u64,
    /// Bytes of the open group, zeros where nothing was fed, and which of its blocks have data.
    group: Vec<u8>,
    data: [bool; FAN],
    ops: Ops,
    differ: Option<Differ<'a>>,
    small_root: Option<Root>,
    hole_blocks: u64,
    nodes: NodeWrites,
    /// Groups with data: their value in a standard tree (while the file may still be one), and in a sparse one.
    values: BTreeMap<u64, (Option<Value>, Value)>,
    signed: bool,
    signatures: SignatureWrites,
    changed_blocks: u64,
    same_blocks: u64,
}

impl<'a, N: Nodes> WholePlanner<'a, N> {
    /// Begins the content of file `id`. If `base` is `id` itself, the result replaces its stored nodes and signatures.
    pub fn new(id: FileId, base: Option<Base<'a, N>>, rules: Rules) -> Self {
        let differ = base.as_ref().and_then(|base| base.index).map(Differ::new);
        WholePlanner {
            id,
            base,
            rules,
            pos: 0,
            group: vec![0; GROUP_LEN],
            data: [false; FAN],
            ops: Ops::default(),
            differ,
            small_root: None,
            hole_blocks: 0,
            nodes: NodeWrites::new(),
            values: BTreeMap::new(),
            signed: true,
            signatures: SignatureWrites::new(),
            changed_blocks: 0,
            same_blocks: 0,
        }
    }

    /// The next bytes of the file.
    pub fn bytes(&mut self, mut bytes: &[u8]) -> Res<(), N> {
        while !bytes.is_empty() {
            let at = (self.pos % GROUP_BYTES) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(GROUP_LEN - at));
            self.group[at..at + now.len()].copy_from_slice(now);
            self.data[at / BLOCK_LEN..=(at + now.len() - 1) / BLOCK_LEN].fill(true);
            self.pos += now.len() as u64;
            bytes = later;
            if self.pos.is_multiple_of(GROUP_BYTES) {
                self.close_group(GROUP_LEN)?;
            }
        }
        Ok(())
    }

    /// The next `len` bytes of the file are a hole. A block that also has data counts as data.
    pub fn hole(&mut self, mut len: u64) -> Res<(), N> {
        while len > 0 {
            let at = self.pos % GROUP_BYTES;
            if at == 0 && len >= GROUP_BYTES {
                let groups = len / GROUP_BYTES;
                self.hole_groups(groups)?;
                len -= groups * GROUP_BYTES;
                continue;
            }
            let now = len.min(GROUP_BYTES - at);
            self.pos += now;
            len -= now;
            if self.pos.is_multiple_of(GROUP_BYTES) {
                self.close_group(GROUP_LEN)?;
            }
        }
        Ok(())
    }

    /// Takes the steps that are final so far; call it between pieces to bound memory.
    pub fn take_ops(&mut self) -> Vec<Op<Vec<u8>>> {
        self.ops.take()
    }

    /// Takes the nodes that are final so far. Only for a file without a committed image: other files' nodes must change
    /// together with the commit.
    pub fn take_node_writes(&mut self) -> NodeWrites {
        // The first group may turn out to be the whole tree.
        let first = self.nodes.remove(&(0, 0));
        let taken = std::mem::take(&mut self.nodes);
        self.nodes.extend(first.map(|write| ((0, 0), write)));
        taken
    }

    fn hole_groups(&mut self, groups: u64) -> Res<(), N> {
        self.end_run()?;
        let first = self.pos / GROUP_BYTES;
        self.pos += groups * GROUP_BYTES;
        self.ops.hole(groups * GROUP_BYTES);
        self.hole_blocks += groups * GROUP_BLOCKS;
        // Whether the base had data here is looked up once, at the end.
        self.sign(first..first + groups, None);
        Ok(())
    }

    fn sign(&mut self, groups: std::ops::Range<u64>, bytes: Option<&[u8]>) {
        self.signed &= self.pos <= self.rules.signature_bytes;
        if !self.signed {
            self.signatures.clear();
            return;
        }
        for group in groups {
            let mut entries = Vec::new();
            match bytes {
                Some(bytes) => group_signature(bytes, &mut entries),
                None => entries.resize(FAN * ENTRY_BYTES, HOLE_ENTRY[0]),
            }
            for (entry, data) in entries.chunks_mut(ENTRY_BYTES).zip(self.data) {
                if !data {
                    entry.copy_from_slice(&HOLE_ENTRY[..entry.len()]);
                }
            }
            self.signatures.insert(group, Some(entries));
        }
    }

    fn end_run(&mut self) -> Res<(), N> {
        match &mut self.differ {
            Some(differ) => Ok(differ.end(&mut self.ops)?),
            None => Ok(()),
        }
    }

    /// Processes the open group, which has `len` bytes.
    fn close_group(&mut self, len: usize) -> Res<(), N> {
        let group = (self.pos - 1) / GROUP_BYTES;
        let bytes = std::mem::take(&mut self.group);
        let result = self.group(group, &bytes[..len]);
        self.group = bytes;
        self.group[..len].fill(0);
        self.data = [false; FAN];
        result
    }

    fn group(&mut self, group: u64, bytes: &[u8]) -> Res<(), N> {
        if group == 0 && bytes.len() <= BLOCK_LEN {
            self.small_root = Some(Root::Blake3(blake3::hash(bytes).into()));
        }
        let old = match &self.base {
            Some(base) if group < block::groups(base.image.size) => load(base.nodes, 0, group)?,
            _ => Vec::new(),
        };
        let mut values = Vec::with_capacity(FAN);
        for (at, block) in bytes.chunks(BLOCK_LEN).enumerate() {
            let index = group * GROUP_BLOCKS + at as u64;
            let value = if self.data[at] { block_value(index, block) } else { HOLE };
            let there = self.base.as_ref().map_or(0, |base| block::len(base.image.size, index));
            let same = there == block.len() && old.get(at).copied().unwrap_or(HOLE) == value;
            self.step(block::offset(index), block, value, same)?;
            self.hole_blocks += u64::from(value == HOLE);
            self.same_blocks += u64::from(same);
            self.changed_blocks += u64::from(!same);
            values.push(value);
        }
        if let Some(node) = encode(&values) {
            let kind = self.rules.kind(self.hole_blocks);
            let standard = (kind == RootKind::Blake3).then(|| group_value(kind, &values, group, self.pos));
            self.values.insert(group, (standard, group_value(RootKind::Sparse, &values, group, self.pos)));
            if !(self.replaces_itself() && encode(&old).as_ref() == Some(&node)) {
                self.nodes.insert((0, group), Some(node));
            }
        }
        self.sign(group..group + 1, Some(bytes));
        Ok(())
    }

    fn step(&mut self, offset: u64, bytes: &[u8], value: Value, same: bool) -> Res<(), N> {
        let len = bytes.len() as u64;
        if value == HOLE {
            self.end_run()?;
            self.ops.hole(len);
        } else if same {
            self.end_run()?;
            self.ops.copy(offset, len);
        } else if let Some(differ) = &mut self.differ {
            differ.bytes(bytes, &mut self.ops)?;
        } else {
            self.ops.literal(bytes);
        }
        Ok(())
    }

    fn replaces_itself(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.id == self.id)
    }

    /// The file ends here.
    pub fn finish(mut self) -> Res<WholePlan, N> {
        let rest = (self.pos % GROUP_BYTES) as usize;
        if rest > 0 {
            self.close_group(rest)?;
        }
        self.end_run()?;
        let root = self.root()?;
        let image = Image { size: self.pos, root, hole_blocks: self.hole_blocks, signed: self.signed };
        let mut unchanged = false;
        if let Some(base) = self.base.as_ref().filter(|base| base.id == self.id) {
            let mut stale = Vec::new();
            walk_present(base.nodes, &base.image, 0, u64::MAX, &mut |level, index| {
                let kept = level == 0 && self.values.contains_key(&index);
                if !kept && !self.nodes.contains_key(&(level, index)) {
                    stale.push((level, index));
                }
            })?;
            for (level, index) in stale {
                if level == 0 && encode(&load(base.nodes, 0, index)?).is_some() {
                    // Whole groups of data that became holes were not compared before.
                    self.changed_blocks += 1;
                }
                self.nodes.insert((level, index), None);
            }
            let had = if base.image.signed { block::groups(base.image.size) } else { 0 };
            let has = if self.signed { block::groups(self.pos) } else { 0 };
            self.signatures.extend((has..had).map(|group| (group, None)));
            unchanged = self.changed_blocks == 0 && base.image.size == self.pos;
        }
        let base = self.base.as_ref().map(|base| base.id).filter(|_| self.ops.copied());
        Ok(WholePlan {
            image,
            base,
            literal_bytes: self.ops.literal_bytes(),
            ops: self.ops.into_vec(),
            node_writes: self.nodes,
            signature_writes: self.signatures,
            changed_blocks: self.changed_blocks,
            same_blocks: self.same_blocks,
            unchanged,
        })
    }

    fn root(&mut self) -> Res<Root, N> {
        let size = self.pos;
        let kind = self.rules.kind(self.hole_blocks);
        if kind == RootKind::Blake3 && size <= BLOCK_BYTES {
            return Ok(self.small_root.unwrap_or(Image::empty().root));
        }
        let values: Vec<(u64, Value)> = match kind {
            RootKind::Sparse => self.values.iter().map(|(group, (_, value))| (*group, *value)).collect(),
            RootKind::Blake3 => (0..block::groups(size))
                .map(|group| {
                    let known = self.values.get(&group).and_then(|(value, _)| *value);
                    (group, known.unwrap_or_else(|| group_value(kind, &[], group, size)))
                })
                .collect(),
        };
        // An unchanged group is not among the writes, but may be the whole tree.
        let stored = self.base.as_ref().filter(|base| base.id == self.id);
        let first = match stored {
            Some(base) if block::groups(size) == 1 && self.values.contains_key(&0) => load(base.nodes, 0, 0)?,
            _ => Vec::new(),
        };
        let below: NodeWrites = encode(&first).map(|node| ((0, 0), Some(node))).into_iter().collect();
        let mut nodes = Overlay { base: &below, writes: std::mem::take(&mut self.nodes) };
        let root = fold_groups(&mut nodes, kind, size, &values);
        self.nodes = nodes.writes;
        Ok(root.map_err(TreeError::widen)?.ok_or(TreeError::OneBlockBytes)?)
    }
}

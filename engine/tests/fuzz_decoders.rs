//! Mutated objects of every kind: no decoder may panic, nor use more than 256 MiB for any of them.
//!
//! `cargo xtask fuzz-decoders` makes 20,000 of each kind; the gate makes fewer. That command sets `TRACKER_FUZZ_COUNT` and
//! `TRACKER_FUZZ_SEED`. Most mutants get a correct checksum, as somebody with write access to a store could give them;
//! otherwise they would be refused before anything is decoded.
#![expect(unsafe_code, reason = "an allocator that counts what decoders take")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::*;
use engine::checkpoint::{self, CheckpointRoot, LoadError, load, page};
use engine::format::codec::checksum;
use engine::format::commit::{self, Expect};
use engine::format::era::{self, Era, VolumeFormat};
use engine::format::{Key, frame, pack};
use engine::manifest::Manifest;
use engine::model::*;
use engine::plan::{self, ReadLimits, RestorePlan};
use engine::signature::BaseSignature;

const MEMORY_MAX: usize = 256 << 20;
/// Mutants of each kind in the gate.
const COUNT: u64 = 1_500;
const PACK: ObjectRef = ObjectRef::Pack { seq: Seq(2), epoch: 3, n: 4096 };

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator; only counters are added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are those of this function.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// xorshift64*: the same mutants for the same seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Numbers that change where a count, a length or an offset ends: zero, ones, the largest of each width, as varints.
const VALUES: [&[u8]; 8] = [
    &[0],
    &[1],
    &[0x7f],
    &[0xff],
    &[0x80, 0x80, 0x40],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff; 12],
];

/// One to eight changes, none of the first `keep` bytes.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, keep: usize) {
    for _ in 0..=rng.below(8) {
        let len = bytes.len();
        if len <= keep {
            bytes.push(rng.next() as u8);
            continue;
        }
        let at = keep + rng.below(len - keep);
        let end = (at + 1 + rng.below(64)).min(len);
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes[at] = bytes[at].wrapping_add([1, 255][rng.below(2)]),
            3 | 4 => {
                let value = VALUES[rng.below(VALUES.len())];
                let over = if rng.one_in(2) { (at + value.len()).min(len) } else { at };
                bytes.splice(at..over, value.iter().copied());
            }
            5 => drop(bytes.drain(at..end)),
            6 => {
                let piece = bytes[at..end].to_vec();
                let to = keep + rng.below(len - keep);
                let times = if rng.one_in(16) { 200 } else { 1 };
                bytes.splice(to..to, piece.repeat(times));
            }
            _ => bytes.truncate(at),
        }
    }
}

/// Corrects the checksum over everything before it.
fn reseal(bytes: &mut Vec<u8>, context: &str) {
    bytes.truncate(bytes.len().saturating_sub(16));
    let sum = checksum(context, bytes);
    bytes.extend_from_slice(&sum);
}

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/format").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Decodes a mutant; true if it was accepted as a whole object.
type Decode = Box<dyn Fn(&mut Rng, Vec<u8>) -> bool>;

/// Objects of one kind and what decodes a mutant of them.
struct Subject {
    name: &'static str,
    objects: Vec<Vec<u8>>,
    decode: Decode,
}

fn commits() -> Subject {
    let manifest = small();
    let generated = next(
        &manifest,
        changes(
            vec![write(
                3,
                Some(3),
                vec![Op::Copy { from: 2, len: 5 }, Op::Literal(vec![9; 9000]), Op::Hole { len: 4096 }],
            )],
            vec![set(2, "new", 3), unset(5, "l")],
            &[6],
        ),
    );
    let mut objects = vec![generated.0];
    for version in ["v1", "v2", "v3"] {
        objects.extend(["commit-inline.bin", "commit-packed.bin"].map(|name| golden(&format!("{version}/{name}"))));
    }
    let decode = move |rng: &mut Rng, mut bytes: Vec<u8>| {
        if !rng.one_in(8) {
            // In most of these the length of the body is corrected too.
            if bytes.len() > 40 && rng.one_in(2) {
                let body = (bytes.len() - 24 - rng.below(bytes.len() - 24)) as u32;
                let at = bytes.len() - 20;
                bytes[at..at + 4].copy_from_slice(&body.to_le_bytes());
            }
            reseal(&mut bytes, commit::CONTEXT);
        }
        let _ = commit::peek(&bytes);
        let decoded = commit::decode(&bytes, Expect { volume: VOLUME, seq: Seq(2) });
        if let Ok(commit) = &decoded {
            commit.encode().expect("what is decoded can be encoded");
            let mut applied = manifest.clone();
            if applied.apply(commit, commit::hash(&bytes)).is_ok() {
                plan(&applied);
            }
        }
        decoded.is_ok()
    };
    Subject { name: "commit", objects, decode: Box::new(decode) }
}

fn plan(manifest: &Manifest) {
    if let Ok(plan) = RestorePlan::new(manifest) {
        plan::merge(plan.frames, ReadLimits::default());
    }
}

fn checkpoints() -> Subject {
    let objects = ["v1", "v2"].map(|version| golden(&format!("{version}/checkpoint.bin"))).to_vec();
    let decode = |rng: &mut Rng, mut bytes: Vec<u8>| {
        if !rng.one_in(8) {
            reseal(&mut bytes, checkpoint::CONTEXT);
        }
        CheckpointRoot::decode(&bytes, VOLUME, Seq(1)).is_ok()
    };
    Subject { name: "checkpoint", objects, decode: Box::new(decode) }
}

/// A page as it is read under its own hash, and in the checkpoint that names it.
fn pages() -> Subject {
    let mut objects = Vec::new();
    let mut roots = BTreeMap::new();
    let mut all = BTreeMap::new();
    for version in ["v1", "v2"] {
        let root = CheckpointRoot::decode(&golden(&format!("{version}/checkpoint.bin")), VOLUME, Seq(1)).unwrap();
        for (n, hash) in root.pages().enumerate() {
            let bytes = golden(&format!("{version}/page-{n}.bin"));
            roots.insert(bytes.clone(), (root.clone(), hash));
            all.insert(hash, bytes.clone());
            objects.push(bytes);
        }
    }
    let roots: Vec<(CheckpointRoot, Hash)> = objects.iter().map(|bytes| roots[bytes].clone()).collect();
    let decode = move |rng: &mut Rng, bytes: Vec<u8>| {
        let hash = commit::hash(&bytes);
        let _ = page::decode(&hash, &bytes);
        let (mut root, old) = roots[rng.below(roots.len())].clone();
        let named = root.files.iter_mut().map(|(_, hash)| hash);
        let named = named.chain(root.names.iter_mut().map(|(_, hash)| hash));
        named
            .chain(root.extents.iter_mut().map(|(_, _, hash)| hash))
            .filter(|name| **name == old)
            .for_each(|name| *name = hash);
        let fetch = |name: &Hash| Ok::<_, LoadError>(if *name == hash { bytes.clone() } else { all[name].clone() });
        let loaded = load(&root, fetch);
        loaded.is_ok_and(|manifest| {
            plan(&manifest);
            true
        })
    };
    Subject { name: "page", objects, decode: Box::new(decode) }
}

fn eras() -> Subject {
    let objects = ["v1", "v2"].map(|version| golden(&format!("{version}/era.bin"))).to_vec();
    let decode = |rng: &mut Rng, mut bytes: Vec<u8>| {
        if !rng.one_in(8) {
            reseal(&mut bytes, era::ERA_CONTEXT);
        }
        Era::decode(&bytes, VOLUME, 2, 4096).is_ok()
    };
    Subject { name: "era", objects, decode: Box::new(decode) }
}

fn formats() -> Subject {
    let decode = |rng: &mut Rng, mut bytes: Vec<u8>| {
        if !rng.one_in(8) {
            reseal(&mut bytes, era::FORMAT_CONTEXT);
        }
        VolumeFormat::decode(&bytes).is_ok()
    };
    Subject { name: "format", objects: vec![golden("v1/format.bin")], decode: Box::new(decode) }
}

fn packs() -> Subject {
    let decode = |rng: &mut Rng, mut bytes: Vec<u8>| {
        if !rng.one_in(8) && bytes.len() > 24 {
            let body = bytes.len() - 16;
            let tail = bytes[body - 4..body].try_into().map_or(0, u32::from_le_bytes) as usize;
            let start = (body - 4).saturating_sub(tail.min(body));
            let sum = checksum(pack::CONTEXT, &bytes[start..body]);
            bytes.splice(body.., sum);
        }
        let _ = pack::decode_index(&VOLUME, PACK, rng.next() >> rng.below(64), &bytes);
        pack::verify(&VOLUME, PACK, &bytes).is_ok()
    };
    Subject { name: "pack", objects: vec![golden("v1/pack.bin")], decode: Box::new(decode) }
}

/// Stored bytes under a correct frame checksum, with any plain length: decompression bombs among them.
fn frames() -> Subject {
    let bomb = zstd_of(&vec![0; 64 << 20]);
    let objects = vec![zstd_of(&noise(3000)), zstd_of(&vec![7; 131_072]), bomb, noise(500)];
    let decode = |rng: &mut Rng, stored: Vec<u8>| {
        let plain_len = [stored.len(), 131_072, 3000, 0, rng.below(1 << 24)][rng.below(5)] as u32;
        let codec = [frame::CODEC_RAW, frame::CODEC_ZSTD, frame::CODEC_ZSTD, rng.next() as u8][rng.below(4)];
        let mut bytes = Vec::new();
        frame::Body { codec, plain_len, stored }.write(&VOLUME, PACK, &mut bytes);
        if rng.one_in(8) {
            mutate(rng, &mut bytes, 0);
        }
        let decoded = frame::decode(&VOLUME, PACK, 0, &bytes);
        assert!(decoded.as_ref().map_or(true, |plain| plain.len() == plain_len as usize));
        let at = DataRef {
            object: PACK,
            frame_offset: 0,
            frame_bytes: bytes.len() as u32,
            skip: rng.next() as u32 >> rng.below(32),
        };
        let _ = frame::read_run(&VOLUME, &at, rng.next() >> rng.below(64), &bytes);
        decoded.is_ok()
    };
    Subject { name: "frame", objects, decode: Box::new(decode) }
}

fn zstd_of(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 1).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

fn signatures() -> Subject {
    let mut own = Vec::new();
    engine::signature::group_signature(&noise(5 * 4096), &mut own);
    let mut foreign = [0x7273_0136u32, 4096, 8].iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    foreign.extend(noise(12 * 5));
    let decode = |rng: &mut Rng, bytes: Vec<u8>| {
        let size = [5 * 4096, rng.next() >> rng.below(64)][rng.below(2)];
        let taken = [BaseSignature::from_librsync(size, bytes.clone()), BaseSignature::assemble(size, [&bytes])];
        taken.into_iter().flatten().map(|signature| drop(signature.index())).count() > 0
    };
    Subject { name: "signature", objects: vec![own, foreign], decode: Box::new(decode) }
}

fn keys() -> Subject {
    let keys =
        [Key::Commit(Seq(7)), Key::Era(3), Key::Page([8; 32]), Key::Pack { seq: Seq(1), epoch: 2, n: 3 }, Key::Format];
    let decode = |_: &mut Rng, bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes);
        let key = text.parse::<Key>();
        assert!(key.as_ref().map_or(true, |key| key.to_string() == text), "a key has one form: {text}");
        key.is_ok()
    };
    Subject { name: "key", objects: keys.map(|key| key.to_string().into_bytes()).to_vec(), decode: Box::new(decode) }
}

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The only test in this file: the allocator counts what the whole process uses.
#[test]
fn mutated_objects_neither_panic_nor_take_much_memory() {
    let (count, seed) = (from_env("TRACKER_FUZZ_COUNT", COUNT), from_env("TRACKER_FUZZ_SEED", 1));
    for kind in [commits(), checkpoints(), pages(), eras(), formats(), packs(), frames(), signatures(), keys()] {
        let (mut most, mut accepted) = (0, 0);
        for number in 0..count {
            let mut rng = Rng((seed << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let mut bytes = kind.objects[rng.below(kind.objects.len())].clone();
            // The head is checked before everything else, so most mutants keep it.
            let keep = if rng.one_in(16) { 0 } else { 4 };
            mutate(&mut rng, &mut bytes, keep);
            let before = NOW.load(Relaxed);
            PEAK.store(before, Relaxed);
            let done = catch_unwind(AssertUnwindSafe(|| (kind.decode)(&mut rng, bytes)));
            let repeat = format!("{} {number} of seed {seed}", kind.name);
            let Ok(taken_for_whole) = done else { panic!("{repeat} panics") };
            accepted += u64::from(taken_for_whole);
            let taken = PEAK.load(Relaxed).saturating_sub(before);
            assert!(taken <= MEMORY_MAX, "{repeat} takes {taken} bytes");
            most = most.max(taken);
        }
        println!("{}: {count} mutants, {accepted} taken, at most {} KiB for one", kind.name, most >> 10);
        // Otherwise all were refused by the first checks, and no later code was tested.
        assert!(accepted > 0, "no mutant of {} gets past the first checks", kind.name);
    }
}

//! What the delta engine promises: little is uploaded, the root is the standard hash, and librsync's own program
//! understands its formats.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::delta::{diff_windows, export_rdiff};
use engine::image::{Base, BlockData, WholePlan, WholePlanner, plan_in_place};
use engine::model::{FileId, Op, Root};
use engine::signature::BaseSignature;
use engine::tree::{NoNodes, Rules};

const ID: FileId = FileId(2);
const BLOCK: usize = 4096;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn plan(content: &[u8]) -> WholePlan {
    let mut planner = WholePlanner::<NoNodes>::new(ID, None, Rules::default());
    for window in content.chunks(1 << 20) {
        planner.bytes(window).unwrap();
        planner.take_ops();
    }
    planner.finish().unwrap()
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

/// A directory of this test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("tracker-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // At worst it stays in the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program; `None` when it is not installed.
fn run(program: &str, args: &[&Path]) -> Option<Vec<u8>> {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(output.stdout)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn insert_100_bytes_at_the_front_of_64_mib_uploads_under_1_mib() {
    let old = noise(1, 64 << 20);
    let first = plan(&old);
    let signature = BaseSignature::load(first.image.size, &first.signature_writes).unwrap().unwrap();
    let index = signature.index();
    let base = Base { id: ID, image: first.image, nodes: &first.node_writes, index: Some(&index) };
    let new = [noise(2, 100), old.clone()].concat();
    let mut planner = WholePlanner::new(FileId(3), Some(base), Rules::default());
    let mut ops = Vec::new();
    for window in new.chunks(1 << 20) {
        planner.bytes(window).unwrap();
        ops.extend(planner.take_ops());
    }
    let second = planner.finish().unwrap();
    ops.extend(second.ops);
    assert!(apply(&old, &ops) == new);
    println!("{} literal bytes in {} steps", second.literal_bytes, ops.len());
    assert!(second.literal_bytes < 1 << 20, "{} literal bytes", second.literal_bytes);
    assert_eq!(second.base, Some(ID));
    assert_eq!(second.image.root, Root::Blake3(blake3::hash(&new).into()));
}

#[test]
fn scattered_thousand_blocks_upload_at_most_1_05() {
    let mut content = noise(3, 64 << 20);
    let first = plan(&content);
    let old = content.clone();
    let blocks = content.len() / BLOCK;
    let mut marks: Vec<usize> = (0..1000).map(|i| (i * 7919 + 13) % blocks).collect();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks.len(), 1000);
    for (seed, block) in marks.iter().enumerate() {
        content[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&noise(seed as u64 + 9, BLOCK));
    }
    // Each mark includes its 16 neighbours, as with large folios.
    let mut given: Vec<usize> = marks.iter().flat_map(|block| block / 16 * 16..(block / 16 + 1) * 16).collect();
    given.sort_unstable();
    given.dedup();
    let data =
        given.iter().map(|block| (*block as u64, BlockData::Bytes(&content[block * BLOCK..(block + 1) * BLOCK])));
    let size = content.len() as u64;
    let (nodes, signatures) = (&first.node_writes, &first.signature_writes);
    let plan = plan_in_place(ID, Some(&first.image), nodes, signatures, size, data, Rules::default()).unwrap().unwrap();
    // A step costs at most 20 bytes in a commit, plus its literal.
    let upload = plan.literal_bytes + 20 * plan.content.ops.len() as u64;
    let dirty = (marks.len() * BLOCK) as f64;
    println!("{} bytes for {dirty} dirty: {:.4}", upload, upload as f64 / dirty);
    assert!(upload as f64 <= 1.05 * dirty, "{upload} bytes for {dirty}");
    assert_eq!(plan.changed_blocks, 1000);
    assert!(apply(&old, &plan.content.ops) == content);
    assert_eq!(plan.image.root, Root::Blake3(blake3::hash(&content).into()));
}

#[test]
fn root_equals_b3sum() {
    let scratch = Scratch::new("b3sum");
    let mut by_program = 0;
    for len in [0, 1, 1024, 4095, 4096, 4097, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 5_000_000] {
        let content = noise(len as u64, len);
        let root = plan(&content).image.root;
        let path = scratch.write("content", &content);
        let expected = match run("b3sum", &[Path::new("--no-names"), &path]) {
            Some(printed) => {
                by_program += 1;
                String::from_utf8(printed).unwrap().trim().to_owned()
            }
            None => blake3::hash(&content).to_hex().to_string(),
        };
        let Root::Blake3(root) = root else { panic!("{len} bytes without holes are not sparse") };
        assert_eq!(blake3::Hash::from(root).to_hex().to_string(), expected, "{len} bytes");
    }
    if by_program == 0 {
        println!("SKIP root_equals_b3sum: b3sum is not installed; compared with the blake3 crate's own hash instead");
    }
}

fn export(ops: &[Op<Vec<u8>>]) -> Vec<u8> {
    let mut delta = Vec::new();
    let done: Result<(), Infallible> = export_rdiff(ops, |bytes| {
        delta.extend_from_slice(bytes);
        Ok(())
    });
    let Ok(()) = done;
    delta
}

#[test]
fn rdiff_understands_our_signatures_and_deltas() {
    let scratch = Scratch::new("rdiff");
    let old = noise(4, 3_000_001);
    let new = [&noise(5, 333), &old[..1_000_000], &[0; 9000], &old[1_200_000..], b"end"].concat();
    let (old_path, new_path) = (scratch.write("old", &old), scratch.write("new", &new));
    let signature_path = scratch.0.join("signature");
    let flags = ["-R", "rollsum", "-H", "md4", "-b", "4096", "-S", "8", "signature"].map(Path::new);
    if run("rdiff", &[&flags[..], &[&old_path, &signature_path]].concat()).is_none() {
        println!("SKIP rdiff_understands_our_signatures_and_deltas: rdiff is not installed");
        return;
    }
    let theirs = fs::read(&signature_path).unwrap();
    let ours = plan(&old);
    let ours = BaseSignature::load(ours.image.size, &ours.signature_writes).unwrap().unwrap();
    assert!(theirs == ours.librsync(), "the signatures differ");

    // Their signature, our delta (with a hole in place of the zeros), their patch.
    let foreign = BaseSignature::from_librsync(old.len() as u64, theirs).unwrap();
    let (head, tail) = new.split_at(333 + 1_000_000);
    let mut ops = diff_windows(&foreign.index(), [head]).unwrap();
    ops.push(Op::Hole { len: 9000 });
    ops.extend(diff_windows(&foreign.index(), [&tail[9000..]]).unwrap());
    let delta = export(&ops);
    assert!(delta.len() < 40_000, "{} bytes", delta.len());
    let delta_path = scratch.write("delta", &delta);
    let made = scratch.0.join("made");
    run("rdiff", &[Path::new("patch"), &old_path, &delta_path, &made]).unwrap();
    assert!(fs::read(&made).unwrap() == new);

    // Our signature, their delta, their patch; and our parser reads it.
    let signature_path = scratch.write("ours", ours.librsync());
    let (their_delta, again) = (scratch.0.join("their-delta"), scratch.0.join("again"));
    run("rdiff", &[Path::new("delta"), &signature_path, &new_path, &their_delta]).unwrap();
    run("rdiff", &[Path::new("patch"), &old_path, &their_delta, &again]).unwrap();
    assert!(fs::read(&again).unwrap() == new);
    let bytes = fs::read(&their_delta).unwrap();
    assert!(bytes.len() < 40_000, "{} bytes", bytes.len());
    for command in engine::delta::Commands::new(&bytes).unwrap() {
        command.unwrap();
    }
}

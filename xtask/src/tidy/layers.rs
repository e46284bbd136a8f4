//! Checks on who may use what: the kernel library, the AWS SDK, `unsafe`, and the purity of the engine (invariants I6
//! and I9 of docs/architecture.md).

use super::code::{code_only, has_word};
use super::{Fault, File};

/// Where aya may be named.
const AYA: [&str; 3] = ["tracker/src/capture/", "common/src/", "tracker-ebpf/src/"];
/// Where the AWS SDK may be named: one file or folder whose name begins with `s3`.
const AWS: [&str; 1] = ["tracker/src/store/s3"];

/// Where `unsafe` may stand, each with the reason it cannot be avoided. A new entry needs a reason as good as these.
const UNSAFE: &[(&str, &str)] = &[
    ("tracker-ebpf/src/", "every helper call and every kernel pointer of a BPF program is unsafe by nature"),
    ("common/src/maps.rs", "aya::Pod for map keys and values: they are plain bytes, checked by size tests"),
    ("tracker/src/capture/sys.rs", "the bpf(2) calls that aya does not offer: batches, pins by path, link information"),
    ("tests/src/ext4_calls.rs", "two ioctls of ext4 alone, which no safe crate offers"),
    (
        "tests/src/compare.rs",
        "the ioctl for projects, which no safe crate offers; other crates take the file in by its path",
    ),
    ("tests/src/raw_io.rs", "mappings, kernel AIO, io_uring and userfaultfd of the cases, which no safe crate offers"),
    ("engine/tests/fuzz_decoders.rs", "an allocator that counts what decoders take"),
    ("tests/tests/tenants.rs", "leases, and a FUSE mount without a server, which no safe crate offers"),
    ("tests/src/raw_calls.rs", "ioctls, splices, accounting and io_uring of the matrix, which no safe crate offers"),
    ("tests/src/bench/peers.rs", "an empty program, inotify and fanotify, which no safe crate offers"),
    ("tests/src/bench/process.rs", "CPU clocks of processes and the count of BPF links, which no safe crate offers"),
    (
        "tracker/src/source/sys.rs",
        "file handles, sync_file_range, extended inode flags and mappings have no safe wrapper",
    ),
];

/// What the engine may depend on: pure computation only.
const ENGINE_DEPENDENCIES: [&str; 9] =
    ["blake3", "bytes", "chacha20poly1305", "common", "fast_rsync", "petgraph", "roaring", "thiserror", "zstd"];

/// What the engine may not name: I/O, clocks, randomness, threads.
const IMPURE: [&str; 16] = [
    "tokio",
    "aya",
    "rusqlite",
    "rustix",
    "libc",
    "rand",
    "getrandom",
    "SystemTime",
    "Instant",
    "RandomState",
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::io::stdin",
];

pub(super) fn kernel_library(files: &[File]) -> Vec<Fault> {
    let names = ["aya", "aya_log", "aya_obj", "aya_ebpf", "aya_log_ebpf"];
    confined(files, &AYA, |code| names.iter().any(|name| has_word(code, name)), "aya outside of capture")
}

pub(super) fn aws(files: &[File]) -> Vec<Fault> {
    let names = |code: &str| {
        code.split(|c: char| !super::code::is_word(c)).any(|word| word.starts_with("aws_") && word.len() > 4)
    };
    confined(files, &AWS, |code| names(code) && !code.trim_start().starts_with("fn "), "AWS SDK outside of store/s3")
}

pub(super) fn unsafe_code(files: &[File]) -> Vec<Fault> {
    let places: Vec<&str> = UNSAFE.iter().map(|(place, _)| *place).collect();
    confined(files, &places, |code| has_word(code, "unsafe"), "`unsafe` in a file that xtask's list does not name")
}

/// Faults for lines of code that `found` accepts, in Rust files outside of `places`.
fn confined(files: &[File], places: &[&str], found: impl Fn(&str) -> bool, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        if places.iter().any(|place| file.path.starts_with(place)) {
            continue;
        }
        for (number, line) in (1..).zip(code_only(&file.text).lines()) {
            if found(line) {
                faults.push(file.fault(number, text));
            }
        }
    }
    faults
}

pub(super) fn engine_dependencies(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path == "engine/Cargo.toml") {
        let mut inside = false;
        for (number, line) in file.lines() {
            if let Some(section) = line.trim().strip_prefix('[') {
                let section = section.trim_end_matches(']');
                // Tests of the engine may use what they like.
                inside = section.ends_with("dependencies") && section != "dev-dependencies";
                continue;
            }
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if inside && !name.is_empty() && !name.starts_with('#') && !ENGINE_DEPENDENCIES.contains(&name) {
                faults.push(file.fault(number, format!("the engine may not depend on `{name}`")));
            }
        }
    }
    faults
}

pub(super) fn engine_purity(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && file.path.starts_with("engine/src/")) {
        for (number, line) in (1..).zip(code_only(&file.text).lines()) {
            // The simulation is test code, and takes its seed from the environment.
            let allowed = |name: &str| name == "std::env" && file.path.starts_with("engine/src/sim/");
            if let Some(name) = IMPURE.iter().find(|name| has_word(line, name) && !allowed(name)) {
                faults.push(file.fault(number, format!("the engine may not use `{name}`: it does no effects")));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn aya_outside_of_capture_is_found() {
        let text = "//! Head naming aya.\nuse aya::Ebpf;\n";
        assert_eq!(kernel_library(&[file("tracker/src/volume.rs", text)])[0].line, 2);
        assert_eq!(kernel_library(&[file("tracker/src/capture/load.rs", text)]), []);
    }

    #[test]
    fn the_aws_sdk_outside_of_s3_is_found() {
        let text = "//! Head.\nuse aws_sdk_s3::Client;\n";
        assert_eq!(aws(&[file("tracker/src/store/local.rs", text)]).len(), 1);
        assert_eq!(aws(&[file("tracker/src/store/s3/client.rs", text)]), []);
    }

    #[test]
    fn unlisted_unsafe_is_found() {
        let text = "//! Head about unsafe code.\nfn f() { unsafe { g() } }\n";
        assert_eq!(unsafe_code(&[file("engine/src/tree.rs", text)]).len(), 1);
    }

    #[test]
    fn a_dependency_beyond_the_allow_list_is_found() {
        let text = "[dependencies]\nblake3.workspace = true\ntokio = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        assert_eq!(engine_dependencies(&[file("engine/Cargo.toml", text)])[0].line, 3);
    }

    #[test]
    fn effects_in_the_engine_are_found() {
        let text = "//! Head: no std::fs here.\nuse std::fs::File;\nlet t = Instant::now();\n";
        assert_eq!(engine_purity(&[file("engine/src/x.rs", text)]).len(), 2);
        assert_eq!(engine_purity(&[file("tracker/src/x.rs", text)]), []);
    }
}

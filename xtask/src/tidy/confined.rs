//! Checks on who may use what: the kernel library, the AWS SDK, and the purity of the engine (invariants I6 and I9 of
//! docs/architecture.md). `unsafe` is confined by the lint `unsafe_code`: a file that needs it says so in its head.

use super::file::{Fault, File};
use super::source::{self, tokens};

/// Where aya may be named.
const AYA: [&str; 3] = ["tracker/src/capture", "common/src/", "tracker-ebpf/src/"];
/// Where the AWS SDK may be named: one file or folder whose name begins with `s3`.
const AWS: [&str; 1] = ["tracker/src/store/s3"];

/// What the engine may depend on: pure computation only.
const ENGINE_DEPENDENCIES: [&str; 9] =
    ["blake3", "bytes", "chacha20poly1305", "common", "fast_rsync", "petgraph", "roaring", "thiserror", "zstd"];

/// What the engine may not use of the standard library: I/O, clocks, randomness, threads.
const IMPURE: [&str; 6] = ["env", "fs", "io::stdin", "net", "process", "thread"];
const IMPURE_TYPES: [&str; 3] = ["Instant", "RandomState", "SystemTime"];
/// An enum of the engine with a variant of such a name: what a commit says of itself, and no clock.
const OWN_ENUM: &str = "Consistency";

fn names_impure_type(segments: &[String]) -> bool {
    let impure = |word: &String| IMPURE_TYPES.contains(&word.as_str());
    let before = std::iter::once(None).chain(segments.iter().map(Some));
    before.zip(segments).any(|(before, word)| impure(word) && before.is_none_or(|before| before != OWN_ENUM))
}

pub(super) fn kernel_library(files: &[File]) -> Vec<Fault> {
    let names = ["aya", "aya_log", "aya_obj", "aya_ebpf", "aya_log_ebpf"];
    confined(files, &AYA, "aya", |word| names.contains(&word), "aya outside of capture")
}

pub(super) fn aws(files: &[File]) -> Vec<Fault> {
    confined(files, &AWS, "aws_", |word| word.starts_with("aws_") && word.len() > 4, "AWS SDK outside of store/s3")
}

/// Faults for words of code that `found` accepts, in Rust files outside of `places`. All of them contain `part`.
fn confined(files: &[File], places: &[&str], part: &str, found: impl Fn(&str) -> bool, text: &str) -> Vec<Fault> {
    let outside = |file: &&File| file.is_rust() && !places.iter().any(|place| file.path.starts_with(place));
    let mut faults = Vec::new();
    for file in files.iter().filter(outside).filter(|file| file.text.contains(part)) {
        let tokens = tokens(file);
        for (before, (line, word)) in std::iter::once(&(0, String::new())).chain(&tokens).zip(&tokens) {
            // A function may have such a name.
            if found(word) && before.1 != "fn" {
                faults.push(file.fault(*line, text));
            }
        }
    }
    faults
}

pub(super) fn engine_dependencies(files: &[File]) -> Vec<Fault> {
    let Some(file) = files.iter().find(|file| file.path == "engine/Cargo.toml") else { return Vec::new() };
    let manifest: toml::Table = match file.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![file.fault(0, format!("no TOML: {error}"))],
    };
    // Tests of the engine may use what they like.
    let targets = manifest.get("target").and_then(|targets| targets.as_table()).into_iter().flatten();
    let tables = targets.filter_map(|(_, target)| target.as_table()).chain([&manifest]);
    let sections = tables.flat_map(|table| ["dependencies", "build-dependencies"].map(|name| table.get(name)));
    let names = sections.flatten().filter_map(|section| section.as_table()).flat_map(toml::Table::keys);
    names
        .filter(|name| !ENGINE_DEPENDENCIES.contains(&name.as_str()))
        .map(|name| file.fault(0, format!("the engine may not depend on `{name}`")))
        .collect()
}

pub(super) fn engine_purity(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && file.path.starts_with("engine/src/")) {
        let items = match syn::parse_file(&file.text) {
            Ok(syntax) => syntax.items,
            Err(error) => {
                faults.push(file.fault(error.span().start().line, format!("no Rust: {error}")));
                continue;
            }
        };
        for named in source::paths(&items, true) {
            let path = named.segments.join("::");
            let inside = path.strip_prefix("std::").unwrap_or_default();
            let of =
                |name: &&&str| inside.strip_prefix(**name).is_some_and(|end| end.is_empty() || end.starts_with("::"));
            // The simulation is test code, and takes its seed from the environment.
            let allowed = |name: &&str| *name == "env" && file.path.starts_with("engine/src/sim");
            let effect = IMPURE.iter().find(of).is_some_and(|name| !allowed(name));
            if effect || names_impure_type(&named.segments) {
                faults.push(file.fault(named.line, format!("the engine may not use `{path}`: it does no effects")));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
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
    fn a_dependency_beyond_the_allow_list_is_found() {
        let text = "[dependencies]\nblake3.workspace = true\ntokio = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        let faults = engine_dependencies(&[file("engine/Cargo.toml", text)]);
        assert_eq!(
            faults.iter().map(|fault| &*fault.text).collect::<Vec<_>>(),
            ["the engine may not depend on `tokio`"]
        );
    }

    #[test]
    fn effects_in_the_engine_are_found() {
        let text = "//! Head: no std::fs here.\nuse std::{fs::File, fmt};\nfn f() { let t = Instant::now(); }\n";
        assert_eq!(engine_purity(&[file("engine/src/x.rs", text)]).len(), 2);
        let test = "#[cfg(test)]\nmod tests { fn f() { std::thread::yield_now(); } }\n";
        assert_eq!(engine_purity(&[file("engine/src/x.rs", test)]).len(), 1);
        assert_eq!(engine_purity(&[file("tracker/src/x.rs", text)]), []);
        let own = "//! Head.\nfn f() -> bool { Consistency::Instant == std::time::Instant::now() }\n";
        assert_eq!(engine_purity(&[file("engine/src/x.rs", own)]).len(), 1, "the clock alone");
    }
}

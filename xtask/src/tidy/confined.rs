//! Checks on who may use what: the kernel library, the AWS SDK, decoders, and the purity of the engine (invariants I6 and I9 of
//! docs/architecture.md). `unsafe` is confined by the lint `unsafe_code`: a file that needs it says so in its head.

use regex_lite::Regex;

use super::file::{Fault, File};
use super::source;

/// Paths that code may name nowhere but in some files.
struct Confined {
    paths: &'static str,
    /// Where it is forbidden.
    within: &'static str,
    /// Where it is allowed all the same.
    but: &'static [&'static str],
    why: &'static str,
}

const CONFINED: [Confined; 5] = [
    Confined {
        paths: r"\baya(_log|_obj|_ebpf|_log_ebpf)?\b",
        within: "",
        but: &["tracker/src/capture", "common/src/", "tracker-ebpf/src/"],
        why: "aya outside of capture",
    },
    Confined {
        paths: r"\baws_\w",
        within: "",
        // One file or folder whose name begins so.
        but: &["tracker/src/store/s3"],
        why: "AWS SDK outside of store/s3",
    },
    Confined {
        paths: r"^engine::(format(::(codec|commit|frame|pack|seal)\b|$)|checkpoint\b)|\bEra\b|\bVolumeFormat::(de|en)code$",
        within: "tracker/src/",
        // The catalog keeps an intent as it is; its tests need the bytes of one.
        but: &["tracker/src/repository", "tracker/src/catalog/tests"],
        why: "objects are encoded and decoded in repository alone",
    },
    Confined {
        // `Consistency::Instant` is what a commit says of itself, and no clock.
        paths: r"^std::(fs|io::stdin|net|process|thread)\b|^(std::time::)?Instant\b|\b(RandomState|SystemTime)\b",
        within: "engine/src/",
        but: &[],
        why: "the engine does no effects: no I/O, clocks, randomness, threads",
    },
    Confined {
        paths: r"^std::env\b",
        within: "engine/src/",
        // The simulation is test code, and takes its seed from the environment.
        but: &["engine/src/sim"],
        why: "the engine does no effects",
    },
];

/// What the engine may depend on: pure computation only.
const ENGINE_DEPENDENCIES: [&str; 7] = ["blake3", "bytes", "fast_rsync", "petgraph", "roaring", "thiserror", "zstd"];

pub(super) fn paths(files: &[File]) -> Vec<Fault> {
    let rules = CONFINED.map(|rule| (Regex::new(rule.paths).expect("a pattern of ours"), rule));
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let named = source::items(file).map(|items| source::paths(&items, true)).unwrap_or_else(|fault| {
            faults.push(fault);
            Vec::new()
        });
        let begins = |place: &&str| file.path.starts_with(*place);
        for (pattern, rule) in rules.iter().filter(|(_, rule)| begins(&rule.within) && !rule.but.iter().any(begins)) {
            faults.extend(named.iter().filter_map(|named| {
                let path = named.segments.join("::");
                pattern.is_match(&path).then(|| file.fault(named.line, format!("`{path}`: {}", rule.why)))
            }));
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

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    #[test]
    fn what_is_confined_is_found_outside_and_nowhere_else() {
        let kernel = "//! Head naming aya::Ebpf.\nuse aya::Ebpf;\n";
        let aws = "use aws_sdk_s3::Client;\nfn f() { g!(aws_config::load()) }\n";
        let decoders =
            "use engine::format::{Key, commit};\nuse engine::{checkpoint, format};\nfn f() { VolumeFormat::decode() }";
        let effects = "//! Head: no std::fs here.\nuse std::{fs::File, fmt};\nfn f() { let t = Instant::now(); }\n";
        for (path, text, lines) in [
            ("tracker/src/volume.rs", kernel, &[2][..]),
            ("tracker/src/volume.rs", "extern crate aya_obj as x;", &[1]),
            ("tracker/src/volume.rs", "fn aya() {}", &[]),
            ("tracker/src/capture/load.rs", kernel, &[]),
            ("tracker/src/store/local.rs", aws, &[1, 2]),
            ("tracker/src/store/s3/client.rs", aws, &[]),
            ("tracker/src/volume.rs", decoders, &[1, 2, 2, 3]),
            ("tracker/src/repository/x.rs", decoders, &[]),
            ("engine/src/x.rs", effects, &[2, 3]),
            ("engine/src/x.rs", "#[cfg(test)]\nmod tests { fn f() { std::thread::yield_now(); } }", &[2]),
            ("engine/src/x.rs", "fn f() -> X { Consistency::Instant }", &[]),
            ("engine/src/x.rs", "use std::time::Instant;", &[1]),
            ("engine/src/x.rs", "use std::env;", &[1]),
            ("engine/src/sim/x.rs", "use std::env;", &[]),
            ("tracker/src/x.rs", effects, &[]),
        ] {
            let found: Vec<_> = paths(&[file(path, text)]).iter().map(|fault| fault.line).collect();
            assert_eq!(found, lines, "{path}: {text}");
        }
    }

    #[test]
    fn a_dependency_beyond_the_allow_list_is_found() {
        let text = "[dependencies]\nblake3.workspace = true\ntokio = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        let faults = engine_dependencies(&[file("engine/Cargo.toml", text)]);
        let texts: Vec<_> = faults.iter().map(|fault| &*fault.text).collect();
        assert_eq!(texts, ["the engine may not depend on `tokio`"]);
    }
}

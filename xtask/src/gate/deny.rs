//! What the product is made of: every crate of the lock file comes from the registry or from this repository, under a
//! licence that lets it be shipped, and none of a few crates that were left out for a reason.

use serde_json::Value;

use super::step::{Gate, Outcome};
use crate::sh::{self, Error};

/// Licences that allow shipping a binary with a notice only.
const LICENCES: [&str; 16] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "GPL-2.0 WITH Linux-syscall-note",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not come in, each with the reason.
const BANNED: [(&str, &str); 4] = [
    ("openssl-sys", "TLS is rustls: one implementation, no system library"),
    ("native-tls", "TLS is rustls: one implementation, no system library"),
    ("aws-lc-sys", "ring is enough; a second C library for TLS costs 20 s of every build"),
    ("async-std", "the runtime is tokio"),
];

pub(super) fn check(_gate: &Gate) -> Result<Outcome, Error> {
    let host = sh::output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("x86_64-unknown-linux-gnu");
    let mut command = sh::cargo();
    command.args(["metadata", "--format-version", "1", "--filter-platform", host]);
    let text = sh::output(&mut command)?;
    let metadata: Value = serde_json::from_str(&text).map_err(|error| Error::Missing {
        what: format!("`{}` printed no JSON: {error}", sh::show(&command)),
        help: "is this cargo older than the workspace's rust-version?".into(),
    })?;
    let faults = faults(&metadata);
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() {
        return Ok(Outcome::Passed);
    }
    Err(Error::Found { count: faults.len(), what: "faults in the dependencies".into() })
}

fn faults(metadata: &Value) -> Vec<String> {
    // Packages of other platforms are listed as well; the resolved graph says which are used.
    let nodes = metadata["resolve"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let used: Vec<&Value> = nodes.iter().map(|node| &node["id"]).collect();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    if packages.is_empty() || used.is_empty() {
        return vec!["cargo metadata lists no package".into()];
    }
    let mut faults = Vec::new();
    for package in packages.iter().filter(|package| used.contains(&&package["id"])) {
        let name = package["name"].as_str().unwrap_or("?");
        let version = package["version"].as_str().unwrap_or("?");
        if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")) {
            faults.push(format!("{name} {version}: comes from {}, not from the registry", package["source"]));
        }
        // A crate with a licence file of its own is judged by hand: there is none so far.
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence) {
            faults.push(format!("{name} {version}: licence `{licence}`"));
        }
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            faults.push(format!("{name} {version}: {reason}"));
        }
    }
    faults
}

/// Evaluates an SPDX expression: one allowed side of an OR is enough, an AND needs both.
fn is_allowed(expression: &str) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = text.split_whitespace().rev().collect();
    any(&mut words) && words.is_empty()
}

fn any(words: &mut Vec<&str>) -> bool {
    let mut result = all(words);
    while words.last() == Some(&"OR") {
        words.pop();
        // Evaluated on its own line: the words have to be taken even where the answer is known.
        let right = all(words);
        result |= right;
    }
    result
}

fn all(words: &mut Vec<&str>) -> bool {
    let mut result = one(words);
    while words.last() == Some(&"AND") {
        words.pop();
        let right = one(words);
        result &= right;
    }
    result
}

fn one(words: &mut Vec<&str>) -> bool {
    match words.pop() {
        Some("(") => {
            let result = any(words);
            result & (words.pop() == Some(")"))
        }
        Some(name) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().unwrap_or_default();
            // An exception only ever widens what the licence allows.
            LICENCES.contains(&name) || LICENCES.contains(&format!("{name} WITH {exception}").as_str())
        }
        Some(name) => LICENCES.contains(&name),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated() {
        for good in
            ["MIT", "MIT OR GPL-3.0", "(GPL-3.0 OR ISC) AND MIT", "Apache-2.0 WITH LLVM-exception", "MIT/GPL-3.0"]
        {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT", "none", "", "GPL-2.0 WITH Classpath-exception-2.0"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn foreign_sources_licences_and_banned_crates_are_found() {
        let metadata = serde_json::json!({
            "resolve": {"nodes": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
            "packages": [
                {"id": "a", "name": "own", "version": "1.0.0", "license": "MIT", "source": null},
                {"id": "b", "name": "far", "version": "1.0.0", "license": "GPL-3.0", "source": "git+https://x.example"},
                {"id": "c", "name": "openssl-sys", "version": "1.0.0", "license": "MIT", "source": "registry+x"},
                {"id": "d", "name": "unused", "version": "1.0.0", "license": "GPL-3.0", "source": "registry+x"}
            ]
        });
        assert_eq!(faults(&metadata).len(), 3);
    }

    #[test]
    fn an_empty_graph_is_a_fault() {
        assert_eq!(faults(&serde_json::json!({})).len(), 1);
    }
}

//! `tidy`: the house rules that no compiler checks, as pure functions from the tree's text to faults. The same checks
//! run as a unit test, so a plain `cargo test` holds them. Nothing here changes a file.

mod confined;
mod docs;
mod file;
mod layers;
mod modules;
mod rust;
mod source;
mod text;

use std::path::Path;

use file::{Fault, File};

use anyhow::{Result, bail};

use crate::sh;

type Check = fn(&[File]) -> Vec<Fault>;

/// Every check, with the name it is reported under.
const CHECKS: &[(&str, Check)] = &[
    ("file length", text::length),
    ("trailing whitespace", text::trailing_whitespace),
    ("machine paths", text::machine_paths),
    ("registry hosts", text::registry_hosts),
    ("file head", rust::head),
    ("ASCII", rust::ascii),
    ("banned words", rust::banned_words),
    ("ignored tests", rust::ignored_tests),
    ("aya is confined", confined::kernel_library),
    ("the AWS SDK is confined", confined::aws),
    ("engine dependencies", confined::engine_dependencies),
    ("engine is pure", confined::engine_purity),
    ("layers and circles", layers::check),
    ("docs linked from the README", docs::linked_from_readme),
    ("links resolve", docs::links),
    ("tests named in docs exist", docs::named_tests),
];

pub(crate) fn main() -> Result<()> {
    let faults = check_all(&read_tree(sh::root())?);
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() {
        println!("tidy: {} checks, no fault", CHECKS.len());
        return Ok(());
    }
    bail!("{} tidy faults", faults.len())
}

fn check_all(files: &[File]) -> Vec<Fault> {
    CHECKS
        .iter()
        .flat_map(|(name, check)| {
            check(files).into_iter().map(move |fault| Fault { text: format!("{} [{name}]", fault.text), ..fault })
        })
        .collect()
}

/// Folders of the root that hold no sources of ours: what was built, and the version control itself.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// Reads every UTF-8 file below `root`, in order of path; other files (test data) are left out.
fn read_tree(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let listing = fs_err::read_dir(&folder)?;
        for entry in listing {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type()?;
            if folder == root && SKIPPED.iter().any(|skipped| name == *skipped) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = fs_err::read(&path)?;
                let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                if let Ok(text) = String::from_utf8(bytes) {
                    files.push(File { path: relative, text });
                }
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::file::file;
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let files = read_tree(sh::root()).expect("the tree can be read");
        for path in ["xtask/src/main.rs", "tracker/src/target.rs"] {
            assert!(files.iter().any(|file| file.path == path), "the walk found {path}");
        }
        let faults: Vec<String> = check_all(&files).iter().map(Fault::to_string).collect();
        assert!(faults.is_empty(), "{} tidy faults:\n{}", faults.len(), faults.join("\n"));
    }

    #[test]
    fn a_fault_names_file_line_and_check() {
        let faults = check_all(&[file("engine/src/x.rs", "//! Head.\nfn f() {} \n")]);
        // A tree of one file has none of what is listed as known.
        let of_file = faults.iter().filter(|fault| fault.path == "engine/src/x.rs");
        let text: Vec<String> = of_file.map(Fault::to_string).collect();
        assert_eq!(text, ["engine/src/x.rs:2: whitespace at the end of the line [trailing whitespace]"]);
    }
}

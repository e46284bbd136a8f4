//! `tidy`: the house rules that no compiler checks, as pure functions from the tree's text to faults. The same checks
//! run as a unit test, so a plain `cargo test` holds them. Nothing here changes a file.

mod confined;
mod docs;
mod file;
mod layers;
mod modules;
mod source;
mod text;

use std::path::Path;

use file::{Fault, File};

use anyhow::{Result, ensure};
use walkdir::{DirEntry, WalkDir};

use crate::sh;

type Check = fn(&[File]) -> Vec<Fault>;

/// Every check, with the name it is reported under.
const CHECKS: &[(&str, Check)] = &[
    ("file length", text::length),
    ("file head", text::head),
    ("banned text", text::banned),
    ("confined paths", confined::paths),
    ("engine dependencies", confined::engine_dependencies),
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
    ensure!(faults.is_empty(), "{} tidy faults", faults.len());
    println!("tidy: {} checks, no fault", CHECKS.len());
    Ok(())
}

fn check_all(files: &[File]) -> Vec<Fault> {
    CHECKS
        .iter()
        .flat_map(|(name, check)| {
            check(files).into_iter().map(move |fault| Fault { text: format!("{} [{name}]", fault.text), ..fault })
        })
        .collect()
}

/// Reads every UTF-8 file below `root`, in order of path; other files (test data) are left out.
fn read_tree(root: &Path) -> Result<Vec<File>> {
    // Folders of the root that hold no sources of ours: what was built, and the version control itself.
    let skipped =
        |entry: &DirEntry| entry.depth() == 1 && (entry.file_name() == "target" || entry.file_name() == ".git");
    let mut files = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(|entry| !skipped(entry)) {
        let entry = entry?;
        if entry.file_type().is_file()
            && let Ok(text) = String::from_utf8(fs_err::read(entry.path())?)
        {
            let path = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
            files.push(File { path, text });
        }
    }
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
        let text: Vec<String> = faults.iter().map(Fault::to_string).collect();
        assert_eq!(text, ["engine/src/x.rs:2: ` `: whitespace at the end of the line [banned text]"]);
    }
}

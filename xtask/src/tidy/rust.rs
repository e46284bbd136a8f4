//! Checks on single Rust files: their head, their alphabet, words that must not stay.

use super::file::{Fault, File};
use super::source::tokens;

/// Each file begins by saying what it is and what it must not do.
pub(super) fn head(files: &[File]) -> Vec<Fault> {
    rust(files)
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.fault(1, "the first line is no `//!` head"))
        .collect()
}

/// Source is ASCII: lookalike and invisible characters have no place in it. Literals use escapes.
pub(super) fn ascii(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in rust(files) {
        for (number, line) in file.lines() {
            if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
                faults.push(file.fault(number, format!("non-ASCII character U+{:04X}", u32::from(c))));
            }
        }
    }
    faults
}

/// Marks of unfinished work, in code and in comments alike; clippy refuses the macros that say the same.
pub(super) fn banned_words(files: &[File]) -> Vec<Fault> {
    // Built from pieces, so that this file does not contain them.
    let banned = ["TO_DO", "FIX_ME", "XX_X"].map(|word| word.replace('_', ""));
    let mut faults = Vec::new();
    for file in rust(files) {
        for (number, line) in file.lines() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if let Some(word) = words.find(|word| banned.iter().any(|banned| banned == word)) {
                faults.push(file.fault(number, format!("`{word}` must not stay")));
            }
        }
    }
    faults
}

/// A test that does not run proves nothing, and looks as if it did. Skip aloud instead.
pub(super) fn ignored_tests(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in rust(files).filter(|file| file.text.contains("ignore")) {
        for three in tokens(file).windows(3) {
            let [(_, hash), (_, open), (line, word)] = three else { continue };
            if (hash.as_str(), open.as_str(), word.as_str()) == ("#", "[", "ignore") {
                faults.push(file.fault(*line, "ignored test: print `SKIP name: reason` and return instead"));
            }
        }
    }
    faults
}

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.is_rust())
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    #[test]
    fn a_missing_head_is_found() {
        assert_eq!(head(&[file("a.rs", "use std::fs;\n")]).len(), 1);
        assert_eq!(head(&[file("a.rs", "//! Head.\n")]), []);
    }

    #[test]
    fn non_ascii_is_found() {
        assert_eq!(ascii(&[file("a.rs", "//! Head.\n// caf\u{e9}\n")])[0].line, 2);
    }

    #[test]
    fn banned_words_are_found_in_code_and_comments() {
        let comment = format!("//! Head.\n// {}{}: later\n", "FIX", "ME");
        let code = format!("//! Head.\nconst {}{}: u8 = 1;\n", "TO", "DO");
        assert_eq!(banned_words(&[file("a.rs", &comment), file("b.rs", &code)]).len(), 2);
        assert_eq!(banned_words(&[file("a.rs", "//! Head.\nlet name = \"mkXXXXXX\";\n")]), []);
    }

    #[test]
    fn ignored_tests_are_found() {
        let text = format!("//! Head.\n#[{}]\nfn f() {{}}\n", "ignore = \"slow\"");
        assert_eq!(ignored_tests(&[file("a.rs", &text)]).len(), 1);
    }
}

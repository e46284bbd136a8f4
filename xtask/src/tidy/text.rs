//! Checks on the text of files: what no line may have, how long a file is, how it begins.

use regex_lite::Regex;

use super::file::{Fault, File};

/// No file is longer than this; the aim is 350.
const MAX_LINES: usize = 500;

/// What no line may have, of which files, and why. Patterns are written so that they do not find themselves.
struct Banned {
    of: fn(&File) -> bool,
    pattern: &'static str,
    why: &'static str,
}

const BANNED: [Banned; 6] = [
    Banned { of: |_| true, pattern: r"\s+$", why: "whitespace at the end of the line" },
    // Absolute paths of the machines this was written on would work nowhere else. Parts of longer paths are none.
    Banned {
        of: |_| true,
        pattern: r"(^|[^\w.}~-])(/[w]ork|/[r]oot)($|[^\w-])|\.[l]ibrary/",
        why: "a path of one machine",
    },
    // Package registries are the user's choice: mirrors, proxies and offline caches must keep working.
    Banned {
        of: is_written,
        pattern: r"crates\.io|(pypi|pythonhosted|debian|npmjs)\.org|static\.rust-lang\.org",
        why: "the host of a registry",
    },
    // Lookalike and invisible characters have no place in source. Literals use escapes.
    Banned { of: File::is_rust, pattern: r"[^\x00-\x7F]", why: "source is ASCII" },
    // Marks of unfinished work, in code and in comments alike; clippy refuses the macros that say the same.
    Banned { of: File::is_rust, pattern: r"\b(TO[D]O|FIX[M]E|XX[X])\b", why: "must not stay" },
    // A test that does not run proves nothing, and looks as if it did.
    Banned {
        of: File::is_rust,
        pattern: r"#\s*\[\s*ignore\b",
        why: "ignored test: print `SKIP name: reason` and return instead",
    },
];

/// Not so the files that nobody writes by hand.
fn is_written(file: &File) -> bool {
    file.path != "Cargo.lock"
}

pub(super) fn banned(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for banned in BANNED {
        let pattern = Regex::new(banned.pattern).expect("a pattern of ours");
        for file in files.iter().filter(|file| (banned.of)(file)) {
            let found = |line| pattern.find(line).map(|found| found.as_str().escape_default());
            let of_file = file.lines().filter_map(|(number, line)| Some((number, found(line)?)));
            faults.extend(of_file.map(|(number, found)| file.fault(number, format!("`{found}`: {}", banned.why))));
        }
    }
    faults
}

/// A file above [`MAX_LINES`] has more than one subject. Prose is exempt: a page is read by its headings.
pub(super) fn length(files: &[File]) -> Vec<Fault> {
    let lengths = files.iter().map(|file| (file, file.text.lines().count()));
    lengths
        .filter(|(file, lines)| *lines > MAX_LINES && is_written(file) && !file.path.ends_with(".md"))
        .map(|(file, lines)| file.fault(lines, format!("{lines} lines, at most {MAX_LINES}")))
        .collect()
}

/// Each Rust file begins by saying what it is and what it must not do.
pub(super) fn head(files: &[File]) -> Vec<Fault> {
    let without = files.iter().filter(|file| file.is_rust() && !file.text.starts_with("//! "));
    without.map(|file| file.fault(1, "the first line is no `//!` head")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    #[test]
    fn length_is_limited_and_a_missing_head_is_found() {
        assert_eq!(length(&[file("a.rs", &"x\n".repeat(500)), file("a.md", &"x\n".repeat(501))]), []);
        assert_eq!(length(&[file("a.rs", &"x\n".repeat(501))]).len(), 1);
        assert_eq!(head(&[file("a.rs", "use std::fs;\n"), file("b.rs", "//! Head.\n")]).len(), 1);
    }

    #[test]
    fn each_banned_text_is_found_and_lookalikes_are_not() {
        // `_` is left out, so that this file has none of them.
        for (path, text, expected) in [
            ("a.md", "a\nb \n", 1),
            ("a.sh", "cd /w_ork/main\nHOME=/r_oot\nls ../.l_ibrary/x\n", 3),
            ("a.sh", "upper/root target/work /workload /srv/work-dir\n", 0),
            ("a.toml", "index = \"https://c_rates.io/\"\npip = \"py_pi.org\"\n", 2),
            ("Cargo.lock", "https://c_rates.io/", 0),
            ("a.rs", "// caf\u{e9}\n", 1),
            ("a.md", "caf\u{e9}\n", 0),
            ("a.rs", "// FIX_ME: later\nconst TO_DO: u8 = 1;\n", 2),
            ("a.rs", "let name = \"mkXXXXXX\";\n", 0),
            ("a.rs", "#[i_gnore = \"slow\"]\nfn f() {}\n", 1),
        ] {
            assert_eq!(banned(&[file(path, &text.replace('_', ""))]).len(), expected, "{text}");
        }
    }
}

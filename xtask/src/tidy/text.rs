//! Checks that hold for every text file, whatever its language.

use super::file::{Fault, File};

/// No file is longer than this; the aim is 350.
const MAX_LINES: usize = 500;

/// Files that nobody writes by hand.
fn is_generated(file: &File) -> bool {
    file.path == "Cargo.lock"
}

/// A file above [`MAX_LINES`] has more than one subject. Prose is exempt: a page is read by its headings.
pub(super) fn length(files: &[File]) -> Vec<Fault> {
    let sources = files.iter().filter(|file| !is_generated(file) && !file.path.ends_with(".md"));
    sources
        .filter_map(|file| {
            let lines = file.text.lines().count();
            (lines > MAX_LINES).then(|| file.fault(lines, format!("{lines} lines, at most {MAX_LINES}")))
        })
        .collect()
}

pub(super) fn trailing_whitespace(files: &[File]) -> Vec<Fault> {
    each_line(files, |line| (line.trim_end() != line).then(|| "whitespace at the end of the line".into()))
}

/// Absolute paths of the machines this was written on would work nowhere else.
pub(super) fn machine_paths(files: &[File]) -> Vec<Fault> {
    // Built from pieces, so that this file does not name them.
    let paths = [format!("/{}", "work"), format!("/{}", "root"), format!(".{}/", "library")];
    each_line(files, |line| {
        paths.iter().find(|path| has_path(line, path)).map(|path| format!("names the machine's `{path}`"))
    })
}

/// Package registries are the user's choice: mirrors, proxies and offline caches must keep working.
pub(super) fn registry_hosts(files: &[File]) -> Vec<Fault> {
    let hosts = [
        format!("{}.io", "crates"),
        format!("{}.org", "pypi"),
        format!("{}.org", "pythonhosted"),
        format!("{}.org", "debian"),
        format!("{}.org", "npmjs"),
        format!("{}.rust-lang.org", "static"),
    ];
    let written: Vec<File> = files.iter().filter(|file| !is_generated(file)).cloned().collect();
    each_line(&written, |line| {
        hosts.iter().find(|host| line.contains(*host)).map(|host| format!("names the registry host `{host}`"))
    })
}

/// True if `path` stands in `line` as a path of its own or the beginning of one, not as a part of a longer one.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + path.len()..).and_then(|text| text.chars().next());
        let inside = |c: char| c.is_alphanumeric() || "_-.}~".contains(c);
        let starts = !path.starts_with('/') || !before.is_some_and(inside);
        let ends = path.ends_with('/') || !after.is_some_and(|c| c.is_alphanumeric() || "_-".contains(c));
        starts && ends
    })
}

fn each_line(files: &[File], check: impl Fn(&str) -> Option<String>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        faults.extend(file.lines().filter_map(|(number, line)| Some(file.fault(number, check(line)?))));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    #[test]
    fn length_is_limited() {
        assert_eq!(length(&[file("a.rs", &"x\n".repeat(500))]), []);
        assert_eq!(length(&[file("a.rs", &"x\n".repeat(501))]).len(), 1);
    }

    #[test]
    fn whitespace_at_a_line_end_is_found() {
        assert_eq!(trailing_whitespace(&[file("a.md", "a\nb \n")])[0].line, 2);
    }

    #[test]
    fn machine_paths_are_found_and_lookalikes_are_not() {
        let bad = format!("cd /{}/main\nHOME=/{}\n", "work", "root");
        assert_eq!(machine_paths(&[file("a.sh", &bad)]).len(), 2);
        assert_eq!(machine_paths(&[file("a.sh", "upper/root target/work /workload /srv/work-dir\n")]), []);
    }

    #[test]
    fn registry_hosts_are_found() {
        assert_eq!(registry_hosts(&[file("a.toml", &format!("index = \"https://{}.io/\"\n", "crates"))]).len(), 1);
    }
}

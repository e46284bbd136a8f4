//! Checks on the documents: nothing is orphaned, no link is dead, and a test that a document leans on exists.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use regex_lite::Regex;

use super::file::{Fault, File};

/// A document nobody is led to is not read, and rots.
pub(super) fn linked_from_readme(files: &[File]) -> Vec<Fault> {
    let readme = files.iter().find(|file| file.path == "README.md");
    let pages = files.iter().filter(|file| file.path.starts_with("docs/") && file.path.ends_with(".md"));
    pages
        .filter(|page| !readme.is_some_and(|readme| targets(readme).any(|(_, target)| target == page.path)))
        .map(|page| page.fault(0, "not linked from README.md"))
        .collect()
}

/// Links to files and to headings; addresses of other sites are not followed.
pub(super) fn links(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, target) in targets(file) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
            let page = files.iter().find(|other| other.path == path);
            let folder = format!("{}/", path.trim_end_matches('/'));
            if page.is_none() && !files.iter().any(|other| other.path.starts_with(&folder)) {
                faults.push(file.fault(number, format!("dead link `{target}`")));
            } else if let Some(page) = page.filter(|_| !heading.is_empty())
                && page.path.ends_with(".md")
                && !anchors(page).contains(heading)
            {
                faults.push(file.fault(number, format!("`{path}` has no heading `#{heading}`")));
            }
        }
    }
    faults
}

/// Documents name the test that holds a promise like this: `test: name`. Such a name must be a function of that name.
pub(super) fn named_tests(files: &[File]) -> Vec<Fault> {
    // At the beginning of a line, so that what a comment says is none.
    let function = Regex::new(r"(?m)^[\w() ]*\bfn (\w+)").expect("a pattern of ours");
    let found = files.iter().filter(|file| file.is_rust()).flat_map(|file| function.captures_iter(&file.text));
    let functions: HashSet<&str> = found.map(|found| found.extract::<1>().1[0]).collect();
    let named = Regex::new(r"`test: ((?:[^`]*::)?([^`]*))`").expect("a pattern of ours");
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in file.lines() {
            let names = named.captures_iter(line).map(|found| found.extract::<2>().1);
            let missing = names.filter(|[_, function]| !functions.contains(function));
            faults.extend(missing.map(|[name, _]| file.fault(number, format!("there is no test `{name}`"))));
        }
    }
    faults
}

/// The targets of `[text](target)` outside of code blocks, with their line numbers.
fn targets(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    file.lines().flat_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        let line = if fenced || fence { "" } else { line };
        line.split("](").skip(1).filter_map(move |after| {
            let target = after.split(')').next()?.split_whitespace().next()?;
            Some((number, target))
        })
    })
}

/// `target` as seen from the folder of `from`.
fn resolve(from: &str, target: &str) -> String {
    let mut path = PathBuf::from(from);
    path.pop();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path.display().to_string()
}

/// Anchors of a page's headings, as code hosting sites make them: lower case, blanks to `-`, punctuation dropped.
fn anchors(page: &File) -> HashSet<String> {
    let headings = page.lines().filter(|(_, line)| line.starts_with('#'));
    let kept = |c: &char| c.is_alphanumeric() || "_-".contains(*c);
    headings
        .map(|(_, line)| {
            line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-").chars().filter(kept).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    #[test]
    fn an_orphaned_page_is_found() {
        let readme = file("README.md", "See [format](docs/format.md).\n");
        let faults = linked_from_readme(&[readme, file("docs/format.md", ""), file("docs/lost.md", "")]);
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].path, "docs/lost.md");
    }

    #[test]
    fn dead_links_and_headings_are_found() {
        let page = "[a](../README.md) [b](gone.md) [c](#no-such) [d](#what-it-is)\n\n## What it is\n```\n[x](y)\n```\n";
        let faults = links(&[file("README.md", ""), file("docs/a.md", page)]);
        let texts: Vec<&str> = faults.iter().map(|fault| fault.text.as_str()).collect();
        assert_eq!(texts, ["dead link `gone.md`", "`docs/a.md` has no heading `#no-such`"]);
    }

    #[test]
    fn a_test_that_does_not_exist_is_found() {
        let code = file("tests/tests/a.rs", "//! Head.\n#[test]\nfn kill_between_swap_and_read() {}\n");
        let page = file("docs/a.md", "I2 (`test: kill_between_swap_and_read`), I3 (`test: lost::no_such`)\n");
        assert_eq!(
            named_tests(&[code, page]).iter().map(|fault| &*fault.text).collect::<Vec<_>>(),
            ["there is no test `lost::no_such`"]
        );
    }
}

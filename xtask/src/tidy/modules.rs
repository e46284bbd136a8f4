//! The modules of a crate, and which file defines what a path names. Re-exports are followed to the definition, so a file
//! that only declares modules and passes their items on depends on nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Fault, File};
use super::source::{self, Named};

/// One file names something that another one defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrow {
    pub(super) from: String,
    pub(super) to: String,
    /// Where, in `from`.
    pub(super) line: usize,
}

#[derive(Debug)]
struct Module {
    file: String,
    /// The names that it defines itself.
    items: BTreeSet<String>,
    children: BTreeSet<String>,
    named: Vec<Named>,
}

/// A crate without what is only built for tests. The modules go by their path below the root.
#[derive(Debug, Default)]
pub(super) struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
}

/// What the walk along a path came to.
enum End {
    /// An item that this file defines.
    Item(String),
    Module,
    /// A name that a macro may have made, asked of the module in this file.
    Unknown(String),
}

/// Re-exports of re-exports that are followed.
const DEPTH: usize = 16;

impl Crate {
    /// Reads `root` and every file that it declares; a fault is a file that is no Rust.
    pub(super) fn read(files: &[File], root: &str) -> Result<Crate, Fault> {
        let mut all = Crate::default();
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        if let Some(file) = files.iter().find(|file| file.path == root) {
            all.add(files, file, Vec::new(), folder, &source::items(file)?)?;
        }
        Ok(all)
    }

    /// Modules below this one lie in `folder`.
    fn add(
        &mut self,
        files: &[File],
        file: &File,
        path: Vec<String>,
        folder: &str,
        items: &[syn::Item],
    ) -> Result<(), Fault> {
        let mut children = BTreeSet::new();
        for item in items {
            let syn::Item::Mod(item) = item else { continue };
            if source::for_tests(&item.attrs) {
                continue;
            }
            let name = item.ident.to_string();
            let (below, inside) = (below(&path, &name), format!("{folder}/{name}"));
            if let Some((_, items)) = &item.content {
                self.add(files, file, below, &inside, items)?;
            } else if let Some(child) = files.iter().find(|child| child.path == format!("{inside}.rs")) {
                self.add(files, child, below, &inside, &source::items(child)?)?;
            }
            children.insert(name);
        }
        let defined = items.iter().filter_map(definition).map(ToString::to_string).collect();
        let named = source::paths(items, false);
        self.modules.insert(path, Module { file: file.path.clone(), items: defined, children, named });
        Ok(())
    }

    /// Every arrow between two files, once.
    pub(super) fn arrows(&self) -> Vec<Arrow> {
        let mut all: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (path, module) in &self.modules {
            for named in &module.named {
                let Some(End::Item(to) | End::Unknown(to)) = self.resolve(path, &named.segments, DEPTH) else {
                    continue;
                };
                let passed_on = named.import.as_ref().is_some_and(|import| import.public) && self.is_below(path, &to);
                if to != module.file && !passed_on {
                    all.entry((module.file.clone(), to)).or_insert(named.line);
                }
            }
        }
        all.into_iter().map(|((from, to), line)| Arrow { from, to, line }).collect()
    }

    /// Whether `file` is one of the modules below `path`.
    fn is_below(&self, path: &[String], file: &str) -> bool {
        self.modules
            .iter()
            .any(|(other, module)| module.file == file && other.len() > path.len() && other.starts_with(path))
    }

    /// What `segments` mean in the module `path`; none for what is not of this crate.
    fn resolve(&self, path: &[String], segments: &[String], depth: usize) -> Option<End> {
        let (first, rest) = segments.split_first()?;
        let depth = depth.checked_sub(1)?;
        match first.as_str() {
            "crate" => return self.walk(&[], rest, depth),
            "self" => return self.walk(path, rest, depth),
            "super" => {
                let up = path.split_last()?.1;
                let again = rest.first().is_some_and(|next| next == "super");
                return if again { self.resolve(up, rest, depth) } else { self.walk(up, rest, depth) };
            }
            _ => {}
        }
        let module = self.modules.get(path)?;
        if module.items.contains(first) {
            return Some(End::Item(module.file.clone()));
        }
        match self.walk(path, segments, depth) {
            Some(End::Unknown(_)) => None,
            end => end,
        }
    }

    /// What the path `rest` means that begins at the module `path`.
    fn walk(&self, path: &[String], rest: &[String], depth: usize) -> Option<End> {
        let module = self.modules.get(path)?;
        let Some((name, after)) = rest.split_first() else { return Some(End::Module) };
        if module.children.contains(name) && (!after.is_empty() || !module.items.contains(name)) {
            return self.walk(&below(path, name), after, depth);
        }
        if module.items.contains(name) {
            return Some(End::Item(module.file.clone()));
        }
        let imports = || module.named.iter().filter_map(|named| Some((named, named.import.as_ref()?)));
        for (named, _) in imports().filter(|(_, import)| import.name.as_ref() == Some(name)) {
            // An import of the name itself, `use aya;`, leads out of the crate.
            if named.segments.first() != Some(name) {
                let whole: Vec<String> = named.segments.iter().chain(after).cloned().collect();
                return self.resolve(path, &whole, depth);
            }
        }
        for (named, _) in imports().filter(|(_, import)| import.name.is_none()) {
            let whole: Vec<String> = named.segments.iter().chain(rest).cloned().collect();
            if let Some(end @ End::Item(_)) = self.resolve(path, &whole, depth) {
                return Some(end);
            }
        }
        Some(End::Unknown(module.file.clone()))
    }
}

/// The module `name` in the module `path`.
fn below(path: &[String], name: &String) -> Vec<String> {
    path.iter().chain([name]).cloned().collect()
}

/// The name that `item` defines.
fn definition(item: &syn::Item) -> Option<&syn::Ident> {
    match item {
        syn::Item::Const(item) => Some(&item.ident),
        syn::Item::Enum(item) => Some(&item.ident),
        syn::Item::Fn(item) => Some(&item.sig.ident),
        syn::Item::Macro(item) => item.ident.as_ref(),
        syn::Item::Static(item) => Some(&item.ident),
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Trait(item) => Some(&item.ident),
        syn::Item::Type(item) => Some(&item.ident),
        syn::Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

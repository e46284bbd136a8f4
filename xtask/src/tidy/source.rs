//! What the checks read out of a Rust file: its tokens, and with `syn` every path that its code names. Comments and literals
//! are neither.

use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::file::File;

/// The tokens of `file` with their lines, brackets included; none of a file that is no Rust.
pub(super) fn tokens(file: &File) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    if let Ok(stream) = TokenStream::from_str(&file.text) {
        flatten(stream, &mut all);
    }
    all
}

fn flatten(stream: TokenStream, all: &mut Vec<(usize, String)>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                all.push((line, open.into()));
                flatten(group.stream(), all);
                all.push((group.span_close().start().line, close.into()));
            }
            // What a string or a doc comment says is no code.
            TokenTree::Literal(_) => all.push((line, "\"\"".into())),
            other => all.push((line, other.to_string())),
        }
    }
}

/// A path that code names, such as `crate::store::open`, or one leaf of a `use`.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) segments: Vec<String>,
    /// For a leaf of a `use`.
    pub(super) import: Option<Import>,
}

#[derive(Debug)]
pub(super) struct Import {
    /// The name in this file; none for `*`.
    pub(super) name: Option<String>,
    /// Others may use the name too (`pub use`, `pub(crate) use`).
    pub(super) public: bool,
}

/// Every path that `items` name, also inside of macros and attributes. `tests`: also those under `#[cfg(test)]`, and those of
/// modules inside of the file.
pub(super) fn paths(items: &[syn::Item], tests: bool) -> Vec<Named> {
    let mut collector = Collector { tests, found: Vec::new() };
    items.iter().for_each(|item| collector.visit_item(item));
    collector.found
}

/// True for what only a build for tests has.
pub(super) fn for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

struct Collector {
    tests: bool,
    found: Vec<Named>,
}

/// Leaves out what `#[cfg(test)]` stands before.
macro_rules! skip_tests {
    ($($method:ident($node:ident)),* $(,)?) => {
        $(fn $method(&mut self, node: &'ast syn::$node) {
            if self.tests || !for_tests(&node.attrs) {
                visit::$method(self, node);
            }
        })*
    };
}

impl<'ast> Visit<'ast> for Collector {
    skip_tests! {
        visit_item_const(ItemConst), visit_item_enum(ItemEnum), visit_item_fn(ItemFn), visit_item_impl(ItemImpl),
        visit_item_macro(ItemMacro), visit_item_static(ItemStatic), visit_item_struct(ItemStruct),
        visit_item_trait(ItemTrait), visit_item_type(ItemType), visit_impl_item_fn(ImplItemFn),
        visit_impl_item_const(ImplItemConst), visit_trait_item_fn(TraitItemFn), visit_field(Field),
        visit_variant(Variant), visit_local(Local), visit_arm(Arm),
    }

    /// A module inside of the file is a module of its own, whose paths begin elsewhere.
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if self.tests {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if self.tests || !for_tests(&item.attrs) {
            let public = !matches!(item.vis, syn::Visibility::Inherited);
            self.leaves(&item.tree, &mut Vec::new(), public);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
        self.found.push(Named { line, segments, import: None });
        visit::visit_path(self, path);
    }

    /// `pub(super)` names no item.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        self.visit_path(&mac.path);
        self.loose(mac.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.loose(list.tokens.clone());
    }
}

impl Collector {
    fn leaves(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>, public: bool) {
        let (ident, name) = match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.leaves(&path.tree, prefix, public);
                prefix.pop();
                return;
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|item| self.leaves(item, prefix, public));
            }
            syn::UseTree::Name(name) => (Some(&name.ident), Some(name.ident.to_string())),
            syn::UseTree::Rename(rename) => (Some(&rename.ident), Some(rename.rename.to_string())),
            syn::UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                let import = Some(Import { name: None, public });
                return self.found.push(Named { line, segments: prefix.clone(), import });
            }
        };
        let Some(ident) = ident else { return };
        let mut segments = prefix.clone();
        let mut name = name;
        if ident == "self" {
            // `a::{self}` imports `a`, unless it is renamed.
            name = name.filter(|name| name != "self").or_else(|| prefix.last().cloned());
        } else {
            segments.push(ident.to_string());
        }
        let line = ident.span().start().line;
        self.found.push(Named { line, segments, import: Some(Import { name, public }) });
    }

    /// Paths of two segments and more in tokens that are no syntax yet.
    fn loose(&mut self, tokens: TokenStream) {
        let mut path: Vec<(usize, String)> = Vec::new();
        let mut colons = 0;
        for tree in tokens {
            match &tree {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) if colons == 2 => {
                    path.push((ident.span().start().line, ident.to_string()));
                    colons = 0;
                    continue;
                }
                _ => {}
            }
            self.close(&mut path);
            colons = 0;
            match tree {
                TokenTree::Ident(ident) => path.push((ident.span().start().line, ident.to_string())),
                TokenTree::Group(group) => self.loose(group.stream()),
                _ => {}
            }
        }
        self.close(&mut path);
    }

    fn close(&mut self, path: &mut Vec<(usize, String)>) {
        let line = path.first().map_or(0, |(line, _)| *line);
        let segments: Vec<String> = path.drain(..).map(|(_, name)| name).collect();
        if segments.len() > 1 {
            self.found.push(Named { line, segments, import: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let items = syn::parse_file(text).expect("it is Rust").items;
        paths(&items, false).into_iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text =
            "//! unsafe\nlet a = \"unsafe \\\" unsafe\"; /* unsafe */ fn f<'a>(c: &'a str, r: r#\"unsafe\"#) {}\n";
        let tokens = tokens(&file("a.rs", text));
        assert!(tokens.iter().all(|(_, token)| !token.contains("unsafe")), "{tokens:?}");
        assert!(tokens.contains(&(2, "fn".into())), "{tokens:?}");
    }

    #[test]
    fn every_leaf_of_a_use_is_a_path() {
        let found = named("use super::{self, a::{b as c, d::*}, e};");
        assert_eq!(found, ["super", "super::a::b", "super::a::d", "super::e"]);
    }

    #[test]
    fn paths_are_found_in_macros_and_attributes_and_not_in_tests() {
        let found = named(concat!(
            "fn f() { info!(a = %crate::m::x(), \"{}\", g(crate::n::Y)); }\n",
            "struct S { #[arg(value_parser = crate::units::parse)] a: super::T }\n",
            "#[cfg(test)] fn t() { crate::only_in_tests::f(); }\n",
            "#[cfg(test)] use crate::only_in_tests::g;\n",
        ));
        for path in ["crate::m::x", "crate::n::Y", "crate::units::parse", "super::T"] {
            assert!(found.iter().any(|name| name == path), "{path} is not in {found:?}");
        }
        assert!(!found.iter().any(|name| name.contains("only_in_tests")), "{found:?}");
    }
}

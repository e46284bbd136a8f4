//! What the checks read out of a Rust file with `syn`: every path that its code names. Comments and literals name none.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::visit::{self, Visit};
use syn::{Ident, Token, UseTree};

use super::file::{Fault, File};

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

pub(super) fn items(file: &File) -> Result<Vec<syn::Item>, Fault> {
    let syntax = syn::parse_file(&file.text);
    syntax
        .map(|syntax| syntax.items)
        .map_err(|error| file.fault(error.span().start().line, format!("no Rust: {error}")))
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
            self.leaves(&item.tree, &[], public);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.push(item.ident.span(), vec![item.ident.to_string()], None);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let at = path.segments.first().map_or_else(Span::call_site, |segment| segment.ident.span());
        self.push(at, path.segments.iter().map(|segment| segment.ident.to_string()).collect(), None);
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
    fn push(&mut self, at: Span, segments: Vec<String>, import: Option<Import>) {
        self.found.push(Named { line: at.start().line, segments, import });
    }

    fn leaves(&mut self, tree: &UseTree, prefix: &[String], public: bool) {
        // `a::{self}` is `a`.
        let below = |ident: &Ident| {
            let own = (ident != "self" || prefix.is_empty()).then(|| ident.to_string());
            prefix.iter().cloned().chain(own).collect::<Vec<_>>()
        };
        let (at, segments, name) = match tree {
            UseTree::Path(path) => return self.leaves(&path.tree, &below(&path.ident), public),
            UseTree::Group(group) => return group.items.iter().for_each(|item| self.leaves(item, prefix, public)),
            UseTree::Glob(glob) => (glob.star_token.spans[0], prefix.to_vec(), None),
            UseTree::Name(name) => (name.ident.span(), below(&name.ident), below(&name.ident).pop()),
            UseTree::Rename(name) => (name.ident.span(), below(&name.ident), Some(name.rename.to_string())),
        };
        self.push(at, segments, Some(Import { name, public }));
    }

    /// Paths of two segments and more in tokens that are no syntax yet.
    fn loose(&mut self, tokens: TokenStream) {
        let read = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let mut path: Vec<Ident> = Vec::new();
                while let Ok(ident) = input.call(Ident::parse_any) {
                    path.push(ident);
                    if input.parse::<Token![::]>().is_err() {
                        break;
                    }
                }
                if let [first, _, ..] = path.as_slice() {
                    self.push(first.span(), path.iter().map(Ident::to_string).collect(), None);
                } else if path.is_empty()
                    && let TokenTree::Group(group) = input.parse()?
                {
                    self.loose(group.stream());
                }
            }
            Ok(())
        };
        read.parse2(tokens).expect("any token is read");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let items = syn::parse_file(text).expect("it is Rust").items;
        paths(&items, false).into_iter().map(|named| named.segments.join("::")).collect()
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
            "/* crate::comment::f */ extern crate x; fn g() { h!(\"crate::literal::f\") }\n",
            "#[cfg(test)] fn t() { crate::only_in_tests::f(); }\n",
            "#[cfg(test)] use crate::only_in_tests::g;\n",
        ));
        for path in ["crate::m::x", "crate::n::Y", "crate::units::parse", "super::T", "x"] {
            assert!(found.iter().any(|name| name == path), "{path} is not in {found:?}");
        }
        let none = ["only_in_tests", "comment", "literal"];
        assert!(!found.iter().any(|name| none.iter().any(|none| name.contains(none))), "{found:?}");
    }
}

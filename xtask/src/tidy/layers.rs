//! Which file may lean on which: no circle of files in any crate, and in `tracker` no arrow from a lower layer to a higher
//! one. What is broken today is listed, and may only become less.

mod known;

use std::collections::BTreeMap;

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::file::{Fault, File};
use super::modules::{Arrow, Crate};

/// The crates that are looked at, by their root.
const ROOTS: [&str; 4] = ["tracker/src/lib.rs", "engine/src/lib.rs", "common/src/lib.rs", "xtask/src/main.rs"];

/// The simulation is test code, in which world and checks lean on each other.
const LEFT_OUT: &str = "engine/src/sim";

/// The layers of `tracker`, from top to bottom: each file and folder by its name below `src`. `main` is a crate of its own,
/// which Cargo keeps on top.
const LAYERS: [&[&str]; 13] = [
    &["lib"],
    &["cli"],
    &["daemon"],
    &["doctor"],
    &["volume"],
    &["config"],
    &["repository"],
    &["catalog"],
    &["capture"],
    &["target"],
    &["source"],
    &["store"],
    &["output", "error", "logging", "test_switches", "mountinfo", "units", "quoting"],
];
const LAYERED: &str = "tracker/src/";

pub(super) fn check(files: &[File]) -> Vec<Fault> {
    check_but(files, known::KNOWN)
}

fn check_but(files: &[File], known: &[(&str, &str)]) -> Vec<Fault> {
    let (mut arrows, mut faults) = (Vec::new(), Vec::new());
    for root in ROOTS {
        match Crate::read(files, root) {
            Ok(read) => arrows.extend(read.arrows().into_iter().filter(|arrow| !arrow.from.starts_with(LEFT_OUT))),
            Err(fault) => faults.push(fault),
        }
    }
    let excused = |arrow: &Arrow| known.contains(&(arrow.from.as_str(), arrow.to.as_str()));
    let kept: Vec<Arrow> = arrows.iter().filter(|arrow| !excused(arrow)).cloned().collect();
    faults.extend(upward(&kept));
    faults.extend(circles(&kept));
    for (from, to) in known {
        let arrow = arrows.iter().find(|arrow| arrow.from == *from && arrow.to == *to);
        if !arrow.is_some_and(|arrow| breaks(arrow, &kept)) {
            faults.push(Fault {
                path: (*from).to_owned(),
                line: 0,
                text: format!("KNOWN has an arrow to {to} that is not needed any more: take it out"),
            });
        }
    }
    faults
}

/// Whether `arrow` would be a fault beside those that are `kept`.
fn breaks(arrow: &Arrow, kept: &[Arrow]) -> bool {
    let with: Vec<Arrow> = kept.iter().chain([arrow]).cloned().collect();
    is_upward(arrow) || circles(&with).len() > circles(kept).len() || grown(&with) > grown(kept)
}

/// Files that stand in some circle.
fn grown(arrows: &[Arrow]) -> usize {
    components(arrows).iter().map(Vec::len).sum()
}

/// The layer of a file of `tracker`; none for other crates, an error for a file that the list does not have.
fn layer(path: &str) -> Option<Result<usize, ()>> {
    let top = path.strip_prefix(LAYERED)?.split(['/', '.']).next()?;
    Some(LAYERS.iter().position(|names| names.contains(&top)).ok_or(()))
}

fn is_upward(arrow: &Arrow) -> bool {
    matches!((layer(&arrow.from), layer(&arrow.to)), (Some(Ok(from)), Some(Ok(to))) if to < from)
}

fn upward(arrows: &[Arrow]) -> Vec<Fault> {
    let fault = |arrow: &Arrow, text: String| Fault { path: arrow.from.clone(), line: arrow.line, text };
    let mut faults = Vec::new();
    for arrow in arrows {
        for path in [&arrow.from, &arrow.to] {
            if layer(path) == Some(Err(())) {
                faults.push(fault(arrow, format!("{path} has no place in the layers of xtask/src/tidy/layers.rs")));
            }
        }
        if is_upward(arrow) {
            faults.push(fault(arrow, format!("leans on {}, which is of a higher layer", arrow.to)));
        }
    }
    faults
}

/// The circles of files, each as one fault with the arrows that it is made of.
fn circles(arrows: &[Arrow]) -> Vec<Fault> {
    let describe = |circle: Vec<&str>| {
        let within = |arrow: &&Arrow| circle.contains(&arrow.from.as_str()) && circle.contains(&arrow.to.as_str());
        let lines: Vec<String> = arrows
            .iter()
            .filter(within)
            .map(|arrow| format!("\n    {}:{} -> {}", arrow.from, arrow.line, arrow.to))
            .collect();
        let path = circle.iter().min().map_or(String::new(), |path| (*path).to_owned());
        Fault { path, line: 0, text: format!("a circle of {} files:{}\n   ", circle.len(), lines.concat()) }
    };
    components(arrows).into_iter().map(describe).collect()
}

/// Files that lead to each other, in groups of two and more.
fn components(arrows: &[Arrow]) -> Vec<Vec<&str>> {
    let mut graph = DiGraph::<&str, ()>::new();
    let mut nodes: BTreeMap<&str, NodeIndex> = BTreeMap::new();
    for arrow in arrows {
        let [from, to] =
            [&arrow.from, &arrow.to].map(|path| *nodes.entry(path).or_insert_with(|| graph.add_node(path)));
        graph.add_edge(from, to, ());
    }
    let all = tarjan_scc(&graph).into_iter().filter(|group| group.len() > 1);
    all.map(|group| group.into_iter().filter_map(|node| graph.node_weight(node).copied()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    fn tree(parts: &[(&str, &str)]) -> Vec<File> {
        parts.iter().map(|(path, text)| file(&format!("tracker/src/{path}"), text)).collect()
    }

    fn faults(parts: &[(&str, &str)], known: &[(&str, &str)]) -> Vec<String> {
        check_but(&tree(parts), known).into_iter().map(|fault| fault.text).collect()
    }

    #[test]
    fn a_circle_of_files_is_noticed() {
        let parts = [
            ("lib.rs", "mod store;"),
            ("store.rs", "mod a; mod b;"),
            ("store/a.rs", "use super::b; pub struct A(b::B);"),
            ("store/b.rs", "pub struct B; fn f() { g!(crate::store::a::A) }"),
        ];
        let found = faults(&parts, &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("a circle of 2 files") && found[0].contains("store/b.rs:1 -> tracker/src/store/a.rs")
        );
        // What only tests need makes none.
        let tests = "pub struct B; #[cfg(test)] mod tests { use super::super::a::A; } #[cfg(test)] use super::a::A;";
        assert_eq!(faults(&[parts[0], parts[1], parts[2], ("store/b.rs", tests)], &[]), [""; 0]);
    }

    #[test]
    fn a_facade_is_in_a_circle_by_its_own_items_alone() {
        let only = [
            ("lib.rs", "mod store;"),
            ("store.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
            ("store/a.rs", "pub struct A;"),
            ("store/b.rs", "use super::A; pub struct B(A);"),
        ];
        assert_eq!(faults(&only, &[]), [""; 0]);
        let own = "mod a; mod b; pub use a::A; pub use b::B; pub trait Store {} pub fn open() -> A { A }";
        let mut parts = only;
        parts[1] = ("store.rs", own);
        assert_eq!(faults(&parts, &[]), [""; 0], "a calls nothing of it");
        parts[2] = ("store/a.rs", "pub struct A; impl super::Store for A {}");
        assert_eq!(faults(&parts, &[]).len(), 1);
    }

    #[test]
    fn an_arrow_upward_is_noticed() {
        let parts = [
            ("lib.rs", "pub mod store; pub mod volume; pub mod stray;"),
            ("store.rs", "pub use crate::volume::V as W; fn f(v: super::volume::V) {}"),
            ("volume.rs", "pub struct V; use crate::store; use crate::stray::S;"),
            ("stray.rs", "pub struct S;"),
        ];
        let found = faults(&parts, &[]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found.iter().any(|text| text == "leans on tracker/src/volume.rs, which is of a higher layer"),
            "{found:?}"
        );
        assert!(found.iter().any(|text| text.contains("stray.rs has no place")), "{found:?}");
    }

    #[test]
    fn what_is_known_is_excused_until_it_is_mended() {
        let broken = [
            ("lib.rs", "pub mod store; pub mod units;"),
            ("store.rs", "pub struct S;"),
            ("units.rs", "use crate::store::S;"),
        ];
        let arrow = ("tracker/src/units.rs", "tracker/src/store.rs");
        assert_eq!(faults(&broken, &[arrow]), [""; 0]);
        let stale = "KNOWN has an arrow to tracker/src/store.rs that is not needed any more: take it out";
        let mended = [broken[0], broken[1], ("units.rs", "pub struct U;")];
        assert_eq!(faults(&mended, &[arrow]), [stale]);
        // Of the two arrows of a circle one is enough.
        let circle = [
            ("lib.rs", "pub mod store;"),
            ("store.rs", "pub mod a; pub mod b;"),
            ("store/a.rs", "use super::b::B; pub struct A;"),
            ("store/b.rs", "use super::a::A; pub struct B;"),
        ];
        let (one, other) = ("tracker/src/store/a.rs", "tracker/src/store/b.rs");
        assert_eq!(faults(&circle, &[(one, other)]), [""; 0]);
        assert_eq!(faults(&circle, &[(one, other), (other, one)]).len(), 2);
    }
}

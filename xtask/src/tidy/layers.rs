//! Which file may lean on which: no circle of files in any crate, and in `tracker` and its `volume` no arrow from a lower
//! layer to a higher one.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::file::{Fault, File};
use super::modules::{Arrow, Crate};

/// The crates that are looked at, by their root.
const ROOTS: [&str; 4] = ["tracker/src/lib.rs", "engine/src/lib.rs", "common/src/lib.rs", "xtask/src/main.rs"];

/// The simulation is test code, in which world and checks lean on each other.
const LEFT_OUT: &str = "engine/src/sim";

/// Folders with layers, from top to bottom: each file and folder in them by its name. `main` is a crate of its own, which Cargo
/// keeps on top.
const LAYERS: [(&str, &str); 2] = [
    (
        "tracker/src/",
        "lib > cli > daemon > doctor > volume > config > repository > catalog > capture > target > source > store
         > pause > cgroups urgent
         > output error logging test_switches mountinfo units quoting",
    ),
    (
        "tracker/src/volume/",
        "life > handle runner > startup > opened > progress > selftest status > ways_on > errors > world > marks
         > clock hooks last_flush mass_delete",
    ),
];

pub(super) fn check(files: &[File]) -> Vec<Fault> {
    let (mut arrows, mut faults) = (Vec::new(), Vec::new());
    for root in ROOTS {
        match Crate::read(files, root) {
            Ok(read) => arrows.extend(read.arrows().into_iter().filter(|arrow| !arrow.from.starts_with(LEFT_OUT))),
            Err(fault) => faults.push(fault),
        }
    }
    faults.extend(upward(&arrows));
    faults.extend(circles(&arrows));
    faults
}

fn upward(arrows: &[Arrow]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (arrow, (folder, layers)) in arrows.iter().flat_map(|arrow| LAYERS.map(|layers| (arrow, layers))) {
        let mut fault = |text| faults.push(Fault { path: arrow.from.clone(), line: arrow.line, text });
        let [from, to] = [&arrow.from, &arrow.to].map(|path| {
            let name = path.strip_prefix(folder)?.split(['/', '.']).next()?;
            let layer = layers.split('>').position(|names| names.split_whitespace().any(|other| other == name));
            if layer.is_none() {
                fault(format!("{path} has no place in the layers of xtask/src/tidy/layers.rs"));
            }
            layer
        });
        if from.zip(to).is_some_and(|(from, to)| to < from) {
            fault(format!("leans on {}, which is of a higher layer", arrow.to));
        }
    }
    faults
}

/// The circles of files, each as one fault with the arrows that it is made of.
fn circles(arrows: &[Arrow]) -> Vec<Fault> {
    let (mut graph, mut nodes) = (DiGraph::<&str, ()>::new(), BTreeMap::<&str, NodeIndex>::new());
    for Arrow { from, to, .. } in arrows {
        let [from, to] = [from, to].map(|path| *nodes.entry(path).or_insert_with(|| graph.add_node(path)));
        graph.add_edge(from, to, ());
    }
    let mut faults = Vec::new();
    for group in tarjan_scc(&graph).into_iter().filter(|group| group.len() > 1) {
        let circle: BTreeSet<&str> = group.into_iter().map(|node| graph[node]).collect();
        let mut text = format!("a circle of {} files:", circle.len());
        for Arrow { from, to, line } in arrows {
            if circle.contains(from.as_str()) && circle.contains(to.as_str()) {
                text.push_str(&format!("\n    {from}:{line} -> {to}"));
            }
        }
        faults.push(Fault {
            path: circle.first().copied().unwrap_or_default().to_owned(),
            line: 0,
            text: text + "\n   ",
        });
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::file::file;
    use super::*;

    fn faults(parts: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = parts.iter().map(|(path, text)| file(&format!("tracker/src/{path}"), text)).collect();
        check(&files).into_iter().map(|fault| fault.text).collect()
    }

    #[test]
    fn a_circle_of_files_is_noticed() {
        let parts = [
            ("lib.rs", "mod store;"),
            ("store.rs", "mod a; mod b;"),
            ("store/a.rs", "use super::b; pub struct A(b::B);"),
            ("store/b.rs", "pub struct B; fn f() { g!(crate::store::a::A) }"),
        ];
        let found = faults(&parts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("a circle of 2 files") && found[0].contains("store/b.rs:1 -> tracker/src/store/a.rs")
        );
        // What only tests need makes none.
        let tests = "pub struct B; #[cfg(test)] mod tests { use super::super::a::A; } #[cfg(test)] use super::a::A;";
        assert_eq!(faults(&[parts[0], parts[1], parts[2], ("store/b.rs", tests)]), [""; 0]);
    }

    #[test]
    fn a_facade_is_in_a_circle_by_its_own_items_alone() {
        let only = [
            ("lib.rs", "mod store;"),
            ("store.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
            ("store/a.rs", "pub struct A;"),
            ("store/b.rs", "use super::A; pub struct B(A);"),
        ];
        assert_eq!(faults(&only), [""; 0]);
        let own = "mod a; mod b; pub use a::A; pub use b::B; pub trait Store {} pub fn open() -> A { A }";
        let mut parts = only;
        parts[1] = ("store.rs", own);
        assert_eq!(faults(&parts), [""; 0], "a calls nothing of it");
        parts[2] = ("store/a.rs", "pub struct A; impl super::Store for A {}");
        assert_eq!(faults(&parts).len(), 1);
    }

    #[test]
    fn an_arrow_upward_is_noticed() {
        let parts = [
            ("lib.rs", "pub mod store; pub mod volume; pub mod stray;"),
            ("store.rs", "pub use crate::volume::V as W; fn f(v: super::volume::V) {}"),
            ("volume.rs", "mod marks; mod startup; pub struct V; use crate::store; use crate::stray::S;"),
            ("volume/marks.rs", "use super::startup::Prepared;"),
            ("volume/startup.rs", "use crate::store::W; pub struct Prepared;"),
            ("stray.rs", "pub struct S;"),
        ];
        let expected = [
            "leans on tracker/src/volume.rs, which is of a higher layer",
            "tracker/src/stray.rs has no place in the layers of xtask/src/tidy/layers.rs",
            "leans on tracker/src/volume/startup.rs, which is of a higher layer",
        ];
        assert_eq!(faults(&parts), expected);
    }
}

//! Whom to pause: the decision alone, from plain values.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cgroups::KERNEL;

/// A cgroup that has just written.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    pub(super) id: u64,
    /// `None`: it is gone.
    pub(super) path: Option<PathBuf>,
    /// Somebody has frozen it, or a group above it.
    pub(super) frozen: bool,
}

/// Why nobody is paused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("control groups of version 2 are not mounted")]
    NoHierarchy,
    #[error("it cannot be told in which control groups this process and its ancestors are")]
    Unknown,
    #[error("only threads of the kernel write")]
    Kernel,
    /// It cannot be frozen.
    #[error("tasks of the root control group write")]
    Root,
    #[error("{} writes, and this process or one of its ancestors is in it", path.display())]
    Ours { path: PathBuf },
    #[error("{} writes, and a process in it serves the store", path.display())]
    Serves { path: PathBuf },
}

/// Id and path of each group to pause; `ours`: the groups of this process and its ancestors. What threads of the kernel do follows from
/// what others have done, as a rule, so that they do not keep those from being paused.
pub(super) fn whom(writers: &[Writer], ours: &BTreeSet<PathBuf>) -> Result<Vec<(u64, PathBuf)>, Refused> {
    if !writers.is_empty() && writers.iter().all(|writer| writer.id == KERNEL) {
        return Err(Refused::Kernel);
    }
    let mut chosen: Vec<(u64, PathBuf)> = Vec::new();
    for Writer { id, path, frozen } in writers {
        // Its last task has ended.
        let Some(path) = path else { continue };
        if path == Path::new("/") {
            return Err(Refused::Root);
        }
        if ours.iter().any(|own| own.starts_with(path)) {
            return Err(Refused::Ours { path: path.clone() });
        }
        // Whoever froze it lets it go on, and until then it writes nothing.
        if !frozen {
            chosen.push((*id, path.clone()));
        }
    }
    // A group is frozen with the one above it: each is switched once.
    let all: BTreeSet<PathBuf> = chosen.iter().map(|(_, path)| path.clone()).collect();
    chosen.retain(|(_, path)| !path.ancestors().skip(1).any(|above| all.contains(above)));
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(paths: &[&str]) -> Vec<Writer> {
        let writer = |(id, path): (u64, &&str)| Writer { id, path: Some(PathBuf::from(path)), frozen: false };
        (1..).zip(paths).map(writer).collect()
    }

    fn ours(paths: &[&str]) -> BTreeSet<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    fn chosen(writers: &[Writer]) -> Vec<u64> {
        let of = whom(writers, &ours(&["/system.slice/tracker.service", "/init.scope"])).unwrap();
        of.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn those_who_write_are_paused() {
        assert_eq!(chosen(&writers(&["/system.slice/db.service", "/docker/1"])), [1, 2]);
        assert_eq!(chosen(&[]), [] as [u64; 0]);
    }

    #[test]
    fn the_root_is_never_paused_whoever_else_writes() {
        for paths in [&["/"][..], &["/a", "/"], &["/", "/a"]] {
            assert_eq!(whom(&writers(paths), &ours(&["/own"])), Err(Refused::Root), "{paths:?}");
        }
    }

    #[test]
    fn threads_of_the_kernel_refuse_only_by_themselves() {
        let kernel = Writer { id: KERNEL, path: None, frozen: false };
        assert_eq!(whom(std::slice::from_ref(&kernel), &ours(&[])), Err(Refused::Kernel));
        let mut some = writers(&["/a"]);
        some.push(kernel);
        assert_eq!(chosen(&some), [1]);
    }

    #[test]
    fn our_own_group_and_those_above_it_are_never_paused() {
        let ours = ours(&["/a/b/own", "/user.slice/shell"]);
        for path in ["/a/b/own", "/a/b", "/a", "/user.slice", "/user.slice/shell"] {
            let refused = whom(&writers(&["/x", path]), &ours);
            assert_eq!(refused, Err(Refused::Ours { path: path.into() }), "{path}");
        }
        // Beside, below, and of a name that begins alike.
        for path in ["/a/c", "/a/b/own/below", "/a/b/own2", "/user.slice/she"] {
            assert_eq!(whom(&writers(&[path]), &ours).unwrap().len(), 1, "{path}");
        }
    }

    #[test]
    fn a_group_below_a_chosen_one_is_paused_with_it() {
        assert_eq!(chosen(&writers(&["/a/b/c", "/a", "/ab", "/a/b"])), [2, 3]);
    }

    #[test]
    fn a_group_that_is_gone_or_frozen_by_somebody_else_is_left_alone() {
        let mut some = writers(&["/gone", "/frozen", "/frozen/below", "/other"]);
        some[0].path = None;
        some[1].frozen = true;
        assert_eq!(chosen(&some), [3, 4], "one below that does not say it is frozen is switched by itself");
        some[2].frozen = true;
        some[3].frozen = true;
        assert_eq!(chosen(&some), [] as [u64; 0]);
    }

    #[test]
    fn the_root_counts_even_where_it_says_it_is_frozen() {
        let mut some = writers(&["/"]);
        some[0].frozen = true;
        assert_eq!(whom(&some, &ours(&[])), Err(Refused::Root));
    }
}

//! Where files are: in the model's tree, and under which names a flush read what it commits.

use std::collections::BTreeMap;

use super::files::{Files, ROOT};
use crate::model::{ChangeSet, FileId, Ino};

type Names = BTreeMap<(FileId, Vec<u8>), FileId>;
/// From the root downwards.
type Path = Vec<Vec<u8>>;

/// The paths under which each file was opened in this flush.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened(BTreeMap<FileId, Vec<Path>>);

impl Opened {
    pub(super) fn add(&mut self, id: FileId, path: Path) {
        self.0.entry(id).or_default().push(path);
    }

    /// A file whose content is about to be committed though no path of it in `names` is one by which it was opened, nor one that
    /// `was_at` knows it to have had.
    pub(super) fn elsewhere<L>(
        &self,
        changes: &ChangeSet<L>,
        names: &Names,
        was_at: impl Fn(FileId, &[Vec<u8>]) -> bool,
    ) -> Option<FileId> {
        let mut read = changes.files.iter().filter(|file| file.content.is_some()).map(|file| file.id);
        read.find(|id| {
            let now = paths_of(names, *id, 1000);
            let opened = self.0.get(id).is_some_and(|opened| opened.iter().any(|path| now.contains(path)));
            !opened && !now.iter().any(|path| was_at(*id, path))
        })
    }
}

/// All paths of a file; none below a directory that has no name, or is in a circle.
fn paths_of(names: &Names, id: FileId, depth: usize) -> Vec<Path> {
    if id == FileId::ROOT {
        return vec![Path::new()];
    }
    let places = names.iter().filter(|(_, named)| **named == id && depth > 0).map(|(place, _)| place);
    places
        .flat_map(|(parent, name)| {
            let mut above = paths_of(names, *parent, depth - 1);
            above.iter_mut().for_each(|path| path.push(name.clone()));
            above
        })
        .collect()
}

/// The inode that a path leads to.
pub(super) fn walk(files: &Files, path: &[Vec<u8>]) -> Option<Ino> {
    path.iter().try_fold(ROOT, |dir, name| files.entry(dir, name))
}

/// Whether a name leads to the inode from the source's root.
pub(super) fn is_in_tree(files: &Files, ino: Ino) -> bool {
    let holds = |ino: Ino| files.inodes.iter().find(|(_, dir)| dir.entries.iter().any(|(_, at)| *at == ino));
    let up = std::iter::successors(Some(ino), |at| holds(*at).map(|(dir, _)| *dir));
    up.take(files.inodes.len() + 1).any(|at| at == ROOT)
}

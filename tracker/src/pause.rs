//! Pausing writers for a moment: whom, and how it is certain that they go on.
//!
//! One process of its own, the guard, writes `1` and `0` to `cgroup.freeze`. It is started before anything is paused, and is ready then.
//! It lets the writers go on when it is told to, when whoever told it to pause has died (its pipe ends), and when the allowed time is
//! over. So neither a dead nor a stuck daemon keeps them paused. Where both are killed at once (`cgroup.kill`), the next daemon finds
//! a note of it.
//!
//! Nobody waits until they have stopped. While they are paused nothing but the source and the kernel is asked, never the store: a store
//! whose server is among the paused is only slower.

pub mod guard;
mod held;
mod note;
mod serves;
mod whom;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cgroups::Hierarchy;
pub use held::Held;
pub use note::undo;
use serves::Served;
pub use whom::Refused;
use whom::{Writer, whom};

/// A cgroup that is to be paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The kernel's id.
    pub id: u64,
    /// Its directory.
    pub dir: PathBuf,
}

/// The groups to pause so that those with these ids write nothing; none, if nobody writes who is not paused already. `store`: its
/// directory, where it is a local one.
///
/// # Errors
/// Why they are not to be paused.
pub fn choose(ids: &BTreeSet<u64>, store: Option<&Path>) -> Result<Vec<Group>, Refused> {
    let hierarchy = Hierarchy::find().ok_or(Refused::NoHierarchy)?;
    let ours = hierarchy.ours().ok_or(Refused::Unknown)?;
    let paths: BTreeMap<u64, PathBuf> = hierarchy.paths(ids);
    let writers = ids.iter().map(|id| {
        let path = paths.get(id).cloned();
        let frozen = path.as_ref().is_some_and(|path| is_frozen(&hierarchy.dir(path)));
        Writer { id: *id, path, frozen }
    });
    let chosen = whom(&writers.collect::<Vec<_>>(), &ours)?;
    let served = Served::now(store);
    let serves = |(_, path): &&(u64, PathBuf)| served.by(&hierarchy.dir(path));
    if let Some((_, path)) = chosen.iter().find(serves) {
        return Err(Refused::Serves { path: path.clone() });
    }
    Ok(chosen.into_iter().map(|(id, path)| Group { id, dir: hierarchy.dir(&path) }).collect())
}

/// Whether somebody has frozen the group, or one above it.
fn is_frozen(dir: &Path) -> bool {
    let asked = fs::read_to_string(dir.join(FREEZE)).is_ok_and(|text| text.trim() == "1");
    asked || fs::read_to_string(dir.join("cgroup.events")).is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
}

const FREEZE: &str = "cgroup.freeze";

/// The switch of a group. It stays that of the same group, whatever gets its name later.
#[derive(Debug)]
struct Switch(File);

impl Switch {
    /// `None`: the group is gone.
    fn open(group: &Group) -> io::Result<Option<Switch>> {
        let opened = OpenOptions::new().write(true).open(group.dir.join(FREEZE));
        // Looked at after the file was opened: a directory that has the id now had it then, since ids do not return.
        match (opened, fs::metadata(&group.dir)) {
            (Ok(file), Ok(dir)) if dir.ino() == group.id => Ok(Some(Switch(file))),
            (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }

    /// A group that is gone is in either state.
    fn set(&mut self, frozen: bool) -> io::Result<()> {
        match self.0.write_all(if frozen { b"1" } else { b"0" }) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }
}

/// Lets the tasks of all groups go on. Tries all of them, and returns the first failure.
fn thaw(switches: &mut [Switch]) -> io::Result<()> {
    let mut first = Ok(());
    for switch in switches {
        let set = switch.set(false);
        first = first.and(set);
    }
    first
}

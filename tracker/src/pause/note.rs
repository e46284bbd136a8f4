//! The note of a pause, in a file: if daemon and guard are killed together, the next daemon lets go on what they had paused.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Group, Switch, thaw};

/// Written before anybody is paused, and removed when it is dropped. It is not synced: it is for the death of processes, and control
/// groups do not outlive the kernel.
#[derive(Debug)]
pub(super) struct Note(PathBuf);

impl Note {
    pub(super) fn write(path: &Path, groups: &[Group]) -> io::Result<Note> {
        fs::write(path, text(&boot()?, groups))?;
        Ok(Note(path.to_owned()))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, "the note of a pause cannot be removed");
        }
    }
}

/// Lets those go on that an earlier process has paused and left. Returns how many groups there are.
///
/// # Errors
/// When the note cannot be read, or a group refuses to go on. The note stays.
pub fn undo(path: &Path) -> io::Result<usize> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut switches = Vec::new();
    for group in groups_in(&boot()?, &text) {
        switches.extend(Switch::open(&group)?);
    }
    thaw(&mut switches)?;
    fs::remove_file(path)?;
    Ok(switches.len())
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The kernel allows no newline in the name of a group (`cgroup_mkdir`, since Linux 3.15).
fn text(boot: &str, groups: &[Group]) -> Vec<u8> {
    let mut text = format!("{boot}\n").into_bytes();
    for Group { id, dir } in groups {
        text.extend([format!("{id} ").as_bytes(), dir.as_os_str().as_bytes(), b"\n"].concat());
    }
    text
}

/// None of another boot, where the ids are those of other groups. A last line that is cut is left out.
fn groups_in(boot: &str, text: &[u8]) -> Vec<Group> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(&text[..0], |end| &text[..end]);
    let mut lines = whole.split(|byte| *byte == b'\n');
    if lines.next() != Some(boot.as_bytes()) {
        return Vec::new();
    }
    let group = |line: &[u8]| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let id = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
        Some(Group { id, dir: PathBuf::from(OsString::from_vec(line[space + 1..].to_vec())) })
    };
    lines.filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A directory that looks like a group, and what was written to its switch.
    fn group() -> (tempfile::TempDir, Group) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "").unwrap();
        let id = fs::metadata(dir.path()).unwrap().ino();
        let group = Group { id, dir: dir.path().to_owned() };
        (dir, group)
    }

    fn written(group: &Group) -> String {
        fs::read_to_string(group.dir.join("cgroup.freeze")).unwrap()
    }

    #[test]
    fn what_an_earlier_process_has_left_paused_goes_on() {
        let ((_one, one), (_other, other)) = (group(), group());
        let renamed = Group { id: other.id + 1, ..other.clone() };
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("v.paused");
        std::mem::forget(Note::write(&path, &[one.clone(), renamed]).unwrap());
        assert_eq!(undo(&path).unwrap(), 1);
        assert_eq!((written(&one).as_str(), written(&other).as_str()), ("0", ""), "another group has the name by now");
        assert!(!path.exists());
        assert_eq!(undo(&path).unwrap(), 0);
        drop(Note::write(&path, &[one]).unwrap());
        assert!(!path.exists(), "a pause that has ended leaves nothing");
    }

    #[test]
    fn a_note_of_another_boot_or_a_cut_one_names_nobody_wrongly() {
        let groups = [Group { id: 7, dir: "/sys/fs/cgroup/a b".into() }, Group { id: 8, dir: "/c".into() }];
        let text = text("boot", &groups);
        assert_eq!(groups_in("boot", &text), groups);
        assert_eq!(groups_in("other", &text), []);
        for end in 0..text.len() {
            let some = groups_in("boot", &text[..end]);
            assert_eq!(some, groups[..some.len()], "{end}");
        }
    }
}

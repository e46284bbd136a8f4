//! All sets of pins on this host: who owns them, what they cost, and removing those that no process will use again.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::maps::ctrl;

use super::config::MapEntries;
use super::error::CaptureError;
use super::lease::monotonic_ns;
use super::owner::{Life, Owner, Words};
use super::pin_files::{map_path, remove_pins};
use super::sys::{self, Table};
use super::tables::{MAPS, OWNER, memory_of};

/// Directory of all sets of pins. Each is in a directory named by the identity of its state directory.
pub const ROOT: &str = "/sys/fs/bpf/tracker";

/// Directory of the pins of one state directory. The identity names it, so a state directory that is moved or copied does
/// not take over another's marks.
#[must_use]
pub fn dir_of(state_dir: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let name = fs::metadata(state_dir).map_or_else(|_| "state".into(), |m| format!("{:x}-{:x}", m.dev(), m.ino()));
    Path::new(ROOT).join(name)
}

/// One set of pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinSet {
    /// Name of its directory.
    pub id: String,
    pub dir: PathBuf,
    /// `None`: it has no record (a start that did not complete, another version, or a starting `watch`).
    pub owner: Option<Owner>,
    /// Kernel memory of its maps, in bytes.
    pub kernel_bytes: u64,
    /// Programs that are attached.
    pub programs: usize,
    /// How long the programs go on marking without a daemon; `None`: forever, or unknown.
    pub lease_left: Option<Duration>,
}

impl PinSet {
    /// Whether its process is alive.
    #[must_use]
    pub fn life(&self) -> Life {
        self.owner.as_ref().map_or(Life::Unknown, Owner::life)
    }

    /// Whether its lease is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lease_left == Some(Duration::ZERO) && matches!(self.life(), Life::Dead | Life::Unknown)
    }

    /// Detaches its programs and removes its pins.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(&self) -> Result<(), CaptureError> {
        remove_pins(&self.dir)
    }
}

/// All sets below `root`, by name; none if there is no such directory.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(root: &Path) -> Result<Vec<PinSet>, CaptureError> {
    let failed = |source| CaptureError::File { what: "list pins in", path: root.to_owned(), source };
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut sets = Vec::new();
    for entry in entries {
        let dir = entry.map_err(failed)?.path();
        if dir.is_dir() {
            sets.push(look(dir));
        }
    }
    sets.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(sets)
}

/// Reads what is known of one set. What cannot be opened counts as absent.
fn look(dir: PathBuf) -> PinSet {
    let mut bytes = 0;
    for name in MAPS.into_iter().chain([OWNER]) {
        if let Ok(map) = sys::open_pin(&map_path(&dir, name)) {
            bytes += memory_of(map.as_fd());
        }
    }
    let word = |map: &str| sys::open_pin(&map_path(&dir, map)).ok();
    let owner = word(OWNER).and_then(|fd| Table::<u32, Words>::new(fd).ok());
    let owner = owner.and_then(|table| table.get(0).ok().flatten()).and_then(|words| Owner::of_words(&words));
    let control = word("CTRL").and_then(|fd| Table::<u32, u64>::new(fd).ok());
    let until = control.and_then(|control| control.get(ctrl::LEASE).ok().flatten());
    // An older layout has no word 8; a start that did not complete left it 0.
    let until = until.filter(|until| *until != u64::MAX && *until != 0);
    let lease_left = until.map(|until| Duration::from_nanos(until.saturating_sub(monotonic_ns())));
    let links = fs::read_dir(&dir).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"link_")).count()
    });
    let id = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    PinSet { id, dir, owner, kernel_bytes: bytes, programs: links, lease_left }
}

/// Removes the sets whose lease is over, except `own`, which its process judges itself.
pub fn reap(root: &Path, own: &Path) {
    let sets = match list(root) {
        Ok(sets) => sets,
        Err(error) => {
            tracing::debug!(error = crate::error::chain(&error), "what other captures left is not looked at");
            return;
        }
    };
    for set in sets.iter().filter(|set| set.dir != own && set.is_over()) {
        let owner = set.owner.as_ref().map(|owner| owner.state_dir.display().to_string());
        match set.remove() {
            Ok(()) => tracing::info!(set = set.id, owner, "a capture that nobody came back for is removed"),
            Err(error) => {
                tracing::warn!(set = set.id, error = crate::error::chain(&error), "it cannot be removed");
            }
        }
    }
}

/// Why a capture with these maps must not be attached in addition to the existing sets, if so.
#[must_use]
pub fn too_much(others: &[PinSet], entries: &MapEntries, most: u64) -> Option<String> {
    let show = crate::units::show_bytes;
    let largest = entries.largest_bytes();
    if largest > most {
        return Some(format!(
            "its kernel maps may grow to {}, above the bound of {} (tracking.memory, --tracking-memory)",
            show(largest),
            show(most)
        ));
    }
    let held: u64 = others.iter().map(|set| set.kernel_bytes).sum();
    (held.saturating_add(entries.idle_bytes()) > most).then(|| {
        format!(
            "{} captures on this host hold {} of kernel memory, and one more would pass the bound of {} \
             (tracking.memory, --tracking-memory); `tracker untrack --all` removes those that nobody uses",
            others.len(),
            show(held),
            show(most)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(bytes: u64, lease_left: Option<u64>) -> PinSet {
        PinSet {
            id: "1-2".into(),
            dir: "/none".into(),
            owner: None,
            kernel_bytes: bytes,
            programs: 21,
            lease_left: lease_left.map(Duration::from_secs),
        }
    }

    #[test]
    fn all_sets_together_and_each_have_a_bound() {
        let entries = MapEntries::default();
        assert!(entries.idle_bytes() <= 8 << 20, "{}", entries.idle_bytes());
        assert_eq!(too_much(&[], &entries, 1 << 30), None);
        let many: Vec<PinSet> = (0..200).map(|_| set(8 << 20, None)).collect();
        let why = too_much(&many, &entries, 1 << 30).unwrap();
        assert!(why.contains("200 captures") && why.contains("tracker untrack"), "{why}");
        let huge = MapEntries { watch: 1 << 24, ..entries };
        assert!(too_much(&[], &huge, 1 << 30).unwrap().contains("may grow"));
    }

    #[test]
    fn only_a_lease_that_was_given_can_be_over() {
        assert!(set(0, Some(0)).is_over());
        assert!(!set(0, Some(1)).is_over());
        assert!(!set(0, None).is_over());
    }

    #[test]
    fn no_directory_is_no_set() {
        assert_eq!(list(Path::new("/nonexistent/tracker")).unwrap(), []);
    }
}

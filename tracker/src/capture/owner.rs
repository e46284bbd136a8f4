//! The owner of a set of pins: a record in a map that is pinned with them, so that it ends with them and every process can
//! read it.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lease::gap;

/// Words of the record.
const WORDS: usize = 160;
/// The record as the map has it.
pub(super) type Words = [u64; WORDS];

/// Layout of the words.
const LAYOUT: u64 = 1;
/// Words before the texts: layout, pid, its start, pid namespace, made, seen, lease, length of version, length of path.
const NUMBERS: usize = 9;
/// Bytes of the version.
const VERSION_MAX: usize = 32;
/// Most bytes of the path; a longer one is cut.
const PATH_MAX: usize = (WORDS - NUMBERS) * 8 - VERSION_MAX;

/// The process that made a set of pins, or took it over last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub state_dir: PathBuf,
    pub pid: u64,
    /// When the process began, in the kernel's ticks since boot: tells whether the pid was reused.
    pub pid_start: u64,
    /// Inode of its pid namespace, the only one in which `pid` is meaningful.
    pub pid_namespace: u64,
    /// Seconds since 1970.
    pub made: u64,
    /// Seconds since 1970 of the last renewal.
    pub seen: u64,
    pub lease_seconds: u64,
    pub version: String,
}

/// What is known of the process that owns a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    Dead,
    /// It ran in another pid namespace, and renewed its record a moment ago.
    PerhapsAlive,
    /// There is no record of it: another version made the set, or its start did not complete.
    Unknown,
}

impl Owner {
    /// The record of this process, for a state directory.
    pub(super) fn this_process(state_dir: &Path, lease: Duration) -> Self {
        let pid = u64::from(std::process::id());
        Self {
            state_dir: state_dir.to_owned(),
            pid,
            pid_start: started(pid).unwrap_or(0),
            pid_namespace: pid_namespace(),
            made: unix_seconds(),
            seen: unix_seconds(),
            lease_seconds: lease.as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    pub(super) fn words(&self) -> Words {
        let (version, path) = (self.version.as_bytes(), self.state_dir.as_os_str().as_bytes());
        let (version, path) = (&version[..version.len().min(VERSION_MAX)], &path[..path.len().min(PATH_MAX)]);
        let mut words = [0; WORDS];
        let numbers = [
            LAYOUT,
            self.pid,
            self.pid_start,
            self.pid_namespace,
            self.made,
            self.seen,
            self.lease_seconds,
            version.len() as u64,
            path.len() as u64,
        ];
        words[..NUMBERS].copy_from_slice(&numbers);
        let mut text = [0u8; (WORDS - NUMBERS) * 8];
        text[..version.len()].copy_from_slice(version);
        text[VERSION_MAX..VERSION_MAX + path.len()].copy_from_slice(path);
        for (word, bytes) in words[NUMBERS..].iter_mut().zip(text.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        words
    }

    /// `None`: a record of another layout, or none.
    pub(super) fn of_words(words: &Words) -> Option<Self> {
        let [layout, pid, pid_start, pid_namespace, made, seen, lease_seconds, version, path] =
            *words.first_chunk::<NUMBERS>()?;
        let text: Vec<u8> = words[NUMBERS..].iter().flat_map(|word| word.to_le_bytes()).collect();
        let length = |of: u64, max: usize| usize::try_from(of).ok().filter(|of| *of <= max);
        let version = text.get(..length(version, VERSION_MAX)?)?;
        let path = text.get(VERSION_MAX..VERSION_MAX + length(path, PATH_MAX)?)?;
        (layout == LAYOUT).then(|| Self {
            state_dir: std::ffi::OsString::from_vec(path.to_vec()).into(),
            pid,
            pid_start,
            pid_namespace,
            made,
            seen,
            lease_seconds,
            version: String::from_utf8_lossy(version).into_owned(),
        })
    }

    /// Whether the process is alive, as far as this process can tell.
    #[must_use]
    pub fn life(&self) -> Life {
        self.judge(pid_namespace(), unix_seconds(), started)
    }

    fn judge(&self, namespace: u64, now: u64, started: impl Fn(u64) -> Option<u64>) -> Life {
        if self.pid_namespace == namespace {
            return if started(self.pid) == Some(self.pid_start) { Life::Alive } else { Life::Dead };
        }
        let due = 2 * gap(Duration::from_secs(self.lease_seconds)).as_secs() + 5;
        if now.saturating_sub(self.seen) <= due { Life::PerhapsAlive } else { Life::Dead }
    }
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// Field 22 of `/proc/PID/stat`. The second field is a name in parentheses that may contain anything.
fn started(pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    // A zombie holds no lease and no map any more.
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            state_dir: "/var/lib/tr\u{e4}cker".into(),
            pid: 7,
            pid_start: 99,
            pid_namespace: 5,
            made: 1000,
            seen: 2000,
            lease_seconds: 86_400,
            version: "1.2.3".into(),
        }
    }

    #[test]
    fn a_record_makes_the_round_trip_and_a_long_path_is_cut() {
        assert_eq!(Owner::of_words(&owner().words()), Some(owner()));
        let long = Owner { state_dir: format!("/{}", "x".repeat(3000)).into(), ..owner() };
        let read = Owner::of_words(&long.words()).unwrap();
        assert_eq!(read.state_dir.as_os_str().len(), PATH_MAX);
        assert_eq!(Owner::of_words(&[0; WORDS]), None);
        assert_eq!(Owner::of_words(&[u64::MAX; WORDS]), None);
    }

    #[test]
    fn a_pid_counts_in_its_namespace_and_with_its_start_alone() {
        let of = |namespace, now, start: Option<u64>| owner().judge(namespace, now, |_| start);
        assert_eq!(of(5, 2000, Some(99)), Life::Alive);
        assert_eq!(of(5, 2000, Some(100)), Life::Dead, "the pid was given again");
        assert_eq!(of(5, 2000, None), Life::Dead);
        assert_eq!(of(6, 2060, Some(99)), Life::PerhapsAlive);
        assert_eq!(of(6, 2200, Some(99)), Life::Dead, "not seen any more");
    }

    #[test]
    fn this_process_lives() {
        let this = Owner::this_process(Path::new("/s"), Duration::from_secs(9));
        assert_eq!(this.life(), Life::Alive);
        assert!(this.pid_start > 0 && this.pid_namespace > 0);
    }
}

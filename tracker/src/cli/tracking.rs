//! The captures in the kernel of this host, as `status` and `doctor` list them.

use std::path::Path;

use serde::Serialize;

use super::table::columns;
use crate::capture::owner::Life;
use crate::capture::pin_sets::{self, PinSet};
use crate::units::{PathField, show_bytes, show_seconds};

/// One capture, for JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Tracking {
    pub id: String,
    /// `None`: it has no record of its owner.
    pub state_dir: Option<PathField>,
    /// "alive", "perhaps alive" (it ran in another pid namespace, and was seen a moment ago), "gone", or "unknown".
    pub daemon: &'static str,
    pub pid: Option<u64>,
    pub version: Option<String>,
    pub age_seconds: Option<u64>,
    pub seen_seconds_ago: Option<u64>,
    pub programs: usize,
    pub kernel_bytes: u64,
    /// `None`: programs mark forever, or it is unknown.
    pub lease_left_seconds: Option<u64>,
}

impl Tracking {
    fn of(set: &PinSet, now: u64) -> Tracking {
        let ago = |at: u64| now.saturating_sub(at);
        let owner = set.owner.as_ref();
        Tracking {
            id: set.id.clone(),
            state_dir: owner.map(|owner| {
                use std::os::unix::ffi::OsStrExt;
                PathField::new(owner.state_dir.as_os_str().as_bytes())
            }),
            daemon: word(set.life()),
            pid: owner.map(|owner| owner.pid),
            version: owner.map(|owner| owner.version.clone()),
            age_seconds: owner.map(|owner| ago(owner.made)),
            seen_seconds_ago: owner.map(|owner| ago(owner.seen)),
            programs: set.programs,
            kernel_bytes: set.kernel_bytes,
            lease_left_seconds: set.lease_left.map(|left| left.as_secs()),
        }
    }
}

/// In words, for tables and messages.
pub(super) fn word(life: Life) -> &'static str {
    match life {
        Life::Alive => "alive",
        Life::PerhapsAlive => "perhaps alive",
        Life::Dead => "gone",
        Life::Unknown => "unknown",
    }
}

/// All captures of this host; none if they cannot be listed.
pub(super) fn gather() -> Vec<Tracking> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let sets = pin_sets::list(Path::new(pin_sets::ROOT)).unwrap_or_default();
    sets.iter().map(|set| Tracking::of(set, now)).collect()
}

/// Lines of a table with a summary first; empty if there is no capture.
pub(super) fn text(all: &[Tracking]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let bytes: u64 = all.iter().map(|set| set.kernel_bytes).sum();
    let gone = all.iter().filter(|set| set.daemon == "gone").count();
    let mut rows =
        vec![["TRACKED", "STATE DIRECTORY", "DAEMON", "AGE", "PROGRAMS", "MEMORY", "LEASE"].map(str::to_owned)];
    rows.extend(all.iter().map(|set| {
        [
            set.id.clone(),
            set.state_dir.as_ref().map_or_else(|| "-".into(), |path| path.for_people().to_string()),
            match (set.daemon, set.pid, set.seen_seconds_ago) {
                ("alive", Some(pid), _) => format!("alive, pid {pid}"),
                (word, _, Some(seen)) => format!("{word}, seen {} ago", show_seconds(seen as f64)),
                (word, ..) => word.to_owned(),
            },
            set.age_seconds.map_or_else(|| "-".into(), |age| show_seconds(age as f64)),
            set.programs.to_string(),
            show_bytes(set.kernel_bytes),
            match set.lease_left_seconds {
                None => "-".into(),
                Some(0) => "over".into(),
                Some(left) => show_seconds(left as f64),
            },
        ]
    }));
    let mut text = columns(&rows);
    text.push_str(&format!("tracked in the kernel: {} with {}", all.len(), show_bytes(bytes)));
    if gone > 0 {
        text.push_str(&format!("; {gone} without a daemon (`tracker untrack` removes them)"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::owner::Owner;
    use std::time::Duration;

    #[test]
    fn every_set_is_listed_with_owner_age_memory_daemon_and_lease() {
        let owner = Owner { state_dir: "/var/lib/tracker".into(), pid: 4, made: 100, seen: 900, ..Owner::default() };
        let set = PinSet {
            id: "fe00-2a".into(),
            dir: "/x".into(),
            owner: Some(owner),
            kernel_bytes: 7 << 20,
            programs: 21,
            lease_left: Some(Duration::from_secs(7200)),
        };
        let old = PinSet { id: "watch".into(), owner: None, lease_left: None, ..set.clone() };
        let all = [Tracking::of(&set, 1000), Tracking::of(&old, 1000)];
        let expected = "\
TRACKED  STATE DIRECTORY   DAEMON                 AGE      PROGRAMS  MEMORY   LEASE
fe00-2a  /var/lib/tracker  gone, seen 1m 40s ago  15m 0s   21        7.0 MiB  2h 0m
watch    -                 unknown                -        21        7.0 MiB  -
tracked in the kernel: 2 with 14.0 MiB; 1 without a daemon (`tracker untrack` removes them)
";
        let squeezed =
            |text: &str| text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
        assert_eq!(squeezed(&text(&all)), squeezed(expected));
        assert_eq!(text(&[]), "");
    }
}

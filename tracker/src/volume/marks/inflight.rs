//! Changes that stay in flight for long: when they are marked again, and when they may be forgotten.
//!
//! A change that began and has not completed is marked at every drain. Two kinds never complete.
//!
//! A direct request that fails before it reaches the disk has a begin and no end. It changed nothing by itself (its
//! fallback marks its pages), and its entry is overwritten when the kernel reuses its request block. The entry is not
//! forgotten earlier, because it marks the range if the request was only slow and completes later. So after a minute its
//! range is marked only at doubling ages, and read in vain a few times a day instead of at every drain.
//!
//! A call whose return probe was missed is over when its task ends, at the latest: then it is marked a last time and
//! forgotten. While the task lives it may still be in the call, so it is marked at every drain.

use std::path::Path;

use crate::capture::InflightWrite;

/// Age at which a direct write is assumed to have failed, ns.
const OLD_NS: u64 = 60_000_000_000;

/// Whether this drain at `now` marks it again, when the last drain was at `before`.
pub(crate) fn is_due(io: &InflightWrite, before: u64, now: u64) -> bool {
    let age = |at: u64| at.saturating_sub(io.began_ns);
    if io.task().is_some() || age(now) < OLD_NS {
        return true;
    }
    // Not due unless its age passed a power of two of minutes.
    let step = |age: u64| (age / OLD_NS).checked_ilog2();
    before < io.began_ns || step(age(before)) != step(age(now))
}

/// Whether it is a call whose task has ended, as far as this process can tell.
pub(crate) fn is_over(io: &InflightWrite) -> bool {
    io.task().is_some_and(|task| sees_all_tasks() && !Path::new("/proc").join(task.to_string()).exists())
}

/// Whether `/proc` shows the kernel's own task numbers. In a container the numbers differ, and absence proves nothing.
fn sees_all_tasks() -> bool {
    const INIT_PID_NAMESPACE: &str = "pid:[4026531836]";
    let own = std::fs::read_link("/proc/self/ns/pid").is_ok_and(|at| at == Path::new(INIT_PID_NAMESPACE));
    // A `/proc` of another namespace does not show this one's process 1.
    own && Path::new("/proc/1/ns").exists() && Path::new("/proc").join(std::process::id().to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::maps::call_key;
    use engine::model::{Dev, Ino};

    const SECOND: u64 = 1_000_000_000;

    fn write(key: u64) -> InflightWrite {
        InflightWrite { dev: Dev::of_kernel(1), ino: Ino(2), start: 0, len: 4096, flags: 0, began_ns: 5 * SECOND, key }
    }

    #[test]
    fn a_request_that_never_completes_is_marked_at_doubling_ages() {
        let io = write(0xffff_8880_1234_5678);
        let times = |from: u64, to: u64| {
            let drain = |second: u64| (second * SECOND, (second + 1) * SECOND);
            (from..to).map(drain).filter(|(before, now)| is_due(&io, *before, *now)).count()
        };
        assert_eq!(times(5, 64), 59, "young: at every drain");
        assert_eq!(times(64, 3605), 6, "at 1, 2, 4, 8, 16, 32 minutes");
        assert!(is_due(&io, 0, 4000 * SECOND), "the first drain of a process that finds it");
        assert!(is_due(&io, 0, SECOND), "a clock that seems to go back proves nothing");
    }

    #[test]
    fn a_call_is_over_when_its_task_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let call = write(call_key(child.id(), 3));
        assert_eq!(call.task(), Some(child.id()));
        assert!(!is_over(&call), "not waited for: it is still there");
        child.wait().unwrap();
        assert_eq!(is_over(&call), sees_all_tasks());
        assert!(!is_over(&write(0xffff_8880_1234_5678)), "a direct write is never over by its age");
        assert!(is_due(&call, 9000 * SECOND, 9001 * SECOND), "while it is there it is marked");
        assert!(!is_over(&write(call_key(std::process::id(), 3))));
    }
}

//! The guard: the process that pauses writers, and lets them go on whatever becomes of the daemon.
//!
//! ```text
//! daemon: starts the guard                   guard: opens the switches, becomes urgent, says READY
//! daemon: PAUSE                              guard: writes 1 to each, says PAUSED
//! daemon: GO_ON, or it is dead, or is late   guard: writes 0 to each, says for how many microseconds it was, ends
//! ```

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Group, Switch, thaw};
use crate::urgent::Urgent;

/// What the daemon says, one byte each.
pub(super) const PAUSE: u8 = b'P';
pub(super) const GO_ON: u8 = b'G';
/// What the guard says, one byte each. After the pause eight bytes follow, its microseconds.
pub(super) const READY: u8 = b'r';
pub(super) const PAUSED: u8 = b'p';

/// How long the guard waits for the begin of a pause.
const WAITS: Duration = Duration::from_secs(10);

/// Guards one pause of at most `bound`. `input` and `output` are pipes to the daemon.
///
/// # Errors
/// When a group cannot be switched, or the daemon is gone before the pause. Nobody is paused then, unless the error is that a group
/// refuses to go on.
pub fn run(groups: &[Group], bound: Duration, mut input: impl Read + AsFd, mut output: impl Write) -> io::Result<()> {
    let mut switches = Vec::new();
    for group in groups {
        switches.extend(Switch::open(group)?);
    }
    let _urgent = Urgent::begin(Urgent::GUARD);
    output.write_all(&[READY])?;
    output.flush()?;
    if heard(&mut input, Instant::now() + WAITS)? != Some(PAUSE) {
        return Ok(());
    }
    let began = Instant::now();
    let frozen = switches.iter_mut().try_for_each(|switch| switch.set(true));
    let waited = frozen.and_then(|()| {
        output.write_all(&[PAUSED])?;
        output.flush()?;
        // Whatever was heard, the end of the pipe or of the time: the pause is over.
        heard(&mut input, began + bound)
    });
    // Before anything that can fail.
    let thawed = thaw(&mut switches);
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    thawed.and(waited)?;
    output.write_all(&micros.to_le_bytes())?;
    output.flush()
}

/// The next byte; `None` at the end of the pipe or of the time.
fn heard(input: &mut (impl Read + AsFd), until: Instant) -> io::Result<Option<u8>> {
    if !readable(input, until)? {
        return Ok(None);
    }
    let mut byte = [0];
    Ok((input.read(&mut byte)? > 0).then_some(byte[0]))
}

/// Waits until something can be read, or the pipe has ended; false if the time is over before.
pub(super) fn readable(input: &impl AsFd, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{PipeReader, PipeWriter, pipe};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::thread::{self, JoinHandle};

    use super::*;

    /// A guard over a directory that looks like a group, in a thread.
    struct Bed {
        dir: tempfile::TempDir,
        to: Option<PipeWriter>,
        from: PipeReader,
        guard: Option<JoinHandle<io::Result<()>>>,
    }

    impl Bed {
        fn new(bound: Duration) -> Bed {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("cgroup.freeze"), "").unwrap();
            let group = Group { id: fs::metadata(dir.path()).unwrap().ino(), dir: dir.path().to_owned() };
            let ((input, to), (from, output)) = (pipe().unwrap(), pipe().unwrap());
            let guard = Some(thread::spawn(move || run(&[group], bound, input, output)));
            let mut bed = Bed { dir, to: Some(to), from, guard };
            assert_eq!(bed.byte(), READY);
            bed
        }

        fn byte(&mut self) -> u8 {
            let mut byte = [0];
            self.from.read_exact(&mut byte).unwrap();
            byte[0]
        }

        fn say(&mut self, byte: u8) {
            self.to.as_mut().unwrap().write_all(&[byte]).unwrap();
        }

        /// All that was written to the switch.
        fn written(&self) -> String {
            fs::read_to_string(self.dir.path().join("cgroup.freeze")).unwrap()
        }

        fn end(mut self) -> (String, Duration) {
            self.guard.take().unwrap().join().unwrap().unwrap();
            let mut micros = [0; 8];
            self.from.read_exact(&mut micros).unwrap();
            (self.written(), Duration::from_micros(u64::from_le_bytes(micros)))
        }
    }

    #[test]
    fn a_pause_ends_when_it_is_told_to() {
        let mut bed = Bed::new(Duration::from_secs(60));
        assert_eq!(bed.written(), "", "nobody is paused before it is asked for");
        bed.say(PAUSE);
        assert_eq!((bed.byte(), bed.written().as_str()), (PAUSED, "1"));
        bed.say(GO_ON);
        let (written, lasted) = bed.end();
        assert_eq!(written, "10");
        assert!(lasted < Duration::from_secs(30), "{lasted:?}");
    }

    #[test]
    fn a_pause_ends_with_its_time() {
        let mut bed = Bed::new(Duration::from_millis(50));
        bed.say(PAUSE);
        assert_eq!(bed.byte(), PAUSED);
        let (written, lasted) = bed.end();
        assert_eq!(written, "10");
        assert!(lasted >= Duration::from_millis(50), "{lasted:?}");
    }

    #[test]
    fn a_pause_ends_with_the_daemon() {
        let mut bed = Bed::new(Duration::from_secs(60));
        bed.say(PAUSE);
        assert_eq!(bed.byte(), PAUSED);
        bed.to = None;
        assert_eq!(bed.end().0, "10");
    }

    #[test]
    fn without_a_daemon_nobody_is_paused() {
        let mut bed = Bed::new(Duration::from_secs(60));
        bed.to = None;
        bed.guard.take().unwrap().join().unwrap().unwrap();
        assert_eq!(bed.written(), "");
    }

    #[test]
    fn a_group_that_is_gone_is_skipped_also_if_another_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "").unwrap();
        let other = Group { id: 1, dir: dir.path().to_owned() };
        let none = Group { id: 1, dir: Path::new("/no/such/group").to_owned() };
        for group in [other, none] {
            assert!(Switch::open(&group).unwrap().is_none());
        }
    }
}

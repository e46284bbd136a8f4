//! The temporary area of a restore: one directory in the target, open only to its owner, in which every entry is made
//! before it gets its name.
//!
//! Nobody else can reach its contents, so an entry may have its final owner and mode there. If a killed restore left an
//! area, the next one that makes an area in the same directory removes it. An area is never part of a volume: a listing of
//! the source leaves it out, recognised by name and marker (`source::restore_area`).

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::source::flags::is_sealed;
use crate::source::restore_area::{DIGITS, MARKER, PREFIX, has_area_name, is_open_area, names, open_dir};

const TEXT: &[u8] = b"Temporary files of a running `tracker restore`. If none runs, this directory may be removed.\n";
/// How often an area may lose a race for its name before it is an error.
const TRIES: u32 = 8;

/// Areas of this process, for [`remove_all`].
static LIVE: Mutex<Vec<Weak<Area>>> = Mutex::new(Vec::new());

/// The area is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Area {
    above: OwnedFd,
    name: OsString,
    /// Locked while the restore runs.
    dir: OwnedFd,
    next: AtomicU64,
    removed: AtomicBool,
}

impl Area {
    /// Makes an area in `above`, after removing those that killed restores left there.
    pub(crate) fn make(above: BorrowedFd<'_>) -> Result<Arc<Area>, Errno> {
        if is_sealed(above) {
            // In an append-only directory it could be created but not removed.
            return Err(Errno::PERM);
        }
        remove_stale(above);
        let above = above.try_clone_to_owned().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        for _ in 0..TRIES {
            let name = new_name()?;
            match rustix::fs::mkdirat(&above, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(errno),
            }
            let dir = match open_dir(above.as_fd(), &name).and_then(|dir| claim(&dir).map(|()| dir)) {
                Ok(dir) => dir,
                // Another restore took it for an abandoned area: it is gone, or will be.
                Err(Errno::NOENT | Errno::WOULDBLOCK) => continue,
                Err(errno) => {
                    // Return the first error; at worst an empty directory is left.
                    let _ = rustix::fs::unlinkat(&above, &name, AtFlags::REMOVEDIR);
                    return Err(errno);
                }
            };
            let (next, removed) = (AtomicU64::new(0), AtomicBool::new(false));
            let area = Arc::new(Area { above, name, dir, next, removed });
            LIVE.lock().push(Arc::downgrade(&area));
            return Ok(area);
        }
        Err(Errno::EXIST)
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// A name that is not used in the area.
    pub(crate) fn name(&self) -> OsString {
        OsString::from(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Removes an entry of the area, if it is there. If that fails, it is removed with the area. Returns whether it is
    /// gone.
    pub(crate) fn discard(&self, name: &OsStr) -> bool {
        matches!(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()), Ok(()) | Err(Errno::NOENT))
    }

    fn remove(&self) {
        if !self.removed.swap(true, Ordering::Relaxed)
            && let Err(errno) = remove_area(self.above.as_fd(), &self.name, self.dir.as_fd())
        {
            tracing::warn!("the temporary area {} cannot be removed: {errno}", self.name.display());
        }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes all areas of this process: for an exit that does not wait for the threads that use them.
pub fn remove_all() {
    let live = std::mem::take(&mut *LIVE.lock());
    live.iter().filter_map(Weak::upgrade).for_each(|area| area.remove());
}

fn new_name() -> Result<OsString, Errno> {
    let mut random = [0; DIGITS / 2];
    getrandom::fill(&mut random).map_err(|_| Errno::IO)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(OsStr::from_bytes(&[PREFIX, digits.as_bytes()].concat()).to_owned())
}

/// Locks a new area, then writes its marker. A process that can lock an area knows that no restore uses it.
fn claim(dir: &OwnedFd) -> Result<(), Errno> {
    // Without locks an abandoned area is not removed automatically.
    if rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        return Err(Errno::WOULDBLOCK);
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let marker = rustix::fs::openat(dir, MARKER, flags, Mode::RUSR | Mode::WUSR)?;
    // Somebody who may rename in the target may have replaced the new directory by his own. Its owner shows that: a file
    // created by this process has the same owner, even if the file system gives all files one owner.
    if rustix::fs::fstat(dir)?.st_uid != rustix::fs::fstat(&marker)?.st_uid {
        return Err(Errno::PERM);
    }
    rustix::io::write(&marker, TEXT).map(|_| ())
}

/// Removes the areas in `above` whose restores no longer run. What cannot be removed stays for the next time.
fn remove_stale(above: BorrowedFd<'_>) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(found) = rustix::fs::openat(above, ".", flags, Mode::empty()).and_then(|fd| names(fd.as_fd())) else {
        return;
    };
    for name in found.iter().filter(|name| has_area_name(name.as_bytes())) {
        let Ok(dir) = open_dir(above, name) else { continue };
        if !rustix::fs::fstat(&dir).is_ok_and(|found| found.st_uid == rustix::process::geteuid().as_raw()) {
            continue;
        }
        let unused = rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok();
        if unused && is_open_area(dir.as_fd()) {
            match remove_area(above, name, dir.as_fd()) {
                Ok(()) => tracing::info!("removed {}, which an interrupted restore left", name.display()),
                Err(errno) => tracing::warn!("{} of an interrupted restore cannot be removed: {errno}", name.display()),
            }
        }
    }
}

/// The marker goes last: until then the directory is recognised as an area.
fn remove_area(above: BorrowedFd<'_>, name: &OsStr, dir: BorrowedFd<'_>) -> Result<(), Errno> {
    for entry in names(dir)?.iter().filter(|name| *name != MARKER) {
        match rustix::fs::unlinkat(dir, entry, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Directories are empty: nothing is put into one before it is in place.
            Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(dir, entry, AtFlags::REMOVEDIR)?,
            Err(errno) => return Err(errno),
        }
    }
    match rustix::fs::unlinkat(dir, MARKER, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)
}

/// The process id in `.tracker-PID-N.tmp`, the names of temporary files of restores by older versions.
pub(crate) fn old_temporary(name: &OsStr) -> Option<i32> {
    let inner = name.as_bytes().strip_prefix(b".tracker-")?.strip_suffix(b".tmp")?;
    let (pid, number) = std::str::from_utf8(inner).ok()?.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(pid) && digits(number) { pid.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::restore_area::is_area;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn open(dir: &std::path::Path) -> OwnedFd {
        crate::source::beneath::open_root(dir).unwrap()
    }

    #[test]
    fn a_left_area_is_removed_by_the_next_restore_and_a_running_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let above = open(dir.path());
        let count = || fs::read_dir(dir.path()).unwrap().count();
        let running = Area::make(above.as_fd()).unwrap();
        assert!(is_area(above.as_fd(), running.name.as_bytes()));
        assert_eq!(fs::metadata(dir.path().join(&running.name)).unwrap().permissions().mode() & 0o777, 0o700);
        // As a kill leaves it: with entries and marker, without lock.
        let left = dir.path().join(".tracker-restore-0123456789abcdef");
        fs::create_dir_all(left.join("1")).unwrap();
        fs::write(left.join("0"), "half").unwrap();
        // A user's own directory has no marker.
        let own = dir.path().join(".tracker-restore-0123456789abcdee");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("thesis"), "x").unwrap();
        assert!(!is_area(above.as_fd(), own.file_name().unwrap().as_bytes()));
        // The same, killed before it had a marker.
        fs::create_dir(dir.path().join(".tracker-restore-0123456789abcdea")).unwrap();
        fs::write(left.join(MARKER), TEXT).unwrap();
        assert!(is_area(above.as_fd(), left.file_name().unwrap().as_bytes()));
        let next = Area::make(above.as_fd()).unwrap();
        assert!(!left.exists() && own.join("thesis").exists());
        assert_eq!(count(), 3);
        drop(next);
        assert!(dir.path().join(&running.name).join(MARKER).exists());
        drop(running);
        assert_eq!(count(), 1);
    }

    #[test]
    fn names_of_areas_and_of_older_leftovers() {
        for (name, pid) in [(".tracker-12-0.tmp", Some(12)), (".tracker-x-0.tmp", None), (".tracker-12-.tmp", None)] {
            assert_eq!(old_temporary(OsStr::new(name)), pid, "{name}");
        }
        assert!(has_area_name(new_name().unwrap().as_bytes()));
        for name in [".tracker-restore-0123456789abcde", ".tracker-restore-0123456789ABCDEF", ".tracker-self-test"] {
            assert!(!has_area_name(name.as_bytes()), "{name}");
        }
    }
}

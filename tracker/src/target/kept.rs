//! Files of an existing tree that are already right: their attributes are set on the descriptor that was compared.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use engine::model::{Kind, Meta};
use engine::source::Stat;
use rustix::fs::{Mode, OFlags};

use crate::source::flags::is_sealed;
use crate::source::stat::stat_fd;
use crate::source::xattrs;
use crate::target::attributes::{CAPABILITY, SETID};
use crate::target::error::{TargetError, io};
use crate::target::identity::Identity;
use crate::target::state::Target;

impl Target {
    /// Keeps a file that has exactly `names`, `size` bytes and, by `same`, the right content; with `write` it gets the
    /// attributes of `meta`. Returns `false` if it is another file, is changing, or must be created again for its new
    /// owner.
    ///
    /// Only the file that was passed to `same` is changed, whatever has its name by then.
    pub fn keep(
        &self,
        names: &[&Path],
        size: u64,
        meta: &Meta,
        write: bool,
        same: impl FnOnce(&File) -> bool,
    ) -> Result<bool, TargetError> {
        let Some(first) = names.first() else { return Ok(false) };
        let file: File = match self.look(first, write, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd.into(),
            Err(_) => return Ok(false),
        };
        let found = stat_fd(&file).map_err(io("stat", first))?;
        let right = found.stat.kind == Kind::File
            && found.stat.size == size
            && u64::from(found.stat.nlink) == names.len() as u64
            && self.all_lead_to(names, write, &file)?;
        if !right || !same(&file) {
            return Ok(false);
        }
        let after = stat_fd(&file).map_err(io("stat", first))?;
        // Equal: nobody wrote to it meanwhile, or changed its attributes or names.
        if found != after {
            return Ok(false);
        }
        let sealed = is_sealed(&file);
        if !sealed && (!self.may_stay(&after.stat, &file, meta) || self.must_be_empty_first(&file, size, meta)) {
            return Ok(false);
        }
        if !write {
            return Ok(true);
        }
        if sealed {
            // Neither can it be changed, nor can another file take its name.
            self.leave_sealed(first, file.as_fd(), meta);
        } else {
            self.give_kept(first, &file, meta);
        }
        self.all_lead_to(names, write, &file)
    }

    fn look(&self, rel: &Path, known: bool, flags: OFlags) -> Result<std::os::fd::OwnedFd, TargetError> {
        if !known {
            return self.beneath.open(rel, flags).map_err(io("open", rel));
        }
        let place = self.place(rel)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&place.dir, place.name, flags, Mode::empty()).map_err(io("open", rel))
    }

    fn all_lead_to(&self, names: &[&Path], known: bool, file: &File) -> Result<bool, TargetError> {
        for rel in names {
            let own = Identity::of(file).map_err(io("stat", rel))?;
            let there = self.look(rel, known, OFlags::PATH);
            if !there.is_ok_and(|fd| Identity::of(&fd).is_ok_and(|at| at == own)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Somebody who could write to the file may still have it open or mapped, and could go on writing to it under another
    /// owner's name or privileges. Such a file is created again.
    fn may_stay(&self, found: &Stat, file: &File, meta: &Meta) -> bool {
        let trusted = [0, rustix::process::geteuid().as_raw()].contains(&found.uid) && found.mode & 0o022 == 0;
        let same_owner = (found.uid, found.gid) == (meta.uid, meta.gid);
        let setid = if self.options.untrusted { 0 } else { meta.mode & SETID };
        let capability = |of: &[(Vec<u8>, Vec<u8>)]| of.iter().find(|(name, _)| name == CAPABILITY).cloned();
        let wanted = capability(&meta.xattrs).filter(|_| !self.options.untrusted);
        (found.uid == meta.uid || trusted)
            && (setid & !found.mode == 0 && (setid == 0 || same_owner))
            && (wanted.is_none() || xattrs::xattrs(file.as_fd()).is_ok_and(|found| capability(&found) == wanted))
    }

    fn give_kept(&self, rel: &Path, file: &File, meta: &Meta) {
        // It may be closed even to its owner, and setting extended attributes needs it open. A refusal occurs again, and is
        // reported, when the mode itself is set.
        let _ = rustix::fs::fchmod(file, Mode::from_raw_mode(0o600));
        self.give(rel, file, meta);
        self.give_flags(rel, file.as_fd(), meta);
    }
}

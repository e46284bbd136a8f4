//! Extended attributes and inode flags: which are committed when some of a file's cannot be read, or exceed the format's
//! limits.
//!
//! Attributes never keep a file's content out of a commit. One that cannot be read keeps its last committed value; one
//! beyond a limit is left out. Both are reported by name.

use std::fmt;

use crate::format::limits;
use crate::model::{InodeFlags, Meta, Xattrs};

/// Most bytes of names and values that are taken of one file: a user can give a file as many attributes as he likes, and
/// all of them must fit into one commit object.
pub const BYTES_MAX: usize = 1 << 20;
/// Names reported per file.
const TOLD: usize = 3;

/// Which of a file's attributes is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// The extended attribute of this name.
    Attribute(Vec<u8>),
    /// All extended attributes: the list of names could not be read.
    Names,
    /// The inode flags and the project.
    Flags,
}

/// Why an attribute is not committed as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub what: Left,
    pub cause: String,
    /// It exceeds a limit, so its older value is not kept either.
    pub beyond: bool,
}

/// Inode flags and project number of one file; all 0 where its file system has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Bits of [`InodeFlags`].
    pub bits: u32,
    /// 0: none.
    pub project: u32,
}

impl From<&Meta> for Flags {
    fn from(meta: &Meta) -> Flags {
        Flags { bits: meta.flags, project: meta.project }
    }
}

/// What was read of one file's attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadXattrs {
    /// Sorted by name.
    pub found: Xattrs,
    pub left_out: Vec<LeftOut>,
    /// `None`: they could not be read (see `left_out`), or this kind of file has none.
    pub flags: Option<Flags>,
}

impl From<Xattrs> for ReadXattrs {
    fn from(found: Xattrs) -> ReadXattrs {
        ReadXattrs { found, ..ReadXattrs::default() }
    }
}

/// Sorts a file's attributes into reading order: those that anybody may set come last, so that they cannot push out others.
pub fn reading_order(names: &mut [Vec<u8>]) {
    names.sort_by(|a, b| (a.starts_with(b"user."), a).cmp(&(b.starts_with(b"user."), b)));
}

/// Collects attributes as they are read, as many as the format and a commit hold.
#[derive(Debug, Default)]
pub struct Taker {
    read: ReadXattrs,
    bytes: usize,
}

impl Taker {
    /// Whether another attribute should be read; if not, it is recorded as left out.
    pub fn wants(&mut self, name: &[u8]) -> bool {
        let cause = if name.is_empty() || name.len() > limits::XATTR_NAME {
            "its name is longer than the format holds"
        } else if self.read.found.len() >= limits::XATTRS {
            "the file has more attributes than the format holds"
        } else if self.bytes >= BYTES_MAX {
            "the file's attributes have more bytes than a commit takes"
        } else {
            return true;
        };
        self.leave(name, cause.into(), true);
        false
    }

    pub fn take(&mut self, name: Vec<u8>, value: Vec<u8>) {
        if value.len() > limits::XATTR_VALUE || self.bytes + name.len() + value.len() > BYTES_MAX {
            self.leave(&name, format!("its {} bytes are more than a commit takes", value.len()), true);
            return;
        }
        self.bytes += name.len() + value.len();
        self.read.found.push((name, value));
    }

    /// Records an attribute that exists and cannot be read.
    pub fn unreadable(&mut self, name: &[u8], cause: String) {
        self.leave(name, cause, false);
    }

    /// Records the inode flags.
    pub fn flags(&mut self, flags: Flags) {
        self.read.flags = Some(Flags { bits: flags.bits & InodeFlags::ALL, ..flags });
    }

    /// Records that the inode flags cannot be read, though the file may have some.
    pub fn flags_unread(&mut self, cause: String) {
        self.read.left_out.push(LeftOut { what: Left::Flags, cause, beyond: false });
    }

    /// Records that the attributes cannot be listed.
    pub fn unlisted(&mut self, cause: String) {
        self.read.left_out.push(LeftOut { what: Left::Names, cause, beyond: false });
    }

    fn leave(&mut self, name: &[u8], cause: String, beyond: bool) {
        self.read.left_out.push(LeftOut { what: Left::Attribute(name.to_vec()), cause, beyond });
    }

    pub fn done(mut self) -> ReadXattrs {
        self.read.found.sort();
        self.read
    }
}

/// The attributes to commit: what was read, and the last committed values of what could not be read.
pub(crate) fn settle(read: ReadXattrs, before: Option<&Meta>) -> (Xattrs, Flags, Vec<LeftOut>) {
    let ReadXattrs { mut found, left_out, flags } = read;
    let unread = |name: &[u8]| {
        left_out.iter().any(|out| match &out.what {
            Left::Attribute(unread) => !out.beyond && unread == name,
            Left::Names => true,
            Left::Flags => false,
        })
    };
    for (name, value) in before.into_iter().flat_map(|meta| &meta.xattrs) {
        if unread(name) && found.iter().all(|(other, _)| other != name) && found.len() < limits::XATTRS {
            found.push((name.clone(), value.clone()));
        }
    }
    found.sort();
    (found, flags.or_else(|| before.map(Flags::from)).unwrap_or_default(), left_out)
}

/// About how many bytes a file's attributes take in a commit.
pub(crate) fn bytes_of(xattrs: &Xattrs) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum()
}

/// The attributes left out of one file, in one line.
pub(crate) struct Told<'a>(pub &'a [LeftOut]);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, out) in self.0.iter().take(TOLD).enumerate() {
            f.write_str(if n == 0 { "" } else { "; " })?;
            match &out.what {
                Left::Attribute(name) => write!(f, "attribute {} is left out: {}", name.escape_ascii(), out.cause)?,
                Left::Names => write!(f, "its attributes cannot be listed: {}", out.cause)?,
                Left::Flags => write!(f, "its inode flags cannot be read: {}", out.cause)?,
            }
        }
        match self.0.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "; and {more} more attributes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Time};

    fn before(xattrs: Xattrs, flags: u32) -> Meta {
        Meta {
            kind: Kind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            rdev: 0,
            target: Vec::new(),
            xattrs,
            flags,
            project: 7 * flags,
        }
    }

    fn name(n: usize) -> Vec<u8> {
        format!("user.{n:05}").into_bytes()
    }

    #[test]
    fn attributes_beyond_the_format_are_left_out_by_name() {
        let mut names: Vec<Vec<u8>> = (0..limits::XATTRS + 3).map(name).collect();
        names.push(b"security.capability".to_vec());
        reading_order(&mut names);
        let mut taker = Taker::default();
        for name in names {
            if taker.wants(&name) {
                taker.take(name, vec![1]);
            }
        }
        let read = taker.done();
        assert_eq!(read.found.len(), limits::XATTRS);
        assert_eq!(read.found[0].0, b"security.capability", "what only root may set is not pushed out");
        assert!(read.found.is_sorted());
        let out: Vec<_> = read.left_out.iter().map(|out| out.what.clone()).collect();
        assert_eq!(out, [4095, 4096, 4097, 4098].map(|n| Left::Attribute(name(n))));
        let (found, _, left_out) = settle(read, Some(&before(vec![(name(4098), vec![9])], 0)));
        assert!(
            found.iter().all(|(other, _)| *other != name(4098)),
            "an older value does not stand for what is too much"
        );
        let told = Told(&left_out).to_string();
        assert!(
            told.starts_with("attribute user.04095 is left out: the file has more")
                && told.ends_with("and 1 more attributes"),
            "{told}"
        );
    }

    #[test]
    fn the_bytes_of_one_file_are_bounded_before_they_are_read() {
        let mut taker = Taker::default();
        let mut read = 0;
        for n in 0..40 {
            if taker.wants(&name(n)) {
                read += 1;
                taker.take(name(n), vec![0; limits::XATTR_VALUE]);
            }
        }
        let done = taker.done();
        assert!(
            read <= BYTES_MAX / limits::XATTR_VALUE + 1 + 25 && done.found.len() == 15,
            "{read} {}",
            done.found.len()
        );
        assert!(bytes_of(&done.found) <= BYTES_MAX + 8 * 40);
    }

    #[test]
    fn what_cannot_be_read_keeps_its_last_committed_value() {
        let before = before(vec![(b"user.a".to_vec(), vec![1]), (b"user.b".to_vec(), vec![2])], InodeFlags::APPEND);
        let mut taker = Taker::default();
        taker.take(b"user.c".to_vec(), vec![3]);
        taker.unreadable(b"user.b", "no permission".into());
        taker.flags(Flags { bits: InodeFlags::NODUMP | !InodeFlags::ALL, project: 0 });
        let (found, flags, left_out) = settle(taker.done(), Some(&before));
        assert_eq!(found, [(b"user.b".to_vec(), vec![2]), (b"user.c".to_vec(), vec![3])], "user.a was removed");
        assert_eq!(flags, Flags { bits: InodeFlags::NODUMP, project: 0 }, "as they were read, without unknown ones");
        assert_eq!(Told(&left_out).to_string(), "attribute user.b is left out: no permission");
        let mut taker = Taker::default();
        taker.unlisted("EIO".into());
        taker.flags_unread("EACCES".into());
        let (found, flags, left_out) = settle(taker.done(), Some(&before));
        assert_eq!((found, flags), (before.xattrs.clone(), Flags::from(&before)));
        let told = "its attributes cannot be listed: EIO; its inode flags cannot be read: EACCES";
        assert_eq!(Told(&left_out).to_string(), told);
        let mut taker = Taker::default();
        taker.flags_unread("EACCES".into());
        assert_eq!(settle(taker.done(), Some(&before)).0, [], "what was read is believed");
    }
}

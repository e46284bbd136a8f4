//! Extended attributes and flags of one inode: which are part of the tree, read as far as possible.

use std::os::fd::AsFd;

use engine::model::InodeFlags;
use engine::model::Xattrs;
use engine::xattrs::{Flags, ReadXattrs, Taker, reading_order};
use rustix::io::Errno;

use super::stat::proc_path;

/// Largest list of names and largest value that the kernel returns (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const XATTR_MAX: usize = 65_536;

/// Attributes by which an overlay describes its layers. In the upper layer through which a source is read, they are not
/// part of the tree that its users see. Anywhere else (an upper layer inside the tree) they are kept, since they define
/// that layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layer {
    /// The inode is not read through an upper layer.
    #[default]
    None,
    /// The upper layer of an overlay with `trusted.overlay.*`.
    Trusted,
    /// The upper layer of an overlay with the option `userxattr`.
    User,
}

impl Layer {
    /// The name under which users of the overlay see an attribute of its upper layer; `None` if it belongs to the layer
    /// itself.
    ///
    /// An overlay inside this one stores its own attributes with a further `overlay.` in the name (fs/overlayfs/xattrs.c,
    /// `ovl_xattr_escape_name`, 6.7).
    pub(crate) fn shown(self, name: &[u8]) -> Option<Vec<u8>> {
        let Some(own) = self.prefix() else { return Some(name.to_vec()) };
        match name.strip_prefix(own) {
            None => Some(name.to_vec()),
            Some(rest) => rest.strip_prefix(b"overlay.").map(|inner| [own, inner].concat()),
        }
    }

    fn prefix(self) -> Option<&'static [u8]> {
        match self {
            Layer::None => None,
            Layer::Trusted => Some(b"trusted.overlay."),
            Layer::User => Some(b"user.overlay."),
        }
    }

    /// Flags that users of the overlay see but the inode in its layer lacks: an overlay keeps them in this attribute, so
    /// that it can still write to its layer (fs/overlayfs/util.c, `ovl_check_protattr`, Linux 6.18).
    fn flags(self, name: &[u8], value: impl FnOnce() -> Option<Vec<u8>>) -> u32 {
        if self.prefix().is_none_or(|own| name.strip_prefix(own) != Some(b"protattr")) {
            return 0;
        }
        let of = |letter: &u8| match letter {
            b'a' => InodeFlags::APPEND,
            b'i' => InodeFlags::IMMUTABLE,
            _ => 0,
        };
        value().unwrap_or_default().iter().map(of).fold(0, |bits, flag| bits | flag)
    }
}

/// Whether an attribute is part of the tree. Left out: `security.evm` (a seal over the inode number, invalid on any copy),
/// and xfs's second names of ACLs, which `system.posix_acl_*` has already. Everything else is kept, including
/// `security.selinux`, `security.capability` and the attributes of overlays ([`Layer`]).
pub(crate) fn kept(name: &[u8]) -> bool {
    const OUT: [&[u8]; 2] = [b"trusted.SGI_ACL_", b"security.evm"];
    !OUT.iter().any(|out| name.starts_with(out))
}

/// Names of all attributes.
fn names(path: &str) -> Result<Vec<Vec<u8>>, Errno> {
    let mut small = [0; 512];
    let list = match rustix::fs::listxattr(path, &mut small[..]) {
        Ok(len) => small.get(..len).unwrap_or_default().to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_MAX];
            let len = rustix::fs::listxattr(path, &mut large[..])?;
            large.truncate(len);
            large
        }
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The value of one attribute; `None` if it was removed since the list was made.
fn value(path: &str, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut small = [0; 512];
    match rustix::fs::getxattr(path, name, &mut small[..]) {
        Ok(len) => Ok(Some(small.get(..len).unwrap_or_default().to_vec())),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_MAX];
            match rustix::fs::getxattr(path, name, &mut large[..]) {
                Ok(len) => {
                    large.truncate(len);
                    Ok(Some(large))
                }
                Err(Errno::NODATA) => Ok(None),
                Err(error) => Err(error),
            }
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Extended attributes of an open file of any kind, sorted by name, only those that are [`kept`]. O_PATH descriptors are
/// read through `/proc/self/fd`, which leads to the inode itself, even a symlink.
pub(crate) fn xattrs(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let path = proc_path(fd.as_fd());
    let mut out = Vec::new();
    for name in names(&path)?.into_iter().filter(|name| kept(name)) {
        if let Some(value) = value(&path, &name)? {
            out.push((name, value));
        }
    }
    out.sort();
    Ok(out)
}

/// As [`xattrs`], as far as they can be read and fit into a commit, with the inode flags. Records what is left out. `flags`
/// is read from the inode; `None` for kinds that have none.
pub(crate) fn read(fd: impl AsFd, layer: Layer, flags: Option<Result<Flags, Errno>>) -> ReadXattrs {
    let path = proc_path(fd.as_fd());
    let mut taker = Taker::default();
    let mut of_layer = 0;
    match names(&path) {
        Ok(mut names) => {
            names.retain(|name| kept(name));
            reading_order(&mut names);
            for name in names {
                of_layer |= layer.flags(&name, || value(&path, &name).ok().flatten());
                let Some(shown) = layer.shown(&name) else { continue };
                if !taker.wants(&shown) {
                    continue;
                }
                match value(&path, &name) {
                    Ok(Some(value)) => taker.take(shown, value),
                    Ok(None) => {}
                    Err(errno) => taker.unreadable(&shown, errno.to_string()),
                }
            }
        }
        // More names than the kernel can list: nobody can tell which there are.
        Err(Errno::TOOBIG) => taker.unlisted("they have more than 65536 bytes of names".into()),
        Err(errno) => taker.unlisted(errno.to_string()),
    }
    match flags {
        Some(Ok(flags)) => taker.flags(Flags { bits: flags.bits | of_layer, ..flags }),
        Some(Err(errno)) => taker.flags_unread(errno.to_string()),
        None => {}
    }
    taker.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_an_overlay_are_left_out_of_its_own_tree_alone() {
        let shown =
            |layer: Layer, name: &str| layer.shown(name.as_bytes()).map(|name| String::from_utf8(name).unwrap());
        for name in ["trusted.overlay.opaque", "user.overlay.redirect", "user.x"] {
            assert_eq!(shown(Layer::None, name).as_deref(), Some(name));
            assert!(kept(name.as_bytes()));
        }
        assert_eq!(shown(Layer::Trusted, "trusted.overlay.origin"), None);
        assert_eq!(
            shown(Layer::Trusted, "user.overlay.opaque").as_deref(),
            Some("user.overlay.opaque"),
            "a plain one there"
        );
        assert_eq!(shown(Layer::User, "user.overlay.opaque"), None);
        // An upper layer inside the merged tree of another overlay.
        assert_eq!(shown(Layer::Trusted, "trusted.overlay.overlay.opaque").as_deref(), Some("trusted.overlay.opaque"));
        let flags = |layer: Layer, name: &str| layer.flags(name.as_bytes(), || Some(b"ai".to_vec()));
        assert_eq!(flags(Layer::Trusted, "trusted.overlay.protattr"), InodeFlags::APPEND | InodeFlags::IMMUTABLE);
        for (layer, name) in [
            (Layer::None, "trusted.overlay.protattr"),
            (Layer::User, "trusted.overlay.protattr"),
            (Layer::Trusted, "trusted.overlay.overlay.protattr"),
        ] {
            assert_eq!(flags(layer, name), 0, "{name}");
        }
        assert!(!kept(b"security.evm") && !kept(b"trusted.SGI_ACL_FILE"));
    }
}

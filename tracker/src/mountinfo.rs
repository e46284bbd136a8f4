//! Parses the text of `/proc/self/mountinfo`. Parsing only, so that every case can be tested.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use engine::model::Dev;

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    /// The superblock's device as the kernel numbers it: major << 20 | minor. On btrfs `st_dev` is another number.
    pub kernel_dev: Dev,
    /// Which directory of the file system is the root of this mount.
    pub root: PathBuf,
    pub mount_point: PathBuf,
    pub fs_type: String,
    /// Options of the superblock, unescaped one by one (a value may hold a comma).
    pub options: Vec<Vec<u8>>,
    /// Whether mountinfo lists it. It omits mounts whose root is outside the process's root directory (chroot); `root`,
    /// `mount_point` and `options` are then unknown.
    pub listed: bool,
}

impl Mount {
    /// The value of `name=value`.
    pub fn option(&self, name: &str) -> Option<&[u8]> {
        self.options.iter().find_map(|option| option.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }

    pub fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| option == name.as_bytes())
    }

    /// The path inside the file system itself of `path` (absolute, without symlinks, on this mount); `None` if it is not
    /// below the mount point.
    pub fn inside(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.mount_point).ok()?;
        Some(self.root.strip_prefix("/").unwrap_or(&self.root).join(below))
    }
}

/// The file in which the kernel shows it to this process.
pub const MOUNTINFO: &str = "/proc/self/mountinfo";

/// All mounts in the text of mountinfo, in its order. Skips lines that cannot be parsed.
pub fn mounts(mountinfo: &[u8]) -> impl Iterator<Item = Mount> {
    mountinfo.split(|byte| *byte == b'\n').filter_map(parse)
}

/// The mount with this id.
pub fn find(mountinfo: &[u8], id: u64) -> Option<Mount> {
    mounts(mountinfo).find(|mount| mount.id == id)
}

/// Mount points below `source`, relative to it.
pub fn inside(mountinfo: &[u8], source: &Path) -> BTreeSet<PathBuf> {
    let below =
        mounts(mountinfo).filter_map(|mount| mount.mount_point.strip_prefix(source).map(Path::to_path_buf).ok());
    below.filter(|point| !point.as_os_str().is_empty()).collect()
}

/// `36 35 98:0 /srv /mount rw,noatime master:1 - ext4 /dev/sda rw,data=journal`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    fields.next()?;
    let dev = fields.next()?;
    let colon = dev.iter().position(|byte| *byte == b':')?;
    let (major, minor) = (number(&dev[..colon])?, number(&dev[colon + 1..])?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8(unescape(rest.next()?)).ok()?;
    rest.next()?;
    let options = rest.next().unwrap_or_default().split(|byte| *byte == b',').map(unescape).collect();
    let kernel_dev = Dev::new(u32::try_from(major).ok()?, u32::try_from(minor).ok()?)?;
    Some(Mount { id, kernel_dev, root, mount_point, fs_type, options, listed: true })
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(bytes)).into()
}

/// Space, tab, newline, comma and backslash are written as a backslash and three octal digits.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4).filter(|digits| digits.iter().all(|digit| matches!(digit, b'0'..=b'7')));
        match (byte, digits) {
            (b'\\', Some(digits)) => {
                out.push(digits.iter().fold(0u8, |value, digit| value << 3 | (digit - b'0')));
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    const TEXT: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/root rw,data=journal\n\
        half a line\n\
        36 22 0:40 /sub\\040dir /mnt/a\\134b rw,noatime master:1 propagate_from:2 - overlay overlay \
        rw,lowerdir=/l,upperdir=/up\\054per\\040x,workdir=/w,volatile\n\
        37 22 4095:1048575 / /x rw - tmpfs tmpfs\n";

    #[test]
    fn a_mount_is_found_by_its_id() {
        let root = find(TEXT, 22).unwrap();
        assert_eq!((root.kernel_dev, root.fs_type.as_str()), (Dev::new(8, 1).unwrap(), "ext4"));
        assert_eq!(root.option("data"), Some(&b"journal"[..]));
        assert!(find(TEXT, 23).is_none());
        assert_eq!(find(TEXT, 37).unwrap().kernel_dev.kernel(), u32::MAX);
        assert!(find(b"", 1).is_none());
    }

    #[test]
    fn mount_points_inside_of_a_source_are_found() {
        let of = |source: &str| inside(TEXT, Path::new(source)).into_iter().collect::<Vec<_>>();
        assert_eq!(of("/mnt"), [Path::new("a\\b")]);
        assert_eq!(of("/"), [Path::new("mnt/a\\b"), Path::new("x")]);
        assert_eq!(of("/mnt/a\\b"), [] as [&Path; 0], "the source's own mount point is not inside of it");
        assert_eq!(of("/mn"), [] as [&Path; 0]);
    }

    #[test]
    fn escapes_and_optional_fields_are_understood() {
        let overlay = find(TEXT, 36).unwrap();
        assert_eq!(overlay.mount_point.as_os_str().as_bytes(), b"/mnt/a\\b");
        assert_eq!(overlay.option("upperdir"), Some(&b"/up,per x"[..]));
        assert!(overlay.has_option("volatile") && !overlay.has_option("upperdir"));
        assert_eq!(overlay.inside(Path::new("/mnt/a\\b/c/d")), Some(PathBuf::from("sub dir/c/d")));
        assert_eq!(overlay.inside(Path::new("/mnt/a\\b")), Some(PathBuf::from("sub dir/")));
        assert_eq!(overlay.inside(Path::new("/other")), None);
    }

    #[test]
    fn a_backslash_without_three_digits_stays() {
        assert_eq!(unescape(b"a\\0b\\"), b"a\\0b\\");
        assert_eq!(unescape(b"\\134\\777"), b"\\\xff");
    }

    #[test]
    fn cut_lines_are_none() {
        let line = b"25 1 254:3 / /m rw - ext4 /dev/vda rw";
        for end in 0..line.len() {
            let cut = parse(&line[..end]);
            assert!(cut.is_none() || line[..end].windows(3).any(|window| window == b" - "));
        }
        assert!(parse(b"25 1 4096:3 / /m rw - ext4 /dev/vda rw").is_none(), "no device of this kernel");
    }
}

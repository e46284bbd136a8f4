//! What the mount table knows: the kernel's device number of a superblock, and the file system's name.
//!
//! `st_dev` is not that number on btrfs, where every subvolume has its own.

use std::{
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::error::CaptureError;

/// Where a bpffs is expected, and mounted if there is none.
const BPFFS: &str = "/sys/fs/bpf";
/// `f_type` of a bpffs.
const BPFFS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// The mount a path lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Superblock device in the kernel's encoding (`major << 20 | minor`), as in marks.
    pub dev: u32,
    /// Name of the file system.
    pub fs: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Upper directory of an overlay.
    pub upper: Option<PathBuf>,
    /// Whether an overlay is mounted `volatile`: its own sync does nothing.
    pub volatile: bool,
}

/// The mount that `path` lies on.
///
/// # Errors
/// When the path or the mount table cannot be read, or the table does not have its mount.
pub fn mount_of(path: &Path) -> Result<MountInfo, CaptureError> {
    let failed = |what| move |source: io::Error| CaptureError::File { what, path: path.to_owned(), source };
    let mount_id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|error| failed("statx")(error.into()))?
        .stx_mnt_id;
    let table = fs::read("/proc/self/mountinfo").map_err(failed("read the mount table for"))?;
    table
        .split(|&byte| byte == b'\n')
        .find_map(|line| parse_line(line, mount_id))
        .ok_or_else(|| CaptureError::Mount { path: path.to_owned() })
}

/// The kernel's device number of the superblock that `path` lies on.
///
/// # Errors
/// As `mount_of`.
pub fn kernel_dev(path: &Path) -> Result<u32, CaptureError> {
    Ok(mount_of(path)?.dev)
}

/// One line of mountinfo: id, parent, major:minor, root, mount point, options, optional fields, `-`, type, source, options.
fn parse_line(line: &[u8], mount_id: u64) -> Option<MountInfo> {
    let mut fields = line.split(|&byte| byte == b' ');
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    if text(fields.next()?)?.parse::<u64>().ok()? != mount_id {
        return None;
    }
    let device = text(fields.nth(1)?)?;
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    let mount_point = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs = text(fields.next()?)?;
    let options = fields.nth(1).unwrap_or(&[]);
    let mut options = options.split(|&byte| byte == b',');
    let upper = options.clone().find_map(|option| option.strip_prefix(b"upperdir=")).map(unescape);
    let volatile = fs == "overlay" && options.any(|option| option == b"volatile");
    Some(MountInfo { dev: major << 20 | minor, fs, mount_point, upper, volatile })
}

/// Undoes the table's octal escapes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped =
            tail.first_chunk::<3>().filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match escaped {
            Some([a, b, c]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            None => {
                path.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// Makes sure that there is a bpffs for `pin_dir`, mounting one at its usual place if need be.
pub(super) fn ensure_bpffs(pin_dir: &Path) -> Result<(), CaptureError> {
    let failed = |what| move |source| CaptureError::File { what, path: PathBuf::from(BPFFS), source };
    // The directory itself may not exist yet; the nearest ancestor that does says what it will lie on.
    let existing = pin_dir.ancestors().find(|ancestor| ancestor.exists());
    if existing.is_some_and(|path| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == BPFFS_MAGIC)) {
        return Ok(());
    }
    if !pin_dir.as_os_str().as_bytes().starts_with(BPFFS.as_bytes()) {
        return Err(CaptureError::File {
            what: "no bpffs at",
            path: pin_dir.to_owned(),
            source: io::Error::from(io::ErrorKind::Unsupported),
        });
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None)
        .map_err(|error| failed("mount bpffs at")(error.into()))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{mount_of, parse_line};

    #[test]
    fn a_line_gives_the_kernels_device_and_the_upper_directory() {
        let line = b"41 25 0:38 / /m\\040x rw,relatime shared:5 - overlay ov rw,lowerdir=/l,upperdir=/u\\134p,workdir=/w,volatile";
        let mount = parse_line(line, 41).unwrap();
        assert_eq!((mount.dev, mount.fs.as_str(), mount.volatile), (38, "overlay", true));
        assert_eq!(mount.mount_point, PathBuf::from("/m x"));
        assert_eq!(mount.upper, Some(PathBuf::from("/u\\p")));
        let line = b"25 1 254:3 / / rw - ext4 /dev/vda rw";
        assert_eq!(parse_line(line, 25).unwrap().dev, 254 << 20 | 3);
        assert_eq!(parse_line(line, 26), None);
    }

    #[test]
    fn cut_lines_are_none() {
        let line = b"25 1 254:3 / /m rw - ext4 /dev/vda rw";
        for end in 0..line.len() {
            let cut = parse_line(&line[..end], 25);
            assert!(cut.is_none() || line[..end].windows(3).any(|window| window == b" - "));
        }
    }

    #[test]
    fn proc_is_found() {
        assert_eq!(mount_of(Path::new("/proc/self")).unwrap().fs, "proc");
    }
}

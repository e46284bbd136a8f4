//! The kernels of guests: Debian's packages, unpacked below `target/vm` and nowhere else. Choosing one is pure; the rest
//! is apt, dpkg-deb and depmod. A kernel that is there is used, so only the first call needs a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt;
use crate::sh::{self, Error};

/// A line of kernels. New releases replace the older ones in the archive, so the number behind it is found, not fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// Of Debian 12.
    V6_1,
    /// The newer kernel that Debian 12 offers beside it.
    V6_12,
}

impl Series {
    pub(crate) const ALL: [Series; 2] = [Series::V6_1, Series::V6_12];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Series::V6_1 => "6.1",
            Series::V6_12 => "6.12",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|series| series.name() == text)
    }

    /// The build number in a release of this series, such as 56 in `6.1.0-56-amd64`; `None` for one of another series
    /// or flavour. The flavour `cloud` has no 9p, and the real-time one is another kernel.
    fn build(self, release: &str) -> Option<u32> {
        let version = release.strip_suffix("-amd64")?;
        match self {
            Series::V6_1 => version.strip_prefix("6.1.0-")?.parse().ok(),
            Series::V6_12 => {
                let (build, debian) = version.strip_prefix("6.12.")?.split_once("+deb")?;
                debian.parse::<u32>().ok()?;
                build.parse().ok()
            }
        }
    }

    /// The newest release of this series among `releases`.
    fn newest<'a>(self, releases: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        releases.into_iter().filter(|release| self.build(release).is_some()).max_by_key(|release| self.build(release))
    }
}

/// The releases in an answer of `apt-cache search`.
fn releases(listing: &str) -> impl Iterator<Item = &str> {
    let packages = listing.lines().filter_map(|line| line.split_whitespace().next());
    packages.filter_map(|package| package.strip_prefix("linux-image-")?.strip_suffix("-unsigned"))
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(super) release: String,
    root: PathBuf,
}

impl Kernel {
    pub(crate) fn release(&self) -> &str {
        &self.release
    }

    pub(super) fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The folder that holds `modules.dep`.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

/// Where everything about guests is kept.
pub(crate) fn folder() -> PathBuf {
    sh::root().join("target/vm")
}

/// The kernel of this series, fetched if there is none yet.
pub(crate) fn ensure(series: Series) -> Result<Kernel, Error> {
    let folder = folder();
    fs::create_dir_all(&folder).map_err(Error::io(format!("cannot create {}", folder.display())))?;
    let names: Vec<String> = fs::read_dir(&folder)
        .map_err(Error::io(format!("cannot list {}", folder.display())))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    if let Some(release) = series.newest(names.iter().map(String::as_str)) {
        return Ok(Kernel { release: release.to_owned(), root: folder.join(release) });
    }
    let release = find(series)?;
    fetch(&folder, &release)?;
    Ok(Kernel { root: folder.join(&release), release })
}

fn find(series: Series) -> Result<String, Error> {
    let pattern = format!("^linux-image-{}\\..*-amd64-unsigned$", series.name().replace('.', "\\."));
    for refreshed in [false, true] {
        if refreshed {
            apt::refresh_index()?;
        }
        let listing = sh::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
        if let Some(release) = series.newest(releases(&listing)) {
            return Ok(release.to_owned());
        }
    }
    Err(Error::Missing {
        what: format!("apt knows no kernel {}", series.name()),
        help: "Debian 12 has it; its package sources must include bookworm-security".into(),
    })
}

/// Downloads and unpacks `release`; it gets its name last, so that half of one is never used.
fn fetch(folder: &Path, release: &str) -> Result<(), Error> {
    let package = format!("linux-image-{release}-unsigned");
    println!("vm: fetching and unpacking {package} into {} (about 100 MB)", folder.display());
    let work = folder.join(format!("new-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let root = work.join("root");
    fs::create_dir_all(&root).map_err(Error::io(format!("cannot create {}", root.display())))?;
    let result = apt::download(&[&package], &work).and_then(|debs| debs.iter().try_for_each(|deb| unpack(deb, &root)));
    let result = result.and_then(|()| {
        let modules = root.join("lib/modules").join(release);
        if !modules.is_dir() {
            return Err(Error::Missing {
                what: format!("{package} has no modules"),
                help: "it was laid out anew".into(),
            });
        }
        // depmod is not in the path of every user.
        let depmod = sh::which("depmod").unwrap_or_else(|| "/sbin/depmod".into());
        sh::output(Command::new(depmod).arg("-b").arg(&root).arg(release))?;
        let to = folder.join(release);
        fs::rename(&root, &to).map_err(Error::io(format!("cannot rename {} to {}", root.display(), to.display())))
    });
    fs::remove_dir_all(&work).map_err(Error::io(format!("cannot remove {}", work.display())))?;
    result
}

/// Takes the image and the modules of file systems and block devices; all of them would be five times as much.
fn unpack(deb: &Path, root: &Path) -> Result<(), Error> {
    let mut list = Command::new("dpkg-deb");
    list.arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped());
    let mut source = list.spawn().map_err(|source| Error::Spawn { command: sh::show(&list), source })?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "-C"]).arg(root).args(["--no-same-owner", "--wildcards", "./boot/vmlinuz-*"]);
    for part in ["modules.*", "kernel/arch/*", "kernel/crypto/*", "kernel/fs/*", "kernel/lib/*", "kernel/net/9p/*"] {
        tar.arg(format!("./lib/modules/*/{part}"));
    }
    for part in ["block", "md", "virtio", "char/hw_random"] {
        tar.arg(format!("./lib/modules/*/kernel/drivers/{part}/*"));
    }
    let failed = |source| Error::Spawn { command: sh::show(&tar), source };
    let stdout = source.stdout.take().ok_or_else(|| std::io::Error::other("no pipe")).map_err(failed)?;
    let output = tar.stdin(stdout).output();
    let status = source.wait().map_err(Error::io("cannot wait for dpkg-deb"))?;
    let output = output.map_err(|source| Error::Spawn { command: sh::show(&tar), source })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Failed { command: sh::show(&tar), status: output.status, output: text });
    }
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { command: sh::show(&list), status, output: String::new() })
}

#[cfg(test)]
mod tests {
    use super::{Series, releases};

    const LISTING: &str = "\
linux-image-6.1.0-9-amd64-unsigned - Linux 6.1 for 64-bit PCs
linux-image-6.1.0-56-amd64-unsigned - Linux 6.1 for 64-bit PCs
linux-image-6.1.0-60-cloud-amd64-unsigned - Linux 6.1 for x86-64 cloud
linux-image-6.1.0-60-rt-amd64-unsigned - Linux 6.1 for 64-bit PCs, PREEMPT_RT
linux-image-6.12.9+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.117+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.200+deb12-cloud-amd64-unsigned - Linux 6.12 for x86-64 cloud
linux-image-6.12.201+deb12-rt-amd64-unsigned - Linux 6.12 for 64-bit PCs, PREEMPT_RT
";

    #[test]
    fn the_newest_plain_kernel_of_the_series_is_chosen() {
        assert_eq!(Series::V6_1.newest(releases(LISTING)), Some("6.1.0-56-amd64"));
        assert_eq!(Series::V6_12.newest(releases(LISTING)), Some("6.12.117+deb12-amd64"));
        assert_eq!(Series::V6_1.newest(releases("linux-image-6.12.9+deb12-amd64-unsigned x")), None);
    }

    #[test]
    fn other_files_beside_the_kernels_are_none() {
        assert_eq!(Series::V6_1.newest(["run-12", "new-6", "6.1.0-5-amd64"]), Some("6.1.0-5-amd64"));
    }

    #[test]
    fn series_are_named_as_the_command_line_has_them() {
        assert_eq!(Series::parse("6.12"), Some(Series::V6_12));
        assert_eq!(Series::parse("6.18"), None);
    }
}

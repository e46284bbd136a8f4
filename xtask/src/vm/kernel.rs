//! The kernels of guests: Debian's packages, unpacked below `target/vm` and nowhere else. Choosing one is pure; the rest
//! is apt, dpkg-deb and depmod. A kernel that is there is used, so only the first call needs a network.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use fs_err as fs;

use crate::apt;
use crate::sh;

/// A line of kernels. New releases replace the older ones in the archive, so the number behind it is found, not fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// Of Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// The newer kernel that Debian 12 offers beside it
    #[value(name = "6.12")]
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

    /// The folder that holds the modules of each release in a folder of its own.
    pub(super) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules")
    }

    /// The files of the modules `wanted` and of all they need, in an order in which they can be loaded.
    pub(super) fn load_order(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let modprobe = sh::which("modprobe").unwrap_or_else(|| "/sbin/modprobe".into());
        let mut command = Command::new(modprobe);
        command.args(["--config=/dev/null", "--show-depends", "-S", &self.release, "-d"]).arg(&self.root);
        let mut order = Vec::new();
        for line in sh::output(command.arg("-a").args(wanted))?.lines() {
            // The others say `builtin`.
            if let Some(file) = line.strip_prefix("insmod ").and_then(|words| words.split_whitespace().next())
                && !order.contains(&PathBuf::from(file))
            {
                order.push(file.into());
            }
        }
        Ok(order)
    }
}

/// Where everything about guests is kept.
pub(crate) fn folder() -> PathBuf {
    sh::root().join("target/vm")
}

/// The kernel of this series, fetched if there is none yet.
pub(crate) fn ensure(series: Series) -> Result<Kernel> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let names: Vec<String> =
        fs::read_dir(&folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    if let Some(release) = series.newest(names.iter().map(String::as_str)) {
        return Ok(Kernel { release: release.to_owned(), root: folder.join(release) });
    }
    let release = find(series)?;
    fetch(&folder, &release)?;
    Ok(Kernel { root: folder.join(&release), release })
}

fn find(series: Series) -> Result<String> {
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
    Err(sh::missing(
        format!("apt knows no kernel {}", series.name()),
        "Debian 12 has it; its package sources must include bookworm-security",
    ))
}

fn fetch(folder: &Path, release: &str) -> Result<()> {
    let package = format!("linux-image-{release}-unsigned");
    println!("vm: fetching and unpacking {package} into {} (about 100 MB)", folder.display());
    apt::unpack(&[&package], &folder.join(release), |packages, root| {
        packages.iter().try_for_each(|package| unpack(package, root))?;
        if !root.join("lib/modules").join(release).is_dir() {
            return Err(sh::missing(format!("{package} has no modules"), "it was laid out anew"));
        }
        // depmod is not in the path of every user.
        let depmod = sh::which("depmod").unwrap_or_else(|| "/sbin/depmod".into());
        sh::output(Command::new(depmod).arg("-b").arg(root).arg(release)).map(drop)
    })
}

/// Takes the image and the modules of file systems and block devices; all of them would be five times as much.
fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut tar = Command::new("bash");
    let script = "set -o pipefail; dpkg-deb --fsys-tarfile \"$0\" | tar -x --no-same-owner --wildcards -C \"$@\"";
    tar.args(["-c", script]).arg(package).arg(root).arg("./boot/vmlinuz-*");
    for part in ["modules.*", "kernel/arch/*", "kernel/crypto/*", "kernel/fs/*", "kernel/lib/*", "kernel/net/9p/*"] {
        tar.arg(format!("./lib/modules/*/{part}"));
    }
    for part in ["block", "md", "virtio", "char/hw_random"] {
        tar.arg(format!("./lib/modules/*/kernel/drivers/{part}/*"));
    }
    sh::output(&mut tar).map(drop)
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
}

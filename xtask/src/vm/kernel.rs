//! The kernels of guests: Debian's packages, which `setup.sh` unpacks below `target/vm` and nowhere else.

use std::path::PathBuf;

use anyhow::Result;

use crate::{setup, sh};

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
}

/// An unpacked kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) release: String,
    root: PathBuf,
}

impl Kernel {
    /// What QEMU starts.
    pub(super) fn image(&self) -> PathBuf {
        self.root.join("kernel")
    }

    pub(super) fn initramfs(&self, disks: bool) -> PathBuf {
        self.root.join(if disks { "initramfs-disks" } else { "initramfs" })
    }
}

/// Where everything about guests is kept.
pub(crate) fn folder() -> PathBuf {
    sh::root().join("target/vm")
}

/// The newest kernel of this series that is there, fetched if there is none yet.
pub(crate) fn ensure(series: Series) -> Result<Kernel> {
    let release = setup::part(&["kernel", series.name()])?.trim_end().to_owned();
    Ok(Kernel { root: folder().join(&release), release })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Series;
    use crate::sh;

    const LISTING: &str = "6.1.0-9-amd64 6.1.0-56-amd64 6.1.0-60-cloud-amd64 6.1.0-60-rt-amd64 6.12.9+deb12-amd64 \
        6.12.117+deb12-amd64 6.12.200+deb12-cloud-amd64 6.12.201+deb12-rt-amd64 run-12 new-6";

    #[test]
    fn the_newest_plain_kernel_of_the_series_is_chosen() {
        let newest = |series: Series| {
            let script = format!("printf '%s\\n' {LISTING} | bash setup.sh newest {}", series.name());
            sh::output(Command::new("sh").arg("-c").arg(script).current_dir(sh::root().join("xtask"))).unwrap()
        };
        assert_eq!(Series::ALL.map(newest), ["6.1.0-56-amd64\n", "6.12.117+deb12-amd64\n"]);
    }
}

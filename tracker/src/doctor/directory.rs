//! Judges a directory: its file system, the layer below an overlay, mounts inside it.

use serde::Serialize;

use super::fs::{self, FileSystem};
use super::{Finding, Kernel};
use crate::capture::BackEnd;
use crate::units::PathField;
use crate::volume::startup::eligibility;

/// The writable layer of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    pub dir: String,
    /// Its file system, if it can be reached from here.
    pub fs: Option<String>,
    pub volatile: bool,
    /// It may have files without their own data, and this process cannot tell which.
    pub metacopy_hidden: bool,
}

/// Facts about a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryFacts {
    pub path: PathField,
    /// File system as the mount table names it.
    pub fs: String,
    pub mount_point: String,
    pub upper: Option<Upper>,
    /// Small files are kept in their inodes (ext4 with `inline_data`).
    pub in_inodes: bool,
    /// Mount points below it.
    pub inside: Vec<String>,
}

/// The judgement of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    #[serde(flatten)]
    pub path: PathField,
    pub findings: Vec<Finding>,
    /// The file system whose changes are captured: for an overlay that of the upper layer.
    pub file_system: FileSystem,
}

impl Verdict {
    /// Whether a volume there would be degraded.
    #[must_use]
    pub fn degraded(&self) -> bool {
        self.file_system.degraded() || self.findings.iter().any(|finding| !finding.ok)
    }
}

/// Judges a directory.
#[must_use]
pub fn judge(facts: &DirectoryFacts, kernel: &Kernel, back_end: BackEnd) -> Verdict {
    let at = format!("{} mounted at {}", facts.fs, facts.mount_point);
    let mut findings = vec![Finding::new("file system", true, at, "")];
    let mut name = facts.fs.as_str();
    let mut hidden = false;
    if facts.fs == "overlay" {
        match &facts.upper {
            Some(Upper { dir, fs: Some(fs), volatile, .. }) => {
                name = fs;
                let flag = if *volatile { "; volatile: nothing is written back through the overlay" } else { "" };
                findings.push(Finding::new("upper layer", true, format!("{dir} on {fs}; captured there{flag}"), ""));
            }
            Some(Upper { dir, metacopy_hidden: true, .. }) => {
                hidden = true;
                let value = format!("{dir}: with metacopy=on its files without data show to CAP_SYS_ADMIN only");
                let fix = "mount the overlay with metacopy=off, or give tracker CAP_SYS_ADMIN; until then it scans";
                findings.push(Finding::new("upper layer", false, value, fix));
            }
            Some(Upper { dir, fs: None, .. }) => {
                hidden = true;
                let value = format!("{dir} cannot be reached from here");
                let fix = "run tracker on the host, where the upper directory has this path; until then it scans";
                findings.push(Finding::new("upper layer", false, value, fix));
            }
            None => {
                hidden = true;
                let value = "there is none: the overlay is read-only, and changes below it are not seen";
                findings.push(Finding::new("upper layer", false, value, "protect the lower directories themselves"));
            }
        }
    }
    if !facts.inside.is_empty() {
        let value = format!("{} mounts lie inside and are left out: {}", facts.inside.len(), facts.inside.join(", "));
        let fix = "protect each as a volume of its own; until they are gone the volume is degraded";
        findings.push(Finding::new("mounts inside", false, value, fix));
    }
    let back_end = if hidden || facts.in_inodes { BackEnd::Scan } else { back_end };
    let mut file_system = fs::judge(name, kernel, back_end);
    if hidden {
        file_system.problems = vec!["marks carry inodes of the upper layer, which cannot be reached".to_owned()];
    }
    if facts.in_inodes {
        file_system.problems = vec![eligibility::IN_INODES.to_owned()];
        file_system.fix =
            Some("keep the directory on a file system made without it (`mkfs.ext4 -O ^inline_data`)".to_owned());
    }
    Verdict { path: facts.path.clone(), findings, file_system }
}

//! The back ends: ways to find changes.

use serde::{Deserialize, Serialize};

/// A way to find changes, best first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr, strum::VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum BackEnd {
    /// Programs on function entry and exit, in addition to those on raw tracepoints.
    Fentry,
    /// Programs on kernel probes, in addition to those on raw tracepoints.
    Kprobe,
    /// Programs on raw tracepoints.
    Tracepoint,
    /// No programs: compare the tree at an interval.
    #[default]
    Scan,
}

impl BackEnd {
    /// Back ends with programs, best first.
    pub const WITH_PROGRAMS: [BackEnd; 3] = [BackEnd::Fentry, BackEnd::Kprobe, BackEnd::Tracepoint];

    /// Its name in configuration, status and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Value of `common::maps::ctrl::BACK_END`.
    pub(super) const fn word(self) -> u64 {
        match self {
            Self::Fentry => 1,
            Self::Kprobe => 2,
            Self::Tracepoint => 3,
            Self::Scan => 4,
        }
    }
}

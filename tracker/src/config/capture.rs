//! Which capture back end an operator asks for.

use serde::{Deserialize, Serialize};

use crate::capture::BackEnd;

/// Which capture back end to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// The best one this kernel and user may use.
    #[default]
    Auto,
    Fentry,
    Kprobe,
    Tracepoint,
    /// Periodic comparison, without eBPF.
    Scan,
}

impl CaptureMode {
    /// The one back end with programs that is asked for, if it is one.
    pub fn back_end(self) -> Option<BackEnd> {
        match self {
            CaptureMode::Auto | CaptureMode::Scan => None,
            CaptureMode::Fentry => Some(BackEnd::Fentry),
            CaptureMode::Kprobe => Some(BackEnd::Kprobe),
            CaptureMode::Tracepoint => Some(BackEnd::Tracepoint),
        }
    }
}

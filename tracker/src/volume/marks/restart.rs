//! Replaces the capture of the process by the next back end.

use crate::capture::{BackEnd, Capture, CaptureConfig};

/// The self-test of a capture that was just started. The error says which change it does not see.
pub type Prove = Box<dyn Fn(&mut Capture) -> Result<(), String> + Send + Sync>;

/// How to start another back end.
pub struct Restart {
    /// The settings of the first start, except for the back end.
    pub wanted: CaptureConfig,
    /// Set if the user requires this back end.
    pub only: Option<BackEnd>,
    pub prove: Prove,
    /// Called with the back end that is in operation from now on.
    pub chosen: Box<dyn Fn(&Capture) + Send + Sync>,
}

/// Why a capture is no longer trusted: a word of a closed set, for counters, and the details.
#[derive(Clone, Debug)]
pub struct Failure {
    pub cause: &'static str,
    pub what: String,
}

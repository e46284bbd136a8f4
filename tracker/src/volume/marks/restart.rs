//! How the capture of the process is replaced by the next back end, and why.

use crate::capture::{BackEnd, Capture, CaptureConfig};

/// The self-test of a capture that has just begun: the error says what it does not see.
pub type Prove = Box<dyn Fn(&mut Capture) -> Result<(), String> + Send + Sync>;

/// How another back end is started.
pub struct Restart {
    /// As the first was started, but for the back end.
    pub wanted: CaptureConfig,
    /// The user wants this one and no other.
    pub only: Option<BackEnd>,
    pub prove: Prove,
    /// Told which back end is in operation from now on.
    pub chosen: Box<dyn Fn(&Capture) + Send + Sync>,
}

/// Why a capture is not trusted any more: a closed set of words for counters, and what exactly happened.
#[derive(Clone, Debug)]
pub struct Failure {
    pub cause: &'static str,
    pub what: String,
}

//! Which capture an operator requests.

use std::fmt;
use std::str::FromStr;

use clap::builder::PossibleValue;

use crate::capture::BackEnd;

/// Which capture back end to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// The best one this kernel and user may use.
    #[default]
    Auto,
    /// This one and no other.
    Only(BackEnd),
}

impl CaptureMode {
    /// Periodic comparison, without eBPF.
    pub const SCAN: CaptureMode = CaptureMode::Only(BackEnd::Scan);

    /// The requested back end with programs, if there is one.
    pub fn back_end(self) -> Option<BackEnd> {
        match self {
            CaptureMode::Auto | CaptureMode::SCAN => None,
            CaptureMode::Only(back_end) => Some(back_end),
        }
    }

    fn word(self) -> &'static str {
        match self {
            CaptureMode::Auto => "auto",
            CaptureMode::Only(back_end) => back_end.name(),
        }
    }
}

impl fmt::Display for CaptureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for CaptureMode {
    type Err = String;

    fn from_str(text: &str) -> Result<CaptureMode, String> {
        let known = <CaptureMode as clap::ValueEnum>::value_variants();
        known.iter().find(|known| known.word() == text).copied().ok_or_else(|| {
            let known = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
            format!("unknown variant `{text}`, expected one of {known}")
        })
    }
}

/// For the help and completions of a shell.
impl clap::ValueEnum for CaptureMode {
    fn value_variants<'a>() -> &'a [CaptureMode] {
        use BackEnd::{Fentry, Kprobe, Scan, Tracepoint};
        use CaptureMode::{Auto, Only};
        &[Auto, Only(Fentry), Only(Kprobe), Only(Tracepoint), Only(Scan)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let value = PossibleValue::new(self.word());
        Some(match self {
            CaptureMode::Auto => value.help("The best one this kernel and user may use"),
            CaptureMode::Only(BackEnd::Scan) => value.help("Periodic comparison, without eBPF"),
            CaptureMode::Only(_) => value,
        })
    }
}

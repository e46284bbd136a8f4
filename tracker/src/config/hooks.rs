//! Hooks of the application: what runs before and after a flush, and for how long it may.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{parse_duration, show_duration};

/// Longest command line. The kernel takes 128 KiB for one argument; a program belongs into a file.
const BYTES_MAX: usize = 4096;

/// A command line for `/bin/sh -c`; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HookLine(String);

impl HookLine {
    /// The command line, if there is one.
    pub fn get(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|line| !line.is_empty())
    }
}

impl TryFrom<String> for HookLine {
    type Error = String;

    fn try_from(text: String) -> Result<HookLine, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("a hook has at most {BYTES_MAX} bytes: write a script, and name it"));
        }
        if text.contains('\0') {
            return Err("a hook has no zero bytes".to_owned());
        }
        Ok(HookLine(text.trim().to_owned()))
    }
}

impl FromStr for HookLine {
    type Err = String;

    fn from_str(text: &str) -> Result<HookLine, String> {
        HookLine::try_from(text.to_owned())
    }
}

impl From<HookLine> for String {
    fn from(line: HookLine) -> String {
        line.0
    }
}

impl fmt::Display for HookLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a hook may run. The application is at rest meanwhile, and no application should be so for a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HookTimeout(pub Duration);

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

impl Default for HookTimeout {
    fn default() -> HookTimeout {
        HookTimeout(Duration::from_secs(10))
    }
}

impl TryFrom<String> for HookTimeout {
    type Error = String;

    fn try_from(text: String) -> Result<HookTimeout, String> {
        text.parse()
    }
}

impl FromStr for HookTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<HookTimeout, String> {
        let found = parse_duration(text).map_err(|error| error.to_string())?;
        if (SHORTEST..=LONGEST).contains(&found) {
            return Ok(HookTimeout(found));
        }
        let (from, to) = (show_duration(SHORTEST), show_duration(LONGEST));
        Err(format!("the time for a hook must lie between {from} and {to}"))
    }
}

impl From<HookTimeout> for String {
    fn from(timeout: HookTimeout) -> String {
        timeout.to_string()
    }
}

impl fmt::Display for HookTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_duration(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_a_line_or_nothing() {
        let line = |text: &str| text.parse::<HookLine>().map(|line| line.get().map(ToOwned::to_owned));
        assert_eq!(line("").unwrap(), None);
        assert_eq!(line("  ").unwrap(), None, "no shell is started for blanks");
        assert_eq!(line("redis-cli BGSAVE ").unwrap().as_deref(), Some("redis-cli BGSAVE"));
        assert!(line("a\0b").is_err() && line(&"x".repeat(BYTES_MAX + 1)).is_err());
        assert!(serde_json::from_str::<HookLine>("\"a\\u0000\"").is_err(), "checked however it comes");
        assert!(serde_json::from_str::<HookTimeout>("\"61s\"").is_err());
    }

    #[test]
    fn a_timeout_is_a_minute_at_most() {
        let read = |text: &str| text.parse::<HookTimeout>().map(|timeout| timeout.0);
        assert_eq!(read("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!((read("100ms"), read("60s")), (Ok(SHORTEST), Ok(LONGEST)));
        for wrong in ["", "0", "99ms", "61s", "10"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let shown = HookTimeout::default().to_string();
        assert_eq!((shown.parse(), shown.as_str()), (Ok(HookTimeout::default()), "10s"));
    }
}

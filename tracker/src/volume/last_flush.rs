//! What a process could not commit before it ended on request, and its exit code.

use std::fmt;

use crate::error::{AppError, ExitCode};
use crate::units::{show_bytes, show_seconds};

/// What a volume had not committed when its process ended. The numbers are lower bounds: the kernel may hold more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Uncommitted {
    pub volume: String,
    pub inodes: u64,
    pub bytes: u64,
    /// Age of the oldest change, in seconds.
    pub oldest_seconds: Option<f64>,
    /// Why the last flush did not commit it, if known.
    pub why: Option<String>,
}

impl fmt::Display for Uncommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume {}: ", self.volume)?;
        match self.inodes {
            0 => write!(f, "what changed last is not committed")?,
            n => write!(f, "changes of at least {n} {} are not committed", if n == 1 { "file" } else { "files" })?,
        }
        // The size of a new file is not known before it is read.
        if self.bytes > 0 {
            write!(f, ", {} in blocks that are known", show_bytes(self.bytes))?;
        }
        if let Some(age) = self.oldest_seconds {
            write!(f, ", the oldest {} old", show_seconds(age))?;
        }
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// The exit code of a process that ended on request and would have returned `asked`: "partial" if something is not
/// committed.
///
/// # Errors
/// What is not committed, by volume.
pub fn verdict(asked: ExitCode, left: &[Uncommitted]) -> Result<ExitCode, AppError> {
    if left.is_empty() {
        return Ok(asked);
    }
    let text = left.iter().map(Uncommitted::to_string).collect::<Vec<_>>().join("; ");
    Err(AppError::new(ExitCode::Partial, text)
        .hint("the next start with this state directory goes on with it; restores show the state before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_is_said_and_is_not_a_success() {
        let left = Uncommitted {
            volume: "db".into(),
            inodes: 2,
            bytes: 8192,
            oldest_seconds: Some(12.0),
            why: Some("the disk is full".into()),
        };
        for asked in [ExitCode::Ok, ExitCode::Interrupted] {
            assert_eq!(verdict(asked, &[]).unwrap(), asked);
            let error = verdict(asked, &[left.clone(), Uncommitted { volume: "www".into(), ..Uncommitted::default() }]);
            let error = error.unwrap_err();
            assert_eq!(error.code, ExitCode::Partial);
            for words in [
                "db: changes of at least 2 files are",
                "8.0 KiB",
                "12.00 s old",
                "the disk is full",
                "www: what changed",
            ] {
                assert!(error.message.contains(words), "{words} in {}", error.message);
            }
        }
    }
}

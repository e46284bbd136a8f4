//! What a user sees when a command fails: one message, one hint, one exit code.
//!
//! The layers below have their own error enums; each command maps them to this one. Nothing below the command line builds
//! an `AppError`, except to say why a volume ended.

use crate::quoting::tame_line;
use std::fmt;
use std::io::Write;

use serde::{Deserialize, Serialize};

/// The exit codes, based on restic's. Scripts rely on the numbers: they never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "i32", try_from = "i32")]
pub enum ExitCode {
    Ok = 0,
    Error = 1,
    Usage = 2,
    /// Done, but some of the source could not be read or is not yet committed, or some of a volume not restored.
    Partial = 3,
    /// The store, the volume or the seq does not exist.
    Absent = 10,
    /// Another writer holds the volume, or another process the state directory.
    Locked = 11,
    WrongKey = 12,
    /// It works, but a promise is weaker than it should be.
    Degraded = 20,
    /// The store's bytes are not what was committed.
    Mismatch = 21,
    /// A guard refused something that would have destroyed data or fed back into itself.
    Guard = 22,
    Interrupted = 130,
    /// The reader of the output has gone: the code that a shell shows for other tools that SIGPIPE ended.
    ReaderGone = 141,
}

impl ExitCode {
    /// Every code, in the order of the manual.
    pub const ALL: [ExitCode; 12] = [
        ExitCode::Ok,
        ExitCode::Error,
        ExitCode::Usage,
        ExitCode::Partial,
        ExitCode::Absent,
        ExitCode::Locked,
        ExitCode::WrongKey,
        ExitCode::Degraded,
        ExitCode::Mismatch,
        ExitCode::Guard,
        ExitCode::Interrupted,
        ExitCode::ReaderGone,
    ];

    pub fn number(self) -> i32 {
        self as i32
    }

    /// What the code means, for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            ExitCode::Ok => "ok",
            ExitCode::Error => "error",
            ExitCode::Usage => "wrong usage or configuration",
            ExitCode::Partial => "partial: some data is unreadable, not yet committed or not restored",
            ExitCode::Absent => "store, volume or seq absent",
            ExitCode::Locked => "fenced by another writer, or locked",
            ExitCode::WrongKey => "wrong key",
            ExitCode::Degraded => "degraded",
            ExitCode::Mismatch => "verification mismatch",
            ExitCode::Guard => "refused by a guard",
            ExitCode::Interrupted => "interrupted",
            ExitCode::ReaderGone => "the reader of the output has gone; nothing is said",
        }
    }
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> i32 {
        code.number()
    }
}

impl TryFrom<i32> for ExitCode {
    type Error = UnknownExitCode;

    fn try_from(number: i32) -> Result<Self, UnknownExitCode> {
        ExitCode::ALL.into_iter().find(|code| code.number() == number).ok_or(UnknownExitCode { number })
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        // Every number above fits into a byte.
        std::process::ExitCode::from(u8::try_from(code.number()).unwrap_or(1))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{number} is no exit code of tracker")]
pub struct UnknownExitCode {
    pub number: i32,
}

/// The error of a command that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppError {
    pub code: ExitCode,
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl AppError {
    pub fn new(code: ExitCode, message: impl fmt::Display) -> Self {
        AppError { code, message: message.to_string(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// An `ExitCode::Error` whose message is the error and all its causes: `a: b: c`.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        AppError::new(ExitCode::Error, chain(error))
    }

    /// Prints the error: `error: ..` and `hint: ..` on stderr, or with `json` one object on stdout.
    pub fn print(&self, json: bool) {
        // If stdout or stderr is closed, nobody is left to read it.
        let _ = if json {
            writeln!(std::io::stdout(), "{}", self.to_json())
        } else {
            write!(std::io::stderr(), "{}", self.to_text())
        };
    }

    pub fn to_text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("error: {}\nhint: {}\n", tame_line(&self.message), tame_line(hint)),
            None => format!("error: {}\n", tame_line(&self.message)),
        }
    }

    pub fn to_json(&self) -> String {
        serde_json::json!({ "type": "error", "code": self.code, "message": self.message, "hint": self.hint })
            .to_string()
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for AppError {}

/// An error and its causes in one line. A cause that its parent's text already ends with is not repeated.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_fixed_and_travel_through_json() {
        let numbers: Vec<i32> = ExitCode::ALL.into_iter().map(ExitCode::number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 10, 11, 12, 20, 21, 22, 130, 141]);
        for code in ExitCode::ALL {
            let text = serde_json::to_string(&code).unwrap();
            assert_eq!(serde_json::from_str::<ExitCode>(&text).unwrap(), code);
        }
        assert!(serde_json::from_str::<ExitCode>("4").is_err());
    }

    #[test]
    fn text_and_json_carry_message_hint_and_code() {
        let error = AppError::new(ExitCode::Guard, "no \"way\"").hint("go round");
        assert_eq!(error.to_text(), "error: no \"way\"\nhint: go round\n");
        let json: serde_json::Value = serde_json::from_str(&error.to_json()).unwrap();
        assert_eq!(json["type"], "error");
        assert_eq!(json["code"], 22);
        assert_eq!(json["message"], "no \"way\"");
        assert_eq!(json["hint"], "go round");
        assert!(
            serde_json::from_str::<serde_json::Value>(&AppError::new(ExitCode::Error, "x").to_json()).unwrap()["hint"]
                .is_null()
        );
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open a: {source}")]
        struct Outer {
            source: std::io::Error,
        }
        let outer = Outer { source: std::io::Error::from_raw_os_error(2) };
        assert_eq!(chain(&outer), "cannot open a: No such file or directory (os error 2)");
    }
}

//! Where a verb's answer goes: stdout, as text for people or as JSON lines.
//!
//! Errors and progress do not pass here; they go to stderr.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use crate::error::{AppError, ExitCode};

/// The output of one verb.
pub struct Out {
    json: bool,
    to: Box<dyn Write>,
}

impl Out {
    pub fn stdout(json: bool) -> Self {
        Out { json, to: Box::new(io::stdout()) }
    }

    /// Writes to anything: for tests.
    pub fn new(json: bool, to: Box<dyn Write>) -> Self {
        Out { json, to }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// One line of text, or with `--json` one object. Both are flushed: a reader waits for the line.
    pub fn line(&mut self, text: impl Display, json: &impl Serialize) -> Result<(), AppError> {
        let written = if self.json {
            let line = serde_json::to_string(json).map_err(|e| AppError::from_error(&e))?;
            writeln!(self.to, "{line}")
        } else {
            writeln!(self.to, "{text}")
        };
        written.and_then(|()| self.to.flush()).map_err(|e| closed(&e))
    }

    /// Text as it is, without a newline of its own.
    pub fn text(&mut self, text: impl Display) -> Result<(), AppError> {
        write!(self.to, "{text}").and_then(|()| self.to.flush()).map_err(|e| closed(&e))
    }

    /// For bytes of files.
    pub fn raw(&mut self) -> &mut dyn Write {
        &mut self.to
    }
}

/// The reader has gone (`| head`), or the disk behind stdout is full.
fn closed(error: &io::Error) -> AppError {
    AppError::new(ExitCode::Error, format_args!("cannot write the output: {error}"))
}

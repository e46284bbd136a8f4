//! The answer of a verb on stdout, as text for people or as JSON lines.
//!
//! Errors and progress go to stderr instead.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use crate::error::{AppError, ExitCode};
use crate::quoting::tame;

/// The output of one verb.
pub struct Out {
    json: bool,
    to: Watched,
}

/// Remembers that the reader of the output has gone (`| head`).
struct Watched {
    to: Box<dyn Write>,
    gone: bool,
}

impl Watched {
    fn note<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        self.gone |= done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        done
    }
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.to.write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.to.flush();
        self.note(done)
    }
}

impl Out {
    pub fn stdout(json: bool) -> Self {
        Out::new(json, Box::new(io::stdout()))
    }

    /// Writes to anything: for tests.
    pub fn new(json: bool, to: Box<dyn Write>) -> Self {
        Out { json, to: Watched { to, gone: false } }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a write failed because nobody reads any more. That is not an error, and nothing is printed about it.
    pub fn reader_is_gone(&self) -> bool {
        self.to.gone
    }

    /// As [`Out::line`], for a process that does not depend on being read: it continues without its reader.
    pub fn say(&mut self, text: impl Display, json: &impl Serialize) {
        if let Err(error) = self.line(text, json) {
            tracing::warn!(%error, "it goes on without");
        }
        self.to.gone = false;
    }

    /// One line of text, or with `--json` one object. Both are flushed: a reader waits for the line.
    pub fn line(&mut self, text: impl Display, json: &impl Serialize) -> Result<(), AppError> {
        let written = if self.json {
            let line = serde_json::to_string(json).map_err(|e| AppError::from_error(&e))?;
            writeln!(self.to, "{line}")
        } else {
            writeln!(self.to, "{}", tame(&text.to_string()))
        };
        written.and_then(|()| self.to.flush()).map_err(|e| closed(&e))
    }

    /// A warning in addition to the answer: on stderr, and with `--json` also as an object. `what` is one word.
    pub fn warn(&mut self, what: &str, message: impl Display) -> Result<(), AppError> {
        tracing::warn!("{message}");
        if !self.json {
            return Ok(());
        }
        let message = message.to_string();
        self.line("", &serde_json::json!({ "type": "warning", "warning": what, "message": message }))
    }

    /// Text without a newline of its own.
    pub fn text(&mut self, text: impl Display) -> Result<(), AppError> {
        write!(self.to, "{}", tame(&text.to_string())).and_then(|()| self.to.flush()).map_err(|e| closed(&e))
    }

    /// For bytes of files.
    pub fn raw(&mut self) -> &mut dyn Write {
        &mut self.to
    }
}

/// The disk behind stdout is full, or the reader has gone (see [`Out::reader_is_gone`]).
fn closed(error: &io::Error) -> AppError {
    AppError::new(ExitCode::Error, format_args!("cannot write the output: {error}"))
}

//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

use crate::error::{AppError, ExitCode};

/// One problem, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub line: Option<usize>,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is longer than {max} bytes", .path.display())]
    TooLong { path: PathBuf, max: u64 },
    #[error("{}: {}", .path.display(), join(.problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl From<ConfigError> for AppError {
    fn from(error: ConfigError) -> AppError {
        AppError::new(ExitCode::Usage, crate::error::chain(&error))
            .hint("`tracker config check FILE` checks a configuration without starting anything")
    }
}

//! Log lines on stderr. stdout belongs to the answers of the verbs.
//!
//! A flush logs nothing at info: a log file inside a protected directory must not make an idle volume busy.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::error::{AppError, ExitCode};

/// What is logged unless `--log` or RUST_LOG says otherwise. At info the SDK would repeat what the store reports itself.
const DEFAULT_FILTER: &str = "info,aws_config=error,aws_smithy_runtime=warn,hyper=warn";

/// What `-v` logs.
pub const VERBOSE: &str = "info,tracker=debug,aws_config=error,aws_smithy_runtime=warn,hyper=warn";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line per event, coloured on a terminal unless NO_COLOR is set.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// Starts logging for this process. A second call (in tests) changes nothing. A filter that cannot be parsed is wrong
/// usage.
pub fn init(filter: Option<&str>, format: Format) -> Result<(), AppError> {
    let env = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = parse(filter.or(env.as_deref()))?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr).with_ansi(colour);
    // An error means that logging is already started.
    let _ = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// stderr whose reader may disappear, or whose disk may fill up: a log line that cannot be written must not stop
/// protecting. (The subscriber would complain about it on stderr, and panic if that fails too.)
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is not written is lost; the next line is tried again.
        let _ = io::stderr().write_all(one_line(&String::from_utf8_lossy(bytes)).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event is one line: a newline inside it comes from a name, and would start a line that looks like another event. The
/// subscriber escapes other control characters of names; its own are the colours.
fn one_line(event: &str) -> String {
    let body = event.strip_suffix('\n').unwrap_or(event);
    format!("{}\n", body.replace(['\n', '\r'], "\\n"))
}

fn parse(filter: Option<&str>) -> Result<EnvFilter, AppError> {
    let text = filter.unwrap_or(DEFAULT_FILTER);
    EnvFilter::builder().parse(text).map_err(|e: ParseError| {
        AppError::new(ExitCode::Usage, format_args!("the log filter `{text}` is not understood: {e}"))
            .hint("write a level (error, warn, info, debug, trace) or module=level, separated by commas")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(one_line("WARN a\nERROR forged\r\n"), "WARN a\\nERROR forged\\n\n");
        assert_eq!(one_line("WARN a"), "WARN a\n");
    }

    #[test]
    fn filters_are_read_or_refused() {
        for good in [None, Some(VERBOSE), Some("debug"), Some("warn,tracker::store=trace")] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        assert_eq!(parse(Some("tracker=loud")).unwrap_err().code, ExitCode::Usage);
    }
}

//! `tracker watch`: the capture alone. Prints what changed as it drains; there is no store and nothing is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Global, Out, not_in_this_build};
use crate::config::{Capture, INTERVAL_DEFAULT, parse_interval};
use crate::error::{AppError, ExitCode};
use crate::units::PathField;

/// Print changed paths, kinds and byte ranges as they happen. Needs no store.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The directory to watch.
    pub dir: PathBuf,
    /// Minimum gap between two drains [default: 250ms].
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    pub interval: Option<Duration>,
    /// Which capture back end to take.
    #[arg(long, value_enum, default_value_t)]
    pub capture: Capture,
    /// End after this time [default: never].
    #[arg(long, value_name = "DURATION", value_parser = crate::units::parse_duration)]
    pub timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    Data,
    Size,
    Meta,
    Names,
    Rescan,
}

/// One changed path of one drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    #[serde(flatten)]
    pub path: PathField,
    pub kinds: Vec<ChangeKind>,
    /// Byte ranges {offset, length}, ascending, not touching.
    pub ranges: Vec<(u64, u64)>,
}

/// What to watch, and for how long.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    pub interval: Duration,
    pub capture: Capture,
    pub timeout: Option<Duration>,
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    change: &'a Change,
}

pub(super) fn run(args: &WatchArgs, _global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let options = WatchOptions {
        interval: args.interval.unwrap_or(INTERVAL_DEFAULT),
        capture: args.capture,
        timeout: args.timeout,
    };
    let dir = super::absolute(&args.dir)?;
    watch_dir(&dir, &options, &mut |change| out.line(text(change), &Line { r#type: "change", change }))?;
    Ok(ExitCode::Ok)
}

fn text(change: &Change) -> String {
    let kinds: Vec<String> = change.kinds.iter().map(|k| format!("{k:?}").to_lowercase()).collect();
    let ranges: Vec<String> = change.ranges.iter().map(|(offset, len)| format!("{offset}+{len}")).collect();
    format!("{}  {}  {}", change.path.for_people(), kinds.join(","), ranges.join(" ")).trim_end().to_string()
}

/// PLACEHOLDER: captures `dir` and calls `sink` for every changed path, until `timeout`, a signal or a failing sink.
fn watch_dir(
    _dir: &Path,
    _options: &WatchOptions,
    _sink: &mut dyn FnMut(&Change) -> Result<(), AppError>,
) -> Result<(), AppError> {
    Err(not_in_this_build("watch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_the_design_says() {
        let change = Change {
            path: PathField::new(b"a/b"),
            kinds: vec![ChangeKind::Data, ChangeKind::Size],
            ranges: vec![(0, 4096)],
        };
        let json = serde_json::to_string(&Line { r#type: "change", change: &change }).unwrap();
        assert_eq!(json, r#"{"type":"change","path":"a/b","kinds":["data","size"],"ranges":[[0,4096]]}"#);
        assert_eq!(text(&change), "a/b  data,size  0+4096");
    }
}

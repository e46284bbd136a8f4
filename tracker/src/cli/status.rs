//! `tracker status`: the state of every volume of a running tracker, as a table or as JSON.

use std::collections::BTreeMap;

use clap::Args;
use engine::model::Consistency;
use serde_json::json;

use super::global::Global;
use super::table::columns;
use super::tracking;
use crate::capture::BackEnd;
use crate::cgroups::KERNEL;
use crate::daemon::control::Client;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::quoting;
use crate::repository::ConsistencyField;
use crate::units::{show_bytes, show_seconds};
use crate::volume::status::{State, VolumeStatus};

/// Show the state of each volume, its loss window, and why it is degraded if it is.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this volume.
    volume: Option<String>,
}

pub(super) fn run(args: &StatusArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let mut volumes = Client::new(&global.state_dir()?).status()?;
    if let Some(name) = &args.volume {
        volumes.retain(|v| v.volume == *name);
        if volumes.is_empty() {
            return Err(AppError::new(ExitCode::Absent, format_args!("there is no volume `{name}` here"))
                .hint("`tracker status` lists the volumes"));
        }
    }
    let tracked = tracking::gather();
    let text = format!("{}{}", table(&volumes), tracking::text(&tracked));
    out.line(text.trim_end(), &json!({ "type": "status", "volumes": volumes, "tracking": tracked }))?;
    Ok(code(&volumes))
}

/// 0 only if no volume needs attention: monitoring scripts check only the code.
fn code(volumes: &[VolumeStatus]) -> ExitCode {
    let any = |state: State| volumes.iter().any(|v| v.state == state);
    if any(State::Fenced) {
        ExitCode::Locked
    } else if [State::Degraded, State::Stopped, State::Waiting].into_iter().any(any) {
        ExitCode::Degraded
    } else {
        ExitCode::Ok
    }
}

fn table(volumes: &[VolumeStatus]) -> String {
    let header = ["VOLUME", "STATE", "CAPTURE", "LOSS WINDOW", "HEAD", "COMMITTED", "PENDING", "UPLOADED"];
    let mut rows = vec![header.map(str::to_string)];
    rows.extend(volumes.iter().map(|v| {
        [
            v.volume.clone(),
            v.state.name().to_string(),
            v.backend.name().to_string(),
            v.loss_window_seconds.map_or_else(|| "-".to_string(), show_seconds),
            v.head_seq.to_string(),
            if v.head_time.is_empty() { "-".to_string() } else { v.head_time.clone() },
            format!("{} files, {}", v.pending_inodes, show_bytes(v.pending_bytes)),
            show_bytes(v.bytes_uploaded),
        ]
    }));
    let mut text = columns(&rows);
    for volume in volumes {
        for note in notes(volume) {
            text.push_str(&format!("{}: {note}\n", volume.volume));
        }
    }
    text
}

/// What a person should know in addition to the table, in words.
fn notes(v: &VolumeStatus) -> Vec<String> {
    let mut notes: Vec<String> = v.reasons.clone();
    if let Some(what) = &v.waiting {
        notes.push(format!("waits, and tries again by itself: {what}"));
    }
    notes.extend(v.consistency.as_ref().map(|said| instant(v, said)));
    notes.extend(writers(v));
    if v.fenced_store == Some(false) {
        notes.push("unfenced: the store does not refuse a second writer".to_string());
    }
    if v.backend != BackEnd::Scan && !v.self_test_untried.is_empty() {
        notes.push(format!("the self-test could not try: {}", v.self_test_untried.join("; ")));
    }
    if v.scrub_differences > 0 {
        notes.push(format!("the scrub found {} blocks that changed without a mark", v.scrub_differences));
    }
    if v.write_back_errors > 0 && v.write_back.is_none() {
        notes.push(format!("{} write-back errors: the disk lost writes of an application", v.write_back_errors));
    }
    for file in v.unreadable.iter().take(10) {
        notes.push(format!("unreadable: {}: {}", file.path.for_people(), file.cause));
    }
    let unnamed = v.unreadable_total.saturating_sub(v.unreadable.len().min(10) as u64);
    if unnamed > 0 {
        notes.push(format!("unreadable: {unnamed} more"));
    }
    if v.removals_waiting > 0 {
        notes.push(format!("{} removals wait for a second listing", v.removals_waiting));
    }
    if v.rescans > 0 {
        notes.push(rescans(v.rescans, &v.rescan_reasons));
    }
    match (&v.failure, &v.last_error) {
        (Some(failure), _) => {
            notes.push(format!("ended: {failure}"));
            notes.extend(failure.hint.as_ref().map(|hint| format!("what to do: {hint}")));
        }
        (None, Some(error)) => notes.push(format!("last error: {error}")),
        (None, None) => {}
    }
    notes.extend(v.hint.as_ref().map(|hint| format!("what to do: {hint}")));
    notes
}

/// Whether the newest commit is of one instant, and how many are.
fn instant(v: &VolumeStatus, said: &ConsistencyField) -> String {
    let age = v.instant_age_seconds.map(|age| match age {
        0.0 => "up to date".to_owned(),
        age => format!("{} ago", show_seconds(age)),
    });
    let counts = &v.commits_by_consistency;
    let (of, all) = (counts.get(Consistency::INSTANT).copied().unwrap_or(0), counts.values().sum::<u64>());
    let percent = (of * 100).checked_div(all);
    let share = percent.map(|percent| format!(" ({percent} % of {} commits)", grouped(all))).unwrap_or_default();
    match (said, age) {
        (ConsistencyField::Instant { .. }, Some(age)) => format!("instant: {age}{share}"),
        (said, Some(age)) => format!("{said}; the newest commit of one instant: {age}{share}"),
        (said, None) => said.to_string(),
    }
}

/// Who changes the volume; nothing where it is not known or nobody does.
fn writers(v: &VolumeStatus) -> Option<String> {
    let all = v.writers.iter().map(|writer| {
        let name = match &writer.path {
            Some(path) => quoting::quote(path.as_bytes()),
            None if writer.cgroup == KERNEL => "threads of the kernel".to_owned(),
            None => format!("{} (gone)", writer.cgroup),
        };
        format!("{name} {}", grouped(writer.changes))
    });
    let all = all.collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| format!("changes by control group: {all}"))
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let parts = tail.as_bytes().chunks(3).map(|part| String::from_utf8_lossy(part).into_owned());
    let head = (!head.is_empty()).then(|| head.to_owned());
    head.into_iter().chain(parts).collect::<Vec<_>>().join(",")
}

/// Full re-reads, and their causes. A start has no cause of its own.
fn rescans(count: u64, reasons: &BTreeMap<String, u64>) -> String {
    if reasons.is_empty() {
        return format!("{count} rescans");
    }
    let reasons: Vec<String> = reasons.iter().map(|(why, times)| format!("{why} {times}")).collect();
    format!("{count} rescans ({})", reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PathField;
    use crate::volume::status::{Unreadable, Writer};

    fn volume(state: State) -> VolumeStatus {
        VolumeStatus { volume: "db".into(), state, fenced_store: Some(true), ..VolumeStatus::default() }
    }

    #[test]
    fn the_table_shows_the_loss_window_and_everything_uncertain() {
        let status = VolumeStatus {
            backend: BackEnd::Tracepoint,
            loss_window_seconds: Some(0.12),
            head_seq: 42,
            fenced_store: Some(false),
            reasons: vec!["a map was full".into()],
            unreadable: vec![Unreadable { path: PathField::new(b"x\xff"), cause: "EIO".into() }],
            unreadable_total: 3,
            ..volume(State::Degraded)
        };
        let text = table(&[status]);
        let expected = "\
VOLUME  STATE     CAPTURE     LOSS WINDOW  HEAD  COMMITTED  PENDING       UPLOADED
db      degraded  tracepoint  120 ms       42    -          0 files, 0 B  0 B
db: a map was full
db: unfenced: the store does not refuse a second writer
db: unreadable: $'x\\377': EIO
db: unreadable: 2 more
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_instant_of_the_newest_commit_has_its_line() {
        let counts = BTreeMap::from([("instant".to_owned(), 1_203), ("never_quiet".to_owned(), 37)]);
        let of = |said, age| {
            let status = VolumeStatus {
                consistency: said,
                instant_age_seconds: age,
                commits_by_consistency: counts.clone(),
                ..volume(State::Protected)
            };
            notes(&status)
        };
        let now = Some(ConsistencyField::Instant { window_us: 1, pause_us: 0 });
        assert_eq!(of(now.clone(), Some(0.4)), ["instant: 400 ms ago (97 % of 1,240 commits)"]);
        assert_eq!(of(now, Some(0.0)), ["instant: up to date (97 % of 1,240 commits)"]);
        let live = Some(ConsistencyField::Live { reason: "never_quiet".into() });
        assert_eq!(of(live.clone(), None), ["live: never_quiet"]);
        let both = "live: never_quiet; the newest commit of one instant: 2.00 s ago (97 % of 1,240 commits)";
        assert_eq!(of(live, Some(2.0)), [both]);
        assert_eq!(of(None, None), Vec::<String>::new());
        assert_eq!([0, 12, 123, 1_234, 1_234_567].map(grouped), ["0", "12", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn who_changes_the_volume_has_its_line() {
        let writer = |path: Option<&str>, changes| Writer { cgroup: 77, path: path.map(str::to_owned), changes };
        let kernel = Writer { cgroup: KERNEL, ..writer(None, 2) };
        let some = vec![writer(Some("/system.slice/my db"), 12_345), writer(None, 7), kernel];
        let status = VolumeStatus { writers: some, ..volume(State::Protected) };
        let line = "changes by control group: '/system.slice/my db' 12,345, 77 (gone) 7, threads of the kernel 2";
        assert_eq!(notes(&status), [line]);
        assert_eq!(notes(&volume(State::Protected)), [""; 0]);
    }

    #[test]
    fn rescans_never_have_an_empty_list_of_reasons() {
        assert_eq!(rescans(648, &BTreeMap::new()), "648 rescans");
        let reasons = BTreeMap::from([("scrub".to_owned(), 1), ("map_full".to_owned(), 2)]);
        assert_eq!(rescans(7, &reasons), "7 rescans (map_full 2, scrub 1)");
    }

    #[test]
    fn the_code_is_zero_only_when_nothing_is_uncertain() {
        assert_eq!(code(&[volume(State::Protected), volume(State::Baseline)]), ExitCode::Ok);
        for uncertain in [State::Degraded, State::Waiting, State::Stopped] {
            assert_eq!(code(&[volume(State::Protected), volume(uncertain)]), ExitCode::Degraded);
        }
        assert_eq!(code(&[volume(State::Degraded), volume(State::Fenced)]), ExitCode::Locked);
    }
}

//! The matrix of operations, file systems, back ends and kernels, by marks: what is missed, and what
//! `docs/kernels-cells.md` says.

use std::fs;

use tests::capture_rig::{config, obstacle};
use tests::matrix::bed::{Outcome, Place, run};
use tests::matrix::page::{Column, Page, Word, line, word};
use tests::matrix::{COLUMNS, Kind, Op, Selection, ops};
use tests::mounts::{root_or_skip, skip};
use tracker::capture::Capture;

/// The file systems that can be mounted here; all are mounted before capture starts, since a driver adds tracepoints.
fn places(test: &str, runs: usize) -> Vec<Place> {
    if !root_or_skip(test) {
        return Vec::new();
    }
    if let Some(reason) = obstacle() {
        skip(test, "ebpf", reason);
        return Vec::new();
    }
    let place = |fs: Kind| Place::new(fs, runs).map_err(|reason| println!("SKIP {}: {reason}", fs.name())).ok();
    COLUMNS.into_iter().filter_map(place).collect()
}

/// What differs from the page, or is missing on it. A kernel may do better than the page, which describes a series.
fn differs(page: &Page, column: &Column, outcome: &Outcome, found: &Word) -> Option<String> {
    let cell = format!("{} {}", outcome.fs.name(), outcome.op.id);
    match page.get(column, outcome.fs, outcome.op.id) {
        None => Some(format!("{cell}: {found:?}, and docs/kernels-cells.md does not have it (cargo xtask matrix)")),
        Some(said) if said == found || (said, found) == (&Word::Rescan, &Word::Exact) => None,
        Some(said) => Some(format!("{cell}: {found:?}, and docs/kernels-cells.md says {said:?}")),
    }
}

/// Every operation on every file system, each alone between two drains: everything that really changed must be marked, in
/// the way that `docs/kernels-cells.md` says.
#[test]
fn every_operation_on_every_file_system() {
    let test = "every_operation_on_every_file_system";
    let places = places(test, 1);
    if places.is_empty() {
        return;
    }
    let (mut capture, _) = Capture::start(&config()).unwrap();
    let (column, selection) = (Column::here(), Selection::from_environment());
    let mut page = Page::parse(&fs::read_to_string(Page::path()).unwrap_or_default());
    let bless = std::env::var_os("TRACKER_BLESS").is_some();
    let mut wrong = Vec::new();
    for place in &places {
        let wanted: Vec<&Op> =
            (0..).zip(ops::all()).filter(|(at, op)| selection.has(*at, op, place.fs)).map(|(_, op)| op).collect();
        for outcome in run(place, &mut capture, &wanted, 0).unwrap() {
            println!("{}", line(&column, &outcome));
            match word(&outcome) {
                Err(why) => wrong.push(why),
                Ok(found) if bless => {
                    if let Some(text) = differs(&page, &column, &outcome, &found) {
                        println!("PAGE {text}");
                    }
                    page.set(&column, outcome.fs, outcome.op.id, found);
                }
                Ok(found) if page.has(&column) => wrong.extend(differs(&page, &column, &outcome, &found)),
                Ok(_) => {}
            }
        }
    }
    let problems = capture.health().unwrap().problems;
    capture.detach().unwrap();
    if !bless && !page.has(&column) {
        println!("SKIP {test}: page: docs/kernels-cells.md has no column {column}");
    }
    if bless {
        for path in
            std::env::var("TRACKER_MATRIX_RESULTS").unwrap_or_default().split(':').filter(|path| !path.is_empty())
        {
            page.read_lines(&fs::read_to_string(path).unwrap());
        }
        fs::write(Page::path(), page.text()).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(problems.is_empty(), "{problems:?}");
}

/// The generator would make the page as it is: nothing was written by hand, and no cell is lost when it is parsed.
#[test]
fn the_page_of_kernels_is_read_as_it_is_written() {
    let text = fs::read_to_string(Page::path()).unwrap();
    assert_eq!(Page::parse(&text).text(), text);
}

/// Every part has every operation, and every file system.
#[test]
fn every_part_has_every_row_and_every_column() {
    for parts in 1..=COLUMNS.len() {
        for (seed, part) in (0..5).flat_map(|seed| (1..=parts).map(move |part| (seed, part))) {
            let selection = Selection { seed, part, parts };
            let has = |fs: Kind| {
                (0..).zip(ops::all()).filter(move |(at, op)| selection.has(*at, op, fs)).map(|(_, op)| op.id)
            };
            assert!(COLUMNS.into_iter().all(|fs| has(fs).count() > 0), "{selection:?}");
            let rows: std::collections::BTreeSet<&str> = COLUMNS.into_iter().flat_map(has).collect();
            assert_eq!(rows.len(), ops::all().len(), "{selection:?}");
        }
    }
}

#[test]
fn operations_have_names_of_their_own() {
    let mut ids: Vec<&str> = ops::all().into_iter().map(|op| op.id).collect();
    let all = ids.len();
    assert!(ids.iter().all(|id| id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    assert!(all >= 60);
}

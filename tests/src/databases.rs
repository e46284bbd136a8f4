//! Databases under load whose every commit of one instant has to be what a `kill -9` of them would leave: each is restored, and
//! opened with the database's own recovery and checks.

pub mod bank;
pub mod postgres;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Volume, utf8};
use crate::load::number;
use crate::mounts::{Mount, skip};

/// Commits of one instant that the gate looks at.
const SHORT: usize = 8;
/// As many checks run at once.
const LANES: usize = 2;
/// How long the gate waits for them: not finding a moment is no fault.
const SHORT_LIMIT: Duration = Duration::from_secs(30);

/// A database that works in a directory.
pub trait Database: Sync {
    /// Makes it in an empty directory, and leaves it running and idle.
    fn prepare(&mut self, dir: &Path);

    /// Starts its load.
    fn start(&mut self);

    /// Ends it and its load at once.
    fn stop(&mut self);

    /// Lets the database recover `copy` and checks it: how many transactions it has, or what is wrong. Calls with different
    /// `lane` come at the same time.
    ///
    /// # Errors
    /// What is wrong with the copy.
    fn check(&self, copy: &Path, lane: usize) -> Result<u64, String>;
}

/// What is asked for by the environment.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Commits of one instant.
    commits: usize,
    /// All commits are made live, and looked at: how often the load would notice.
    control: bool,
}

impl Form {
    /// `$TRACKER_DATABASE_COMMITS`, `$TRACKER_DATABASE_CONTROL`.
    ///
    /// # Panics
    /// When the first is no number.
    pub fn asked() -> Form {
        let commits = std::env::var("TRACKER_DATABASE_COMMITS").ok();
        Form {
            commits: commits.map_or(SHORT, |text| text.parse().expect("TRACKER_DATABASE_COMMITS is a number")),
            control: std::env::var_os("TRACKER_DATABASE_CONTROL").is_some(),
        }
    }

    /// True in the long form; else prints why `test` is skipped.
    pub fn long_or_skip(test: &str) -> bool {
        let form = Form::asked();
        let long = form.commits > SHORT || form.control;
        if !long {
            skip(test, "long", "only in the long form (TRACKER_DATABASE_COMMITS=1000)");
        }
        long
    }

    fn limit(self) -> Duration {
        SHORT_LIMIT.max(Duration::from_millis(self.commits as u64 * 600))
    }
}

/// One commit that was made under load.
struct Commit {
    seq: u64,
    /// `instant`, or why it is none; `live` where nothing is said.
    kind: String,
    window_us: u64,
    pause_us: u64,
}

impl Commit {
    fn read(line: &Value) -> Commit {
        let of = &line["consistency"];
        let kind = of["reason"].as_str().or(of["kind"].as_str()).unwrap_or("live");
        let time = |field: &str| of[field].as_u64().unwrap_or(0);
        Commit {
            seq: number(line, "seq"),
            kind: kind.to_owned(),
            window_us: time("window_us"),
            pause_us: time("pause_us"),
        }
    }

    fn is_instant(&self) -> bool {
        self.kind == "instant"
    }
}

/// Protects the database under its load, restores the commits that were made meanwhile, and has the database check them.
///
/// # Panics
/// When a commit of one instant is damaged; in the gate also when there is none.
#[track_caller]
pub fn every_instant_is_intact(test: &str, mount: &Mount, database: &mut dyn Database) {
    let form = Form::asked();
    let source = mount.dir("database");
    database.prepare(&source);
    let mut volume = Volume::new(&source);
    volume.extra = vec!["--interval".into(), "250ms".into()];
    if form.control {
        volume.extra.extend(["--consistency".into(), "live".into()]);
    }
    let daemon = volume.start_ready();
    let first = number(&volume.status(), "head_seq");
    let begun = Instant::now();
    database.start();
    while begun.elapsed() < form.limit() && so_far(&volume.status(), first, form) < form.commits as u64 {
        thread::sleep(Duration::from_millis(100));
    }
    let last = number(&volume.status(), "head_seq");
    let seconds = begun.elapsed().as_secs_f64();
    database.stop();
    assert!(daemon.stop().success(), "{test}: a polite stop\n{}", volume.log_tail());

    let commits: Vec<Commit> = log(&volume).into_iter().filter(|of| (first + 1..=last).contains(&of.seq)).collect();
    let looked_at = chosen(&commits, form);
    let results = check_all(&volume, database, &looked_at);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{test}: {} in {seconds:.0} s; {}; load {}", shares(&commits), outcome(&results), load.trim());
    let damaged: Vec<String> =
        results.iter().filter(|one| one.commit.is_instant()).filter_map(Checked::damage).collect();
    assert!(damaged.is_empty(), "{test}: damaged commits of one instant: {damaged:#?}");
    assert!(went_forward(&results), "{test}: transactions were taken back from one instant to a later one");
    let instants = commits.iter().filter(|of| of.is_instant()).count();
    assert!(instants > 0 || form.commits > SHORT || form.control, "{test}: no commit of one instant in {seconds:.0} s");
}

/// How many commits of the wanted kind there are.
fn so_far(status: &Value, first: u64, form: Form) -> u64 {
    if form.control {
        return number(status, "head_seq").saturating_sub(first);
    }
    // Those before the load are few.
    status["commits_by_consistency"]["instant"].as_u64().unwrap_or(0).saturating_sub(1)
}

fn log(volume: &Volume) -> Vec<Commit> {
    let answer = volume.tracker(&["log", utf8(&volume.reference()), "--json", "-n", "1000000"]);
    let lines = answer.expect(0).stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut commits: Vec<Commit> =
        lines.filter(|line| line["type"] == "commit").map(|line| Commit::read(&line)).collect();
    commits.sort_by_key(|of| of.seq);
    commits
}

/// All of one instant; of the others, which prove nothing, as many at most.
fn chosen(commits: &[Commit], form: Form) -> Vec<&Commit> {
    let mut others = 0;
    let take = |of: &&Commit| {
        others += usize::from(!of.is_instant());
        of.is_instant() || others <= form.commits
    };
    commits.iter().filter(take).collect()
}

struct Checked<'a> {
    commit: &'a Commit,
    /// How many transactions it has.
    result: Result<u64, String>,
}

impl Checked<'_> {
    fn damage(&self) -> Option<String> {
        self.result.as_ref().err().map(|what| format!("{}: {what}", self.commit.seq))
    }
}

fn check_all<'a>(volume: &Volume, database: &dyn Database, commits: &[&'a Commit]) -> Vec<Checked<'a>> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (next, all) = (&next, &results);
    thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || {
                while let Some(commit) = commits.get(next.fetch_add(1, Relaxed)) {
                    let result = check_one(volume, database, commit, lane);
                    all.lock().expect("no check panics with it").push(Checked { commit, result });
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no check panics with it");
    results.sort_by_key(|one| one.commit.seq);
    results
}

fn check_one(volume: &Volume, database: &dyn Database, commit: &Commit, lane: usize) -> Result<u64, String> {
    let copy = volume.scratch(&format!("copy-{}", commit.seq));
    let at = commit.seq.to_string();
    let answer = volume.tracker(&["restore", utf8(&volume.reference()), utf8(&copy), "--at", &at]);
    let result = match answer.code {
        Some(0) => database.check(&copy, lane),
        _ => Err(format!("restore: {answer:?}")),
    };
    // What is damaged stays with the volume, which is kept where that is asked for.
    if result.is_ok() || !commit.is_instant() {
        fs::remove_dir_all(&copy).expect("the copy is removed");
    }
    result
}

/// No commit of one instant has fewer transactions than an older one.
fn went_forward(results: &[Checked<'_>]) -> bool {
    let counts = results.iter().filter(|one| one.commit.is_instant()).filter_map(|one| one.result.as_ref().ok());
    counts.is_sorted()
}

fn shares(commits: &[Commit]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for of in commits {
        *kinds.entry(&of.kind).or_default() += 1;
    }
    let mut windows: Vec<u64> = commits.iter().filter(|of| of.is_instant()).map(|of| of.window_us).collect();
    windows.sort_unstable();
    let at = |share: usize| windows.get(windows.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
    let paused = commits.iter().map(|of| of.pause_us).max().unwrap_or(0);
    let (mid, high, most) = (at(50), at(99), at(100));
    format!("{} commits {kinds:?}, window {mid} us p50, {high} p99, {most} most, pause {paused} us most", commits.len())
}

fn outcome(results: &[Checked<'_>]) -> String {
    let of = |instant: bool| results.iter().filter(move |one| one.commit.is_instant() == instant);
    let intact = |instant: bool| of(instant).filter(|one| one.result.is_ok()).count();
    let least_most = (
        results.iter().filter_map(|one| one.result.as_ref().ok()).min(),
        results.iter().filter_map(|one| one.result.as_ref().ok()).max(),
    );
    let example = of(false).find_map(Checked::damage).map_or_else(String::new, |text| {
        let last = text.lines().last().unwrap_or_default().chars().take(160).collect::<String>();
        format!(" (such as {last})")
    });
    format!(
        "instant intact {} of {}, live damaged {} of {}{example}, transactions {least_most:?}",
        intact(true),
        of(true).count(),
        of(false).count() - intact(false),
        of(false).count(),
    )
}

/// A folder for sockets and logs, beside the protected directory.
fn aside() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("tracker-db-").tempdir().expect("a temporary folder")
}

/// The folder of one check.
fn aside_of(folder: &Path, lane: usize) -> PathBuf {
    let path = folder.join(format!("check-{lane}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).expect("a folder for the check");
    path
}

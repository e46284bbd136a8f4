//! The load under which an instant is searched for all the time: writers without gaps, whom the daemon may pause. No process and no
//! memory outlives the cut, so what each commit of one instant must be is told by its own files:
//! - on one volume the chains of [`crate::prefix::chains`]: a second place is never ahead of its first, nor behind it by two;
//! - on another a database, SQLite with a rollback journal and the bank of [`crate::databases`];
//! - on all of them, what `sync --wait --instant` has acknowledged is in the newest one;
//! - none has less than an older one.
//!
//! Each of the writers is in a control group without the daemon, which is never paused. `NOW` tells the host what the daemon does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::boot::{
    Boot, PER_BOOT, UNCUT, VOLUMES, each_volume, newest_number, numbers, reference, restored, source, tracker,
};
use crate::cgroup::Group;
use crate::daemon::utf8;
use crate::databases::Database;
use crate::databases::bank::Bank;
use crate::load::{Random, number};
use crate::prefix::chains::{self, Chain};
use crate::prefix::tree;

/// Commits of one instant that are looked at for each volume, the newest ones. More are seldom made before the cut.
const INSTANTS: usize = 20;
/// .. and others, some of which should be torn, or the checks find nothing.
const LIVE: usize = 3;
/// Longest pause of a writer between two changes, in microseconds: five writers leave no gap as long as a look takes here, and some
/// time for the daemon.
const GAP_US: u64 = 20_000;
/// How often the daemon is looked at.
const WATCHED: Duration = Duration::from_millis(10);
/// The database.
const KIND: &str = "sqlite-delete";
/// The writer of acknowledged numbers.
const NUMBERS: &str = "numbers";
/// The end of a chain's fact with the number that it came to.
const FIRST: &str = "/first|0";
/// What the daemon does.
const PAUSE: &str = "in a pause";
/// Some commits are made before a cut in a pause.
const MEANWHILE: Duration = Duration::from_secs(8);
/// Is there once all is that the checks expect.
const BEGUN: &str = "begun";

/// What a writer does, which is a process of this program's own.
pub(super) fn writer(args: &[String]) {
    match args {
        [kind, dir, seed] if kind == "chains" => chains(Path::new(dir), seed.parse().expect("a seed")),
        [kind, boot] if kind == NUMBERS => numbers(boot.parse().expect("a number"), true),
        _ => panic!("a writer is started with: chains DIR SEED, or: numbers BOOT"),
    }
}

/// Changes without gaps, each chain from a thread of its own.
fn chains(dir: &Path, seed: u64) {
    let all = Chain::all(dir);
    File::create(dir.join(BEGUN)).expect("a mark");
    thread::scope(|scope| {
        for (at, mut chain) in (0..).zip(all) {
            let mut random = Random::new(seed + at);
            scope.spawn(move || {
                loop {
                    chain.step(|| thread::sleep(Duration::from_micros(random.below(GAP_US))));
                    thread::sleep(chain.rest());
                }
            });
        }
    });
}

/// Lets the writers of this boot write until the power is cut.
pub(super) fn load(boot: &Boot, daemon: u32) {
    each_volume(|name| make_room(&source(name)));
    let group = |name| Group::new_or_skip("powercut", name).expect("control groups of version 2");
    let (groups, other) = (VOLUMES.map(group), group(NUMBERS));
    // In turn: an emulated machine that has to do all of it on each makes no commit in time.
    let of = |at: u64| (boot.seed.wrapping_add(boot.number + at) % VOLUMES.len() as u64) as usize;
    let dir = |at: usize, what: &str| source(VOLUMES[at]).join(format!("{what}-{}", boot.number));
    let mut bank = bank(&dir(of(0), "bank"));
    bank.iter_mut().for_each(|bank| groups[of(0)].take(bank.process().id()));
    let chains = dir(of(1), "chains");
    fs::create_dir(&chains).expect("mkdir");
    let program = std::env::current_exe().expect("this program");
    let write = |group: &Group, args: &[&str]| group.start(utf8(&program), &[&["writer"], args].concat());
    let mut writers = [
        write(&other, &[NUMBERS, &boot.number.to_string()]),
        write(&groups[of(1)], &["chains", utf8(&chains), &boot.seed.wrapping_mul(8).to_string()]),
    ];
    bank.iter_mut().for_each(Bank::start);
    println!("LOAD");
    let (begun, until, mut last, mut told) = (Instant::now(), Instant::now() + UNCUT, "", false);
    while Instant::now() < until {
        let now = now(daemon, &groups);
        if now != last {
            println!("NOW {now}");
            last = now;
        }
        // The host may wait for a pause, and should not do so for ever where none is needed.
        if !told && (begun.elapsed() > MEANWHILE && now == PAUSE || begun.elapsed() > UNCUT / 5) {
            println!("PAUSED");
            told = true;
        }
        let ended = writers.iter_mut().any(|writer| writer.has_ended());
        assert!(
            !ended && bank.iter_mut().all(|bank| bank.process().try_wait().expect("wait").is_none()),
            "a writer ended"
        );
        thread::sleep(WATCHED);
    }
    panic!("the power was not cut");
}

/// A database that is ready in a new directory.
fn bank(dir: &Path) -> Option<Bank> {
    if let Some(reason) = Bank::obstacle(&[], "sqlite3") {
        println!("FOUND no database: {reason}");
        return None;
    }
    fs::create_dir(dir).expect("mkdir");
    let mut bank = Bank::new(KIND);
    bank.prepare(dir);
    File::create(dir.join(BEGUN)).expect("a mark");
    Some(bank)
}

/// Removes what loads of earlier boots have left.
fn make_room(source: &Path) {
    for entry in fs::read_dir(source).expect("a listing").map(|entry| entry.expect("an entry")) {
        if ["mixed-", "chains-", "bank-"].iter().any(|of| entry.file_name().to_string_lossy().starts_with(of)) {
            fs::remove_dir_all(entry.path()).expect("it goes");
        }
    }
}

/// What the daemon does, as far as it can be seen: a thread that looks is of the real-time class, with the lowest priority there.
fn now(daemon: u32, groups: &[Group]) -> &'static str {
    if groups.iter().any(Group::is_frozen) {
        return PAUSE;
    }
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).expect("the daemon");
    let stats = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    // proc(5): of the 40th field; the name, which is the second, may have spaces.
    let priority = |stat: String| stat.rsplit(')').next()?.split_whitespace().nth(37)?.parse::<u32>().ok();
    if stats.filter_map(priority).any(|priority| priority > 0) { "in a look" } else { "between looks" }
}

/// How much of what the writers have counted a commit has, by writer; or what is wrong with it.
type Had = Result<BTreeMap<String, u64>, String>;

/// Checks the commits that the load of the previous boot has brought, before a daemon runs.
pub(super) fn survived(name: &str, boot: &Boot) {
    let answer = tracker(&["log", utf8(&reference(name)), "-n", "100000", "--json"]);
    let commits: Vec<Value> =
        answer.expect(0).stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let is_instant = |commit: &&Value| commit["consistency"]["kind"] == "instant";
    let (instants, live): (Vec<&Value>, Vec<&Value>) = commits.iter().partition(is_instant);
    let (mut later, mut seen, mut newest) = (BTreeMap::new(), Vec::new(), None);
    let (mut paused, mut databases, mut chained) = (0, 0, 0);
    for commit in instants.iter().take(INSTANTS) {
        let seq = number(commit, "seq");
        let Some(had) = checked(name, boot, seq) else { break };
        let had = had.unwrap_or_else(|fault| panic!("{name}: commit {seq} is of no instant: {fault}"));
        if seen.is_empty() {
            newest = had.get(NUMBERS).copied();
        }
        let ahead = had.iter().find(|(what, count)| later.get(*what).is_some_and(|later| later < *count));
        assert!(ahead.is_none(), "{name}: commit {seq} has {had:?}, and a later one {later:?}");
        databases += u32::from(had.contains_key(KIND));
        chained += u32::from(had.keys().any(|what| what.ends_with(FIRST)));
        later = had;
        paused += u32::from(number(&commit["consistency"], "pause_us") > 0);
        seen.push(seq);
    }
    // Of an even number this was promised.
    if let Some(last) = boot.acknowledged.filter(|last| last.is_multiple_of(2)) {
        assert!(
            newest >= Some(last),
            "{name}: {last} was acknowledged, the newest of one instant has {newest:?}: {seen:?}"
        );
        println!("COUNT 1 changes that were acknowledged in an instant found in a store");
    }
    let others: Vec<Had> =
        live.iter().map_while(|commit| checked(name, boot, number(commit, "seq"))).take(LIVE).collect();
    let torn = others.iter().filter(|had| had.is_err()).count();
    println!("FOUND {name}: {} commits of one instant hold, {paused} of them paused writers: {seen:?}", seen.len());
    println!("COUNT {} commits of one instant hold on {name}", seen.len());
    for (count, what) in [(paused, "paused writers"), (databases, "have a database"), (chained, "have chains")] {
        println!("COUNT {count} commits of one instant that {what} hold");
    }
    println!("COUNT {torn} other commits that are torn, as they may be");
    println!("COUNT {} other commits that are whole", others.len() - torn);
}

/// Restores a commit and looks at it. `None`: it is from before the load of the previous boot.
fn checked(name: &str, boot: &Boot, seq: u64) -> Option<Had> {
    let copy = restored(name, &format!("commit-{seq}"), Some(seq));
    let had = had(&copy, boot.number - 1);
    fs::remove_dir_all(copy).expect("the copy goes");
    had
}

fn had(copy: &Path, load: u64) -> Option<Had> {
    let begun = |what: &str| Some(copy.join(format!("{what}-{load}"))).filter(|dir| dir.join(BEGUN).exists());
    let number = newest_number(copy).filter(|number| *number >= load * PER_BOOT);
    let mut had: BTreeMap<String, u64> = number.map(|number| (NUMBERS.to_owned(), number)).into_iter().collect();
    if let Some(dir) = begun("chains") {
        let mut facts = tree::facts(&dir).expect("a tree can be read");
        for (fact, value) in facts.iter().filter(|(fact, _)| fact.ends_with(FIRST)) {
            had.insert(fact.clone(), *value);
        }
        let faults = chains::check(&mut facts);
        if !faults.is_empty() {
            return Some(Err(faults.join("\n  ")));
        }
    }
    if let Some(dir) = begun("bank") {
        match Bank::new(KIND).check(&dir, 0) {
            Ok(transfers) => _ = had.insert(KIND.to_owned(), transfers),
            Err(fault) => return Some(Err(fault)),
        }
    }
    (!had.is_empty()).then_some(Ok(had))
}

//! Rules for every verb of the command tree: `--json` (docs/json.md), and an output that nobody reads.
//!
//! A verb that is missing in the table here makes these tests fail.

#[path = "every_verb/contract.rs"]
mod contract;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The leaves of the command tree, as typed.
fn verbs() -> Vec<String> {
    fn below(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        for verb in command.get_subcommands() {
            let path = format!("{path} {}", verb.get_name()).trim().to_owned();
            if verb.has_subcommands() { below(verb, &path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    below(&tracker::cli::command(), "", &mut found);
    assert!(found.len() > 10, "{found:?}");
    found
}

fn command(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
    command.args(args.split(' ').filter(|arg| !arg.is_empty()));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

fn run(args: &str) -> Output {
    command(args).output().unwrap()
}

/// Verbs that can only refuse in this test.
const REFUSE: [&str; 5] = ["watch", "volume add", "volume set", "volume remove", "config reload"];

/// Tables of docs/json.md for cases that do not occur here: there is no capture and no daemon with a file, nothing is
/// damaged, and the output of `protect` is not read.
const NOT_HERE: [&str; 10] = [
    "change",
    "configured",
    "ready",
    "ready of watch",
    "reload",
    "restored.failed",
    "status.tracking",
    "status.write_back",
    "status.writers",
    "warning",
];

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A protected directory with its running daemon.
struct Bed {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        // More than fits into a pipe, for `cat`.
        std::fs::write(dir.path().join("src/large"), vec![7; 300_000]).unwrap();
        std::fs::write(dir.path().join("src/small"), "hello").unwrap();
        let at = dir.path().display();
        let args = format!("protect {at}/src --store {at}/store --state-dir {at}/state --capture scan --log off");
        let daemon = command(&args).stdout(Stdio::null()).spawn().unwrap();
        let bed = Bed { dir, daemon };
        bed.wait_for_state("state");
        bed
    }

    fn wait_for_state(&self, state: &str) {
        let begun = Instant::now();
        loop {
            let answer = run(&format!("status --json --state-dir {}/{state}", self.dir.path().display()));
            if String::from_utf8_lossy(&answer.stdout).contains("\"state\":\"protected\"") {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "not protected: {answer:?}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Arguments of the verb that give an answer, and arguments that name something absent (`None`: there are none). `None`
    /// altogether: a verb that does not end by itself.
    fn arguments(&self, verb: &str) -> Option<(String, Option<String>)> {
        let at = self.dir.path().display().to_string();
        let there = |more: &str| format!("{at}/store/src {more}");
        let none = |more: &str| Some(format!("{at}/store/none {more}"));
        let (good, absent) = match verb {
            // The guard of a pause talks to a daemon.
            "protect" | "daemon" | "pause-guard" => return None,
            "status" => ("src".into(), Some("none".into())),
            "sync" => ("src --wait".into(), Some("none --wait".into())),
            "confirm" => ("src".into(), Some("none".into())),
            "acknowledge" => ("src".into(), Some("none".into())),
            // The daemon runs, so there is nothing to adopt, which is an answer.
            "adopt" => ("src".into(), Some("none".into())),
            // Without capture it can only refuse.
            "watch" => (format!("{at}/src --capture scan"), Some(format!("{at}/none"))),
            "log" => (there(""), none("")),
            "ls" => (there("--recursive"), none("")),
            "cat" => (there("large"), none("large")),
            "restore" => (there(&format!("{at}/restored --dry-run")), none(&format!("{at}/restored"))),
            "verify" => (there(""), none("")),
            "doctor" => (String::new(), Some(format!("{at}/none"))),
            "untrack" => (String::new(), Some("none".into())),
            "config check" => (format!("{at}/good.toml"), Some(format!("{at}/none"))),
            // Only a daemon can add and remove volumes.
            "config reload" => (String::new(), None),
            "volume add" => (format!("{at}/src --store {at}/store2"), Some(format!("{at}/src --store s3:x"))),
            "volume set" => ("src interval=1s".into(), None),
            "volume remove" => ("src".into(), None),
            "completions" => ("bash".into(), Some("ksh".into())),
            "man" => (String::new(), Some("none".into())),
            "version" => (String::new(), None),
            other => panic!("say here how `{other}` is tried"),
        };
        let full = |args: String| format!("{verb} {args} --state-dir {at}/state --log off");
        Some((full(good), absent.map(full)))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn config(dir: &Path) {
    let at = dir.display();
    let text = format!("[[volume]]\nsource = \"{at}/src\"\nstore = \"{at}/store2\"\ncapture = \"scan\"\n");
    std::fs::write(dir.join("good.toml"), format!("{text}[metrics]\nlisten = \"off\"\n")).unwrap();
}

/// The lines of an answer in JSON.
#[track_caller]
fn objects(what: &str, output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{what} --json says something on stderr");
    assert!(text.ends_with('\n'), "{what}: {text:?}");
    let object = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {error}: {line}"));
        contract::hold(&object);
        object
    };
    text.lines().map(object).collect()
}

#[track_caller]
fn one_error(what: &str, output: &Output) -> Value {
    let objects = objects(what, output);
    assert_eq!(objects.len(), 1, "{what}: {objects:?}");
    assert_eq!((&objects[0]["type"], &objects[0]["code"]), (&"error".into(), &output.status.code().into()), "{what}");
    assert!(objects[0]["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {objects:?}");
    assert!(objects[0]["hint"].is_string(), "{what} says what can be done: {objects:?}");
    objects[0].clone()
}

#[test]
fn every_verb_keeps_the_contract_of_json() {
    let bed = Bed::new();
    config(bed.dir.path());
    for verb in verbs() {
        let wrong = run(&format!("{verb} --json --no-such-flag"));
        assert_eq!(wrong.status.code(), Some(2), "{verb}: {wrong:?}");
        let error = one_error(&verb, &wrong);
        assert!(error["message"].as_str().unwrap().contains("--no-such-flag"), "{verb}: {error}");
        let help = run(&format!("{verb} --json --help"));
        assert_eq!(objects(&verb, &help)[0]["type"], "help");
        let Some((good, absent)) = bed.arguments(&verb) else { continue };
        let answer = run(&format!("{good} --json"));
        if REFUSE.contains(&verb.as_str()) {
            one_error(&verb, &answer);
        } else {
            let all = objects(&verb, &answer);
            assert!(!all.is_empty() && all.iter().all(|object| object["type"] != "error"), "{verb}: {all:?}");
            assert!([Some(0), Some(20)].contains(&answer.status.code()), "{verb}: {answer:?}");
            // `--json` must not lose anything.
            assert!(answer.stdout.len() > 20, "{verb}: {answer:?}");
        }
        if let Some(absent) = absent {
            let refused = run(&format!("{absent} --json"));
            assert!(refused.status.code().is_some_and(|code| code != 0), "{absent}: {refused:?}");
            one_error(&absent, &refused);
        }
    }
    let cat = objects("cat", &run(&format!("cat --json {}/store/src large", bed.dir.path().display())));
    let (end, parts) = cat.split_last().unwrap();
    assert_eq!((&end["type"], &end["bytes"], parts.len()), (&"cat".into(), &300_000.into(), 7));
    let coded: String = parts.iter().map(|part| part["base64"].as_str().unwrap()).collect();
    assert_eq!(coded, "BwcH".repeat(100_000), "the parts put together are the file");
    assert_eq!(parts[1]["offset"], 48 << 10);
    objects("doctor", &run(&format!("doctor --json {}/src", bed.dir.path().display())));
    let unseen: Vec<&str> = contract::unseen().into_iter().filter(|table| !NOT_HERE.contains(table)).collect();
    assert_eq!(unseen, [""; 0], "tables of docs/json.md that no output was held against");
}

/// `tracker VERB | head -0`: no panic, no word, no success.
#[test]
fn no_verb_minds_that_nobody_reads() {
    let bed = Bed::new();
    config(bed.dir.path());
    let quiet = |args: &str, codes: &[i32]| {
        let output = command(args).stdout(closed()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(codes.contains(&output.status.code().unwrap_or(-1)), "{args}: {output:?}");
        assert!(!said.contains("panicked") && !said.contains("cannot write"), "{args}: {said}");
        // Nor if nobody reads its errors.
        let both = command(args).stdout(closed()).stderr(closed()).output().unwrap();
        assert!(codes.contains(&both.status.code().unwrap_or(-1)), "{args}: {both:?}");
    };
    for verb in verbs() {
        quiet(&format!("{verb} --help"), &[141]);
        quiet(&format!("{verb} --no-such-flag"), &[2]);
        let Some((good, absent)) = bed.arguments(&verb) else { continue };
        if REFUSE.contains(&verb.as_str()) {
            // They refuse before they print anything on stdout.
            quiet(&good, &[1, 2]);
        } else {
            quiet(&good, &[141]);
            quiet(&format!("{good} --json"), &[141]);
        }
        if let Some(absent) = absent {
            quiet(&absent, &[1, 2, 10]);
        }
    }
    quiet("--version", &[141]);
}

/// `tracker protect .. | head -1`, with its log into a broken pipe: it continues protecting, and a stop works.
#[test]
fn a_daemon_goes_on_without_its_readers() {
    let bed = Bed::new();
    config(bed.dir.path());
    let at = bed.dir.path().display();
    std::fs::create_dir(bed.dir.path().join("other")).unwrap();
    let log = "--capture scan --log trace";
    for (state, args) in [
        ("state2", format!("daemon --config {at}/good.toml --log trace")),
        ("state3", format!("protect {at}/other --store {at}/store3 {log}")),
        ("state4", format!("protect {at}/other --store {at}/store4 {log} --json --log-format json")),
    ] {
        let mut daemon =
            command(&format!("{args} --state-dir {at}/{state}")).stdout(closed()).stderr(closed()).spawn().unwrap();
        bed.wait_for_state(state);
        // By now the line `ready` has most likely gone to nobody; the flush after it is what counts.
        std::fs::write(bed.dir.path().join("src/more"), state).unwrap();
        std::fs::write(bed.dir.path().join("other/more"), state).unwrap();
        sleep(Duration::from_millis(200));
        let synced = run(&format!("sync --wait --state-dir {at}/{state}"));
        assert_eq!(synced.status.code(), Some(0), "{args}: {synced:?}");
        kill_process(Pid::from_child(&daemon), Signal::TERM).unwrap();
        assert_eq!(daemon.wait().unwrap().code(), Some(0), "{args}");
    }
}

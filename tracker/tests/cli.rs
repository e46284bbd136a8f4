//! The program itself: exit codes, where output goes, signals.

use std::path::Path;
use std::process::{Command, Output};

fn tracker(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
    command.args(args).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one JSON object a `--json` run prints, with nothing on stderr.
fn json(output: &Output) -> serde_json::Value {
    assert_eq!(stderr(output), "");
    assert_eq!(stdout(output).lines().count(), 1, "{}", stdout(output));
    serde_json::from_str(&stdout(output)).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_and_version_are_answers() {
    let version = format!("tracker {}\n", env!("CARGO_PKG_VERSION"));
    for args in [&["--version"][..], &["version"]] {
        let output = tracker(args);
        assert_eq!((code(&output), stdout(&output)), (0, version.clone()));
    }
    let help = tracker(&["--help"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("protect") && stdout(&help).contains("restore"));
    assert_eq!(json(&tracker(&["version", "--json"]))["type"], "version");
}

#[test]
fn wrong_usage_is_2_in_both_forms() {
    let plain = tracker(&["restore", "s/v"]);
    assert_eq!((code(&plain), stdout(&plain).as_str()), (2, ""));
    assert!(stderr(&plain).contains("error:") && stderr(&plain).contains("TARGET"), "{}", stderr(&plain));
    let object = tracker(&["restore", "s/v", "--json"]);
    assert_eq!(code(&object), 2);
    assert_eq!((&json(&object)["type"], &json(&object)["code"]), (&"error".into(), &2.into()));
    assert_eq!(code(&tracker(&["version", "--log", "tracker=loud"])), 2);
    assert_eq!(code(&tracker(&[])), 2);
}

#[test]
fn without_a_daemon_status_and_sync_are_1_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    for verb in [&["status"][..], &["sync", "--wait"]] {
        let args: Vec<&str> = verb.iter().copied().chain(["--state-dir", text(dir.path())]).collect();
        let output = tracker(&args);
        assert_eq!(code(&output), 1);
        let expected =
            format!("error: no tracker is running with the state directory {}\nhint: ", dir.path().display());
        assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn protect_refuses_what_it_cannot_do_before_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path).to_str().unwrap().to_string();
    let protect = |source: &str, store: &str, more: &[&str]| {
        let (source, store, state) = (at(source), at(store), at("state"));
        let args = ["protect", &source, "--store", &store, "--state-dir", &state, "--json"];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        let output = tracker(&args);
        let error = json(&output);
        assert_eq!(error["code"], code(&output));
        assert!(error["hint"].is_string(), "{error}");
        (code(&output), error["message"].as_str().unwrap().to_string())
    };
    std::fs::create_dir_all(at("src/inner")).unwrap();
    std::fs::write(at("file"), "").unwrap();
    for (source, store, more, want, words) in [
        ("none", "backup", &[][..], 1, "does not exist"),
        ("file", "backup", &[], 1, "is not a directory"),
        ("src", "src/backup", &[], 22, "lies inside the source"),
        ("src/inner", "src", &[], 22, "lies inside the store"),
        ("src", "file", &[], 1, "is not a directory"),
        ("src", "backup", &["--consistency", "cut"], 2, "`cut` is no consistency"),
        ("src", "backup", &["--name", "a b"], 2, "no volume name"),
    ] {
        let (code, message) = protect(source, store, more);
        assert_eq!(code, want, "{message}");
        assert!(message.contains(words), "{message}");
    }
    assert!(!dir.path().join("state").exists() && !dir.path().join("backup").exists(), "nothing was made");
}

#[test]
fn restore_into_something_is_22() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "").unwrap();
    let output = tracker(&["restore", "/no/store/v", text(dir.path())]);
    assert_eq!(code(&output), 22, "{}", stderr(&output));
    assert!(stderr(&output).contains("--merge"));
}

#[test]
fn config_check_says_ok_or_every_problem_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("s")).unwrap();
    let file = root.join("tracker.toml");
    let state = root.join("state");
    let check = |content: &str, json: bool| {
        std::fs::write(&file, content.replace("ROOT", text(&root))).unwrap();
        let mut args = vec!["config", "check", text(&file), "--state-dir", text(&state)];
        args.extend(json.then_some("--json"));
        tracker(&args)
    };
    let good = check("[[volume]]\nsource = \"ROOT/s\"\nstore = \"ROOT/b\"\n", false);
    assert_eq!((code(&good), stdout(&good)), (0, format!("ok: {} (s)\n", file.display())));
    let bad = "[[volume]]\nsource = \"ROOT/s\"\nstore = \"ROOT/s/b\"\n";
    let output = check(bad, false);
    assert_eq!(code(&output), 2);
    assert!(stdout(&output).starts_with(&format!("{}:1: the store", file.display())), "{}", stdout(&output));
    let object = check("x = 1\n", true);
    assert_eq!(code(&object), 2);
    let object = json(&object);
    assert_eq!((&object["ok"], &object["problems"][0]["line"]), (&false.into(), &1.into()));
    assert_eq!(code(&tracker(&["config", "check", "/no/such/file"])), 2);
    assert_eq!(code(&tracker(&["daemon", "--config", "/no/such/file"])), 2);
}

#[test]
fn completions_and_manual_come_out() {
    let bash = tracker(&["completions", "bash"]);
    assert_eq!(code(&bash), 0);
    assert!(stdout(&bash).contains("--read-data"));
    let man = tracker(&["man"]);
    assert!(stdout(&man).contains(".TH") && stdout(&man).contains("EXIT CODES") && stdout(&man).contains("\n22\n"));
    let page = stdout(&tracker(&["man", "restore"]));
    assert!(page.contains("untrusted"), "{page}");
    assert_eq!(code(&tracker(&["man", "nonsense"])), 2);
}

#[test]
fn doctor_answers_whatever_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let output = tracker(&["doctor", "--json", "--state-dir", text(dir.path())]);
    assert!([0, 20].contains(&code(&output)), "{}", stderr(&output));
    let object = json(&output);
    assert_eq!(object["type"], "doctor");
    assert!(object["findings"].as_array().is_some_and(|findings| findings.iter().any(|f| f["name"] == "kernel")));
    let names = |systems: &serde_json::Value| systems.as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    let names: Vec<serde_json::Value> = names(&object["file_systems"]);
    assert_eq!(names, ["ext4", "xfs", "btrfs", "tmpfs", "overlay"]);

    let output = tracker(&["doctor", text(dir.path()), "--json", "--state-dir", text(dir.path())]);
    assert!([0, 20].contains(&code(&output)), "{}", stderr(&output));
    let object = json(&output);
    assert!(object["file_systems"].is_null() && object["directory"]["file_system"]["changes"].is_array(), "{object}");
    let output = tracker(&["doctor", text(&dir.path().join("none")), "--state-dir", text(dir.path())]);
    assert_eq!((code(&output), stdout(&output).as_str()), (1, ""), "{}", stderr(&output));
}

#[test]
fn a_closed_stdout_is_an_error_and_no_panic() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tracker")).arg("version").stdout(full).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).starts_with("error: cannot write the output"), "{}", stderr(&output));
}

//! The command line without a process: arguments, help, defaults.

use super::*;

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("tracker").chain(args.iter().copied()))
}

fn help_of(verb: &str) -> String {
    let mut command = command();
    command.build();
    command.find_subcommand_mut(verb).unwrap().render_long_help().to_string()
}

#[test]
fn the_description_is_consistent() {
    command().debug_assert();
}

#[test]
fn the_verbs_are_fixed() {
    let names: Vec<String> = command().get_subcommands().map(|c| c.get_name().to_string()).collect();
    let expected = [
        "protect",
        "daemon",
        "status",
        "sync",
        "acknowledge",
        "confirm",
        "untrack",
        "adopt",
        "volume",
        "watch",
        "log",
        "ls",
        "cat",
        "restore",
        "verify",
        "doctor",
        "config",
        "completions",
        "man",
        "pause-guard",
        "version",
    ];
    assert_eq!(names, expected);
    for verb in expected {
        let about = command().find_subcommand(verb).unwrap().get_about().map(|about| about.to_string());
        assert!(about.is_some_and(|about| !about.is_empty()), "{verb} says what it does");
    }
}

#[test]
fn each_verb_has_its_flags() {
    for (verb, flags) in [
        (
            "protect",
            &[
                "--store",
                "--name",
                "--interval",
                "--capture",
                "--consistency",
                "--metrics-listen",
                "--before",
                "--after",
                "--hook-timeout",
            ][..],
        ),
        ("daemon", &["--config", "--metrics-listen"]),
        ("sync", &["--wait", "--timeout"]),
        ("watch", &["--interval", "--capture"]),
        ("log", &["--at"]),
        ("ls", &["--at"]),
        ("cat", &["--at"]),
        ("restore", &["--at", "--merge", "--dry-run", "--untrusted"]),
        ("verify", &["--read-data"]),
    ] {
        let help = help_of(verb);
        for flag in flags.iter().chain(&["--json", "--state-dir", "--log"]) {
            assert!(
                help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                "{verb} {flag}:\n{help}"
            );
        }
    }
}

#[test]
fn the_help_of_restore_reads_as_it_should() {
    let help = help_of("restore");
    let usage = help.lines().find(|line| line.starts_with("Usage:")).unwrap();
    assert_eq!(usage, "Usage: tracker restore [OPTIONS] <STORE/VOLUME> <TARGET>");
    assert!(help.starts_with("Restore a volume into a directory; every file is verified"), "{help}");
}

#[test]
fn wrong_usage_is_refused() {
    for args in [
        &["protect", "d"][..],
        &["protect", "d", "--store", "ftp://x/y"],
        &["protect", "d", "--store", "s", "--interval", "5"],
        &["protect", "d", "--store", "s", "--interval", "1ms"],
        &["protect", "d", "--store", "s", "--capture", "magic"],
        &["protect", "d", "--store", "s3:/bucket/x"],
        &["protect", "d", "--store", "s", "--scrub", "200%"],
        &["log", "s/v", "--limit", "0"],
        &["sync", "--timeout", "1s"],
        &["restore", "s3://bucket", "t"],
        &["restore", "s/v", "t", "--at", "yesterday"],
        &["volume", "set", "db"],
        &["volume", "set", "db", "interval"],
        &["nonsense"],
        &[],
    ] {
        assert!(parse(args).is_err(), "{args:?}");
    }
    for args in [
        &["protect", "d", "--store", "s3://bucket/p", "--interval", "1s", "--capture", "scan", "--consistency", "live"]
            [..],
        &["--json", "status"],
        &["status", "db", "--json", "--state-dir", "/x"],
        &["sync", "db", "--wait", "--timeout", "5m"],
        &["restore", "s/v", "t", "--at", "7", "--merge", "--dry-run", "--untrusted"],
        &["restore", "s/v", "t", "--at", "2026-11-24T06:00:00Z"],
        &["config", "check", "f"],
        &["volume", "add", "d", "--store", "s", "--interval", "1s", "--single-writer"],
        &["volume", "set", "db", "interval=1s", "scrub=off"],
    ] {
        assert!(parse(args).is_ok(), "{args:?}: {}", parse(args).unwrap_err());
    }
}

/// Everything that is missing or wrong, and clap's own advice, in one message and one hint.
#[test]
fn wrong_usage_in_json_loses_nothing() {
    let told = |args: &[&str]| {
        let error = parse(args).unwrap_err();
        let told = wrong_usage(error.kind(), &error.render().to_string());
        (told.message, told.hint.unwrap())
    };
    let missing = "the following required arguments were not provided:";
    assert_eq!(told(&["log"]).0, format!("{missing} <STORE/VOLUME>"));
    assert_eq!(told(&["restore"]).0, format!("{missing} <STORE/VOLUME> <TARGET>"));
    assert_eq!(told(&["protect"]).0, format!("{missing} --store <URL> <DIR>"));
    let (message, hint) = told(&["log", "s/v", "--limt", "3"]);
    assert_eq!(message, "unexpected argument '--limt' found");
    assert!(hint.contains("'--limit'") && hint.ends_with("lists the arguments"), "{hint}");
    assert!(told(&["protect", "d", "--store", "s3:b"]).0.ends_with("a store URL begins with s3://bucket/prefix"));
    let (message, _) = told(&["completions", "ksh"]);
    assert!(message.contains("possible values: bash"), "{message}");
    for none in [&[][..], &["--json"], &["config"]] {
        assert_eq!(told(none).0, "no verb was given", "{none:?}");
    }
}

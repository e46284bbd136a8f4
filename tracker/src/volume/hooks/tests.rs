//! What is shown of hooks, and what is owed after a death.

use super::*;
use process::Ended;

fn ran(ended: Ended, said: &str) -> Ran {
    Ran { ended, said: said.to_owned(), output: None }
}

#[test]
fn a_failure_is_shown_until_the_hook_succeeds() {
    let (mut shown, now) = (HooksShown::default(), Instant::now());
    let trouble = |shown: &HooksShown| shown.trouble().collect::<Vec<_>>();
    assert!(!shown.note(Which::Before, &ran(Ended::Code(0), ""), now));
    assert_eq!(trouble(&shown), [""; 0]);
    assert!(shown.note(Which::Before, &ran(Ended::Code(3), "a\nno such \x1b[31mtable\n\n"), now));
    let expected = r"the hook `before` failed: exit code 3 (no such \u{1b}[31mtable): commits are made as without it";
    assert_eq!(trouble(&shown), [expected]);
    let late = ran(Ended::TimedOut(Duration::from_secs(10)), "");
    assert!(shown.note(Which::After, &late, now));
    let expected = "the hook `after` failed: killed after 10s: the application may still be at rest";
    assert_eq!(trouble(&shown)[1], expected);
    assert!(!shown.note(Which::Before, &ran(Ended::Code(0), ""), now));
    assert_eq!(trouble(&shown), [expected]);
    assert_eq!((shown.runs["before"], shown.failures["before"], shown.failures["after"]), (3, 1, 1));
    shown.keep_set(&"x".parse().unwrap(), &HookLine::default());
    assert_eq!(trouble(&shown), [""; 0], "it was taken out of the configuration");
}

#[test]
fn the_same_failure_is_logged_once_a_minute() {
    let (mut shown, now) = (HooksShown::default(), Instant::now());
    let failed = |code| ran(Ended::Code(code), "");
    assert!(shown.note(Which::Before, &failed(1), now));
    assert!(!shown.note(Which::Before, &failed(1), now + REPEAT / 2));
    assert!(shown.note(Which::Before, &failed(2), now + REPEAT / 2), "another one");
    assert!(shown.note(Which::Before, &failed(2), now + REPEAT * 2));
    assert_eq!(shown.failures["before"], 4, "each counts");
}

fn config(after: &str) -> VolumeConfig {
    let (before, after) = ("true".parse().unwrap(), after.parse().unwrap());
    let options = crate::config::VolumeOptions { before, after, ..Default::default() };
    let (name, source) = ("v".to_owned(), "/s".into());
    VolumeConfig { name, source, store: "/b".parse().unwrap(), options, allow: crate::config::Allow::default() }
}

#[test]
fn what_is_owed_outlives_the_process_until_it_is_paid() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("catalog");
    let open = || Arc::new(Catalog::open_or_create(&at).unwrap());
    let out = |name: &str| folder.path().join(name);
    let tell = |name: &str| {
        config(&format!(
            "echo $TRACKER_VOLUME $TRACKER_SOURCE $TRACKER_COMMIT $TRACKER_INSTANT >{}",
            out(name).display()
        ))
    };
    assert!(Due::left(&open(), &tell("now")).unwrap().is_none());
    let (due, environment) = Due::note(&open(), &tell("then"), "7f".into()).unwrap();
    assert!(environment.contains(&("TRACKER_HOOK_RUN", "7f".into())));
    drop(due);
    // As after a kill. The operator may have corrected the command meanwhile.
    let due = Due::left(&open(), &tell("now")).unwrap().expect("owed");
    assert!(due.pay("12", "instant").unwrap().ended.is_success());
    assert_eq!(std::fs::read_to_string(out("now")).unwrap(), "v /s 12 instant\n");
    assert!(Due::left(&open(), &tell("now")).unwrap().is_none(), "paid");
    // Or have taken it out: that of then is owed.
    Due::note(&open(), &tell("then"), "80".into()).unwrap();
    let due = Due::left(&open(), &config("")).unwrap().expect("owed");
    assert!(due.pay("", "").unwrap().ended.is_success());
    assert_eq!(std::fs::read_to_string(out("then")).unwrap(), "v /s\n");
}

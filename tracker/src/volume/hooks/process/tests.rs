//! With real processes.

use std::fs;
use std::path::Path;

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn ran(line: &str, limit: Duration) -> Ran {
    run(&Call { line, environment: &[("TRACKER_VOLUME", "db".into())], limit }, &|| false)
}

/// Waits until a process that has written its number to a file is gone.
fn is_gone(file: &Path) -> bool {
    let pid = fs::read_to_string(file).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // One that nobody has waited for yet is dead all the same.
        if status.is_empty() || status.rsplit(')').next().unwrap_or_default().starts_with(" Z") {
            return true;
        }
        std::thread::sleep(NAP_MAX);
    }
    false
}

#[test]
fn success_and_failure_are_told_with_what_was_said() {
    assert_eq!(ran("true", LONG).ended, Ended::Code(0));
    let failed = ran("echo to nobody; echo $TRACKER_VOLUME is busy >&2; exit 3", LONG);
    assert_eq!((failed.ended, failed.said.as_str()), (Ended::Code(3), "db is busy\n"));
    assert_eq!(ran("kill -KILL $$", LONG).ended, Ended::Signal(9));
    let absent = ran("/nowhere/at-all", LONG);
    assert_eq!(absent.ended, Ended::Code(127));
    assert!(absent.said.contains("/nowhere/at-all"), "{}", absent.said);
}

#[test]
fn a_hook_has_a_group_of_its_own_and_nothing_else_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    // A descriptor without close-on-exec would show here.
    let line = format!("ls -l /proc/$$/fd >{0}.fds; cut -d' ' -f1,5,41 /proc/$$/stat >{0}.stat", seen.display());
    assert_eq!(ran(&line, LONG).ended, Ended::Code(0));
    let descriptors = fs::read_to_string(seen.with_extension("fds")).unwrap();
    let open: Vec<&str> = descriptors.lines().filter(|line| line.contains(" -> ")).collect();
    assert!(open.iter().any(|line| line.ends_with("0 -> /dev/null")), "{descriptors}");
    for line in &open {
        let (number, _) = line.rsplit_once(" -> ").unwrap();
        let number: u32 = number.rsplit(' ').next().unwrap().parse().unwrap();
        // Shells keep copies of redirected ones from 10 on.
        assert!(number <= 2 || number >= 10, "{descriptors}");
    }
    let status = fs::read_to_string(seen.with_extension("stat")).unwrap();
    let [pid, group, policy] = status.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{status}") };
    assert_eq!((group, policy), (pid, "0"), "its own group, the ordinary class");
}

#[test]
fn a_hook_that_ignores_sigterm_is_killed_with_all_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let child = folder.path().join("child");
    let line = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >{}; sleep 1000' & echo waiting >&2; wait; sleep 1000",
        child.display()
    );
    let began = Instant::now();
    let killed = ran(&line, Duration::from_millis(500));
    assert_eq!(killed.ended, Ended::TimedOut(Duration::from_millis(500)));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1500), "it had a second for its SIGTERM: {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(killed.said, "waiting\n");
    assert!(is_gone(&child), "a grandchild outlived the time limit");
}

#[test]
fn a_hook_that_obeys_sigterm_takes_no_second_more() {
    let began = Instant::now();
    let killed = ran("trap 'echo undone >&2; exit 0' TERM; sleep 1000 & wait", Duration::from_millis(200));
    assert_eq!((killed.ended, killed.said.as_str()), (Ended::TimedOut(Duration::from_millis(200)), "undone\n"));
    assert!(began.elapsed() < Duration::from_millis(1100), "{:?}", began.elapsed());
}

#[test]
fn what_a_hook_leaves_running_neither_holds_it_up_nor_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (child, go, wrote) = (folder.path().join("child"), folder.path().join("go"), folder.path().join("wrote"));
    // As a session that holds a lock until `after`, and writes to the stderr that it has inherited.
    let line = format!(
        "(sh -c 'echo $PPID >{0}'; while [ ! -e {1} ]; do sleep 0.02; done; echo late >&2 && touch {2}; exec sleep 1000) & \
         while [ ! -s {0} ]; do sleep 0.01; done",
        child.display(),
        go.display(),
        wrote.display()
    );
    let began = Instant::now();
    let left = ran(&line, LONG);
    assert_eq!(left.ended, Ended::Code(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(left.output.is_some(), "the pipe stays open for it");
    fs::write(&go, "").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while !wrote.exists() {
        assert!(Instant::now() < until, "it was killed by what it wrote");
        std::thread::sleep(NAP_MAX);
    }
    let pid: i32 = fs::read_to_string(&child).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert!(is_gone(&child));
}

#[test]
fn of_much_output_the_end_is_kept() {
    let much = ran("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done >&2; exit 1", LONG);
    assert_eq!(much.ended, Ended::Code(1));
    assert_eq!(much.said.len(), KEPT);
    assert!(much.said.ends_with("line 19999\nline 20000\n"));
    // Output without end does not keep the limit from being seen.
    let began = Instant::now();
    let endless = ran("exec yes >&2", Duration::from_millis(300));
    assert_eq!(endless.ended, Ended::TimedOut(Duration::from_millis(300)));
    assert!(endless.said.len() <= KEPT && endless.said.contains("y\ny\n"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_hook_is_given_up_when_asked() {
    let began = Instant::now();
    let call = Call { line: "sleep 1000", environment: &[], limit: LONG };
    assert_eq!(run(&call, &|| began.elapsed() > Duration::from_millis(100)).ended, Ended::GivenUp);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_hook_of_an_earlier_process_is_ended_and_what_it_left_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let child = folder.path().join("child");
    let call = |line: &str, run: &str| -> Child {
        start(&Call { line, environment: &[("TRACKER_HOOK_RUN", run.into())], limit: LONG }).unwrap()
    };
    let mut running = call("sleep 1000", "one");
    let mut other = call("exec sleep 1000", "two");
    let mut ended = call(&format!("sleep 1000 & echo $! >{}", child.display()), "one");
    ended.wait().unwrap();
    end_leader("TRACKER_HOOK_RUN", "one");
    assert_eq!(running.wait().unwrap().signal(), Some(15));
    assert!(!has_ended(Pid::from_child(&other)), "another run");
    other.kill().unwrap();
    other.wait().unwrap();
    let left: i32 = fs::read_to_string(&child).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).expect("it still runs");
    assert!(is_gone(&child));
}

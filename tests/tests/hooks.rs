//! Hooks of the application: `before` brings it to rest, the flush reads, `after` lets it go on, whatever happens in between.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::daemon::{Daemon, Volume, binary, utf8};
use tests::load::number;
use tests::mounts::{Kind, Mount};
use tests::raw_calls::dirty_pages;

const SYNC: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(60);

/// A volume whose hooks write into a folder beside the tree.
struct Bed {
    volume: Volume,
    source: PathBuf,
    folder: PathBuf,
    _mount: Mount,
}

impl Bed {
    fn or_skip(test: &str) -> Option<Bed> {
        let mount = Mount::new_or_skip(test, Kind::Ext4)?;
        let source = mount.dir("source");
        fs::write(source.join("file"), "first").unwrap();
        let mut volume = Volume::new(&source);
        volume.keep_tracking();
        let folder = volume.scratch("hooks");
        fs::create_dir(&folder).unwrap();
        Some(Bed { volume, source, folder, _mount: mount })
    }

    /// Sets hooks, which begin with a line each in the log.
    fn hooks(&mut self, before: &str, after: &str) {
        let log = self.folder.join("log");
        let log = log.display();
        self.volume.extra.truncate(3);
        self.volume.extra.push(format!("--before=echo before >>{log}; {before}"));
        self.volume
            .extra
            .push(format!("--after=echo after $TRACKER_VOLUME $TRACKER_COMMIT $TRACKER_INSTANT >>{log}; {after}"));
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    #[track_caller]
    fn log_when(&self, wanted: &[&str]) {
        let until = Instant::now() + LONG;
        while self.log() != wanted {
            assert!(Instant::now() < until, "{:?} instead of {wanted:?}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn change(&self, text: &str) {
        fs::write(self.source.join("file"), text).unwrap();
    }

    /// The first copy, which has no hooks.
    #[track_caller]
    fn start(&self) -> Daemon<'_> {
        let daemon = self.volume.start_ready();
        self.volume.sync(SYNC).expect(0);
        daemon
    }

    /// A file of a commit.
    #[track_caller]
    fn cat(&self, file: &str, seq: u64) -> String {
        let reference = self.volume.reference();
        let answer = self.volume.tracker(&["cat", utf8(&reference), file, "--at", &seq.to_string()]);
        answer.expect(0).stdout.clone()
    }
}

/// Writes the same number to `a` and to `b`, one after the other, until it is told to stop; rests while there is a file `stop`,
/// and tells so by a file `ack`. A file `runs` tells that it answers.
fn application(source: PathBuf, folder: PathBuf, end: &AtomicBool) {
    let (stop, ack, runs) = (folder.join("stop"), folder.join("ack"), folder.join("runs"));
    let mut round = 0u64;
    fs::write(&runs, "").unwrap();
    while !end.load(Ordering::Relaxed) {
        if stop.exists() {
            fs::write(&ack, "").unwrap();
            while stop.exists() && !end.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            fs::remove_file(&ack).unwrap();
            continue;
        }
        round += 1;
        for name in ["a", "b"] {
            fs::write(source.join(name), round.to_string()).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
    }
    fs::remove_file(&runs).unwrap();
}

/// The commits while the application runs, and in how many of them its two files differ.
fn commits_of_a_busy_application(bed: &Bed, commits: u64) -> (u64, u64) {
    for name in ["a", "b"] {
        fs::write(bed.source.join(name), "0").unwrap();
    }
    let daemon = bed.start();
    let first = number(&bed.volume.status(), "head_seq");
    let end = AtomicBool::new(false);
    let last = thread::scope(|scope| {
        scope.spawn(|| application(bed.source.clone(), bed.folder.clone(), &end));
        let until = Instant::now() + LONG;
        let mut head = first;
        while head < first + commits && Instant::now() < until {
            thread::sleep(Duration::from_millis(50));
            head = bed.volume.try_status().map_or(head, |status| number(&status, "head_seq"));
        }
        end.store(true, Ordering::Relaxed);
        head
    });
    assert!(last >= first + commits, "{last} is the newest commit after {first}");
    bed.volume.sync(SYNC).expect(0);
    let differ = (first..=last).filter(|seq| bed.cat("a", *seq) != bed.cat("b", *seq)).count() as u64;
    idle_volumes_have_no_hooks(bed);
    assert!(daemon.stop().success());
    (last - first, differ)
}

/// Through several self-tests nothing is to be flushed, and no hook runs.
fn idle_volumes_have_no_hooks(bed: &Bed) {
    let runs = |bed: &Bed| bed.volume.status()["hook_runs"].clone();
    let before = runs(bed);
    let tests = number(&bed.volume.status(), "self_tests");
    bed.volume.status_when("three self-tests", LONG, |status| number(status, "self_tests") >= tests + 3);
    assert_eq!(runs(bed), before, "an idle volume");
}

/// A file with exact marks is written back long after it was read. Nothing is committed by that.
#[test]
fn a_write_back_that_is_owed_runs_no_hooks() {
    let Some(mut bed) = Bed::or_skip("a_write_back_that_is_owed_runs_no_hooks") else { return };
    bed.volume.environment.push(("TRACKER_WRITTEN_BACK_AFTER".into(), "3000".into()));
    bed.hooks("true", "true");
    let daemon = bed.start();
    let file = File::options().read(true).write(true).open(bed.source.join("file")).unwrap();
    for round in 0..12u8 {
        file.write_all_at(&[round; 100], 0).unwrap();
        bed.volume.sync(SYNC).expect(0);
    }
    assert!(dirty_pages(&file).unwrap() > 0, "it is hot");
    let before = bed.log();
    let until = Instant::now() + LONG / 3;
    while dirty_pages(&file).unwrap() > 0 {
        assert!(Instant::now() < until, "nobody wrote it back");
        thread::sleep(Duration::from_millis(20));
    }
    bed.volume.sync(SYNC).expect(0);
    assert_eq!(bed.log(), before);
    assert!(daemon.stop().success());
}

#[test]
fn every_commit_between_hooks_is_of_an_application_at_rest() {
    let test = "every_commit_between_hooks_is_of_an_application_at_rest";
    for consistency in ["live", "instant"] {
        let Some(mut bed) = Bed::or_skip(test) else { return };
        bed.volume.environment.push(("TRACKER_SELF_TEST_GAP".into(), "300".into()));
        let at = |name: &str| bed.folder.join(name).display().to_string();
        let (stop, ack, leaks, classes) = (at("stop"), at("ack"), at("leaks"), at("classes"));
        let look = format!(
            "for n in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && echo $n >>{leaks}; done; cut -d' ' -f41 /proc/self/stat >>{classes}"
        );
        // An application that has ended is at rest.
        let wait = format!("while [ -e {} ] && [ ! -e {ack} ]; do sleep 0.01; done", at("runs"));
        let before = format!("{look}; touch {stop}; {wait}");
        let after = format!("rm -f {stop}; while [ -e {ack} ]; do sleep 0.01; done");
        bed.hooks(&before, &after);
        bed.volume.extra.extend(["--consistency".into(), consistency.into()]);
        let (commits, differ) = commits_of_a_busy_application(&bed, 15);
        assert_eq!(differ, 0, "of {commits} commits");
        assert_eq!(fs::read_to_string(&leaks).unwrap_or_default(), "", "descriptors of the daemon");
        assert!(fs::read_to_string(&classes).unwrap().lines().all(|class| class == "0"), "of the ordinary class");
        let log = bed.log();
        assert!(log.len() as u64 >= 2 * commits, "{log:?}");
        let mut newest = 0;
        for pair in log.chunks(2) {
            let [before, after] = pair else { panic!("{pair:?}") };
            let words: Vec<&str> = after.split(' ').collect();
            assert_eq!((before.as_str(), words[0], words[1]), ("before", "after", "v"), "{log:?}");
            let seq: u64 = words[2].parse().unwrap();
            assert!(seq >= newest, "{log:?}");
            newest = seq;
            let said = words.get(3).copied().unwrap_or_default();
            match consistency {
                "live" => assert_eq!(said, "", "such commits say nothing"),
                _ => assert!(["instant", "live"].contains(&said), "{after}"),
            }
        }
    }
}

/// The test above can fail: without hooks the two files differ in some commits.
#[test]
fn without_hooks_an_application_is_caught_between_two_writes() {
    let Some(mut bed) = Bed::or_skip("without_hooks_an_application_is_caught_between_two_writes") else { return };
    bed.volume.environment.push(("TRACKER_SELF_TEST_GAP".into(), "300".into()));
    bed.volume.extra.extend(["--consistency".into(), "live".into()]);
    let (commits, differ) = commits_of_a_busy_application(&bed, 30);
    assert!(differ > 0, "{commits} commits");
}

#[test]
fn after_a_kill_between_the_hooks_the_next_start_runs_after_first() {
    let Some(mut bed) = Bed::or_skip("after_a_kill_between_the_hooks_the_next_start_runs_after_first") else { return };
    bed.hooks("true", "true");
    assert!(bed.start().stop().success());
    assert_eq!(bed.log(), [""; 0], "the first copy has no hooks");

    bed.change("second");
    bed.volume.environment.push(("TRACKER_FAILPOINT".into(), "put:1".into()));
    let mut daemon = bed.volume.start();
    assert!(!daemon.wait_end(LONG).expect("it dies").success());
    drop(daemon);
    bed.volume.environment.clear();
    assert_eq!(bed.log(), ["before"]);

    // The application goes on although the volume cannot.
    let away = bed.volume.scratch("away");
    fs::rename(&bed.volume.store, &away).unwrap();
    fs::create_dir(&bed.volume.store).unwrap();
    let refused = bed.volume.protect_ends();
    assert_ne!(refused.code, Some(0));
    assert_eq!(bed.log(), ["before", "after v 1"], "{refused:?}");
    fs::remove_dir_all(&bed.volume.store).unwrap();
    fs::rename(&away, &bed.volume.store).unwrap();

    let daemon = bed.start();
    let log = bed.log();
    assert_eq!(log[..2], ["before", "after v 1"], "once: {log:?}");
    assert_eq!(log.len() % 2, 0, "{log:?}");
    assert!(log[2..].chunks(2).all(|pair| pair[0] == "before" && pair[1].starts_with("after v ")), "{log:?}");
    bed.volume.restored("copy");
    assert!(daemon.stop().success());
}

/// Whether a process runs. One that nobody has waited for is dead all the same.
fn runs(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !status.is_empty() && !status.rsplit(')').next().unwrap_or_default().starts_with(" Z")
}

#[test]
fn a_before_that_outlives_a_killed_daemon_is_ended_first() {
    let Some(mut bed) = Bed::or_skip("a_before_that_outlives_a_killed_daemon_is_ended_first") else { return };
    let (pid, late) = (bed.folder.join("pid"), bed.folder.join("late"));
    let line = format!("echo $$ >{}.new; mv {0}.new {0}; sleep 1000; touch {}", pid.display(), late.display());
    bed.hooks(&line, "true");
    bed.volume.extra.push("--hook-timeout=60s".into());
    let daemon = bed.start();
    bed.change("second");
    bed.log_when(&["before"]);
    let until = Instant::now() + LONG;
    while !pid.exists() {
        assert!(Instant::now() < until, "`before` did not go on");
        thread::sleep(Duration::from_millis(20));
    }
    daemon.kill9();
    let pid = fs::read_to_string(pid).unwrap();
    assert!(runs(&pid), "it outlives its daemon");
    bed.hooks("true", "true");
    let daemon = bed.start();
    assert!(!runs(&pid) && !late.exists(), "it was ended");
    assert_eq!(bed.log()[..2], ["before", "after v 1"], "{:?}", bed.log());
    bed.volume.restored("copy");
    assert!(daemon.stop().success());
}

#[test]
fn a_stop_while_the_application_rests_lets_it_go_on() {
    let Some(mut bed) = Bed::or_skip("a_stop_while_the_application_rests_lets_it_go_on") else { return };
    bed.hooks("sleep 1", "true");
    let daemon = bed.start();
    bed.change("second");
    bed.log_when(&["before"]);
    assert!(daemon.stop().success());
    let log = bed.log();
    assert_eq!((log[0].as_str(), log[1].starts_with("after v 2")), ("before", true), "{log:?}");
    assert_eq!(log.len() % 2, 0, "{log:?}");
    bed.volume.restored("copy");
}

fn metrics(port: SocketAddr) -> String {
    let mut stream = TcpStream::connect(port).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_hook_that_fails_is_told_and_the_commit_is_made() {
    let Some(mut bed) = Bed::or_skip("a_hook_that_fails_is_told_and_the_commit_is_made") else { return };
    bed.hooks("echo no such table >&2; exit 3", "true");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bed.volume.extra.extend(["--metrics-listen".into(), port.to_string()]);
    let daemon = bed.start();
    bed.change("second");
    bed.volume.sync(SYNC).expect(20);
    bed.volume.restored("failed");
    let status = bed.volume.status();
    assert_eq!(status["state"], "degraded", "{status:#}");
    let told = "the hook `before` failed: exit code 3 (no such table): commits are made as without it";
    assert!(status["reasons"].as_array().unwrap().iter().any(|reason| reason == told), "{status:#}");
    let failures = number(&status["hook_failures"], "before");
    assert!(failures >= 1 && number(&status["hook_runs"], "after") >= failures, "{status:#}");
    assert_eq!(number(&status["hook_failures"], "after"), 0, "{status:#}");
    let metrics = metrics(port);
    let counts = format!("tracker_volume_hook_failures_total{{volume=\"v\",hook=\"before\"}} {failures}\n");
    assert!(metrics.contains(&counts), "{metrics}");
    let log = bed.volume.log_tail();
    assert!(log.contains("a hook failed") && log.contains("no such table"), "{log}");

    assert!(daemon.stop().success());
}

/// `tracker daemon` with one volume, killed when dropped.
struct Served(Child);

impl Served {
    fn write(bed: &Bed, lines: &str) {
        let Volume { store, name, .. } = &bed.volume;
        let place = format!("name = {name:?}\nsource = {:?}\nstore = {store:?}\ninterval = \"100ms\"", bed.source);
        let text = format!("[metrics]\nlisten = \"off\"\n[[volume]]\n{place}\n{lines}\n");
        fs::write(bed.folder.join("config"), text).unwrap();
    }

    fn start(bed: &Bed, lines: &str) -> Served {
        Served::write(bed, lines);
        let log = File::create(bed.folder.join("daemon.log")).unwrap();
        let mut command = Command::new(binary());
        command.args(["daemon", "--config"]).arg(bed.folder.join("config")).arg("--state-dir").arg(&bed.volume.state);
        let served = Served(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        bed.volume.status_when("the first copy", LONG, |status| status["state"] == "protected");
        served
    }

    /// Reloads with other lines of the volume.
    #[track_caller]
    fn reload(bed: &Bed, lines: &str) {
        Served::write(bed, lines);
        bed.volume.tracker(&["config", "reload"]).expect(0);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn changed_hooks_are_taken_while_the_volume_runs() {
    let Some(bed) = Bed::or_skip("changed_hooks_are_taken_while_the_volume_runs") else { return };
    let _served = Served::start(&bed, "");
    let told = |bed: &Bed| bed.volume.status()["reasons"].to_string();
    Served::reload(&bed, "before = \"sleep 1000\"\nhook_timeout = \"200ms\"");
    bed.change("second");
    bed.volume.sync(SYNC).expect(20);
    bed.volume.restored("late");
    let expected = "the hook `before` failed: killed after 200ms: commits are made as without it";
    assert!(told(&bed).contains(expected), "{}", told(&bed));
    Served::reload(&bed, &format!("before = \"true\"\nafter = \"echo after >>{}\"", bed.folder.join("log").display()));
    bed.change("third");
    bed.volume.status_when("a hook that succeeds", LONG, |status| status["state"] == "protected");
    bed.volume.sync(SYNC).expect(0);
    assert!(bed.log().contains(&"after".to_owned()));
    bed.volume.restored("well");
    Served::reload(&bed, "");
    let runs = bed.volume.status()["hook_runs"].clone();
    bed.change("fourth");
    bed.volume.sync(SYNC).expect(0);
    bed.volume.restored("without");
    assert_eq!(bed.volume.status()["hook_runs"], runs, "taken back");
}

#[test]
fn a_volume_that_scans_says_that_it_runs_no_hooks() {
    let Some(mut bed) = Bed::or_skip("a_volume_that_scans_says_that_it_runs_no_hooks") else { return };
    bed.hooks("true", "true");
    bed.volume.extra.extend(["--capture".into(), "scan".into()]);
    let daemon = bed.volume.start_ready();
    bed.change("second");
    bed.volume.sync(SYNC).expect(20);
    bed.volume.restored("copy");
    let status = bed.volume.status();
    let told = |reason: &serde_json::Value| reason.as_str().is_some_and(|reason| reason.contains("are not run"));
    assert!(status["reasons"].as_array().unwrap().iter().any(told), "{status:#}");
    assert_eq!(bed.log(), [""; 0]);
    assert!(daemon.stop().success());
}

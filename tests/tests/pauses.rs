//! Pausing writers so that a commit is of one instant: whom, for how long, and that they go on whatever happens. Nothing is paused
//! here but control groups that the test has made.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::cgroup::{Group, Member};
use tests::daemon::{READY, Volume, binary, utf8};
use tests::load::{Random, number, seed};
use tests::mounts::{Kind, Mount, programs_or_skip, root_or_skip};
use tests::s3_server::{S3Server, env};

/// What is allowed in these tests: `$TRACKER_TEST_PAUSE` as for `--pause`, in milliseconds; or 20, which is enough but in guests.
fn allowed() -> Duration {
    let set = std::env::var("TRACKER_TEST_PAUSE").ok();
    let millis = |text: String| text.strip_suffix("ms").and_then(|number| number.parse().ok());
    Duration::from_millis(set.map_or(20, |text| millis(text).expect("TRACKER_TEST_PAUSE is as 20ms")))
}

/// By how much a pause may exceed it on a busy machine: the guard must get a processor first.
const LATE: Duration = Duration::from_millis(30);
/// How long writers write, most.
const LONG: Duration = Duration::from_secs(120);
/// More than there are processors that they could have at the same time, so that there is no gap while one has none.
const WRITERS: u32 = 8;

/// Writes numbers without end, each to `a` first and then to `b`.
const WRITER: &str = r#"
my ($dir) = @ARGV;
open my $a, "+<", "$dir/a" or die; open my $b, "+<", "$dir/b" or die;
for (my $n = 1; ; $n++) {
    my $block = pack("Q", $n) x 512;
    for my $file ($a, $b) { sysseek $file, 0, 0; syswrite $file, $block; }
}
"#;

/// A volume and directories in it for writers.
struct Bed {
    // In this order they are dropped.
    volume: Volume,
    dirs: Vec<PathBuf>,
    _mount: Mount,
}

impl Bed {
    fn or_skip(test: &str, kind: Kind, pause: &str) -> Option<Bed> {
        if !programs_or_skip(test, "perl", &["perl"]) {
            return None;
        }
        let mount = Mount::new_or_skip(test, kind)?;
        let source = mount.dir("source");
        let dirs: Vec<PathBuf> = (0..WRITERS).map(|number| source.join(number.to_string())).collect();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
            ["a", "b"].iter().for_each(|name| fs::write(dir.join(name), [0; 4096]).unwrap());
        }
        let mut volume = Volume::new(&source);
        volume.extra.extend(["--pause".into(), pause.into()]);
        Some(Bed { volume, dirs, _mount: mount })
    }

    fn write_in(&self, group: &Group) -> Vec<Member> {
        self.dirs.iter().map(|dir| group.start("perl", &["-e", WRITER, utf8(dir)])).collect()
    }

    /// Each commit is the state of one moment: `a` is written before `b`.
    #[track_caller]
    fn are_of_one_moment<'a>(&self, commits: impl Iterator<Item = &'a (u64, Value)>) {
        for (seq, _) in commits {
            let copy = self.volume.scratch(&format!("commit-{seq}"));
            let reference = self.volume.reference();
            self.volume.tracker(&["restore", utf8(&reference), utf8(&copy), "--at", &seq.to_string()]).expect(0);
            for dir in &self.dirs {
                let dir = copy.join(dir.file_name().unwrap());
                let (a, b) = (numbered(&dir.join("a")), numbered(&dir.join("b")));
                assert!(a == b || a == b + 1, "commit {seq}, {}: {a} and {b}", dir.display());
            }
        }
    }

    /// What commits say, from the oldest on.
    fn commits(&self) -> Vec<(u64, Value)> {
        let reference = self.volume.reference();
        let answer = self.volume.tracker(&["log", utf8(&reference), "-n", "100000", "--json"]);
        let lines = answer.expect(0).stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|commit| (number(&commit, "seq"), commit["consistency"].clone())).collect()
    }

    /// Waits until so many commits say so.
    #[track_caller]
    fn commits_when(&self, what: &str, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<(u64, Value)> {
        let began = Instant::now();
        loop {
            let commits = self.commits();
            if commits.iter().filter(|(_, said)| wanted(said)).count() >= count {
                return commits;
            }
            assert!(began.elapsed() < LONG, "not {count} commits with {what}: {commits:?}");
            thread::sleep(Duration::from_millis(300));
        }
    }
}

fn numbered(file: &Path) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open(file).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    u64::from_le_bytes(bytes)
}

/// Ends a writer of this process when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Whether what is written to `dir` grows.
#[track_caller]
fn goes_on(dir: &Path) {
    let (before, began) = (numbered(&dir.join("b")), Instant::now());
    while numbered(&dir.join("b")) == before {
        assert!(began.elapsed() < Duration::from_secs(10), "the writer of {} stands still", dir.display());
        thread::sleep(Duration::from_millis(1));
    }
}

fn paused(said: &Value) -> Option<u64> {
    said["pause_us"].as_u64().filter(|micros| *micros > 0)
}

#[test]
fn writers_without_gaps_are_paused_and_go_on_on_ext4() {
    paused_and_go_on("writers_without_gaps_are_paused_and_go_on_on_ext4", Kind::Ext4);
}

#[test]
fn writers_without_gaps_are_paused_and_go_on_on_xfs() {
    paused_and_go_on("writers_without_gaps_are_paused_and_go_on_on_xfs", Kind::Xfs);
}

#[test]
fn writers_without_gaps_are_paused_and_go_on_on_btrfs() {
    paused_and_go_on("writers_without_gaps_are_paused_and_go_on_on_btrfs", Kind::Btrfs);
}

#[track_caller]
fn paused_and_go_on(test: &str, kind: Kind) {
    let pause = allowed();
    let Some(bed) = Bed::or_skip(test, kind, &format!("{}ms", pause.as_millis())) else { return };
    let Some(group) = Group::new_or_skip(test, "writers") else { return };
    let daemon = bed.volume.start_ready();
    let writers = bed.write_in(&group);
    let commits = bed.commits_when("a pause", 5, |said| paused(said).is_some());
    let pauses: Vec<u64> = commits.iter().filter_map(|(_, said)| paused(said)).collect();
    let live = commits.iter().filter(|(_, said)| said["kind"] == "live").count();
    println!("{kind:?}: {} commits, {live} live, pauses in microseconds: {pauses:?}", commits.len());
    println!("{}", bed.volume.tracker(&["status"]).stdout);
    let most = Duration::from_micros(*pauses.iter().max().unwrap());
    assert!(most <= pause + LATE, "paused for {most:?}");
    bed.dirs.iter().for_each(|dir| goes_on(dir));

    let status = bed.volume.status();
    let first = &status["writers"][0];
    assert_eq!((&first["path"], &first["cgroup"]), (&utf8(&group.path).into(), &group.id().into()), "{status:#}");
    assert!(number(first, "changes") > 100, "{first}");
    assert!(number(&status["pause_histogram"], "count") >= 5, "{status:#}");
    drop(writers);

    bed.are_of_one_moment(commits.iter().filter(|(_, said)| paused(said).is_some()).take(5));
    assert!(daemon.stop().success());
    assert!(!group.is_frozen());
}

#[test]
fn nobody_is_paused_unless_it_is_allowed() {
    let test = "nobody_is_paused_unless_it_is_allowed";
    let Some(bed) = Bed::or_skip(test, Kind::Ext4, "0") else { return };
    let Some(group) = Group::new_or_skip(test, "writers") else { return };
    let _daemon = bed.volume.start_ready();
    let _writers = bed.write_in(&group);
    let commits = bed.commits_when("no gap", 5, |said| said["reason"] == "never_quiet");
    assert!(commits.iter().all(|(_, said)| paused(said).is_none()), "{commits:?}");
}

/// The test itself is among the ancestors of the daemon.
#[test]
fn a_group_of_our_own_ancestors_is_never_paused() {
    let test = "a_group_of_our_own_ancestors_is_never_paused";
    let Some(bed) = Bed::or_skip(test, Kind::Ext4, "20ms") else { return };
    let Some(group) = Group::new_or_skip(test, "writers") else { return };
    let _daemon = bed.volume.start_ready();
    let _writers = bed.write_in(&group);
    let dir = bed.volume.source.join("ours");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), [0; 4096]).unwrap();
    let file = fs::File::options().write(true).open(dir.join("file")).unwrap();
    let done = AtomicBool::new(false);
    let commits = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                file.write_all_at(&[1; 4096], 0).unwrap();
            }
        });
        // It ends also where the commits do not come.
        let _done = Done(&done);
        thread::sleep(Duration::from_millis(500));
        let before = number(&bed.volume.status(), "head_seq") + 1;
        let mut commits = bed.commits_when("a refusal", 3, |said| said["reason"] == "cannot_freeze");
        commits.retain(|(seq, _)| *seq > before);
        commits
    });
    assert!(commits.iter().all(|(_, said)| paused(said).is_none()), "{commits:?}");
}

/// The server of the store is moved into the group of the writers, and out of it again.
#[test]
fn a_group_with_the_server_of_the_store_is_never_paused() {
    let test = "a_group_with_the_server_of_the_store_is_never_paused";
    let Some(mut bed) = Bed::or_skip(test, Kind::Ext4, "20ms") else { return };
    let Some(server) = S3Server::start_or_skip(test, "pauses") else { return };
    let (Some(group), Some(other)) = (Group::new_or_skip(test, "writers"), Group::new_or_skip(test, "server")) else {
        return;
    };
    bed.volume.store = "s3://pauses/store".into();
    let settings = env(server.port()).into_iter().map(|(name, value)| (name.to_owned(), value));
    bed.volume.environment.extend(settings.chain([("AWS_ENDPOINT_URL_S3".to_owned(), String::new())]));
    let _daemon = bed.volume.start_ready();
    group.take(server.pid());
    let _writers = bed.write_in(&group);
    let refused = bed.commits_when("a refusal", 3, |said| said["reason"] == "cannot_freeze");
    assert!(refused.iter().all(|(_, said)| paused(said).is_none()), "{refused:?}");
    other.take(server.pid());
    bed.commits_when("a pause", 2, |said| paused(said).is_some());
}

/// A daemon that dies while writers are paused, as by `kill -9`.
#[test]
fn writers_go_on_when_the_daemon_dies_in_a_pause() {
    let test = "writers_go_on_when_the_daemon_dies_in_a_pause";
    let Some(mut bed) = Bed::or_skip(test, Kind::Ext4, "1s") else { return };
    let Some(group) = Group::new_or_skip(test, "writers") else { return };
    bed.volume.environment.push(("TRACKER_FAILPOINT".into(), "paused:2".into()));
    let mut daemon = bed.volume.start();
    assert!(daemon.ready_within(READY));
    let _writers = bed.write_in(&group);
    let status = daemon.wait_end(LONG).expect("it dies in its second pause");
    assert!(!status.success(), "it died: {status}");
    let lasted = group.thawed_within(Duration::from_secs(1));
    println!("thawed {lasted:?} after the daemon's death");
    bed.dirs.iter().for_each(|dir| goes_on(dir));
}

/// `kill -9` again and again, at any moment and in a pause: `$TRACKER_TEST_KILLS` times, or a few.
#[test]
fn a_daemon_that_is_killed_in_searches_and_pauses_goes_on_as_before() {
    let test = "a_daemon_that_is_killed_in_searches_and_pauses_goes_on_as_before";
    let Some(mut bed) = Bed::or_skip(test, Kind::Ext4, "1s") else { return };
    let Some(group) = Group::new_or_skip(test, "writers") else { return };
    drop(bed.volume.start_ready());
    let writers = bed.write_in(&group);
    let kills: u64 = std::env::var("TRACKER_TEST_KILLS").map_or(4, |text| text.parse().expect("a number"));
    let (mut random, mut longest) = (Random::new(seed()), Duration::ZERO);
    for kill in 0..kills {
        // Every other time in its first pause.
        let in_pause = kill % 2 == 0;
        bed.volume.environment.retain(|(name, _)| name != "TRACKER_FAILPOINT");
        if in_pause {
            bed.volume.environment.push(("TRACKER_FAILPOINT".into(), "paused:1".into()));
        }
        let mut daemon = bed.volume.start();
        if in_pause {
            assert!(!daemon.wait_end(LONG).expect("it dies in its first pause").success());
        } else {
            assert!(daemon.ready_within(READY));
            thread::sleep(Duration::from_millis(random.below(1500)));
            daemon.kill9();
        }
        longest = longest.max(group.thawed_within(Duration::from_secs(1)));
        bed.dirs.iter().for_each(|dir| goes_on(dir));
    }
    println!("{kills} kills, thawed after {longest:?} at most");
    bed.volume.environment.retain(|(name, _)| name != "TRACKER_FAILPOINT");
    let daemon = bed.volume.start_ready();
    let before = number(&bed.volume.status(), "head_seq");
    let known = bed.commits().iter().filter(|(_, said)| said["kind"] == "instant").count();
    let commits = bed.commits_when("one instant", known + 3, |said| said["kind"] == "instant");
    drop(writers);
    bed.are_of_one_moment(commits.iter().filter(|(_, said)| said["kind"] == "instant").take(kills as usize + 3));
    assert!(commits.iter().any(|(seq, said)| *seq > before && said["kind"] == "instant"), "{commits:?}");
    bed.volume.sync(LONG).expect(0);
    bed.volume.restored("last");
    assert!(daemon.stop().success());
}

/// Daemon and guard were killed together in a pause: what is left is the note of it.
#[test]
fn a_daemon_lets_go_on_what_an_earlier_one_left_paused() {
    let test = "a_daemon_lets_go_on_what_an_earlier_one_left_paused";
    let Some(bed) = Bed::or_skip(test, Kind::Ext4, "0") else { return };
    let Some(group) = Group::new_or_skip(test, "left") else { return };
    let writers = bed.write_in(&group);
    fs::write(group.dir().join("cgroup.freeze"), "1").unwrap();
    let home = bed.volume.state.join("volumes").join(&bed.volume.name);
    fs::create_dir_all(&home).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let note = format!("{}\n{} {}\n", boot.trim(), group.id(), utf8(group.dir()));
    fs::write(home.join("paused"), note).unwrap();
    let daemon = bed.volume.start_ready();
    assert!(!group.is_frozen());
    bed.dirs.iter().for_each(|dir| goes_on(dir));
    assert!(!home.join("paused").exists());
    drop(writers);
    assert!(daemon.stop().success());
}

/// The guard by itself, on a real group: until its time is over, and until whoever has its pipe is killed.
#[test]
fn the_guard_ends_a_pause_on_time_and_at_the_death_of_its_parent() {
    let test = "the_guard_ends_a_pause_on_time_and_at_the_death_of_its_parent";
    if !root_or_skip(test) {
        return;
    }
    let Some(group) = Group::new_or_skip(test, "guarded") else { return };
    let _sleeper = group.start("sleep", &["60"]);
    for (bound, kill) in [(Duration::from_millis(300), false), (Duration::from_secs(60), true)] {
        let mut parent = Command::new("sh");
        let mut parent = parent.args(["-c", "printf P; exec sleep 60"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut guard = Command::new(binary());
        guard.arg("pause-guard").arg(bound.as_micros().to_string()).arg(group.id().to_string()).arg(group.dir());
        let mut guard = guard.stdin(parent.stdout.take().unwrap()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 2];
        guard.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        let began = Instant::now();
        assert_eq!(&said, b"rp");
        assert!(group.is_frozen());
        if kill {
            thread::sleep(Duration::from_millis(100));
            assert!(group.is_frozen(), "it lasts while its parent lives");
            parent.kill().unwrap();
        }
        let lasted = group.thawed_within(Duration::from_secs(1));
        println!("thawed {lasted:?} after {}", if kill { "the parent's death" } else { "the begin" });
        assert!(guard.wait().unwrap().success());
        assert!(kill || began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
        let _ = parent.kill();
        parent.wait().unwrap();
    }
}

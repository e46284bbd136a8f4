//! All steps against a real S3 server: protect, change, sync, restore, check, with the daemon killed, the server gone for a
//! while, and replies that get lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::compare::assert_same;
use tests::daemon::{Answer, Volume, pins, utf8};
use tests::load::{number, seed};
use tests::loads::mixed::Mixed;
use tests::mounts::{Kind, Mount, run};
use tests::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY, env};
use tests::tcp_proxy::TcpProxy;
use tracker::store::open;

const BUCKET: &str = "tracker-test";
const SYNC: Duration = Duration::from_secs(60);
/// Longest wait for what must show in a status.
const SOON: Duration = Duration::from_secs(30);

/// A volume of `source` in the bucket, reached at a port by the standard variables.
fn volume(source: &Path, prefix: &str, port: u16) -> Volume {
    let mut volume = Volume::new(source);
    volume.store = format!("s3://{BUCKET}/{prefix}").into();
    volume.environment = env(port).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // The machine's own settings must not override these.
    volume.environment.push(("AWS_ENDPOINT_URL_S3".into(), String::new()));
    volume
}

/// Asserts that nothing is pending, and that the newest commit, read from the server, equals the tree.
#[track_caller]
fn all_is_there(volume: &Volume, copy: &str) -> Value {
    volume.sync(SYNC).expect(0);
    let status = volume.status();
    assert_eq!(status["state"], "protected", "{status}");
    volume.restored(copy);
    status
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer.expect(0).stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn names_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| 1 + if entry.file_type().unwrap().is_dir() { names_below(&entry.path()) } else { 0 }).sum()
}

#[test]
fn a_directory_is_protected_and_restored() {
    let name = "a_directory_is_protected_and_restored";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(server) = S3Server::shared_or_skip(name, BUCKET) else { return };
    let source = mount.dir("source");
    let mut mixed = Mixed::new(&source, seed());
    let volume = volume(&source, "deep/prefix", server.port());
    let reference = volume.reference();
    let reference = utf8(&reference);

    let daemon = volume.start_ready();
    let first = all_is_there(&volume, "baseline");
    assert_eq!(first["store"], format!("s3://{BUCKET}/deep/prefix"), "{first}");
    assert_eq!(first["fenced_store"], true, "{first}");
    assert_eq!(first["backend"], "tracepoint", "{first}");
    let before = volume.scratch("before");
    run(Command::new("cp").arg("-a").args([&source, &before]));

    mixed.changes(400);
    let status = all_is_there(&volume, "changed");
    let head = number(&status, "head_seq");
    assert!(head > number(&first, "head_seq"), "{status}");
    let earlier = volume.scratch("earlier");
    volume.tracker(&["restore", reference, utf8(&earlier), "--at", &first["head_seq"].to_string()]).expect(0);
    assert_same(&before, &earlier);

    let log = lines(&volume.tracker(&["log", reference, "--json"]));
    assert_eq!(log[0]["seq"], head, "the newest first");
    let listed = lines(&volume.tracker(&["ls", reference, "--recursive", "--json"]));
    assert_eq!(listed.len(), names_below(&source));
    for read_data in [false, true] {
        volume.verify(read_data).expect(0);
    }

    // Another host with the same command, before and after this one has ended.
    let other = self::volume(&source, "deep/prefix", server.port());
    other.protect_ends().refuses(11, "another writer");
    assert!(daemon.stop().success());
    other.protect_ends().refuses(11, "another writer");
    volume.verify(true).expect(0);
}

#[test]
fn a_killed_daemon_goes_on() {
    let name = "a_killed_daemon_goes_on";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(server) = S3Server::shared_or_skip(name, BUCKET) else { return };
    let source = mount.dir("source");
    let mixed = Mixed::new(&source, seed());
    let volume = volume(&source, "killed", server.port());
    let mut daemon = volume.start_ready();
    let mut head = number(&all_is_there(&volume, "baseline"), "head_seq");
    let load = mixed.run();
    for kill in 1..=5 {
        volume.status_when("a commit of the load", SOON, |status| number(status, "head_seq") > head);
        thread::sleep(Duration::from_millis(137 * kill));
        let status = volume.status();
        let now = number(&status, "head_seq");
        assert!(now > head, "from {head} to {now}");
        head = now;
        daemon.kill9();
        // Written while nobody drains.
        thread::sleep(Duration::from_millis(200));
        daemon = volume.start_ready();
        let reasons = &volume.status()["rescan_reasons"];
        assert!(reasons["reboot"].is_null(), "nothing is compared anew in the same boot: {reasons}");
    }
    let done = load.stop().done;
    let status = all_is_there(&volume, "after");
    assert!(number(&status, "head_seq") > head, "{status}");
    println!("{name}: changes {done:?}, head {}, rescans {}", status["head_seq"], status["rescan_reasons"]);
    volume.verify(true).expect(0);
    assert!(daemon.stop().success());
}

#[test]
fn a_server_that_was_away_is_caught_up_with() {
    let name = "a_server_that_was_away_is_caught_up_with";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(mut server) = S3Server::start_or_skip(name, BUCKET) else { return };
    let source = mount.dir("source");
    let mixed = Mixed::new(&source, seed());
    let volume = volume(&source, "away", server.port());
    let daemon = volume.start_ready();
    let head = number(&all_is_there(&volume, "baseline"), "head_seq");
    let load = mixed.run();
    volume.status_when("a commit of the load", SOON, |status| number(status, "head_seq") > head);

    server.stop();
    let behind = volume.status_when("the growing loss window", SOON, |status| {
        status["loss_window_seconds"].as_f64().is_some_and(|seconds| seconds > 3.0) && status["state"] != "protected"
    });
    assert_eq!(behind["state"], "degraded", "{behind}");
    let error = behind["last_error"].as_str().expect("the error is told");
    assert!(error.contains("failed for now") || error.contains("outcome is unknown"), "{error}");
    volume.sync(Duration::from_secs(2)).expect(3);
    volume.tracker(&["status"]).expect(20);
    server.start_again();
    let again = volume.status_when("the way out", SOON, |status| status["state"] == "protected");
    assert!(number(&again, "head_seq") > number(&behind, "head_seq"), "{again}");
    assert!(again["last_error"].is_null(), "{again}");
    volume.sync(SYNC).expect(0);

    // Away again, and the daemon dies meanwhile. It cannot start without the store, and the kernel continues marking.
    server.stop();
    let away = volume.status_when("the error", SOON, |status| status["last_error"].is_string());
    daemon.kill9();
    thread::sleep(Duration::from_millis(300));
    volume.protect_ends().refuses(1, "failed for now");
    thread::sleep(Duration::from_millis(300));
    server.start_again();
    let daemon = volume.start_ready();
    let done = load.stop().done;
    let status = all_is_there(&volume, "after");
    assert!(number(&status, "head_seq") > number(&away, "head_seq"), "{status}");
    println!("{name}: changes {done:?}, head {}, rescans {}", status["head_seq"], status["rescan_reasons"]);
    volume.verify(true).expect(0);
    assert!(daemon.stop().success());
}

/// A commit takes effect and its reply gets lost. The daemon reports that the outcome is unknown, makes no second commit,
/// and counts the first as its own once it can ask: without help, or after a kill in between.
#[test]
fn a_commit_whose_reply_is_lost_is_settled() {
    let name = "a_commit_whose_reply_is_lost_is_settled";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(server) = S3Server::shared_or_skip(name, BUCKET) else { return };
    let source = mount.dir("source");
    let proxy = TcpProxy::before(server.port());
    let volume = volume(&source, "lost", proxy.port());
    let direct = open(&format!("s3://{BUCKET}/lost/v").parse().unwrap(), &server.options()).unwrap();
    let mut daemon = volume.start_ready();
    for kill in [false, true] {
        fs::write(source.join("before"), format!("before {kill}")).unwrap();
        let head = number(&all_is_there(&volume, &format!("before-{kill}")), "head_seq");
        let next = engine::format::Key::Commit(engine::model::Seq(head + 1)).to_string();
        proxy.lose_replies(true);
        fs::write(source.join("file"), format!("in the commit {kill}")).unwrap();
        let deadline = Instant::now() + SOON;
        while !direct.exists(&next).unwrap() {
            assert!(Instant::now() < deadline, "no {next}: {}", volume.status());
            thread::sleep(Duration::from_millis(20));
        }
        let bytes = direct.get(&next).unwrap();
        let unknown = volume.status_when("the unknown outcome", SOON, |status| status["state"] == "degraded");
        assert_eq!(number(&unknown, "head_seq"), head, "not acknowledged: {unknown}");
        volume.sync(Duration::from_secs(1)).expect(3);
        fs::write(source.join("later"), format!("after it {kill}")).unwrap();
        if kill {
            daemon.kill9();
            proxy.lose_replies(false);
            daemon = volume.start_ready();
        } else {
            proxy.lose_replies(false);
        }
        let status = all_is_there(&volume, &format!("after-{kill}"));
        assert!(number(&status, "head_seq") > head + 1, "{status}");
        assert_eq!(direct.get(&next).unwrap(), bytes, "the commit is still the one that was made");
    }
    assert!(proxy.lost() >= 2);
    volume.verify(true).expect(0);
    assert!(daemon.stop().success());
}

/// An obstacle to a start is reported with the server, the bucket and a way out, and nothing stays in the kernel.
#[test]
fn a_start_that_the_store_refuses_says_where_and_leaves_nothing() {
    let name = "a_start_that_the_store_refuses_says_where_and_leaves_nothing";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(server) = S3Server::shared_or_skip(name, BUCKET) else { return };
    let source = mount.dir("source");
    fs::write(source.join("file"), "content").unwrap();
    let refused = |code: i32, word: &str, hint: &str, change: &dyn Fn(&mut Volume)| {
        let mut volume = volume(&source, "refused", server.port());
        volume.environment.push(("NO_PROXY".into(), "*".into()));
        change(&mut volume);
        let answer = volume.protect_ends();
        answer.refuses(code, word);
        let told: Vec<&str> = answer.stderr.lines().filter(|line| line.starts_with("hint: ")).collect();
        assert!(told[0].contains(hint), "`{hint}` is not said: {answer:?}");
        let pins = pins(&volume.state).expect("a state directory");
        assert!(!pins.exists(), "{} stays", pins.display());
        answer
    };
    let set = |variable: &'static str, value: &str| {
        let value = value.to_owned();
        move |volume: &mut Volume| volume.environment.push((variable.to_owned(), value.clone()))
    };
    let place = format!("of s3://{BUCKET}/refused at {}, region us-east-1", server.endpoint());
    for (variable, hint) in [("AWS_ACCESS_KEY_ID", "access key"), ("AWS_SECRET_ACCESS_KEY", "secret key")] {
        let answer = refused(1, &place, hint, &set(variable, "WRONG"));
        assert!(answer.stderr.contains("not allowed"), "{answer:?}");
    }
    let other = |volume: &mut Volume| volume.store = "s3://no-such-bucket/refused".into();
    let place = format!("of s3://no-such-bucket/refused at {}", server.endpoint());
    refused(10, &place, "create the bucket", &other);
    let tls = format!("https://127.0.0.1:{}", server.port());
    let place = format!("of s3://{BUCKET}/refused at {tls}");
    refused(1, &place, &server.endpoint(), &set("AWS_ENDPOINT_URL", &tls));
    refused(1, "at http://127.0.0.1:1,", "nothing listens there", &set("AWS_ENDPOINT_URL", "http://127.0.0.1:1"));
}

/// Rotated keys: the file is read again when it was rewritten, and when the server rejects the previous keys. The same
/// process continues.
#[test]
fn keys_that_are_rotated_in_their_file_are_used_without_a_restart() {
    let name = "keys_that_are_rotated_in_their_file_are_used_without_a_restart";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(mut server) = S3Server::start_or_skip(name, BUCKET) else { return };
    let source = mount.dir("source");
    let mut volume = volume(&source, "rotated", server.port());
    let file = volume.scratch("credentials");
    volume.environment.retain(|(name, _)| !matches!(name.as_str(), "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY"));
    volume.environment.push(("AWS_SHARED_CREDENTIALS_FILE".into(), utf8(&file).to_owned()));
    let hold = |(access, secret): (&str, &str)| {
        let text = format!("[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n");
        let beside = file.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &file).unwrap();
    };
    let log = |text: &str| {
        let log = fs::read_to_string(volume.scratch("log")).unwrap();
        log.lines().filter(|line| line.contains(text)).count()
    };
    let change = |step: u32| fs::write(source.join("file"), format!("content {step}")).unwrap();
    let (first, second, third) =
        ((ACCESS_KEY, SECRET_KEY), ("AKSECOND", "SKSECONDSKSECOND"), ("AKTHIRD", "SKTHIRDSKTHIRD"));
    hold(second);
    change(0);
    volume.protect_ends().refuses(1, "not allowed (InvalidAccessKeyId)");
    hold(first);
    let daemon = volume.start_ready();
    all_is_there(&volume, "baseline");

    // Rewritten while the server accepts both: no request is rejected.
    server.take_only(&[first, second]);
    hold(second);
    change(1);
    all_is_there(&volume, "second");
    assert_eq!((log("credentials of the store have changed"), log("InvalidAccessKeyId")), (1, 0));
    server.take_only(&[second]);
    change(2);
    all_is_there(&volume, "second alone");
    assert_eq!(log("InvalidAccessKeyId"), 0);

    // Rotated in the server first: that is reported, and it recovers by itself once the file is right.
    server.take_only(&[third]);
    change(3);
    let refused = volume.status_when("the refusal", SOON, |status| {
        status["last_error"].as_str().is_some_and(|error| error.contains("InvalidAccessKeyId"))
    });
    assert_eq!(refused["state"], "degraded", "{refused}");
    assert!(refused["last_error"].as_str().unwrap().contains(&server.endpoint()), "{refused}");
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("check the credentials")), "{refused}");
    // A half-written file is useless: it gives no keys, and nothing ends because of it.
    fs::write(&file, "[default]\naws_access_key_id = AK").unwrap();
    thread::sleep(Duration::from_secs(1));
    hold(third);
    let again = volume.status_when("the way out", SOON, |status| status["state"] == "protected");
    assert!(number(&again, "head_seq") > number(&refused, "head_seq"), "{again}");
    all_is_there(&volume, "third");
    assert!(log("the store is back") >= 1, "its return is said");
    assert!(daemon.stop().success());
}

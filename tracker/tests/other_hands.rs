//! Others change a volume's store while it is protected: another writer, or somebody who removes or adds objects. With the
//! scan back end, so that it passes without privilege.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engine::format::commit::{self, Header};
use engine::format::era::{Era, VolumeFormat};
use engine::format::{Key, commit::Expect};
use engine::model::{ChangeSet, CommitId, Seq, WriterId};
use tempfile::TempDir;

/// A directory `src` that is protected into `store`.
struct Bed {
    dir: TempDir,
    child: Child,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Only a failing test leaves one behind; for a child that has ended both calls return errors.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bed {
    fn new(era_length: Option<&str>) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        std::fs::write(dir.path().join("src/first"), "one").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
        let at = |name: &str| dir.path().join(name);
        command.arg("protect").arg(at("src")).arg("--store").arg(at("store")).arg("--state-dir").arg(at("state"));
        command.args(["--capture", "scan", "--interval", "50ms"]);
        command.env_remove("NOTIFY_SOCKET").env("RUST_LOG", "error").stdout(Stdio::piped());
        command.envs(era_length.map(|length| ("TRACKER_ERA_LENGTH", length)));
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Bed { dir, child }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn object(&self, key: Key) -> PathBuf {
        self.at("store/src").join(key.to_string())
    }

    fn ask(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracker"));
        let output = command.args(args).arg("--state-dir").arg(self.at("state")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    }

    fn sync(&self) -> (i32, String) {
        self.ask(&["sync", "--wait", "--timeout", "20s"])
    }

    fn head(&self) -> Seq {
        Seq((1..).take_while(|seq| self.object(Key::Commit(Seq(*seq))).exists()).last().unwrap())
    }

    fn format(&self) -> VolumeFormat {
        VolumeFormat::decode(&std::fs::read(self.object(Key::Format)).unwrap()).unwrap()
    }

    /// The newest commit's header and hash.
    fn tip(&self) -> (Header, [u8; 32]) {
        let seq = self.head();
        let bytes = std::fs::read(self.object(Key::Commit(seq))).unwrap();
        let expect = Expect { volume: self.format().volume, seq };
        (commit::decode_header(&bytes, expect).unwrap(), commit::hash(&bytes))
    }

    fn ends_with(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Creates an object as another writer does: only if its key is free.
fn plant(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create_new(path).unwrap().write_all(bytes).unwrap();
}

/// If another writer's commit takes the next number, a waiting caller is told so, not that his change is in the store.
#[test]
fn a_change_that_another_writer_kept_out_is_never_synced() {
    for round in 0..8 {
        let mut bed = Bed::new(None);
        let (tip, hash) = bed.tip();
        let theirs =
            Header { seq: tip.seq + 1, commit: CommitId([7; 16]), writer: WriterId([7; 16]), parent: hash, ..tip };
        let bytes = commit::encode(&theirs, &[], &ChangeSet::default(), &[]).unwrap();
        plant(&bed.object(Key::Commit(theirs.seq)), &bytes);
        std::fs::write(bed.at("src/second"), "two").unwrap();
        let (code, text) = bed.sync();
        // 1: the daemon had ended before it could be asked.
        assert!(code == 11 || code == 1, "round {round}: {code} {text}");
        assert_eq!(bed.ends_with(), 11, "round {round}");
        assert!(!text.contains("synced"), "{text}");
    }
}

/// An era that was closed with other commits than ours proves another writer too; one that says the same does not.
#[test]
fn an_era_that_another_writer_closed_ends_this_one() {
    let mut bed = Bed::new(Some("4"));
    let (tip, chain) = bed.tip();
    assert_eq!(tip.seq, Seq(1));
    let (volume, time, standing, epoch) = (tip.volume, tip.time, tip.standing, tip.epoch);
    let era = Era { volume, era: 0, last_seq: Seq(3), chain, time, standing, epoch, checkpoint: None };
    plant(&bed.object(Key::Era(0)), &era.encode().unwrap());
    for number in 0..4 {
        std::fs::write(bed.at("src/second"), "2".repeat(number)).unwrap();
        let (code, text) = bed.sync();
        if code != 0 {
            assert!(code == 11 || code == 1, "{code} {text}");
            break;
        }
    }
    assert_eq!(bed.ends_with(), 11);
    assert_eq!(bed.head(), Seq(3), "nothing is put behind the era that it did not close");
}

/// Nothing is acknowledged in a store that lost its objects; when they are back, the volume continues by itself.
#[test]
fn objects_that_vanish_are_told_and_nothing_is_put_behind_them() {
    let bed = Bed::new(None);
    let away = bed.at("away");
    for what in ["the volume", "the head"] {
        let path = if what == "the volume" { bed.at("store/src") } else { bed.object(Key::Commit(bed.head())) };
        std::fs::rename(&path, &away).unwrap();
        let (code, text) = bed.sync();
        assert_eq!(code, 20, "{what}, and nothing has changed: {text}");
        std::fs::write(bed.at("src/second"), what).unwrap();
        let (code, text) = bed.sync();
        assert_eq!(code, 20, "{what}: {text}");
        assert!(text.contains("no longer has"), "{what}: {text}");
        let (code, text) = bed.ask(&["status"]);
        assert_eq!(code, 20, "{what}: {text}");
        std::fs::rename(&away, &path).expect("nothing was put in its place");
        let (code, text) = bed.sync();
        assert_eq!(code, 0, "{what} is back: {text}");
        assert_eq!(bed.ask(&["status"]).0, 0, "{what} is back");
    }
}

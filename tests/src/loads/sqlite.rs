//! An SQLite database in WAL mode, written by the `sqlite3` program: inserts, updates and deletes in small transactions,
//! with checkpoints often enough that both the log and the database are written all the time.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::Worker;
use crate::daemon::utf8;
use crate::load::{Io, Load, Random, Stop, Written};
use crate::mounts::run;

const SCHEMA: &str = "PRAGMA journal_mode=WAL;
CREATE TABLE item(id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX item_owner ON item(owner);
CREATE TABLE total(n INTEGER NOT NULL);
INSERT INTO total VALUES (0);
WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO item SELECT i, i % 97, randomblob(200) FROM n;
UPDATE total SET n = (SELECT count(*) FROM item);
";
/// Pause between transactions.
const PACE: Duration = Duration::from_millis(10);
/// The log's index is mapped, as one page of 32 KiB while the log is as short as here.
const MAPPED: u64 = 32 << 10;

#[derive(Default)]
pub struct Sqlite {
    database: PathBuf,
    running: Option<(Child, Worker<Feed>)>,
}

struct Feed {
    stdin: ChildStdin,
    random: Random,
}

impl Sqlite {
    pub const PROGRAMS: [&'static str; 1] = ["sqlite3"];

    fn ask(database: &Path, sql: &str) -> String {
        run(Command::new("sqlite3").arg("-batch").arg(database).arg(sql)).trim().to_owned()
    }
}

impl Feed {
    fn transaction(&mut self) {
        let random = &mut self.random;
        let mut sql = String::from("BEGIN IMMEDIATE;\n");
        for _ in 0..1 + random.below(8) {
            let (id, owner, len) = (1 + random.below(20_000), random.below(97), 20 + random.below(600));
            // The same transaction updates the total, so that a copy that mixes two moments is noticed.
            let _ = match random.below(4) {
                0 => writeln!(sql, "DELETE FROM item WHERE id = {id}; UPDATE total SET n = n - changes();"),
                1 => writeln!(
                    sql,
                    "INSERT OR IGNORE INTO item VALUES ({id}, {owner}, randomblob({len})); \
                                    UPDATE total SET n = n + changes();"
                ),
                _ => writeln!(sql, "UPDATE item SET owner = {owner}, body = randomblob({len}) WHERE id = {id};"),
            };
        }
        sql.push_str("COMMIT;\n");
        self.stdin.write_all(sql.as_bytes()).expect("sqlite3 takes the transaction");
        std::thread::sleep(PACE);
    }
}

impl Load for Sqlite {
    fn prepare(&mut self, dir: &Path) {
        self.database = dir.join("app.db");
        Sqlite::ask(&self.database, SCHEMA);
    }

    fn start(&mut self) {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail"]).arg(&self.database);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sqlite3");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(b"PRAGMA wal_autocheckpoint=100;\nPRAGMA synchronous=NORMAL;\n").expect("the settings");
        let worker = Worker::start(Feed { stdin, random: Random::new(3) }, Feed::transaction);
        self.running = Some((child, worker));
    }

    fn stop(&mut self, how: Stop) -> Written {
        let (mut child, worker) = self.running.take().expect("started");
        // A clean stop ends the input; an abrupt one kills the process first.
        let feed = worker.stop();
        if how == Stop::Abrupt {
            child.kill().expect("kill");
        }
        drop(feed);
        waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("its end");
        let io = Io::of(child.id());
        let status = child.wait().expect("its end");
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("what it said");
        assert!(said.is_empty() && (status.success() || how == Stop::Abrupt), "sqlite3: {status}: {said}");
        Written { bytes: io.written, mapped: MAPPED }
    }

    fn check(&mut self, copy: &Path) {
        let database = copy.join("app.db");
        assert_eq!(Sqlite::ask(&database, "PRAGMA integrity_check;"), "ok", "{}", utf8(&database));
        let [counted, kept] =
            ["SELECT count(*) FROM item;", "SELECT n FROM total;"].map(|sql| Sqlite::ask(&database, sql));
        assert_eq!(counted, kept, "the transaction that counts is whole");
        let ours = Sqlite::ask(&self.database, "SELECT count(*), sum(id), sum(owner), sum(length(body)) FROM item;");
        let theirs = Sqlite::ask(&database, "SELECT count(*), sum(id), sum(owner), sum(length(body)) FROM item;");
        assert_eq!(ours, theirs, "the rows");
    }
}

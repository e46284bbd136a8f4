//! A PostgreSQL server under pgbench, whose data directory is protected. The server refuses to run as root.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use crate::load::{Io, Load, Stop, Written};
use crate::mounts::{run, skip};

/// `nobody` and `nogroup`.
const USER: u32 = 65_534;
const START: Duration = Duration::from_secs(60);
/// Small segments that are recycled often; memory settings for a small machine.
const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "shared_buffers=16MB",
    "max_wal_size=8MB",
    "min_wal_size=4MB",
    "checkpoint_timeout=30s",
    "checkpoint_completion_target=0.1",
    "autovacuum_naptime=3s",
    "max_connections=20",
];
/// Transactions per second, low enough not to saturate the machine: the daemon is under test.
const RATE: &str = "150";

pub struct Postgres {
    bin: PathBuf,
    /// For sockets and logs; outside the protected directory.
    aside: TempDir,
    data: PathBuf,
    server: Option<Server>,
    bench: Option<Child>,
    before: Io,
}

/// A server, ended at once when dropped.
pub struct Server {
    child: Option<Child>,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // At once: a test has failed, and nothing of it is kept.
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut bench) = self.bench.take() {
            let _ = bench.kill();
            let _ = bench.wait();
        }
    }
}

/// The directory of the newest installed server's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let version = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let bins = versions.flatten().map(|entry| entry.path().join("bin")).filter(|bin| bin.join("pgbench").is_file());
    bins.max_by_key(|bin| version(bin))
}

impl Postgres {
    /// Prints why `test` is skipped if there is no server.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn new_or_skip(test: &str) -> Option<Postgres> {
        let Some(bin) = programs() else {
            skip(test, "postgres", "no PostgreSQL server with pgbench (Debian: postgresql, postgresql-contrib)");
            return None;
        };
        let aside = tempfile::Builder::new().prefix("tracker-pg-").tempdir().expect("a temporary folder");
        chown(aside.path(), Some(USER), Some(USER)).expect("chown");
        Some(Postgres { bin, aside, data: PathBuf::new(), server: None, bench: None, before: Io::default() })
    }

    /// One of the server's programs, as the user it runs as.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command.args(ids).arg("--clear-groups").arg(self.bin.join(program));
        command.current_dir("/").env("PGHOST", self.aside.path()).env("PGUSER", "postgres").env("LC_ALL", "C");
        command
    }

    fn start_server(&self, data: &Path, port: u16) -> Server {
        self.try_start_server(data, port, &SETTINGS).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// Its log, when it ends, or does not answer in time.
    pub fn try_start_server(&self, data: &Path, port: u16, settings: &[&str]) -> Result<Server, String> {
        let log = self.aside.path().join(format!("server-{port}.log"));
        let out = File::create(&log).expect("the log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(data).args(["-p", &port.to_string(), "-k"]).arg(self.aside.path());
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("the log")).stderr(out);
        let child = command.spawn().expect("the server");
        let mut server = Server { child: Some(child), port };
        let deadline = Instant::now() + START;
        loop {
            let mut ready = self.command("pg_isready");
            if ready.args(["-q", "-p", &port.to_string()]).status().expect("pg_isready").success() {
                return Ok(server);
            }
            let ended = server.child.as_mut().expect("running").try_wait().expect("wait");
            if ended.is_some() || Instant::now() > deadline {
                return Err(format!("the server: {ended:?}\n{}", fs::read_to_string(&log).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends a server and returns what it wrote in its life.
    pub fn stop_server(mut server: Server, how: Stop) -> Io {
        let mut child = server.child.take().expect("running");
        let pid = Pid::from_child(&child);
        kill_process(pid, if how == Stop::Clean { Signal::INT } else { Signal::QUIT }).expect("stop the server");
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("its end");
        let io = Io::of(child.id());
        child.wait().expect("its end");
        io
    }

    fn ask(&self, server: &Server, sql: &str) -> String {
        self.try_ask(server, sql).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the server answers.
    ///
    /// # Errors
    /// What it says instead.
    pub fn try_ask(&self, server: &Server, sql: &str) -> Result<String, String> {
        let mut psql = self.command("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-p",
            &server.port.to_string(),
            "-d",
            "postgres",
            "-c",
            sql,
        ]);
        let output = psql.output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Makes a cluster of a directory. It is not synced: the machine stays up.
    ///
    /// # Panics
    /// When `initdb` fails.
    pub fn init(&self, dir: &Path, more: &[&str]) {
        chown(dir, Some(USER), Some(USER)).expect("chown");
        let mut init = self.command("initdb");
        run(init.arg("-D").arg(dir).args(["-U", "postgres", "-A", "trust", "--wal-segsize=1", "-N"]).args(more));
    }
}

impl Load for Postgres {
    fn prepare(&mut self, dir: &Path) {
        self.data = dir.to_path_buf();
        self.init(dir, &[]);
        let server = self.start_server(dir, 5432);
        let mut init = self.command("pgbench");
        run(init.args(["-i", "-q", "-s", "1", "-p", &server.port.to_string(), "postgres"]));
        self.server = Some(server);
    }

    fn start(&mut self) {
        let server = self.server.as_ref().expect("started");
        self.before = Io::of_tree(server.child.as_ref().expect("running").id());
        let mut bench = self.command("pgbench");
        bench.args(["-c", "4", "-j", "1", "-T", "600", "-R", RATE, "-p", &server.port.to_string(), "postgres"]);
        let log = File::create(self.aside.path().join("pgbench.log")).expect("the log");
        let child = bench.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log).spawn();
        self.bench = Some(child.expect("pgbench"));
    }

    fn stop(&mut self, how: Stop) -> Written {
        let mut bench = self.bench.take().expect("started");
        let ended = bench.try_wait().expect("wait");
        let log = fs::read_to_string(self.aside.path().join("pgbench.log")).unwrap_or_default();
        assert!(ended.is_none(), "pgbench ended by itself: {ended:?}\n{log}");
        let server = self.server.take().expect("started");
        // Under load in both cases: a fast stop ends the sessions.
        let io = Postgres::stop_server(server, how);
        // It may have ended with its sessions.
        let _ = bench.kill();
        bench.wait().expect("its end");
        Written { bytes: io.written.saturating_sub(self.before.written), mapped: 0 }
    }

    fn check(&mut self, copy: &Path) {
        let server = self.start_server(copy, 5433);
        let accounts = self.ask(&server, "SELECT count(*) FROM pgbench_accounts");
        assert_eq!(accounts, "100000", "rows of pgbench_accounts");
        let sums = ["accounts.abalance", "tellers.tbalance", "branches.bbalance", "history.delta"].map(|what| {
            let (table, column) = what.split_once('.').expect("table.column");
            self.ask(&server, &format!("SELECT sum({column}) FROM pgbench_{table}"))
        });
        assert!(sums.iter().all(|sum| *sum == sums[0]), "pgbench keeps these sums equal: {sums:?}");
        let history = self.ask(&server, "SELECT count(*) FROM pgbench_history");
        println!("   the restored server answers: {history} transactions in the history, balance {}", sums[0]);
        assert_ne!(history, "0", "pgbench has worked");
        Postgres::stop_server(server, Stop::Clean);
    }
}

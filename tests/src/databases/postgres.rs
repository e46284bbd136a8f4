//! PostgreSQL with checksums under pgbench of 16 clients: little memory, so that pages are written all the time.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Database;
use crate::load::Stop;
use crate::loads::postgres::{Postgres, Server};
use crate::mounts::run;

const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "shared_buffers=2MB",
    "max_wal_size=8MB",
    "min_wal_size=4MB",
    "checkpoint_timeout=30s",
    "autovacuum_naptime=3s",
    "bgwriter_delay=50ms",
    "max_connections=30",
];
/// Of the servers that recover copies.
const COPY: [&str; 4] = ["listen_addresses=", "shared_buffers=8MB", "fsync=off", "autovacuum=off"];
/// Every row is looked at.
const QUESTION: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
     (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
     (SELECT count(*) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_history)";

/// Every B-tree and what it must have of its table, the system's too, and the pages of the tables: 0 faults.
const INDEXES: &str = "SELECT count(bt_index_check(i.indexrelid, true)) * 0 + (SELECT count(*) FROM pg_class t, LATERAL \
     verify_heapam(t.oid) WHERE t.relkind = 'r' AND t.relpersistence = 'p') FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
     JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'btree' AND c.relpersistence = 'p' AND i.indisvalid";

/// The server and its load.
pub struct Bench {
    postgres: Postgres,
    server: Option<Server>,
    load: Option<Child>,
}

impl Bench {
    /// Prints why `test` is skipped if there is no server.
    pub fn new_or_skip(test: &str) -> Option<Bench> {
        Some(Bench { postgres: Postgres::new_or_skip(test)?, server: None, load: None })
    }

    fn end(&mut self) {
        if let Some(server) = self.server.take() {
            Postgres::stop_server(server, Stop::Abrupt);
        }
        if let Some(mut load) = self.load.take() {
            let _ = load.kill();
            let _ = load.wait();
        }
    }

    fn checked(&self, server: &Server) -> Result<u64, String> {
        let answer = self.postgres.try_ask(server, QUESTION)?;
        let numbers: Vec<i64> = answer.split('|').filter_map(|line| line.parse().ok()).collect();
        let [accounts, tellers, branches, history, rows, done] = numbers[..] else {
            return Err(format!("six numbers, not {answer}"));
        };
        if rows != 100_000 || [tellers, branches, history].iter().any(|sum| *sum != accounts) {
            return Err(format!("the sums differ, or rows are missing: {numbers:?}"));
        }
        let faults = self.postgres.try_ask(server, INDEXES)?;
        if faults != "0" {
            return Err(format!("faults of pages: {faults}"));
        }
        u64::try_from(done).map_err(|error| error.to_string())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.end();
    }
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(()) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

impl Database for Bench {
    fn prepare(&mut self, dir: &Path) {
        self.postgres.init(dir, &["-k"]);
        let server = self.postgres.try_start_server(dir, 5432, &SETTINGS).unwrap_or_else(|error| panic!("{error}"));
        run(self.postgres.command("pgbench").args(["-i", "-q", "-s", "1", "-p", "5432", "postgres"]));
        self.postgres.try_ask(&server, "CREATE EXTENSION amcheck").unwrap_or_else(|error| panic!("{error}"));
        self.server = Some(server);
    }

    fn start(&mut self) {
        let mut bench = self.postgres.command("pgbench");
        bench.args(["-c", "16", "-j", "1", "-T", "20000", "-p", "5432", "postgres"]);
        let child = bench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.load = Some(child.expect("pgbench"));
    }

    fn stop(&mut self) {
        let ended = self.load.as_mut().expect("started").try_wait().expect("wait");
        assert!(ended.is_none(), "pgbench has ended by itself: {ended:?}");
        self.end();
    }

    fn check(&self, copy: &Path, lane: usize) -> Result<u64, String> {
        let port = 5433 + lane as u16;
        // The id of the server that wrote it may be another's by now.
        let _ = std::fs::remove_file(copy.join("postmaster.pid"));
        let server = self.postgres.try_start_server(copy, port, &COPY)?;
        let result = self.checked(&server);
        Postgres::stop_server(server, Stop::Clean);
        let done = result?;
        succeeds(self.postgres.command("pg_checksums").arg("-c").arg("-D").arg(copy))?;
        Ok(done)
    }
}

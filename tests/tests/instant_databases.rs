//! Commits of one instant of databases under load: every one of them, restored, is recovered by its database without a fault.
//!
//! `TRACKER_DATABASE_COMMITS=1000` is the long form, with databases that setup does not install;
//! `TRACKER_DATABASE_CONTROL=1` makes live commits of the same loads instead, and says how many of them are damaged.

use tests::databases::bank::Bank;
use tests::databases::postgres::Bench;
use tests::databases::{Form, every_instant_is_intact};
use tests::mounts::{Kind, Mount, skip};

const KINDS: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];

/// On each file system, at the same time: most of it is waiting for the programs to start.
fn on_each(test: &str, one: impl Fn(&str, &Mount) + Sync) {
    let of = &|on: Kind| {
        let name = format!("{test}/{}", on.name());
        if let Some(mount) = Mount::new_or_skip(&name, on) {
            one(&name, &mount);
        }
    };
    std::thread::scope(|scope| KINDS.map(|on| scope.spawn(move || of(on))).map(|each| each.join().is_ok()))
        .iter()
        .for_each(|fine| assert!(fine, "{test}: see above"));
}

fn bank(test: &str, kind: &'static str, programs: &[&str], module: &str) {
    if let Some(reason) = Bank::obstacle(programs, module) {
        // Setup installs what these need.
        let what = if kind.starts_with("sqlite") { "sqlite" } else { "databases" };
        skip(test, what, &reason);
        return;
    }
    on_each(test, |name, mount| every_instant_is_intact(name, mount, &mut Bank::new(kind)));
}

fn long(test: &str, kind: &'static str, programs: &[&str], module: &str) {
    if Form::long_or_skip(test) {
        bank(test, kind, programs, module);
    }
}

#[test]
fn every_instant_of_sqlite_with_wal_is_intact() {
    bank("every_instant_of_sqlite_with_wal_is_intact", "sqlite-wal", &[], "sqlite3");
}

#[test]
fn every_instant_of_sqlite_with_a_rollback_journal_is_intact() {
    bank("every_instant_of_sqlite_with_a_rollback_journal_is_intact", "sqlite-delete", &[], "sqlite3");
}

#[test]
fn every_instant_of_postgres_is_intact() {
    on_each("every_instant_of_postgres_is_intact", |name, mount| {
        if let Some(mut database) = Bench::new_or_skip(name) {
            every_instant_is_intact(name, mount, &mut database);
        }
    });
}

#[test]
fn every_instant_of_sqlite_with_a_truncated_journal_is_intact() {
    long("every_instant_of_sqlite_with_a_truncated_journal_is_intact", "sqlite-truncate", &[], "sqlite3");
}

#[test]
fn every_instant_of_mariadb_is_intact() {
    let programs = ["mariadbd", "mariadb", "mariadb-install-db"];
    long("every_instant_of_mariadb_is_intact", "mariadb", &programs, "subprocess");
}

#[test]
fn every_instant_of_redis_with_a_log_is_intact() {
    long("every_instant_of_redis_with_a_log_is_intact", "redis-aof", &["redis-server"], "socket");
}

#[test]
fn every_instant_of_redis_with_a_log_that_is_synced_later_is_intact() {
    let name = "every_instant_of_redis_with_a_log_that_is_synced_later_is_intact";
    long(name, "redis-aof-everysec", &["redis-server"], "socket");
}

#[test]
fn every_instant_of_redis_with_snapshots_is_intact() {
    long("every_instant_of_redis_with_snapshots_is_intact", "redis-rdb", &["redis-server"], "socket");
}

#[test]
fn every_instant_of_leveldb_is_intact() {
    long("every_instant_of_leveldb_is_intact", "leveldb", &[], "plyvel");
}

#[test]
fn every_instant_of_lmdb_is_intact() {
    long("every_instant_of_lmdb_is_intact", "lmdb", &[], "lmdb");
}

#[test]
fn every_instant_of_lmdb_with_a_writable_map_is_intact() {
    long("every_instant_of_lmdb_with_a_writable_map_is_intact", "lmdb-writemap", &[], "lmdb");
}

#[test]
fn every_instant_of_etcd_is_intact() {
    long("every_instant_of_etcd_is_intact", "etcd", &["etcd"], "urllib.request");
}

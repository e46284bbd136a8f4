//! A PostgreSQL data directory under pgbench, on ext4: protected, killed, restored, and the server starts from the copy.

use tests::load::{killed, steady};
use tests::loads::postgres::Postgres;
use tests::mounts::{Fs, Mount};

#[test]
fn postgres_steady() {
    let name = "postgres";
    let Some(mount) = Mount::new_or_skip(name, Fs::Ext4) else { return };
    let Some(mut load) = Postgres::new_or_skip(name) else { return };
    steady(name, &mount, &mut load);
}

#[test]
fn postgres_killed() {
    let name = "postgres, killed";
    let Some(mount) = Mount::new_or_skip(name, Fs::Ext4) else { return };
    let Some(mut load) = Postgres::new_or_skip(name) else { return };
    killed(name, &mount, &mut load);
}

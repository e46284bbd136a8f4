//! A PostgreSQL data directory under pgbench, on ext4: protected, killed, restored, and the server starts from the copy.

use tests::load::{killed, steady};
use tests::loads::postgres::Postgres;
use tests::mounts::{Kind, Mount};

#[test]
fn postgres_steady() {
    let name = "postgres_steady";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(mut load) = Postgres::new_or_skip(name) else { return };
    steady(name, &mount, &mut load);
}

#[test]
fn postgres_killed() {
    let name = "postgres_killed";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let Some(mut load) = Postgres::new_or_skip(name) else { return };
    killed(name, &mount, &mut load);
}

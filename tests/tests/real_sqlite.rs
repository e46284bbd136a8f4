//! An SQLite database under writes in WAL mode, on three file systems: protected, killed, restored, checked.

use tests::load::{killed, steady};
use tests::loads::sqlite::Sqlite;
use tests::mounts::{Kind, Mount, programs_or_skip};

fn on(name: &str, kind: Kind) {
    let Some(mount) = Mount::new_or_skip(name, kind) else { return };
    if programs_or_skip(name, "sqlite", &Sqlite::PROGRAMS) {
        steady(name, &mount, &mut Sqlite::default());
        killed(&format!("{name}, killed"), &mount, &mut Sqlite::default());
    }
}

#[test]
fn sqlite_on_ext4() {
    on("sqlite_on_ext4", Kind::Ext4);
}

#[test]
fn sqlite_on_xfs() {
    on("sqlite_on_xfs", Kind::Xfs);
}

#[test]
fn sqlite_on_btrfs() {
    on("sqlite_on_btrfs", Kind::Btrfs);
}

//! An SQLite database under writes in WAL mode, on three file systems: protected, killed, restored, checked.

use tests::load::{killed, steady};
use tests::loads::sqlite::Sqlite;
use tests::mounts::{Fs, Mount, missing_program};

fn on(fs: Fs) {
    let name = format!("sqlite on {}", fs.name());
    let Some(mount) = Mount::new_or_skip(&name, fs) else { return };
    if let Some(tool) = missing_program(&Sqlite::PROGRAMS) {
        println!("SKIP {name}: no {tool}");
        return;
    }
    steady(&name, &mount, &mut Sqlite::default());
    killed(&name, &mount, &mut Sqlite::default());
}

#[test]
fn sqlite_on_ext4() {
    on(Fs::Ext4);
}

#[test]
fn sqlite_on_xfs() {
    on(Fs::Xfs);
}

#[test]
fn sqlite_on_btrfs() {
    on(Fs::Btrfs);
}

//! An append-and-rename load as a downloader's, on ext4: protected, killed, restored.

use tests::load::{killed, steady};
use tests::loads::download::Download;
use tests::mounts::{Kind, Mount};

#[test]
fn download_steady() {
    let name = "download_steady";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    steady(name, &mount, &mut Download::new(true));
}

#[test]
fn download_killed() {
    let name = "download_killed";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    killed(name, &mount, &mut Download::new(true));
}

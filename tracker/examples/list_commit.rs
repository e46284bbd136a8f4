//! Lists the files of a volume's newest commit: `cargo run -p tracker --example list_commit -- STORE/VOLUME`.

use std::error::Error;

use tracker::repository;
use tracker::repository::location::VolumeRef;
use tracker::store::{self, StoreOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let place: VolumeRef = std::env::args().nth(1).ok_or("usage: list_commit STORE/VOLUME")?.parse()?;
    let store = store::open(&place.store, &StoreOptions::default())?;
    let volume = repository::open(store, &place.volume)?;
    let manifest = volume.manifest(volume.head())?;
    for (path, _, file) in manifest.walk() {
        println!("{:>12} {}", file.size(), String::from_utf8_lossy(&path));
    }
    Ok(())
}

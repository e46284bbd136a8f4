//! A source tree with a build running in it, on ext4: protected, killed, restored, with nothing left to build.

use tests::load::{killed, steady};
use tests::loads::build::Build;
use tests::mounts::{Fs, Mount, missing_program};

fn mount(name: &str) -> Option<Mount> {
    let mount = Mount::new_or_skip(name, Fs::Ext4)?;
    if let Some(tool) = missing_program(&Build::PROGRAMS) {
        println!("SKIP {name}: no {tool}");
        return None;
    }
    Some(mount)
}

#[test]
fn build_steady() {
    let Some(mount) = mount("build") else { return };
    steady("build", &mount, &mut Build::default());
}

#[test]
fn build_killed() {
    let Some(mount) = mount("build, killed") else { return };
    killed("build, killed", &mount, &mut Build::default());
}

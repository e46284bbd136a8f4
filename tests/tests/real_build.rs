//! A source tree with a build running in it, on ext4: protected, killed, restored, with nothing left to build.

use tests::load::{killed, steady};
use tests::loads::build::Build;
use tests::mounts::{Kind, Mount, programs_or_skip};

fn mount(name: &str) -> Option<Mount> {
    let mount = Mount::new_or_skip(name, Kind::Ext4)?;
    programs_or_skip(name, "cc", &Build::PROGRAMS).then_some(mount)
}

#[test]
fn build_steady() {
    let Some(mount) = mount("build_steady") else { return };
    steady("build_steady", &mount, &mut Build::default());
}

#[test]
fn build_killed() {
    let Some(mount) = mount("build_killed") else { return };
    killed("build_killed", &mount, &mut Build::default());
}

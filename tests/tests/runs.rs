//! What a volume may trust when it comes back: only a run of capture that it was part of.

use std::fs;
use std::time::Duration;

use tests::compare::assert_same;
use tests::daemon::Volume;
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(30);

/// A process drains the marks of all volumes of its state directory, also of those it does not run. So a volume that was
/// left out of one run is compared with its tree when it comes back; else what changed meanwhile would be missing under
/// the state `protected`.
#[test]
fn a_volume_left_out_of_a_run_is_compared_when_it_comes_back() {
    let name = "a_volume_left_out_of_a_run_is_compared_when_it_comes_back";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (one, two) = (mount.dir("one"), mount.dir("two"));
    fs::write(one.join("file"), "before").unwrap();
    fs::write(two.join("file"), "other").unwrap();
    let first = Volume::new(&one);
    let mut second = Volume::new(&two);
    second.state.clone_from(&first.state);
    second.name = "w".into();

    assert!(first.start_ready().stop().success());
    fs::write(one.join("file"), "after").unwrap();
    fs::write(one.join("new"), "new").unwrap();
    let other = second.start_ready();
    second.sync(SYNC).expect(0);
    assert!(other.stop().success());

    let back = first.start_ready();
    first.sync(SYNC).expect(0);
    let copy = first.scratch("copy");
    first.restore(&copy).expect(0);
    assert_same(&one, &copy);
    assert!(back.stop().success());
}

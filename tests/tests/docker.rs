//! Containers of a real Docker daemon: two in one volume, and one whose root directory, an overlay, is protected.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tests::compare::assert_same;
use tests::daemon::{Volume, utf8};
use tests::docker::Docker;
use tests::mounts::{Kind, Mount};

const SYNC: Duration = Duration::from_secs(60);

/// What a container does in the volume: `$1` is its name.
const LIFE: &str = r#"
set -e
cd /data
mkdir "$1"
cd "$1"
for i in $(seq 1 30); do
    echo "$1 $i" >> log
    dd if=/dev/urandom of=blocks bs=4096 count=3 seek=$i conv=notrunc 2>/dev/null
    echo $i > new
    mv new current
    mkdir d$i
    echo x > d$i/f
    ln d$i/f d$i/link
    [ $i -le 5 ] || rm -r d$((i - 5))
    dd if=/dev/urandom of=../both bs=4096 count=1 seek=$i conv=notrunc 2>/dev/null
done
chmod 0640 log
truncate -s 5000 blocks
"#;

#[test]
fn containers_of_a_real_dockerd() {
    let name = "containers_of_a_real_dockerd";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let (data, shared) = (mount.dir("docker"), mount.dir("volume"));
    let Some(docker) = Docker::start_or_skip(name, &data) else { return };
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(shared.join("both"), vec![1; 64 * 4096]).unwrap();
    fs::set_permissions(shared.join("both"), fs::Permissions::from_mode(0o666)).unwrap();
    let large = vec![7; 1 << 20];
    docker.image("box", &[("kept", b"kept"), ("changed", b"changed"), ("removed", b"x"), ("large", &large)]);

    let volume = Volume::new(&shared);
    let daemon = volume.start_ready();
    let bind = format!("{}:/data", shared.display());
    let run = ["run", "--rm", "--network", "none", "-v", &bind];
    let mut lives = Vec::new();
    for (own, user) in [("root", "0:0"), ("user", "1000:1000")] {
        let mut command = docker.command(&run);
        command.args(["--user", user, "box", "sh", "-c", LIFE, "sh", own]);
        lives.push(command.stdout(Stdio::null()).spawn().unwrap());
    }
    for mut life in lives {
        assert!(life.wait().unwrap().success(), "a container failed");
    }
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    let status = volume.status();
    assert_eq!((&status["state"], &status["rescans"]), (&"protected".into(), &0.into()), "{status:#}");
    assert!(daemon.stop().success());

    // The root directory of a container, as the host sees it: lower layers from the image, and its own upper layer.
    docker.run(&["run", "-d", "--name", "layer", "--network", "none", "box", "sleep", "600"]);
    let merged = docker.run(&["inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", "layer"]);
    let merged = PathBuf::from(merged.trim());
    assert_eq!(fs::read_to_string(merged.join("lower/kept")).unwrap(), "kept");
    let volume = Volume::new(&merged);
    let mut daemon = volume.start_ready();
    let script = "set -e; cd /lower; echo more >> changed; rm removed; mkdir new; echo x > new/f; mv new moved; \
        dd if=/dev/urandom of=large bs=4096 seek=100 count=2 conv=notrunc 2>/dev/null; \
        for i in $(seq 1 20); do echo $i > t$i; echo $i >> large; done; rm t1 t2 t3";
    docker.run(&["exec", "layer", "sh", "-c", script]);
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
    assert_eq!(volume.status()["state"], "protected");
    let at = volume.scratch("copy").join("lower");
    assert!(!at.join("removed").exists() && at.join("moved/f").exists() && at.join("t20").exists());

    // It ends, and its root directory is unmounted. The empty directory that is left is not the volume's new state.
    docker.run(&["rm", "-f", "layer"]);
    let ended = daemon.wait_end(Duration::from_secs(60)).expect("the daemon notices");
    assert_eq!(ended.code(), Some(22), "{}", volume.log_tail());
    let copy = volume.scratch("after");
    volume.tracker(&["restore", utf8(&volume.reference()), utf8(&copy)]).expect(0);
    assert_same(&volume.scratch("copy"), &copy);
}

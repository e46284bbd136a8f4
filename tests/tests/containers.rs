//! Writers in containers: in other mount, user and process namespaces, with overlays made there, two in one volume, and
//! file systems mounted inside the tree for a while. Each case is the whole program: protect, change, `sync --wait`,
//! restore, compare.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::daemon::Volume;
use tests::mounts::{Kind, Mount, programs_or_skip, run, skip};

const SYNC: Duration = Duration::from_secs(60);
/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// Owner of files in a container without root.
const NOBODY: u32 = 65_534;

/// What a container does in its volume, as a script for `sh`: `$1` is where it sees the volume, `$2` its own name.
const LIFE: &str = r#"
set -e
cd "$1"
mkdir -p "$2"
cd "$2"
i=0
while [ $i -lt 40 ]; do
    i=$((i + 1))
    echo "$2 $i" >> log
    dd if=/dev/urandom of=shared-part bs=4096 count=3 seek=$i conv=notrunc 2>/dev/null
    echo "$i" > new
    mv new current
    mkdir "d$i"
    echo x > "d$i/f"
    ln "d$i/f" "d$i/link"
    ln -s f "d$i/sym"
    [ $i -le 5 ] || rm -r "d$((i - 5))"
    chmod 0640 log
done
truncate -s 5000 shared-part
"#;

/// `unshare` with these namespaces, then `sh -c` of `script` with `args`.
fn contained(unshare: &[&str], script: &str, args: &[&Path]) -> Command {
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", script, "sh"]).args(args).stdin(Stdio::null());
    command
}

/// Shows the volume only at `$2` (elsewhere an empty directory), in its own mount namespace.
const ENTER: &str = r#"
set -e
mount --bind "$1" "$2"
exec sh -c "$3" sh "$2" "$4"
"#;

fn enter(unshare: &[&str], volume: &Path, elsewhere: &Path, script: &str, name: &str) -> Command {
    contained(unshare, ENTER, &[volume, elsewhere, Path::new(script), Path::new(name)])
}

/// Runs the command as an unprivileged user.
fn as_nobody(command: Command) -> Command {
    let mut outer = Command::new("setpriv");
    outer.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(command.get_program());
    outer.args(command.get_args()).stdin(Stdio::null());
    outer
}

/// Whether a user namespace with mounts can be made here.
fn user_namespaces(test: &str) -> bool {
    let mut probe = as_nobody(contained(&["--user", "--map-root-user", "--mount"], "mount -t tmpfs x /mnt", &[]));
    let works = probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works {
        skip(test, "userns", "an unprivileged user cannot make a user namespace with mounts here");
    }
    works
}

/// A folder that everybody may enter, for bind mounts.
fn elsewhere() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

fn is_degraded(status: &Value, word: &str) -> bool {
    status["state"] == "degraded" && status.to_string().contains(word)
}

/// Two containers in one volume, each with its own mounts and processes, one of them without root in a user namespace, and
/// the host: all in the same directory tree at the same time.
#[test]
fn containers_that_share_a_volume_reach_the_commits() {
    let name = "containers_that_share_a_volume_reach_the_commits";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    if !programs_or_skip(name, "root", &["unshare", "setpriv", "mount"]) || !user_namespaces(name) {
        return;
    }
    let source = mount.dir("source");
    let shared = source.join("volume");
    fs::create_dir(&shared).unwrap();
    chown(&shared, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let both = shared.join("both");
    fs::write(&both, vec![1; 64 * 4096]).unwrap();
    fs::set_permissions(&both, fs::Permissions::from_mode(0o666)).unwrap();
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();

    let (one, two) = (elsewhere(), elsewhere());
    let private = ["--mount", "--pid", "--fork", "--propagation", "private"];
    // In the same file too: one container writes blocks of even number, the other those of odd number.
    let script = |odd: u32| {
        format!(
            "{LIFE}\ncd ..\nfor b in $(seq {odd} 2 63); do \
             dd if=/dev/urandom of=both bs=4096 count=1 seek=$b conv=notrunc 2>/dev/null; done"
        )
    };
    let mut root = enter(&private, &shared, one.path(), &script(0), "rootful").spawn().unwrap();
    let rootless = [&["--user", "--map-root-user"], &private[..]].concat();
    let mut nobody = as_nobody(enter(&rootless, &shared, two.path(), &script(1), "rootless")).spawn().unwrap();
    let file = File::create(source.join("host")).unwrap();
    let ended = |child: &mut Child| child.try_wait().unwrap().is_some();
    let mut at = 0;
    while !(ended(&mut root) && ended(&mut nobody)) {
        file.write_all_at(&[at as u8; 4096], at % 50 * 4096).unwrap();
        at += 1;
        thread::sleep(Duration::from_millis(2));
    }
    assert!(root.wait().unwrap().success() && nobody.wait().unwrap().success());
    assert_eq!(fs::metadata(shared.join("rootless/log")).unwrap().uid(), NOBODY, "it ran as another user");
    assert_eq!(fs::read_dir(shared.join("rootful")).unwrap().count(), 8, "log, shared-part, current, d36 to d40");

    volume.sync(SYNC).expect(0);
    let status = volume.status();
    assert_eq!(status["state"], "protected", "{status:#}");
    assert_eq!(status["rescans"], 0, "{status:#}");
    volume.restored("copy");
    assert!(daemon.stop().success());
}

/// An overlay whose upper layer is in the protected tree, mounted where the daemon cannot see it: by root in a mount
/// namespace (`trusted.*` attributes, whiteouts), and without root in a user namespace (`user.*` attributes). The restored
/// layer, when mounted, must show what the container saw.
#[test]
fn an_upper_layer_of_a_container_is_a_tree_like_others() {
    let name = "an_upper_layer_of_a_container_is_a_tree_like_others";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    if !programs_or_skip(name, "root", &["unshare", "setpriv", "mount"]) || !user_namespaces(name) {
        return;
    }
    let (lower, source) = (mount.dir("lower"), mount.dir("source"));
    fs::create_dir_all(lower.join("opaque")).unwrap();
    for file in ["kept", "changed", "removed", "opaque/below"] {
        fs::write(lower.join(file), format!("lower {file}")).unwrap();
    }
    fs::write(lower.join("large"), vec![3; 1 << 20]).unwrap();
    let script = r#"
set -e
options="lowerdir=$1/lower,upperdir=$1/source/$2/upper,workdir=$1/source/$2/work"
mount -t overlay -o "$options$3" overlay "$4"
cd "$4"
echo more >> changed
rm removed
rm -r opaque
mkdir opaque
echo over > opaque/above
dd if=/dev/urandom of=large bs=4096 seek=100 count=2 conv=notrunc 2>/dev/null
mkdir new
echo fresh > new/file
mv new moved
i=0
while [ $i -lt 30 ]; do i=$((i + 1)); echo $i > "t$i"; echo $i >> large; [ $((i % 3)) = 0 ] || rm "t$i"; done
"#;
    let base = mount.dir("layers");
    let volume = Volume::new(&source);
    for (kind, _) in LAYERS {
        for part in ["upper", "work"] {
            let dir = source.join(kind).join(part);
            fs::create_dir_all(&dir).unwrap();
            chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    for dir in [&lower, &lower.join("opaque")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    for file in ["kept", "changed", "removed", "large", "opaque/below"] {
        chown(lower.join(file), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(lower.join("opaque"), Some(NOBODY), Some(NOBODY)).unwrap();
    let daemon = volume.start_ready();
    let outer = lower.parent().unwrap();
    for (kind, options) in LAYERS {
        let point = elsewhere();
        let args = [outer, Path::new(kind), Path::new(options), point.path()];
        let mut command = if kind == "rootless" {
            as_nobody(contained(&["--user", "--map-root-user", "--mount"], script, &args))
        } else {
            contained(&["--mount"], script, &args)
        };
        run(&mut command);
    }
    volume.sync(SYNC).expect(0);
    assert_eq!(volume.status()["state"], "protected");
    let copy = volume.restored("copy");
    assert!(daemon.stop().success());

    for (kind, options) in LAYERS {
        // An upper layer must be on the same file system as its work directory, and neither may be in use.
        let again = base.join(kind);
        run(Command::new("cp").arg("-a").arg(copy.join(kind)).arg(&again));
        let point = elsewhere();
        let show = r#"
set -e
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work$3" overlay "$4"
cd "$4"
test ! -e removed
test ! -e opaque/below
test "$(cat opaque/above)" = over
test "$(cat moved/file)" = fresh
test "$(cat changed)" = "lower changedmore"
test "$(cat kept)" = "lower kept"
test "$(tail -n 1 large)" = 30
"#;
        run(&mut contained(&["--mount"], show, &[&lower, &again, Path::new(options), point.path()]));
    }
}

const LAYERS: [(&str, &str); 2] = [("rootful", ""), ("rootless", ",userxattr")];

/// A file system that is mounted inside the tree while the daemon runs is not part of the volume: it is reported, what is
/// written in it stays out, and the files that it covers stay as committed. After the unmount the volume is no longer
/// degraded.
#[test]
fn a_file_system_that_comes_and_goes_inside_the_tree() {
    let name = "a_file_system_that_comes_and_goes_inside_the_tree";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    if !programs_or_skip(name, "root", &["unshare", "mount", "umount"]) {
        return;
    }
    let source = mount.dir("source");
    let inner = source.join("a/inner");
    fs::create_dir_all(inner.join("deep")).unwrap();
    fs::write(inner.join("deep/covered"), "before the mount").unwrap();
    fs::write(source.join("beside"), "beside").unwrap();
    let mut volume = Volume::new(&source);
    volume.keep_tracking();
    let daemon = volume.start_ready();
    // A container that existed before still sees what is now covered on the host.
    let point = elsewhere();
    let script = "echo ready; read go; echo 'by the container' > \"$1/deep/covered\"; echo new > \"$1/deep/created\"";
    let private = ["--mount", "--propagation", "private"];
    let mut container = enter(&private, &inner, point.path(), script, "container");
    let mut container = container.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut word = [0; 6];
    std::io::Read::read_exact(container.stdout.as_mut().unwrap(), &mut word).unwrap();
    assert_eq!(&word, b"ready\n");

    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&inner));
    let unmount = Unmount(&inner);
    volume.status_when("the mount is named", SOON, |status| is_degraded(status, "inner"));
    fs::write(inner.join("foreign"), "not ours").unwrap();
    fs::write(source.join("beside"), "changed beside").unwrap();
    // Its parent is listed again, in two drains, which would prove a missing name gone.
    for round in 0..3 {
        fs::write(source.join("a/sibling"), format!("{round}")).unwrap();
        fs::write(source.join(format!("a/new{round}")), "x").unwrap();
        volume.sync(SYNC).expect(20);
    }
    let copy = volume.scratch("while mounted");
    volume.restore(&copy).expect(0);
    assert_eq!(fs::read_to_string(copy.join("a/inner/deep/covered")).unwrap(), "before the mount");
    assert_eq!(fs::read_to_string(copy.join("beside")).unwrap(), "changed beside");
    assert!(!copy.join("a/inner/foreign").exists());

    // A start that trusts its marks lists nothing, and one that trusts none finds files that nobody can read now: both must
    // handle the mount.
    daemon.kill9();
    let daemon = volume.start_ready();
    volume.status_when("the mount is named after a restart", SOON, |status| is_degraded(status, "inner"));
    assert!(daemon.stop().success());
    volume.lose_marks();
    let daemon = volume.start_ready();
    volume.status_when("the mount is named after a comparison", SOON, |status| is_degraded(status, "inner"));
    volume.sync(SYNC).expect(20);
    assert_eq!(volume.status()["unreadable_total"], 0);

    std::io::Write::write_all(&mut container.stdin.take().unwrap(), b"go\n").unwrap();
    assert!(container.wait().unwrap().success());
    drop(unmount);
    volume.status_when("the mount is gone", SOON, |status| status["state"] == "protected");
    volume.sync(SYNC).expect(0);
    assert_eq!(fs::read_to_string(inner.join("deep/covered")).unwrap(), "by the container\n");
    volume.restored("after");
    assert!(daemon.stop().success());
}

/// Unmounts when dropped.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

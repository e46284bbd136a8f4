//! What only the local store does: temporaries, links, refused folders, full disks.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

fn store() -> (tempfile::TempDir, Local) {
    let dir = tempfile::tempdir().unwrap();
    let local = Local::open(dir.path(), Make::Nothing).unwrap();
    (dir, local)
}

fn kind<T: std::fmt::Debug>(result: Result<T, StoreError>) -> ErrorKind {
    result.unwrap_err().kind
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn no_temporary_stays_after_either_outcome() {
    let (dir, local) = store();
    local.create("f/k", Bytes::from_static(b"1")).unwrap();
    local.create("f/k", Bytes::from_static(b"2")).unwrap();
    assert_eq!(files(&dir.path().join("f")), ["k"]);
}

#[test]
fn old_temporaries_are_swept_at_open_and_never_listed() {
    let (dir, local) = store();
    local.create("f/k", Bytes::from_static(b"1")).unwrap();
    let (old, new) = (dir.path().join("f/.tmp-1-k"), dir.path().join("f/.tmp-2-k"));
    for path in [&old, &new] {
        std::fs::write(path, b"half").unwrap();
    }
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    File::options().write(true).open(&old).unwrap().set_modified(past).unwrap();
    assert_eq!(local.list("", None).unwrap().entries.len(), 1);
    Local::open(dir.path(), Make::Nothing).unwrap();
    assert_eq!(files(&dir.path().join("f")), [".tmp-2-k", "k"], "a living writer's temporary is left alone");
}

#[test]
fn symbolic_links_do_not_lead_out() {
    let (dir, local) = store();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"s").unwrap();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("leaf")).unwrap();
    for key in ["out/secret", "leaf"] {
        assert_eq!(kind(local.get(key)), ErrorKind::Misconfigured);
        assert_eq!(kind(local.exists(key)), ErrorKind::Misconfigured);
        assert_eq!(kind(local.create(key, Bytes::from_static(b"x"))), ErrorKind::Misconfigured);
    }
    assert_eq!(kind(local.delete("out/secret")), ErrorKind::Misconfigured);
    assert_eq!(kind(local.create("out/new/file", Bytes::new())), ErrorKind::Misconfigured);
    assert_eq!(files(outside.path()), ["secret"]);
    assert_eq!(local.list("", None).unwrap().entries, []);
    local.delete("leaf").unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
}

#[test]
fn a_file_in_place_of_a_folder_is_said() {
    let (dir, local) = store();
    std::fs::write(dir.path().join("f"), b"").unwrap();
    let error = local.create("f/k", Bytes::new()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert_eq!(error.hint(), "a file is where a folder must be");
    std::fs::create_dir(dir.path().join("d")).unwrap();
    assert_eq!(kind(local.create("d", Bytes::new())), ErrorKind::Misconfigured);
}

#[test]
fn a_store_that_went_away_is_not_an_empty_store() {
    let (dir, local) = store();
    local.create("v/k", Bytes::from_static(b"1")).unwrap();
    let aside = tempfile::tempdir().unwrap();
    std::fs::rename(dir.path().join("v"), aside.path().join("v")).unwrap();
    assert!(!local.exists("v/k").unwrap(), "the directory itself is there");
    std::fs::rename(dir.path(), aside.path().join("store")).unwrap();
    std::fs::create_dir(dir.path()).unwrap();
    assert_eq!(kind(local.exists("v/k")), ErrorKind::StoreAbsent);
    assert_eq!(kind(local.get("v/k")), ErrorKind::StoreAbsent);
    assert_eq!(kind(local.delete("v/k")), ErrorKind::StoreAbsent);
    assert_eq!(kind(local.list("", None)), ErrorKind::StoreAbsent);
    assert_eq!(kind(Local::open(&dir.path().join("none"), Make::Nothing)), ErrorKind::StoreAbsent);
}

/// A share that was unmounted and mounted again looks like this: another directory with the same objects.
#[test]
fn the_same_store_at_another_inode_is_gone_on_with_and_nothing_else_is() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);
    let put = |dir: &Path, format: &[u8]| {
        std::fs::create_dir_all(dir.join("v")).unwrap();
        std::fs::write(dir.join("v/format"), format).unwrap();
    };
    let code = |error: StoreError| (error.kind, error.code);
    std::fs::create_dir(at("store")).unwrap();
    let local = Local::open(&at("store"), Make::Nothing).unwrap();
    // Nothing is known of the store yet, so any other directory may be another store.
    std::fs::rename(at("store"), at("aside")).unwrap();
    put(&at("store"), b"volume 1");
    assert_eq!(code(local.get("v/format").unwrap_err()), (ErrorKind::StoreAbsent, Some(AWAY.into())));
    std::fs::remove_dir_all(at("store")).unwrap();
    std::fs::rename(at("aside"), at("store")).unwrap();
    local.create("v/format", Bytes::from_static(b"volume 1")).unwrap();

    std::fs::rename(at("store"), at("aside")).unwrap();
    let every = |local: &Local| {
        [
            local.create("v/k", Bytes::from_static(b"1")).unwrap_err(),
            local.get("v/format").unwrap_err(),
            local.exists("v/format").unwrap_err(),
            local.delete("v/format").unwrap_err(),
            local.list("", None).unwrap_err(),
        ]
    };
    for error in every(&local) {
        assert_eq!(code(error), (ErrorKind::StoreAbsent, Some(AWAY.into())));
    }
    assert!(!at("store").exists(), "nothing was made");
    std::fs::create_dir_all(at("store/lost+found")).unwrap();
    for error in every(&local) {
        assert!(error.hint().contains("mount"), "{}", error.hint());
        assert_eq!(code(error), (ErrorKind::StoreAbsent, Some(AWAY.into())));
    }
    assert_eq!(files(&at("store")), ["lost+found"], "nothing was made below the mount point");
    put(&at("store"), b"volume 2");
    for error in every(&local) {
        assert!(error.hint().contains("mount"), "{}", error.hint());
        assert_eq!(code(error), (ErrorKind::StoreAbsent, Some(OTHER_STORE.into())));
    }
    assert_eq!(files(&at("store/v")), ["format"], "nothing was made in another store");
    put(&at("store"), b"volume 1");
    assert_eq!(local.create("v/k", Bytes::from_static(b"1")).unwrap(), Created::Yes);
    assert_eq!(files(&at("store/v")), ["format", "k"]);
    assert_eq!(files(&at("aside/v")), ["format"], "the directory that was opened first is let go of");
    std::fs::remove_dir_all(at("store")).unwrap();
    std::fs::rename(at("aside"), at("store")).unwrap();
    assert!(!local.exists("v/k").unwrap(), "and it can come back");
}

/// A dead mount still returns cached attributes, so the path alone tells nothing.
#[test]
fn a_directory_that_was_said_to_be_dead_is_opened_anew() {
    let (dir, local) = store();
    local.create("v/format", Bytes::from_static(b"1")).unwrap();
    let before = local.root(Op::Get, "k").unwrap();
    assert!(Arc::ptr_eq(&before, &local.root(Op::Get, "k").unwrap()));
    for errno in [Errno::NOTCONN, Errno::STALE] {
        let before = local.root(Op::Get, "k").unwrap();
        assert_eq!(local.error(&before, Op::Get, "k", errno).kind, ErrorKind::Transient);
        let after = local.root(Op::Get, "k").unwrap();
        assert!(!Arc::ptr_eq(&before, &after) && after.is_at(dir.path()));
    }
}

#[test]
fn a_folder_removed_behind_our_back_is_made_again() {
    let (dir, local) = store();
    local.create("f/g/k", Bytes::from_static(b"1")).unwrap();
    std::fs::remove_dir_all(dir.path().join("f")).unwrap();
    assert_eq!(local.create("f/g/k", Bytes::from_static(b"2")).unwrap(), Created::Yes);
}

#[test]
fn a_folder_without_permission_is_denied() {
    let (dir, local) = store();
    if rustix::process::geteuid().is_root() {
        println!("SKIP a_folder_without_permission_is_denied: root may do everything");
        return;
    }
    std::fs::create_dir(dir.path().join("f")).unwrap();
    std::fs::set_permissions(dir.path().join("f"), std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = local.create("f/k", Bytes::new()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.hint().contains("owner and mode"), "{}", error.hint());
}

/// Runs in its own mount namespace, where a small tmpfs can be filled and made read-only.
#[test]
fn full_and_read_only_file_systems_are_said_and_leave_nothing() {
    const INSIDE: &str = "TRACKER_TEST_SMALL_FS";
    if let Some(dir) = std::env::var_os(INSIDE) {
        let dir = Path::new(&dir);
        let local = Local::open(dir, Make::Nothing).unwrap();
        local.create("f/small", Bytes::from_static(b"1")).unwrap();
        let error = local.create("f/large", Bytes::from(vec![1; 2 << 20])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
        assert_eq!(files(&dir.join("f")), ["small"], "nothing stays that takes space");
        assert_eq!(local.create("f/next", Bytes::from_static(b"2")).unwrap(), Created::Yes);
        // By system call: mount(8) repeats the owner that mountinfo shows, which this namespace does not know.
        rustix::mount::mount_remount(dir, rustix::mount::MountFlags::RDONLY, "").unwrap();
        assert_eq!(kind(local.create("f/k", Bytes::new())), ErrorKind::ReadOnly);
        assert_eq!(kind(local.create("new/k", Bytes::new())), ErrorKind::ReadOnly);
        assert_eq!(kind(local.delete("f/small")), ErrorKind::ReadOnly);
        assert_eq!(local.get("f/small").unwrap(), b"1");
        return;
    }
    const NAME: &str = "store::local::tests::full_and_read_only_file_systems_are_said_and_leave_nothing";
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$1\" || exit 77; \"$2\" --exact \"$3\" --nocapture";
    let outcome = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg(NAME)
        .env(INSIDE, dir.path())
        .output();
    match outcome {
        Ok(out) if out.status.success() => assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed")),
        Ok(out) if out.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        }
        Ok(out) => println!("SKIP {NAME}: no user namespace here: {}", String::from_utf8_lossy(&out.stderr)),
        Err(e) => println!("SKIP {NAME}: unshare: {e}"),
    }
}

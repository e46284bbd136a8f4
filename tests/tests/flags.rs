//! Inode flags and projects: a change of them alone is committed, and which of them a restore sets or reports. `chattr`
//! sets and clears them, so that the product is not on both sides.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engine::catalog::CatalogChange;
use engine::model::FileId;
use serde_json::Value;
use tests::compare::{Options, assert_same, compare};
use tests::daemon::{Answer, Volume, binary, utf8};
use tests::load::number;
use tests::mounts::{Kind, Mount, SmallStore, programs_or_skip, root_or_skip, run};
use tracker::catalog::Catalog;

const SYNC: Duration = Duration::from_secs(60);
/// Many times a volume's interval of 100 ms, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The project of the test's files.
const PROJECT: &str = "4711";

fn chattr(flags: &[&str], path: &Path) {
    run(Command::new("chattr").args(flags).arg(path));
}

/// The letters of `lsattr`, and its project.
fn lsattr(path: &Path) -> (String, String) {
    let text = run(Command::new("lsattr").args(["-d", "-p"]).arg(path));
    let mut words = text.split_whitespace();
    let project = words.next().unwrap_or_default().to_owned();
    (words.next().unwrap_or_default().replace('-', ""), project)
}

/// Removes every seal, so that a tree can be changed and removed. Symlinks have none, for which `chattr` reports a failure.
fn unseal(dir: &Path) {
    let _ = Command::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(dir).status();
}

/// A tree that is unsealed when dropped.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        unseal(&self.0);
    }
}

/// Whether files there can have a project: ext4 must be created for it, by a kernel with quotas.
fn has_projects(dir: &Path) -> bool {
    let file = tempfile::NamedTempFile::new_in(dir).unwrap();
    Command::new("chattr").args(["-p", PROJECT]).arg(file.path()).output().unwrap().status.success()
}

/// Which flags to set on which entry, for this kind of file system.
fn changes(kind: Kind, projects: bool) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all = vec![
        ("immutable", vec!["+i"]),
        ("append", vec!["+a"]),
        ("nodump", vec!["+d"]),
        ("noatime", vec!["+A"]),
        ("sync", vec!["+S"]),
        ("dir-immutable", vec!["+i"]),
        ("dir-append", vec!["+a"]),
        ("dir-nodump", vec!["+d"]),
    ];
    if projects {
        all.extend([("project", vec!["-p", PROJECT]), ("dir-project", vec!["-p", PROJECT, "+P"])]);
    }
    match kind {
        Kind::Btrfs => {
            all.extend([("nocow", vec!["+C"]), ("dir-nocow", vec!["+C"]), ("compressed", vec!["+A"])]);
        }
        Kind::Ext4 => {
            all.extend([("dirsync", vec!["+D"]), ("topdir", vec!["+T"]), ("notail", vec!["+t"])]);
        }
        _ => {}
    }
    all
}

/// Creates every entry of [`changes`], without flags; btrfs accepts no-COW only for empty files.
fn fill(source: &Path, changes: &[(&str, Vec<&str>)]) {
    for (name, _) in changes {
        let (name, path) = (*name, source.join(name));
        if name.starts_with("dir") || name == "topdir" {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("inside"), name).unwrap();
            symlink("inside", path.join("link")).unwrap();
            fs::hard_link(path.join("inside"), path.join("second")).unwrap();
            fs::create_dir(path.join("below")).unwrap();
        } else {
            fs::write(&path, if name == "nocow" { Vec::new() } else { vec![7; 200_000] }).unwrap();
        }
    }
}

/// After any call of `chattr`, btrfs uses its default method zlib instead (`btrfs_fileattr_set`, Linux 6.18).
fn by_zstd(path: &Path) {
    rustix::fs::setxattr(path, "btrfs.compression", b"zstd", rustix::fs::XattrFlags::empty()).unwrap();
}

/// Restores the newest commit into a directory of `copies`, and compares.
#[track_caller]
fn restored(volume: &Volume, copies: &Path, name: &str) -> Tree {
    let copy = copies.join(name);
    volume.restore(&copy).expect(0);
    assert_same(&volume.source, &copy);
    Tree(copy)
}

#[track_caller]
fn merge(volume: &Volume, copy: &Path) -> Answer {
    let reference = volume.reference();
    volume.tracker(&["restore", utf8(&reference), utf8(copy), "--merge", "--json"])
}

fn areas(copy: &Path) -> usize {
    fs::read_dir(copy)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".tracker"))
        .count()
}

/// Sets each flag, and a project, while the daemon runs, without any other change: a commit has them soon, and so has the
/// restore. Then all are removed again.
#[test]
fn a_change_of_flags_alone_is_committed_and_restored() {
    let name = "a_change_of_flags_alone_is_committed_and_restored";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mount) = Mount::with_projects_or_skip(name, kind) else { continue };
        if !programs_or_skip(name, "root", &["chattr", "lsattr"]) {
            return;
        }
        let (source, copies) = (mount.dir("source"), mount.dir("copies"));
        let projects = has_projects(&copies);
        let changes = changes(kind, projects);
        assert!(projects == (kind == Kind::Xfs) || kind == Kind::Ext4, "{kind:?}");
        fill(&source, &changes);
        let _sealed = Tree(source.clone());
        let volume = Volume::new(&source);
        let daemon = volume.start_ready();
        volume.sync(SYNC).expect(0);
        drop(restored(&volume, &copies, "without"));
        for (entry, flags) in &changes {
            let before = number(&volume.status(), "commits");
            chattr(flags, &source.join(entry));
            volume
                .status_when(&format!("{kind:?} {entry}: a commit"), SOON, |status| number(status, "commits") > before);
        }
        if kind == Kind::Btrfs {
            by_zstd(&source.join("compressed"));
            fs::write(source.join("nocow"), vec![9; 300_000]).unwrap();
            fs::write(source.join("dir-nocow/born"), vec![9; 300_000]).unwrap();
        }
        volume.sync(SYNC).expect(0);
        let copy = restored(&volume, &copies, "with");
        // Checks that they are really set, not just equal on both sides.
        let of = |entry: &str| lsattr(&copy.0.join(entry));
        assert!(of("immutable").0.contains('i') && of("dir-append").0.contains('a') && of("nodump").0.contains('d'));
        assert!(kind != Kind::Btrfs || of("nocow").0.contains('C') && of("dir-nocow/born").0.contains('C'));
        assert!(!projects || of("project").1 == PROJECT && of("dir-project").0.contains('P'));
        drop(copy);

        let before = number(&volume.status(), "commits");
        unseal(&source);
        for (entry, flags) in changes.iter().filter(|(_, flags)| !flags.contains(&"+C")) {
            let off = flags.iter().map(|flag| if *flag == PROJECT { "0".into() } else { flag.replace('+', "-") });
            let off: Vec<String> = off.collect();
            chattr(&off.iter().map(String::as_str).collect::<Vec<_>>(), &source.join(entry));
        }
        volume.status_when("a commit", SOON, |status| number(status, "commits") > before);
        volume.sync(SYNC).expect(0);
        let copy = restored(&volume, &copies, "cleared");
        assert!(!lsattr(&copy.0.join("immutable")).0.contains('i'));
        assert!(daemon.stop().success());
    }
}

/// Flags that change while no daemon runs, and nothing is marked, are found by the comparison.
#[test]
fn flags_that_changed_while_nobody_looked_are_found() {
    let name = "flags_that_changed_while_nobody_looked_are_found";
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some(mount) = Mount::with_projects_or_skip(name, kind) else { continue };
        let (source, copies) = (mount.dir("source"), mount.dir("copies"));
        let projects = has_projects(&copies);
        let changes = changes(kind, projects);
        assert!(projects == (kind == Kind::Xfs) || kind == Kind::Ext4, "{kind:?}");
        fill(&source, &changes);
        let _sealed = Tree(source.clone());
        let volume = Volume::new(&source);
        let daemon = volume.start_ready();
        volume.sync(SYNC).expect(0);
        assert!(daemon.stop().success());
        for (entry, flags) in &changes {
            chattr(flags, &source.join(entry));
        }
        let daemon = volume.start_ready();
        volume.sync(SYNC).expect(0);
        drop(restored(&volume, &copies, "copy"));
        assert!(daemon.stop().success());
    }
}

/// A tree that was sealed before it was protected is read, and can be restored repeatedly: the second time nothing changes.
/// What would have to change behind a seal is a reported failure, and no temporary area stays.
#[test]
fn a_sealed_tree_is_restored_again_without_a_change() {
    let name = "a_sealed_tree_is_restored_again_without_a_change";
    for (kind, root) in [(Kind::Ext4, None), (Kind::Ext4, Some("+i")), (Kind::Xfs, Some("+a")), (Kind::Btrfs, None)] {
        let Some(mount) = Mount::with_projects_or_skip(name, kind) else { continue };
        let (source, copies) = (mount.dir("source"), mount.dir("copies"));
        let projects = has_projects(&copies);
        let changes = changes(kind, projects);
        assert!(projects == (kind == Kind::Xfs) || kind == Kind::Ext4, "{kind:?}");
        fill(&source, &changes);
        let _sealed = Tree(source.clone());
        for (entry, flags) in &changes {
            chattr(flags, &source.join(entry));
        }
        root.iter().for_each(|flag| chattr(&[flag], &source));
        let volume = Volume::new(&source);
        let daemon = volume.start_ready();
        volume.sync(SYNC).expect(0);
        assert_eq!(areas(&source), 0, "the self-test leaves nothing where nothing can be removed");
        let copy = restored(&volume, &copies, "copy");
        let sealed = ["immutable", "append", "dir-immutable", "dir-append/inside", "dir-immutable/link"];
        let times = || {
            sealed
                .map(|entry| fs::symlink_metadata(copy.0.join(entry)).unwrap())
                .map(|meta| (meta.ino(), meta.ctime_nsec()))
        };
        let before = times();
        let again = merge(&volume, &copy.0);
        again.expect(0);
        assert_eq!((number(&again.json(), "failed_count"), number(&again.json(), "partial_count")), (0, 0));
        assert_same(&source, &copy.0);
        let after = times();
        assert_eq!((before[0], before[1], before[2], before[4]), (after[0], after[1], after[2], after[4]), "{kind:?}");
        assert_eq!(areas(&copy.0), 0);

        unseal(&source);
        fs::write(source.join("immutable"), "other bytes").unwrap();
        fs::set_permissions(source.join("append"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(source.join("dir-immutable/new"), "new").unwrap();
        for (entry, flags) in [("immutable", "+i"), ("append", "+a"), ("dir-immutable", "+i")] {
            chattr(&[flags], &source.join(entry));
        }
        volume.sync(SYNC).expect(0);
        let refused = merge(&volume, &copy.0);
        refused.expect(3);
        let told = refused.json();
        let paths = |list: &str| -> Vec<String> {
            let all = told[list].as_array().unwrap();
            let mut paths: Vec<_> = all.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect();
            paths.sort();
            paths
        };
        assert_eq!(paths("failed"), ["dir-immutable/new", "immutable"], "{told:#}");
        assert!(told["failed"].to_string().contains("or its directory, is immutable or append-only"), "{told:#}");
        assert!(
            paths("partial").contains(&"append".to_owned()) && paths("partial").contains(&"dir-immutable".to_owned())
        );
        assert_eq!(areas(&copy.0), 0);
        assert_eq!(fs::read(copy.0.join("immutable")).unwrap(), vec![7; 200_000], "what was there is still there");
        unseal(&copy.0);
        merge(&volume, &copy.0).expect(0);
        assert_same(&source, &copy.0);
        unseal(&source);
        assert!(daemon.stop().success());
    }
}

fn partial(answer: &Value) -> Vec<(String, String)> {
    let all = answer["partial"].as_array().unwrap();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    all.iter().map(|entry| (text(entry, "path"), text(entry, "what"))).collect()
}

/// If a target has no such flag, or a process may not set it, that is reported by file and cause, with exit code 3, and
/// everything else is restored.
#[test]
fn flags_that_cannot_be_set_are_named() {
    let name = "flags_that_cannot_be_set_are_named";
    let Some(mount) = Mount::new_or_skip(name, Kind::Xfs) else { return };
    if !programs_or_skip(name, "root", &["setpriv"]) {
        return;
    }
    let (source, copies) = (mount.dir("source"), mount.dir("copies"));
    for (entry, flags) in [("f", vec!["+S", "+d"]), ("g", vec!["-p", PROJECT]), ("h", vec!["+i"])] {
        fs::write(source.join(entry), entry).unwrap();
        chattr(&flags, &source.join(entry));
    }
    let _sealed = Tree(source.clone());
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
    let reference = volume.reference();

    let small = SmallStore::new(64 << 20);
    let copy = Tree(small.path().join("copy"));
    let answer = volume.tracker(&["restore", utf8(&reference), utf8(&copy.0), "--json"]);
    answer.expect(3);
    let mut told = partial(&answer.json());
    told.sort();
    assert_eq!((told.len(), &*told[0].0, &*told[1].0), (2, "f", "g"), "{told:?}");
    assert!(told[0].1.starts_with("inode flags sync: ") && told[1].1.starts_with("project 4711 not set: "), "{told:?}");
    let differences = compare(&source, &copy.0, Options::default()).unwrap();
    assert_eq!(differences.len(), 2, "{differences:?}");
    drop(copy);

    let copy = copies.join("bounded");
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-linux_immutable"])
        .arg(binary())
        .args(["restore", utf8(&reference), utf8(&copy), "--json"])
        .output();
    let answer = Answer::from(output.unwrap());
    answer.expect(3);
    let not_permitted = "inode flags immutable: Operation not permitted (os error 1)";
    assert_eq!(partial(&answer.json()), [("h".to_owned(), not_permitted.to_owned())]);
    assert_eq!(fs::read(copy.join("h")).unwrap(), b"h");

    // `--untrusted` leaves out a stranger's seals and projects.
    let copy = copies.join("untrusted");
    let answer = volume.tracker(&["restore", utf8(&reference), utf8(&copy), "--untrusted", "--json"]);
    answer.expect(0);
    assert_eq!(number(&answer.json(), "left_out_count"), 2);
    assert!(!lsattr(&copy.join("h")).0.contains('i') && lsattr(&copy.join("f")).0.contains('d'));
    let listed = volume.tracker(&["ls", utf8(&reference)]).stdout;
    assert!(listed.contains("f [no-dump, sync]") && listed.contains("h [immutable]"), "{listed}");
    assert!(listed.contains(&format!("g [project {PROJECT}]")), "{listed}");
    volume.verify(true).expect(0);
}

/// An overlay keeps seals of a file in an attribute of its layer's inode, which the daemon reads.
#[test]
fn flags_of_an_overlay_are_those_its_users_see() {
    let name = "flags_of_an_overlay_are_those_its_users_see";
    let Some(mount) = Mount::new_or_skip(name, Kind::Overlay) else { return };
    let (source, copies) = (mount.dir("source"), mount.dir("copies"));
    for entry in ["immutable", "append", "nodump"] {
        fs::write(source.join(entry), entry).unwrap();
    }
    let _sealed = Tree(source.clone());
    let volume = Volume::new(&source);
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    for (entry, flag) in [("immutable", "+i"), ("append", "+a"), ("nodump", "+d")] {
        let before = number(&volume.status(), "commits");
        chattr(&[flag], &source.join(entry));
        volume.status_when(entry, SOON, |status| number(status, "commits") > before);
    }
    volume.sync(SYNC).expect(0);
    let copy = restored(&volume, &copies, "copy");
    assert!(lsattr(&copy.0.join("immutable")).0.contains('i'));
    assert!(daemon.stop().success());
}

/// A catalog of a version that did not read flags: they are read for every file, once, without any change.
#[test]
fn flags_are_read_once_for_a_catalog_that_has_none() {
    let name = "flags_are_read_once_for_a_catalog_that_has_none";
    if !root_or_skip(name) {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("f"), "f").unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    ["f", "d"].iter().for_each(|entry| chattr(&["+d"], &source.path().join(entry)));
    let mut volume = Volume::new(source.path());
    volume.keep_tracking();
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
    let rows = |catalog: &Catalog| {
        let all = catalog.files_after(FileId(0), 100).unwrap();
        all.into_iter().filter(|row| row.id != FileId::ROOT).collect::<Vec<_>>()
    };
    let open = || Catalog::open(&Catalog::location(&volume.state, &volume.name)).unwrap();
    let flagged = |catalog: &Catalog| rows(catalog).iter().filter(|row| row.meta.flags != 0).count();
    {
        let catalog = open();
        assert_eq!(flagged(&catalog), 2);
        let mut records = rows(&catalog);
        records.iter_mut().for_each(|row| row.meta.flags = 0);
        catalog.apply(&CatalogChange { records, ..CatalogChange::default() }).unwrap();
    }
    // It is noted that they were read, and that is trusted.
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
    {
        let catalog = open();
        assert_eq!(flagged(&catalog), 0);
        catalog.set_note("inode flags", "").unwrap();
    }
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    assert!(daemon.stop().success());
    assert_eq!(flagged(&open()), 2);
    volume.restored("copy");
}

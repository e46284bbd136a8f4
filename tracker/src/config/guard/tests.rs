//! Cycles of every kind in a temporary directory. Bind mounts need root: their case uses a stored mount table.

use crate::config::guard::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(dirs: &[&str]) -> Tree {
        let dir = tempfile::tempdir().unwrap();
        for path in dirs {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        Tree(dir)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn volume(&self, source: &str, store: &str) -> GuardedVolume {
        GuardedVolume { name: source.replace('/', "-"), source: self.at(source), store: Some(self.at(store)) }
    }

    fn check(&self, volumes: &[GuardedVolume], state: &str) -> Vec<GuardKind> {
        check_paths(volumes, &self.at(state), &[]).into_iter().map(|e| e.kind).collect()
    }
}

#[test]
fn separate_places_are_fine_whether_they_exist_or_not() {
    let tree = Tree::new(&["a", "b", "backup"]);
    let volumes = [tree.volume("a", "backup"), tree.volume("b", "backup"), tree.volume("b2/../b", "new/backup")];
    assert!(tree.check(&volumes[..2], "state").is_empty());
    assert!(tree.check(&[tree.volume("a", "ab")], "abc").is_empty(), "a common beginning of a name is no cycle");
    let s3 = GuardedVolume { store: None, ..tree.volume("a", "a") };
    assert!(tree.check(&[s3], "state").is_empty());
}

#[test]
fn every_kind_of_cycle_is_refused() {
    let tree = Tree::new(&["a/inner", "backup/src", "state/src", "b"]);
    let one = |volume: GuardedVolume, state: &str| {
        let mut found = tree.check(&[volume], state);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    assert!(matches!(one(tree.volume("a", "a/backup/deep"), "state2"), GuardKind::StoreInSource { .. }));
    assert!(matches!(one(tree.volume("a", "a"), "state2"), GuardKind::StoreInSource { .. }));
    assert!(matches!(one(tree.volume("backup/src", "backup"), "state2"), GuardKind::SourceInStore { .. }));
    assert!(matches!(one(tree.volume("a", "backup"), "a/state"), GuardKind::StateInSource { .. }));
    assert!(matches!(one(tree.volume("state/src", "backup"), "state"), GuardKind::SourceInState { .. }));
    let nested = tree.check(&[tree.volume("a/inner", "backup"), tree.volume("a", "backup")], "state2");
    assert!(matches!(nested[..], [GuardKind::Nested { .. }]), "{nested:?}");
    let twice = tree.check(&[tree.volume("b", "backup"), tree.volume("b", "backup")], "state2");
    assert!(matches!(twice[..], [GuardKind::Nested { .. }]), "{twice:?}");
    let other = tree.check(&[tree.volume("b", "a/backup"), tree.volume("a", "backup")], "state2");
    assert!(matches!(other[..], [GuardKind::StoreInSource { .. }]), "the store of another volume: {other:?}");
}

#[test]
fn symlinks_hide_no_cycle() {
    let tree = Tree::new(&["a/inner", "elsewhere"]);
    std::os::unix::fs::symlink(tree.at("a/inner"), tree.at("elsewhere/link")).unwrap();
    let found = tree.check(&[tree.volume("a", "elsewhere/link/backup")], "state");
    assert!(matches!(found[..], [GuardKind::StoreInSource { .. }]), "{found:?}");
}

#[test]
fn a_log_file_in_a_source_is_refused() {
    let tree = Tree::new(&["a"]);
    fs::write(tree.at("a/log"), "").unwrap();
    let found = check_paths(&[tree.volume("a", "backup")], &tree.at("state"), &[tree.at("a/log")]);
    assert!(matches!(found[..], [GuardError { kind: GuardKind::LogInSource { .. }, .. }]), "{found:?}");
}

#[test]
fn a_source_that_is_absent_or_a_file_has_its_own_words() {
    let tree = Tree::new(&[]);
    fs::write(tree.at("f"), "").unwrap();
    let absent = check_paths(&[tree.volume("none", "backup")], &tree.at("state"), &[]).remove(0);
    assert!(matches!(absent.kind, GuardKind::SourceAbsent { .. }));
    let error = AppError::from(absent);
    assert_eq!(error.code, ExitCode::Error);
    assert!(error.message.ends_with("none does not exist") && error.hint.is_some(), "{error:?}");
    let file = tree.check(&[tree.volume("f", "backup")], "state");
    assert!(matches!(file[..], [GuardKind::SourceNotDirectory { .. }]), "{file:?}");
    fs::create_dir(tree.at("a")).unwrap();
    let store = tree.check(&[tree.volume("a", "f")], "state");
    assert!(matches!(store[..], [GuardKind::StoreNotDirectory { .. }]), "{store:?}");
}

#[test]
fn a_bind_mount_hides_no_cycle() {
    let table = b"21 1 8:1 / / rw - ext4 /dev/a rw\n\
        30 21 8:1 /srv/data/sub\\040dir /mnt/bound rw - ext4 /dev/a rw\n\
        31 21 8:2 / /mnt/other rw - ext4 /dev/b rw\n";
    let mounts: Vec<Mount> = mountinfo::mounts(table).collect();
    let place = |path: &str| Place { own: None, chain: HashSet::new(), inside_fs: inside_fs(&mounts, Path::new(path)) };
    let source = place("/srv/data");
    assert!(place("/mnt/bound/backup").is_inside(&source), "{:?}", inside_fs(&mounts, Path::new("/mnt/bound/backup")));
    assert!(!place("/mnt/other/srv/data").is_inside(&source), "the same path on another file system");
    assert!(!place("/srv/database").is_inside(&source));
}

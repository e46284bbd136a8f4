//! Volumes that are added, changed and removed, with real volumes that scan.

use std::path::PathBuf;

use crate::config;
use crate::daemon::fleet::*;
use crate::daemon::metrics::Process;

struct Bed {
    dir: tempfile::TempDir,
    endpoint: Arc<Endpoint>,
    fleet: Option<Fleet>,
}

impl Bed {
    /// A daemon whose file says `text`, after what all these files have in common.
    fn new(text: &str) -> Bed {
        Bed::whole(&format!("{COMMON}{text}"))
    }

    /// A daemon whose file says `text`.
    fn whole(text: &str) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::bind(None, Arc::new(Process::new())).unwrap();
        let mut bed = Bed { dir, endpoint: Arc::new(endpoint), fleet: None };
        for name in ["a", "b", "c"] {
            std::fs::create_dir(bed.at(name)).unwrap();
            std::fs::write(bed.at(name).join("file"), name).unwrap();
        }
        std::fs::create_dir(bed.at("state")).unwrap();
        bed.write(text);
        let config = config::load(&bed.at("tracker.toml"), &bed.at("state")).unwrap();
        bed.fleet = Some(Fleet::start(&config, &bed.at("state"), Arc::clone(&bed.endpoint)).unwrap());
        bed
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, text: &str) {
        std::fs::write(self.at("tracker.toml"), text.replace('@', self.dir.path().to_str().unwrap())).unwrap();
    }

    fn fleet(&self) -> &Fleet {
        self.fleet.as_ref().unwrap()
    }

    /// Each change in words.
    fn reload(&self, text: &str) -> Vec<String> {
        self.reload_whole(&format!("{COMMON}{text}"))
    }

    fn reload_whole(&self, text: &str) -> Vec<String> {
        self.write(text);
        self.words(self.fleet().reload().unwrap())
    }

    fn words(&self, changes: Vec<Change>) -> Vec<String> {
        changes.iter().map(|change| change.to_string().replace(self.dir.path().to_str().unwrap(), "@")).collect()
    }

    fn set(&self, volume: &str, settings: serde_json::Value) -> Result<Vec<Change>, ControlError> {
        self.fleet().change(volume, settings.as_object().unwrap())
    }

    #[track_caller]
    fn is_when(&self, volume: &str, state: &str) -> VolumeStatus {
        let begun = Instant::now();
        loop {
            let status = self.fleet().status();
            let found = status.iter().find(|found| found.volume == volume);
            if let Some(found) = found.filter(|found| found.state.name() == state) {
                return found.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{volume} is not {state}: {status:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn config(&self, name: &str) -> VolumeConfig {
        let options = config::VolumeOptions { capture: config::CaptureMode::SCAN, ..Default::default() };
        let store = self.at("store").to_str().unwrap().parse().unwrap();
        VolumeConfig { name: name.into(), source: self.at(name), store, options, allow: Allow::default() }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.endpoint.close();
        if let Some(fleet) = &self.fleet {
            assert!(fleet.stop().is_empty() || std::thread::panicking());
        }
    }
}

fn volume(name: &str, more: &str) -> String {
    format!("[[volume]]\nname = \"{name}\"\nsource = \"@/{name}\"\n{more}\n")
}

const COMMON: &str = "[defaults]\ncapture = \"scan\"\ninterval = \"20ms\"\nstore = \"@/store\"\n";
const QUIET: &str = "[metrics]\nlisten = \"off\"\n";

#[test]
fn a_reload_adds_changes_and_removes_and_names_each() {
    let bed = Bed::new(&format!("{QUIET}{}{}", volume("a", ""), volume("b", "")));
    bed.is_when("a", "protected");
    bed.is_when("b", "protected");
    assert_eq!(bed.reload(&format!("{QUIET}{}{}", volume("a", ""), volume("b", ""))), [""; 0]);
    std::fs::write(bed.at("b/last"), "before it goes").unwrap();
    let more = "interval = \"1s\"\nscrub = \"off\"\nstore = \"@/elsewhere\"\nsingle_writer = true";
    let global = "[kernel_maps]\ndirty = 9000\n[tracking]\nkeep = false\n";
    let file = format!("{QUIET}{global}{}{}", volume("a", more), volume("c", ""));
    let refused = "volume a: store = @/elsewhere refused: the volume runs, and its history is of the old store";
    let mut changes = bed.reload(&file);
    assert!(changes.remove(0).starts_with("the process: kernel_maps = "), "{changes:?}");
    let expected = [
        "the process: tracking.keep = false applied",
        "volume b: removed",
        refused,
        "volume a: interval = 1s applied",
        "volume a: scrub = off applied",
        "volume a: single_writer = true applied",
        "volume c: added",
    ];
    assert_eq!(changes, expected);
    assert_eq!(bed.is_when("a", "protected").interval_ms, 1000);
    bed.is_when("c", "protected");
    let names: Vec<String> = bed.fleet().status().into_iter().map(|v| v.volume).collect();
    assert_eq!(names, ["a", "c"]);
    // What was refused is refused again; everything else is as the file says.
    assert_eq!(bed.reload(&file), [refused]);
    let reader = |name: &str| {
        let store = crate::store::open(&bed.config(name).store, &crate::store::StoreOptions::default()).unwrap();
        crate::repository::open(store, name).unwrap()
    };
    let there = reader("b").manifest(reader("b").choose(None).unwrap().seq).unwrap();
    assert!(there.resolve(b"last").is_some(), "the last flush was made");
}

#[test]
fn what_does_not_run_takes_any_change() {
    let bed = Bed::new(&format!("{QUIET}[[volume]]\nname = \"a\"\nsource = \"@/typo\"\n"));
    bed.is_when("a", "waiting");
    let changes = bed.reload(&format!("{QUIET}{}", volume("a", "")));
    assert_eq!(changes, ["volume a: source = @/a applied"]);
    bed.is_when("a", "protected");
    // It ends, because the directory is another one.
    std::fs::rename(bed.at("a"), bed.at("old")).unwrap();
    std::fs::create_dir(bed.at("a")).unwrap();
    bed.is_when("a", "stopped");
    assert_eq!(
        bed.words(bed.set("a", serde_json::json!({ "replaced": "adopt" })).unwrap()),
        ["volume a: replaced = adopt applied"]
    );
    let changes = bed.reload(&format!("{QUIET}{}", volume("a", "replaced = \"adopt\"")));
    assert_eq!(changes, [""; 0]);
    bed.is_when("a", "protected");
}

#[test]
fn a_request_adds_changes_and_removes_what_no_file_names() {
    let text = format!("{QUIET}{}", volume("a", ""));
    let bed = Bed::new(&text);
    bed.is_when("a", "protected");
    assert_eq!(bed.words(bed.fleet().add(&bed.config("b")).unwrap()), ["volume b: added"]);
    bed.is_when("b", "protected");
    assert_eq!(bed.fleet().add(&bed.config("b")), Err(ControlError::Exists { volume: "b".into() }));
    let inside = VolumeConfig { source: bed.at("a"), ..bed.config("d") };
    assert!(matches!(bed.fleet().add(&inside), Err(ControlError::Refused { .. })));
    let relative = VolumeConfig { source: "c".into(), ..bed.config("c") };
    assert!(matches!(bed.fleet().add(&relative), Err(ControlError::BadRequest { .. })));
    let changes = bed.set("b", serde_json::json!({ "interval": "2s", "create": true })).unwrap();
    assert_eq!(bed.words(changes), ["volume b: interval = 2s applied", "volume b: create = true applied"]);
    assert_eq!(bed.is_when("b", "protected").interval_ms, 2000);
    assert!(matches!(bed.set("b", serde_json::json!({ "x": 1 })), Err(ControlError::BadRequest { .. })));
    assert!(matches!(bed.set("b", serde_json::json!({ "interval": "1" })), Err(ControlError::BadRequest { .. })));
    // A reload leaves it alone, and undoes changes of a volume that the file names.
    bed.set("a", serde_json::json!({ "interval": "3s" })).unwrap();
    assert_eq!(bed.reload(&text), ["volume a: interval = 20ms applied"]);
    bed.is_when("b", "protected");
    assert_eq!(bed.words(bed.fleet().remove("b").unwrap()), ["volume b: removed"]);
    assert_eq!(bed.fleet().remove("b"), Err(ControlError::UnknownVolume { volume: "b".into() }));
    // It comes back as it was: nothing is uploaded again.
    bed.fleet().add(&bed.config("b")).unwrap();
    assert_eq!(bed.is_when("b", "protected").head_seq, 1);
}

#[test]
fn a_daemon_can_begin_without_volumes() {
    let nothing = format!("state_dir = \"@/state\"\n{COMMON}{QUIET}");
    let bed = Bed::whole(&nothing);
    assert_eq!(bed.fleet().status(), []);
    bed.fleet().add(&bed.config("b")).unwrap();
    bed.is_when("b", "protected");
    // It is in no file.
    assert_eq!(bed.reload_whole(&nothing), [""; 0]);
    assert_eq!(bed.words(bed.fleet().remove("b").unwrap()), ["volume b: removed"]);
    let changes = bed.reload_whole(&format!("{nothing}{}", volume("a", "")));
    assert_eq!(changes, ["volume a: added"]);
    bed.is_when("a", "protected");
    assert_eq!(bed.reload_whole(&nothing), ["volume a: removed"]);
}

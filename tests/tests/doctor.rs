//! `tracker doctor` on real file systems: its verdict agrees with what capture itself reports, and without the capabilities
//! it says so.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::capture_mounts::ALL;
use tests::capture_rig::config;
use tests::daemon::{binary, utf8};
use tests::mounts::{Kind, Mount, programs_or_skip, root_or_skip, run};
use tracker::capture::{Capture, mount_of};

fn doctor(mut command: Command, dir: &Path) -> (Option<i32>, Value) {
    let output = command.arg("doctor").arg(dir).args(["--json", "--state-dir", utf8(dir)]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), line)
}

#[test]
fn doctor_says_what_capture_says() {
    let name = "doctor_says_what_capture_says";
    let mut capture = None;
    for kind in ALL {
        let Some(mount) = Mount::new_or_skip(&format!("{name}_{kind:?}"), kind) else { continue };
        let capture = capture.get_or_insert_with(|| Capture::start(&config()).unwrap().0);
        let dir = mount.dir("d");
        let (code, line) = doctor(Command::new(binary()), &dir);
        let system = &line["directory"]["file_system"];
        let real = if kind == Kind::Overlay { "ext4" } else { &*mount_of(&dir).unwrap().fs_type };
        assert_eq!(system["name"], real, "{line}");
        let supported = capture.supported(real).is_ok();
        assert_eq!(system["backend"] != "scan", supported, "{line}");
        assert_eq!(code, Some(if supported && kind != Kind::Tmpfs { 0 } else { 20 }), "{line}");
        for hook in system["hooks"].as_array().unwrap() {
            let absent = capture.absent().iter().any(|absent| hook["name"] == absent.tracepoint);
            assert_eq!(hook["present"], !absent, "{hook}");
        }
        if kind == Kind::Ext4 {
            std::fs::create_dir(dir.join("inside")).unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(dir.join("inside")));
            let (code, line) = doctor(Command::new(binary()), &dir);
            run(Command::new("umount").arg(dir.join("inside")));
            assert_eq!(code, Some(20), "{line}");
            assert!(line["directory"]["findings"].to_string().contains("inside"), "{line}");
        }
    }
    if let Some(capture) = capture {
        capture.detach().unwrap();
    }
}

#[test]
fn doctor_misses_the_capabilities_of_a_bare_root() {
    let name = "doctor_misses_the_capabilities_of_a_bare_root";
    if !root_or_skip(name) || !programs_or_skip(name, "root", &["setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all,+dac_read_search"]).arg(binary());
    let (code, line) = doctor(command, dir.path());
    assert_eq!((code, &line["choice"]["backend"]), (Some(20), &"scan".into()), "{line}");
    let findings = line["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["name"] == "capabilities").unwrap();
    let value = found["value"].as_str().unwrap();
    assert!(value.contains("CAP_BPF") && value.contains("CAP_PERFMON") && !value.contains("DAC"), "{found}");
    assert!(found["fix"].is_string());
}

//! `cat` and `ls` accept what `ls` prints, through a shell or directly.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::bed::{code, text, tracker};
use crate::volume::{NAME, Volume};

const NAMES: [&[u8]; 12] = [
    b"it's.txt",
    b"base64:Zg==",
    b"two words",
    b"new\nline",
    b"\x1b[31mred",
    b"not \xff utf8",
    b"'quoted'",
    b"it's \"$5\"!",
    b"back\\slash",
    b"-n",
    b"-two words",
    "\u{e4}\u{202e}".as_bytes(),
];

#[test]
fn what_ls_prints_is_what_cat_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::create(&dir.path().join("store"), 4096);
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("it's")).unwrap();
    for name in NAMES {
        for place in [source.clone(), source.join("it's")] {
            fs::write(place.join(OsStr::from_bytes(name)), [place.as_os_str().as_bytes(), name].concat()).unwrap();
        }
    }
    volume.commit(&source, 500_000);
    let url = dir.path().join("store").join(NAME);
    let url = url.to_str().unwrap();
    let listed = tracker(&["ls", url, "-r"]);
    assert_eq!(code(&listed), 0, "{}", text(&listed));
    let printed: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(printed.len(), 1 + 2 * NAMES.len());
    let mut seen = 0;
    for line in printed.iter().filter(|line| line.starts_with("file")) {
        // Kind, mode, owner, group, size, time; the rest is the path.
        let (_, word) = line.split_once("Z ").unwrap();
        let shell = Command::new("bash")
            .args(["-c", &format!("exec \"$0\" cat \"$1\" {word}"), env!("CARGO_BIN_EXE_tracker"), url])
            .output()
            .unwrap();
        let plain = tracker(&["cat", url, word]);
        for done in [shell, plain] {
            assert_eq!(code(&done), 0, "{word}: {}", text(&done));
            let wanted = NAMES.iter().any(|name| done.stdout.ends_with(name));
            assert!(wanted && done.stdout.starts_with(source.as_os_str().as_bytes()), "{word}");
        }
        seen += 1;
    }
    assert_eq!(seen, 2 * NAMES.len());
    let below = tracker(&["ls", url, "\"it's\"", "--json"]);
    assert_eq!(below.stdout.iter().filter(|byte| **byte == b'\n').count(), NAMES.len(), "{}", text(&below));
}

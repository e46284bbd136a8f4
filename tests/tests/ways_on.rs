//! How volumes continue with capture in the kernel: an adopted source is watched where it is now, and changes are marked
//! while a store is away.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::daemon::{Volume, binary};
use tests::mounts::{Kind, Mount, run};

const SYNC: Duration = Duration::from_secs(30);

/// Changes one block in the middle of a file.
fn change(path: &Path, byte: u8) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[byte; 100], 5_000_000).unwrap();
}

/// A source that was copied elsewhere and put back is adopted: nothing is uploaded, and from then on the kernel marks its
/// new inodes, so that for one changed block only that block is read and sent.
#[test]
fn an_adopted_source_is_captured_where_it_is() {
    let name = "an_adopted_source_is_captured_where_it_is";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::create_dir_all(source.join("in/side")).unwrap();
    fs::write(source.join("in/side/large"), vec![7; 16 << 20]).unwrap();
    let mut volume = Volume::new(&source);
    assert!(volume.start_ready().stop().success());
    let copied = source.with_file_name("copied");
    run(Command::new("cp").arg("-a").args([&source, &copied]));
    fs::remove_dir_all(&source).unwrap();
    fs::rename(&copied, &source).unwrap();
    volume.protect_ends().refuses(22, "not the directory");

    volume.extra.push("--adopt".into());
    let daemon = volume.start_ready();
    volume.sync(SYNC).expect(0);
    let adopted = volume.status();
    assert_ne!(adopted["backend"], "scan", "{adopted}");
    assert_eq!(adopted["bytes_literal"], 0, "{adopted}");
    change(&source.join("in/side/large"), 9);
    volume.sync(SYNC).expect(0);
    let after = volume.status();
    let grown = |key: &str| after[key].as_u64().unwrap() - adopted[key].as_u64().unwrap();
    assert!((100..=64 << 10).contains(&grown("bytes_literal")), "{after}");
    assert!(grown("bytes_read") < 1 << 20, "the mark tells where: {after}");
    volume.restored("copy");
    assert!(daemon.stop().success());
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon(volume: &Volume, config: &Path) -> Running {
    let mut command = Command::new(binary());
    command.arg("daemon").arg("--config").arg(config).arg("--state-dir").arg(&volume.state);
    Running(command.stdout(Stdio::null()).spawn().expect("tracker starts"))
}

/// A daemon starts again while its store is away: changes are marked from its start on, the marks survive its death, and
/// they are committed when the store is back.
#[test]
fn what_changes_while_a_store_is_away_is_marked_and_committed() {
    let name = "what_changes_while_a_store_is_away_is_marked_and_committed";
    let Some(mount) = Mount::new_or_skip(name, Kind::Ext4) else { return };
    let source = mount.dir("source");
    fs::write(source.join("large"), vec![7; 16 << 20]).unwrap();
    let volume = Volume::new(&source);
    let config = volume.scratch("tracker.toml");
    let text = format!(
        "[metrics]\nlisten = \"off\"\n[[volume]]\nname = \"v\"\nsource = {source:?}\nstore = {:?}\n",
        volume.store
    );
    fs::write(&config, text).unwrap();
    let is = |state: &str| volume.status_when(state, SYNC, |status| status["state"] == state);
    drop({
        let running = daemon(&volume, &config);
        is("protected");
        running
    });
    // The watch set is gone too: the next process must build it, without a store.
    volume.lose_marks();
    let away = volume.scratch("away");
    fs::rename(&volume.store, &away).unwrap();

    let running = daemon(&volume, &config);
    let waiting = is("waiting");
    assert!(waiting["armed"] == true && waiting["fenced_store"].is_null(), "{waiting}");
    change(&source.join("large"), 9);
    let marked = |status: &serde_json::Value| status["pending_inodes"].as_u64() >= Some(1);
    let waiting = volume.status_when("a mark", SYNC, marked);
    assert!(waiting["loss_window_seconds"].as_f64() > Some(0.0), "{waiting}");
    drop(running);

    let running = daemon(&volume, &config);
    is("waiting");
    assert!(marked(&volume.status()), "the mark has outlived its process");
    fs::rename(&away, &volume.store).unwrap();
    kill_process(Pid::from_child(&running.0), Signal::HUP).unwrap();
    is("protected");
    volume.sync(SYNC).expect(0);
    volume.restored("copy");
}

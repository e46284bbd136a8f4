//! Starts the one capture of a process: takes over what the last process left, or tries back ends with a self-test each.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::capture::{self, BackEnd, Capture, CaptureConfig, Lease, Started, choose, pin_sets};
use crate::config::{self, Config};
use crate::error::{AppError, ExitCode, chain};
use crate::source::SourceRoot;
use crate::volume::marks::dispatcher::Dispatcher;
use crate::volume::marks::restart::Restart;
use crate::volume::selftest::changes;
use crate::volume::selftest::changes::{Home, SelfTestOutcome};
use crate::volume::startup::eligibility::{can_be_marked, marked_fs};
use crate::volume::startup::prepared::ChosenCapture;
use crate::volume::startup::watch_capacity;

/// Returns the number of this start of capture, durably, before its first drain.
fn next_run(state_dir: &Path) -> Result<u64, AppError> {
    let path = state_dir.join("capture-run");
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(_) => 0u64,
    };
    // If the number was unreadable, counting starts over: no volume's note matches then, and all are compared.
    let run = before + 1;
    let beside = state_dir.join("capture-run.new");
    // Durable: a number that a power cut undid would be given again, and another run's marks taken for this one's.
    let written = std::fs::File::create(&beside).and_then(|mut file| {
        file.write_all(format!("{run}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        std::fs::File::open(state_dir)?.sync_all()
    });
    written
        .map_err(|error| AppError::new(ExitCode::Error, format_args!("cannot write {}: {error}", path.display())))?;
    Ok(run)
}

/// Name of the file that says which back end was chosen, and under which circumstances.
const CHOICE: &str = "capture-choice";

/// Everything that may lead to another choice than last time, as text: kernel, modules with type information (each may
/// bring tracepoints), binary, kernel object, and the requested back end. The boot is not included: pins end with it.
fn circumstances(only: Option<BackEnd>) -> String {
    let system = rustix::system::uname();
    let mut modules: Vec<String> = std::fs::read_dir("/sys/kernel/btf")
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    modules.sort_unstable();
    format!(
        "kernel {} {}\nmodules {}\nbinary {}\nobject {}\nasked {}\n",
        system.release().to_string_lossy(),
        system.version().to_string_lossy(),
        modules.join(","),
        env!("CARGO_PKG_VERSION"),
        capture::object().map_or_else(String::new, |object| blake3::hash(object).to_string()),
        only.map_or("auto", BackEnd::name),
    )
}

/// The last line of the note: the chosen back end and all its programs.
fn choice(capture: &Capture) -> String {
    let programs: Vec<&str> = capture.programs().collect();
    format!("{} {}\n", capture.back_end().name(), programs.join(","))
}

fn remember(state_dir: &Path, only: Option<BackEnd>, capture: &Capture) {
    let path = state_dir.join(CHOICE);
    // A truncated or absent note matches no circumstances: the next start tries back ends as the first one did.
    if let Err(error) = std::fs::write(&path, circumstances(only) + &choice(capture)) {
        tracing::warn!(path = %path.display(), %error, "the choice of the back end cannot be noted");
    }
}

/// Takes over the pins of the last process without trying any back end. Its choice stands while the circumstances are the
/// same and every program of then is still attached.
fn take_over(wanted: &CaptureConfig, state_dir: &Path, only: Option<BackEnd>) -> Option<Capture> {
    let text = std::fs::read_to_string(state_dir.join(CHOICE)).ok()?;
    let chosen = text.strip_prefix(circumstances(only).as_str())?;
    let named = |back_end: &BackEnd| chosen.split(' ').next() == Some(back_end.name());
    let back_end = BackEnd::WITH_PROGRAMS.into_iter().find(named)?;
    match Capture::take_over(&CaptureConfig { back_end, ..wanted.clone() }) {
        Ok(capture) if choice(&capture) == chosen => {
            let started = Started::Resumed;
            tracing::debug!(
                back_end = back_end.name(),
                ?started,
                "capture continues with the back end chosen last time"
            );
            Some(capture)
        }
        Ok(capture) => {
            // An optional program is gone, so its changes were not marked: these maps are not to be trusted.
            if let Err(error) = capture.detach() {
                tracing::warn!(error = chain(&error), "pins that are not whole cannot be removed");
            }
            None
        }
        Err(why) => {
            tracing::debug!(?why, "the pins of the last choice cannot be taken over");
            None
        }
    }
}

/// Starts capture if any volume may use it.
pub(crate) fn capture(config: &Config, state_dir: &Path) -> Result<ChosenCapture, AppError> {
    let wanted = config.volumes.iter().any(|volume| volume.options.capture != config::CaptureMode::SCAN);
    let mut none = ChosenCapture { dispatcher: None, resumed: false, reasons: Vec::new(), run: 0 };
    if !wanted {
        none.reasons.push("the scan back end was asked for".into());
        return Ok(none);
    }
    let forced = config.volumes.iter().find_map(|volume| Some((volume, volume.options.capture.back_end()?)));
    let only = forced.map(|(_, back_end)| back_end);
    let mut entries = config.kernel_maps;
    if entries.watch == config::WATCH_BY_FILES {
        entries.watch = watch_capacity::watch_entries(config, state_dir);
    }
    let lease = Some(Lease { state_dir: state_dir.to_path_buf(), lasts: config.process.tracking.lease.0 });
    let wanted = CaptureConfig { entries, lease, ..CaptureConfig::new(pin_sets::dir_of(state_dir), BackEnd::Scan) };
    let root = Path::new(pin_sets::ROOT);
    pin_sets::reap(root, &wanted.pin_dir);
    let (volumes, home) = (config.volumes.clone(), state_dir.to_path_buf());
    let prove = move |capture: &mut Capture| prove(capture, &volumes, &home);
    // Before anything is attached: a process that died between a fresh capture and this number would leave empty maps that
    // the next one takes for those of the run before. A number that is skipped costs only a comparison.
    let run = next_run(state_dir)?;
    let started = match take_over(&wanted, state_dir, only) {
        Some(capture) => Ok((capture, Started::Resumed)),
        None => {
            let mut facts = choose::KernelFacts::gather_for(only);
            facts.against.extend(too_much(&wanted, config.process.tracking.memory.0));
            Capture::start_best(&wanted, facts, &prove)
        }
    };
    match started {
        Ok((capture, started)) => {
            remember(state_dir, only, &capture);
            let resumed = started == Started::Resumed;
            let state = state_dir.to_path_buf();
            let chosen = Box::new(move |capture: &Capture| remember(&state, only, capture));
            let dispatcher = Dispatcher::new(capture, Restart { wanted, only, prove: Box::new(prove), chosen });
            if resumed {
                dispatcher.resume();
            }
            return Ok(ChosenCapture { dispatcher: Some(Arc::new(dispatcher)), resumed, reasons: Vec::new(), run });
        }
        Err(choice) => none.reasons.extend(choice.lines()),
    }
    match forced {
        Some((volume, _)) => Err(AppError::new(
            ExitCode::Error,
            format_args!(
                "volume {} asks for a capture back end that cannot be had: {}",
                volume.name,
                none.reasons.join("; ")
            ),
        )
        .hint("`tracker doctor` explains what this kernel can do; --capture auto falls back to scanning")),
        None => Ok(none),
    }
}

/// Rejects every back end if the kernel memory of all captures would exceed its limit.
fn too_much(wanted: &CaptureConfig, most: u64) -> Vec<(BackEnd, String)> {
    // Sets that cannot be listed cannot be counted; then nothing can be attached either.
    let others: Vec<_> = pin_sets::list(Path::new(pin_sets::ROOT)).unwrap_or_default();
    let others: Vec<_> = others.into_iter().filter(|set| set.dir != wanted.pin_dir).collect();
    let Some(why) = pin_sets::too_much(&others, &wanted.entries, most) else { return Vec::new() };
    tracing::error!("nothing is attached: {why}");
    BackEnd::WITH_PROGRAMS.into_iter().map(|back_end| (back_end, why.clone())).collect()
}

/// The self-test on the file system of every volume that would use the capture.
fn prove(capture: &mut Capture, volumes: &[config::VolumeConfig], state: &Path) -> Result<(), String> {
    for volume in volumes.iter().filter(|volume| volume.options.capture != config::CaptureMode::SCAN) {
        // A source that cannot be opened is the volume's own failure, which it reports itself.
        let Ok(root) = SourceRoot::open(&volume.source) else { continue };
        if can_be_marked(|fs| capture.supported(fs), &root).is_err() {
            continue;
        }
        let name = volume.name.as_str();
        let home = Home { state, volume: name };
        match changes::prove(capture, &root, Some(home)).map_err(|error| chain(&error))? {
            SelfTestOutcome::Passed { kinds, untried } => {
                tracing::debug!(volume = name, ?kinds, ?untried, "the self-test passed")
            }
            SelfTestOutcome::NotPossible { why } => {
                tracing::debug!(volume = name, why, "the self-test could not be made")
            }
            SelfTestOutcome::Failed { kind } => {
                return Err(format!("self-test on {}: {kind} was not seen", marked_fs(&root)));
            }
        }
    }
    Ok(())
}

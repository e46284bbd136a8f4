//! The pinned set: the names of its pins, opening it, taking it over, removing it.

use std::{fs, io, os::fd::AsFd};

use common::{
    functions::{FunctionId, Need},
    hooks::{Fs, HOOKS, Hook, Role, Serves},
    limits::ABI_VERSION,
    maps::{ctrl, exact, mapped, watched},
};

use super::back_end::BackEnd;
use super::choose::{Choice, KernelFacts, choose};
use super::config::{CaptureConfig, Started, Why};
use super::error::CaptureError;
use super::find::Known;
use super::layout::KernelTypes;
use super::pin_files::{boot_hash, link_path, map_path, pin_again, program_path, remove_pins};
use super::retired::Drained;
use super::running::{Attached, Capture, Seen};
use super::sys::{self, Grace};
use super::tables::{MAPS, Maps, OWNER, memory_of, open_pin};
use super::{load, log, mounts, object, points};

impl Capture {
    /// Takes over the pins in `config.pin_dir` if they are complete, from this boot and of this ABI; else creates
    /// everything new.
    ///
    /// # Errors
    /// When the kernel cannot support capture, or a call fails. Then nothing stays attached.
    pub fn start(config: &CaptureConfig) -> Result<(Self, Started), CaptureError> {
        mounts::ensure_bpffs(&config.pin_dir)?;
        let types = KernelTypes::running()?;
        let why = match Self::resume(config, Some(&types)) {
            Ok(capture) => return Ok((capture, Started::Resumed)),
            Err(why) => why,
        };
        let object = object::object().ok_or(CaptureError::NoObject)?;
        remove_pins(&config.pin_dir)?;
        let log = match load::fresh(config, &types, object) {
            Ok(log) => log,
            Err(error) => {
                // A partly attached set must not stay. A failure to remove it adds nothing to the first error.
                let _ = remove_pins(&config.pin_dir);
                return Err(error);
            }
        };
        let mut capture = Self::open(config, log)?;
        capture.keep(config)?;
        Ok((capture, Started::Fresh(why)))
    }

    /// Starts with the best back end that these facts allow. If its start fails, or `prove` rejects it after a fresh start,
    /// the next one is tried.
    ///
    /// # Errors
    /// When there is none: the reasons, one per back end.
    pub fn start_best(
        config: &CaptureConfig,
        mut facts: KernelFacts,
        mut prove: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(Self, Started), Choice> {
        loop {
            let choice = choose(&facts);
            if choice.back_end == BackEnd::Scan {
                return Err(choice);
            }
            let config = CaptureConfig { back_end: choice.back_end, ..config.clone() };
            let started = Self::start(&config).map_err(|error| crate::error::chain(&error));
            let proven = started.and_then(|(mut capture, started)| match started {
                Started::Resumed => Ok((capture, started)),
                Started::Fresh(_) => match prove(&mut capture) {
                    Ok(()) => Ok((capture, started)),
                    Err(problem) => {
                        capture.detach().map_err(|error| crate::error::chain(&error))?;
                        Err(problem)
                    }
                },
            });
            match proven {
                Ok(started) => {
                    let back_end = choice.back_end.name();
                    // Why no better back end was chosen: shown by `doctor` and `-v`.
                    tracing::debug!(back_end, reasons = ?choice.reasons, started = ?started.1, "capture is attached");
                    return Ok(started);
                }
                Err(error) => {
                    tracing::debug!(back_end = choice.back_end.name(), error, "a capture back end cannot be used");
                    facts.against.push((choice.back_end, error));
                }
            }
        }
    }

    /// Creates everything new for this process alone: programs and maps end with it, however it ends, and no pin stays.
    ///
    /// While it starts there are pins in `config.pin_dir`, through which aya's objects become ours. Pins of a process that
    /// was killed in that moment are removed first. Starts with the same parent directory wait for each other.
    ///
    /// # Errors
    /// As `start`, and when there is no back end.
    pub fn start_private(config: &CaptureConfig, facts: KernelFacts) -> Result<Self, CaptureError> {
        mounts::ensure_bpffs(&config.pin_dir)?;
        let parent = config.pin_dir.parent().unwrap_or(&config.pin_dir);
        let failed = |what| move |source: io::Error| CaptureError::File { what, path: parent.to_owned(), source };
        fs::create_dir_all(parent).map_err(failed("make pin directory"))?;
        let lock = fs::File::open(parent).map_err(failed("open"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| failed("lock")(error.into()))?;
        remove_pins(&config.pin_dir)?;
        let (mut capture, _) = Self::start_best(config, facts, |_| Ok(()))
            .map_err(|choice| CaptureError::NoBackEnd { reasons: choice.lines().collect::<Vec<_>>().join("; ") })?;
        remove_pins(&config.pin_dir)?;
        capture.pinned = false;
        Ok(capture)
    }

    /// Takes over the pins of `config.back_end`, or does nothing. The caller knows that the kernel has no more tracepoints
    /// than when they were made, so its types, which are large, are not read.
    ///
    /// # Errors
    /// Why they cannot be taken over.
    pub fn take_over(config: &CaptureConfig) -> Result<Self, Why> {
        Self::resume(config, None)
    }

    /// Without `types`, tracepoints that have appeared since are not looked for.
    fn resume(config: &CaptureConfig, types: Option<&KernelTypes>) -> Result<Self, Why> {
        if !config.pin_dir.is_dir() {
            return Err(Why::NoPins);
        }
        let mut capture = Self::open(config, None).map_err(|_| Why::Incomplete)?;
        let control = |word| capture.maps.ctrl.get(word).ok().flatten();
        if control(ctrl::ABI_VERSION) != Some(ABI_VERSION) {
            return Err(Why::OtherAbi);
        }
        if control(ctrl::BOOT) != boot_hash() {
            return Err(Why::OtherBoot);
        }
        if control(ctrl::OBJECT) != object::object().map(load::object_hash) {
            return Err(Why::OtherObject);
        }
        if control(ctrl::COMPLETE) != Some(1) {
            return Err(Why::Incomplete);
        }
        if control(ctrl::BACK_END) != Some(config.back_end.word()) {
            return Err(Why::OtherBackEnd);
        }
        if capture.maps.entries() != config.entries {
            return Err(Why::OtherSizes);
        }
        if let Some(types) = types {
            capture.is_all_of(types, config.back_end)?;
        }
        for attached in &capture.attached {
            if sys::link_program(attached.link.as_fd()).ok() != Some(attached.id) {
                return Err(Why::OtherProgram);
            }
        }
        // Last, because every other reason must leave the lease as it was.
        if capture.lease_is_over(config).unwrap_or(true) {
            return Err(Why::LeaseOver);
        }
        Ok(capture)
    }

    /// Checks that everything that this kernel supports is attached.
    fn is_all_of(&self, types: &KernelTypes, back_end: BackEnd) -> Result<(), Why> {
        if load::attachable(types).into_iter().any(|hook| !self.is_attached(hook.program)) {
            return Err(Why::NewTracepoint);
        }
        for function in points::functions(types, back_end).map_err(|_| Why::Incomplete)? {
            let hooked = |way: &Vec<points::Point>| way.iter().all(|point| self.is_attached(point.program));
            if function.need == Need::Required && !points::ways(function, back_end).iter().any(hooked) {
                return Err(Why::Incomplete);
            }
        }
        Ok(())
    }

    fn is_attached(&self, program: &str) -> bool {
        self.attached.iter().any(|attached| attached.name == program)
    }

    /// Opens every pin.
    fn open(config: &CaptureConfig, log: Option<log::Pump>) -> Result<Self, CaptureError> {
        let pin_dir = &config.pin_dir;
        let mut attached = Vec::new();
        for point in points::every() {
            if link_path(pin_dir, point.program).exists() {
                attached.push(Attached::open(pin_dir, point.program)?);
            }
        }
        let maps = Maps::open(pin_dir)?;
        let grace = Grace::new().map_err(|source| CaptureError::Grace { source })?;
        Ok(Self {
            pin_dir: pin_dir.to_owned(),
            back_end: config.back_end,
            pinned: true,
            maps,
            attached,
            grace,
            cpus: possible_cpus(),
            mapped_now: open_pin(&program_path(pin_dir, mapped::PROGRAM))?,
            exact_now: open_pin(&program_path(pin_dir, exact::PROGRAM))?,
            set_slot: open_pin(&program_path(pin_dir, watched::PROGRAM))?,
            overflows: 0,
            inserted: None,
            known: Known::default(),
            given: None,
            cleared: false,
            drained: Drained::default(),
            seen: Seen::default(),
            _log: log,
            keeper: None,
            owner: None,
        })
    }

    /// Checks that volumes on a file system of this name can be protected by the attached programs.
    ///
    /// # Errors
    /// The missing tracepoints, or why the file system cannot be protected.
    pub fn supported(&self, fs: &str) -> Result<(), Vec<&'static str>> {
        if fs == "overlay" {
            return Err(vec!["an overlay is protected through the file system of its upper directory"]);
        }
        let Some(fs) = Fs::from_name(fs) else {
            return Err(vec!["this file system's changes are not known to the tracepoint back end"]);
        };
        let mut missing: Vec<_> = needed(fs, self.back_end)
            .filter(|hook| !self.is_attached(hook.program))
            .map(|hook| hook.tracepoint)
            .collect();
        // With hooked functions, these report everything but dirty folios; for those tmpfs has no tracepoint.
        let tmpfs = FunctionId::TmpfsDirty.get();
        let hooked = self.is_attached(tmpfs.trampoline) || self.is_attached(tmpfs.probe);
        if fs == Fs::Tmpfs && self.back_end != BackEnd::Tracepoint && !hooked {
            missing.push(tmpfs.name);
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    /// Tracepoints of the hook list that are not attached because the kernel does not have them now.
    #[must_use]
    pub fn absent(&self) -> Vec<&'static Hook> {
        HOOKS.iter().filter(|hook| !self.is_attached(hook.program)).collect()
    }

    /// The back end in operation.
    #[must_use]
    pub fn back_end(&self) -> BackEnd {
        self.back_end
    }

    /// Names of the programs that are attached.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.attached.iter().map(|attached| attached.name)
    }

    /// Detaches everything and removes the pins. Changes from now on are not marked.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach(self) -> Result<(), CaptureError> {
        // Without pins, closing the descriptors detaches. Pins in that directory would belong to another process.
        if self.pinned { remove_pins(&self.pin_dir) } else { Ok(()) }
    }

    /// Pins again what this process holds and whose pin was removed, so that marks outlive it as before.
    ///
    /// # Errors
    /// When a pin cannot be made.
    pub fn pin_again(&self) -> Result<(), CaptureError> {
        let dir = &self.pin_dir;
        let failed = |source| CaptureError::File { what: "make pin directory", path: dir.clone(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        for (name, fd) in MAPS.into_iter().zip(self.maps.fds()) {
            pin_again(map_path(dir, name), fd)?;
        }
        if let Some(owner) = &self.owner {
            pin_again(map_path(dir, OWNER), owner.fd())?;
        }
        pin_again(program_path(dir, mapped::PROGRAM), self.mapped_now.as_fd())?;
        pin_again(program_path(dir, exact::PROGRAM), self.exact_now.as_fd())?;
        pin_again(program_path(dir, watched::PROGRAM), self.set_slot.as_fd())?;
        for attached in &self.attached {
            pin_again(program_path(dir, attached.name), attached.program.as_fd())?;
            pin_again(link_path(dir, attached.name), attached.link.as_fd())?;
        }
        Ok(())
    }

    /// Kernel memory of the maps, in bytes, as the kernel accounts it.
    #[must_use]
    pub fn kernel_memory_bytes(&self) -> u64 {
        self.maps.fds().into_iter().map(memory_of).sum()
    }
}

/// The hooks without which `fs` cannot be protected.
pub(super) fn needed(fs: Fs, back_end: BackEnd) -> impl Iterator<Item = &'static Hook> {
    let of_fs = move |hook: &&Hook| hook.serves == Serves::One(fs) && hook.role != Role::Write;
    let own = HOOKS.iter().filter(of_fs).filter(move |_| back_end == BackEnd::Tracepoint);
    points::required_tracepoints(back_end).chain(own)
}

/// Number of possible CPUs: one more than the highest in a list like `0-3,8`.
fn possible_cpus() -> usize {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = list.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<usize>().ok());
    // The kernel writes one value per possible CPU: a buffer that is too large is harmless, one that is too small is not.
    last.map_or(8192, |last| last + 1)
}

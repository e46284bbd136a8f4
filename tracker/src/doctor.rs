//! What a machine, and a directory on it, can do for tracker: facts in, findings in plain words out.
//!
//! Pure: `gather` collects the facts, the verb prints them. `tracker-ebpf` handles events; here they are only described,
//! from the same lists of hooks and fields.

pub mod directory;
pub mod fs;
pub mod gather;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use common::fields::{FIELDS, Need};
use common::hooks::{HOOKS, Hook, Role, Serves};
use serde::Serialize;

use crate::capture::BackEnd;

/// What is lost without a better back end, and what a better one would need; `None` with the best.
#[must_use]
pub fn costs(back_end: BackEnd) -> Option<(&'static str, &'static str)> {
    match back_end {
        BackEnd::Fentry => None,
        BackEnd::Kprobe => Some((
            "each hooked call takes longer than by fentry; what is seen is the same",
            "a kernel that lets programs be attached to functions: CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS and CONFIG_BPF_JIT",
        )),
        BackEnd::Tracepoint => Some((
            "on xfs and btrfs what was punched, zeroed or cloned is read whole, on btrfs also what was written by io_uring, AIO or \
             splice, on tmpfs every changed file; names and attributes of all files of the file system pass the programs",
            "for fentry CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS and CONFIG_BPF_JIT, for kprobe CONFIG_KPROBES and CONFIG_KPROBE_EVENTS",
        )),
        BackEnd::Scan => Some((
            "the tree is looked at once a second, files that differ in size, times or inode are read whole, and what is equal in \
             all of them is missed",
            "what is not in order above",
        )),
    }
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub ok: bool,
    pub value: String,
    /// What the user can do when it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(name: &'static str, ok: bool, value: impl Into<String>, fix: &str) -> Finding {
        Finding { name, ok, value: value.into(), fix: (!ok).then(|| fix.to_owned()) }
    }
}

/// What the kernel describes of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Tracepoints of the hook list that the kernel, or a loaded module, has.
    pub tracepoints: BTreeSet<&'static str>,
    /// Functions of the function list that the kernel has.
    pub functions: BTreeSet<&'static str>,
    /// Globals of the field list that its BTF has no member for.
    pub absent: BTreeSet<&'static str>,
    /// File systems that the kernel has now, without those of modules that are not loaded.
    pub file_systems: BTreeSet<String>,
}

impl Kernel {
    fn has_all(&self, globals: &[&str]) -> bool {
        globals.iter().all(|global| !self.absent.contains(global))
    }
}

/// Facts about the machine and this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub release: String,
    /// Size of the kernel's BTF in bytes; `None`: it cannot be read.
    pub btf: Option<u64>,
    pub kernel: Kernel,
    /// Where a bpffs is mounted.
    pub bpffs: Option<String>,
    /// Whether this program carries the kernel object.
    pub object: bool,
    pub state_dir: String,
    /// Why the state directory cannot be written.
    pub state_problem: Option<String>,
    /// Effective capabilities, one bit each.
    pub capabilities: u64,
    /// Text of `lockdown` in securityfs; `None`: cannot be read.
    pub lockdown: Option<String>,
    /// Text of `lsm` in securityfs.
    pub modules: Option<String>,
    /// The kernel's build configuration.
    pub config: Option<String>,
}

const CAP_SYS_ADMIN: u32 = 21;
/// Capabilities that capture needs: name, number, purpose.
const NEEDED: [(&str, u32, &str); 3] = [
    ("CAP_BPF", 39, "load programs"),
    ("CAP_PERFMON", 38, "attach them"),
    ("CAP_DAC_READ_SEARCH", 2, "read files of every owner"),
];

/// Kernel configuration that capture needs, and why.
const CONFIG: [(&str, &str); 3] = [
    ("CONFIG_BPF_SYSCALL", "programs and maps"),
    ("CONFIG_BPF_EVENTS", "programs on raw tracepoints"),
    ("CONFIG_DEBUG_INFO_BTF", "offsets of struct members"),
];

impl Facts {
    fn has(&self, bit: u32) -> bool {
        self.capabilities >> bit & 1 == 1
    }

    fn missing_capabilities(&self) -> Vec<&'static str> {
        // CAP_SYS_ADMIN includes the two that were split off from it.
        let granted = |name: &str, bit| self.has(bit) || (self.has(CAP_SYS_ADMIN) && name != "CAP_DAC_READ_SEARCH");
        NEEDED.iter().filter(|(name, bit, _)| !granted(name, *bit)).map(|(name, _, _)| *name).collect()
    }

    /// Why this process cannot load and attach programs, whoever runs it.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let missing = self.missing_capabilities();
        let programs: Vec<_> = missing.into_iter().filter(|name| *name != "CAP_DAC_READ_SEARCH").collect();
        if !programs.is_empty() {
            return Some(format!("this process has no {}", programs.join(" and no ")));
        }
        (self.lockdown_mode() == Some("confidentiality"))
            .then(|| "the kernel is locked down for confidentiality: programs may not read its memory".to_owned())
    }

    /// The mode in brackets.
    fn lockdown_mode(&self) -> Option<&str> {
        let (_, rest) = self.lockdown.as_deref()?.split_once('[')?;
        rest.split_once(']').map(|(mode, _)| mode)
    }

    /// `y`, `m` or a value; `None` if not set.
    fn config_value(&self, name: &str) -> Option<&str> {
        self.config.as_deref()?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Findings about the machine if it uses `back_end`.
#[must_use]
pub fn machine(facts: &Facts, back_end: BackEnd) -> Vec<Finding> {
    let object = if facts.object { "carried by this program" } else { "not in this program" };
    let state = match &facts.state_problem {
        None => format!("{} can be written", facts.state_dir),
        Some(why) => format!("{}: {why}", facts.state_dir),
    };
    vec![
        Finding::new("kernel", true, &*facts.release, ""),
        Finding::new(
            "btf",
            facts.btf.is_some(),
            facts.btf.map_or("/sys/kernel/btf/vmlinux cannot be read".into(), |len| format!("{len} bytes")),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        members(facts),
        tracepoints(facts, back_end),
        config(facts),
        lockdown(facts),
        Finding::new("bpf lsm", true, bpf_lsm(facts), ""),
        capabilities(facts),
        Finding::new(
            "bpffs",
            facts.bpffs.is_some(),
            facts.bpffs.as_deref().unwrap_or("not mounted"),
            "mount -t bpf bpf /sys/fs/bpf (tracker does it when it runs as root with CAP_SYS_ADMIN)",
        ),
        Finding::new("object", facts.object, object, "build with `cargo xtask build-ebpf`, then the program again"),
        Finding::new("state", facts.state_problem.is_none(), state, "name another directory with --state-dir"),
    ]
}

fn members(facts: &Facts) -> Finding {
    const NAME: &str = "members";
    const FIX: &str = "run a kernel of a release that docs/testing.md names, and report this one";
    if facts.btf.is_none() {
        return Finding::new(NAME, false, "cannot be looked up without BTF", "see btf");
    }
    let absent = |need| {
        let fields =
            FIELDS.iter().filter(move |field| field.need == need && facts.kernel.absent.contains(field.global));
        fields.map(|field| format!("{}.{}", field.container, field.members.join("|"))).collect::<Vec<_>>()
    };
    let (required, optional) = (absent(Need::Required), absent(Need::Optional));
    if !required.is_empty() {
        return Finding::new(NAME, false, format!("the kernel's structs lack {}", required.join(", ")), FIX);
    }
    // One of the three is enough; each is from other releases.
    if ["FOLIO_PAGES", "FOLIO_ORDER", "FOLIO_FLAGS_1"].iter().all(|global| facts.kernel.absent.contains(global)) {
        let value = "the size of a large folio is unknown: writes through one cost a whole-file comparison";
        return Finding::new(NAME, false, value, FIX);
    }
    let found = FIELDS.len() - optional.len();
    let rest = if optional.is_empty() { String::new() } else { format!("; not here: {}", optional.join(", ")) };
    Finding::new(NAME, true, format!("{found} of {} struct members{rest}", FIELDS.len()), "")
}

fn tracepoints(facts: &Facts, back_end: BackEnd) -> Finding {
    let has = |name: &str| facts.kernel.tracepoints.contains(name);
    let lacking = |all: bool| {
        let needed_by_all = |hook: &Hook| hook.serves == Serves::All && hook.role != Role::Write;
        let hooks = HOOKS.iter().filter(move |hook| needed_by_all(hook) == all && !has(hook.tracepoint));
        hooks.map(|hook| hook.tracepoint).collect::<Vec<_>>()
    };
    let (needed, special) = (lacking(true), lacking(false));
    let found = HOOKS.len() - needed.len() - special.len();
    let mut value = format!("{found} of {}", HOOKS.len());
    for (text, names) in [("; every file system lacks ", &needed), ("; some file systems lack ", &special)] {
        if !names.is_empty() {
            value = value + text + &names.join(", ");
        }
    }
    // The tracepoints of change times (include/trace/events/timestamp.h) exist since 6.13.
    let fix = "run Linux 6.13 or newer, or one whose functions can be hooked: see capture below";
    let hooked = matches!(back_end, BackEnd::Fentry | BackEnd::Kprobe);
    Finding::new("tracepoints", needed.is_empty() || hooked, value, fix)
}

fn config(facts: &Facts) -> Finding {
    const NAME: &str = "config";
    if facts.config.is_none() {
        return Finding::new(NAME, true, "not to be read on this machine; the other findings stand for it", "");
    }
    let mut wanted = CONFIG.to_vec();
    if facts.config_value("CONFIG_MODULES").is_some() {
        wanted.push(("CONFIG_DEBUG_INFO_BTF_MODULES", "tracepoints of file systems that are modules"));
    }
    let off: Vec<_> = wanted.iter().filter(|(name, _)| facts.config_value(name) != Some("y")).collect();
    if off.is_empty() {
        let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
        return Finding::new(NAME, true, format!("{} are set", names.join(", ")), "");
    }
    let names: Vec<_> = off.iter().map(|(name, what)| format!("{name} ({what})")).collect();
    Finding::new(NAME, false, format!("not set: {}", names.join(", ")), "boot a kernel that is built with them")
}

fn lockdown(facts: &Facts) -> Finding {
    let value = match facts.lockdown_mode() {
        Some("none") => "off",
        // security/security.c: LOCKDOWN_BPF_READ_KERNEL_RESTRICTED belongs to confidentiality only.
        Some("integrity") => "integrity: programs may still read kernel memory, which is all they do",
        Some("confidentiality") => "confidentiality: programs may not read kernel memory",
        _ => "not known: no lockdown in /sys/kernel/security (not mounted, or not built in)",
    };
    let ok = facts.lockdown_mode() != Some("confidentiality");
    Finding::new("lockdown", ok, value, "boot with lockdown=integrity, or none; until then tracker scans")
}

fn bpf_lsm(facts: &Facts) -> &'static str {
    match &facts.modules {
        Some(list) if list.trim().split(',').any(|name| name == "bpf") => {
            "active; tracker does not use it, but a program of others may refuse it things"
        }
        Some(_) => "not active; tracker does not use it",
        None if facts.config_value("CONFIG_BPF_LSM") == Some("y") => {
            "built in, whether active is not known; tracker does not use it"
        }
        None => "not known; tracker does not use it",
    }
}

fn capabilities(facts: &Facts) -> Finding {
    let missing = facts.missing_capabilities();
    let uses = NEEDED.iter().filter(|(name, _, _)| missing.contains(name));
    let uses: Vec<_> = uses.map(|(name, _, use_)| format!("{name} ({use_})")).collect();
    let value = if missing.is_empty() { "all there".into() } else { format!("missing {}", uses.join(", ")) };
    let fix = "run as root, or grant them as packaging/tracker.service does; without the first two tracker scans";
    Finding::new("capabilities", missing.is_empty(), value, fix)
}

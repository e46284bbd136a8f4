//! Applies the systemd unit's restrictions to a process without systemd: the cases run under what
//! `packaging/tracker.service` says, so that the two cannot drift apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// How the cases apply a restriction of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// By the wrapper's script, in a mount namespace of its own.
    Script(&'static str),
    /// By an argument of `setpriv`.
    Privileges,
    /// In the record of the system calls: see [`Calls`].
    Calls,
    /// Not at all.
    No,
    /// It is not a restriction.
    Other,
}

const READ_ONLY: &str = "ro() { for d; do if [ -d \"$d\" ]; then mount --bind \"$d\" \"$d\"; mount -o remount,bind,ro \"$d\"; fi; done; }; ";

/// Every option of `[Service]` that the unit uses. An option that is missing here makes the cases fail, until someone
/// decides about it.
const OPTIONS: &[(&str, Held)] = &[
    ("CapabilityBoundingSet", Held::Privileges),
    ("NoNewPrivileges", Held::Privileges),
    ("UMask", Held::Script("umask \"$UMask\"")),
    ("LimitNOFILE", Held::Script("[ \"$(ulimit -Hn)\" -lt \"$LimitNOFILE\" ] || ulimit -n \"$LimitNOFILE\"")),
    // It grants more than a test may take.
    ("LimitMEMLOCK", Held::No),
    ("ProtectProc", Held::Script("mount -t proc -o hidepid=invisible proc /proc")),
    ("ProtectSystem", Held::Script("ro /usr /boot /efi /etc")),
    // bpffs is a mount of its own below /sys; ReadWritePaths names it.
    ("ProtectKernelTunables", Held::Script("mount -o remount,bind,ro /sys; ro /proc/sys")),
    ("ReadWritePaths", Held::Script("[ -w /sys/fs/bpf ]")),
    ("ProtectControlGroups", Held::Script("ro /sys/fs/cgroup")),
    (
        "ProtectKernelModules",
        Held::Script("for d in /usr/lib/modules; do [ ! -d $d ] || mount -t tmpfs -o mode=000 tmpfs $d; done"),
    ),
    (
        "PrivateDevices",
        Held::Script(
            "mount -t tmpfs -o mode=755 tmpfs /dev; mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/zero c 1 5; \
             mknod -m 666 /dev/urandom c 1 9; mknod -m 666 /dev/random c 1 8",
        ),
    ),
    ("SystemCallFilter", Held::Calls),
    ("MemoryDenyWriteExecute", Held::Calls),
    ("RestrictAddressFamilies", Held::Calls),
    ("RestrictNamespaces", Held::Calls),
    ("RestrictSUIDSGID", Held::Calls),
    ("RestrictRealtime", Held::Calls),
    ("LockPersonality", Held::Calls),
    ("ProtectClock", Held::Calls),
    ("ProtectHostname", Held::Calls),
    ("ProtectKernelLogs", Held::Calls),
    ("SystemCallArchitectures", Held::No),
    ("RemoveIPC", Held::No),
    ("MemoryMax", Held::No),
    ("SystemCallErrorNumber", Held::Other),
    ("CPUWeight", Held::Other),
    ("IOWeight", Held::Other),
    ("OOMScoreAdjust", Held::Other),
    ("Type", Held::Other),
    ("ExecStart", Held::Other),
    ("ExecReload", Held::Other),
    ("WatchdogSec", Held::Other),
    ("Restart", Held::Other),
    ("RestartSec", Held::Other),
    ("RestartPreventExitStatus", Held::Other),
    ("TimeoutStopSec", Held::Other),
    ("EnvironmentFile", Held::Other),
    ("StateDirectory", Held::Other),
    ("StateDirectoryMode", Held::Other),
];

/// Names and numbers of the capabilities that our unit may name.
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_DAC_READ_SEARCH", 2), ("CAP_SYS_ADMIN", 21)];

/// The unit's `[Service]` part.
#[derive(Clone, Debug)]
pub struct Unit {
    options: BTreeMap<String, String>,
}

impl Unit {
    /// Reads the one in `packaging`.
    ///
    /// # Panics
    /// When it cannot be read, or has an option that the cases do not know.
    #[must_use]
    pub fn read() -> Unit {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/tracker.service");
        let text = fs::read_to_string(path).expect("the unit");
        let service = text.split("[Service]").nth(1).expect("[Service]").split("\n[").next().unwrap_or_default();
        let lines = service.lines().filter(|line| !line.starts_with('#') && line.contains('='));
        let mut options = BTreeMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once('=')) {
            assert!(OPTIONS.iter().any(|(known, _)| *known == name), "{name}: say in OPTIONS how the cases hold it");
            assert_eq!(options.insert(name.to_owned(), value.to_owned()), None, "{name} is there twice");
        }
        Unit { options }
    }

    fn words(&self, name: &str) -> Vec<&str> {
        self.options.get(name).map_or_else(Vec::new, |value| value.split_whitespace().collect())
    }

    /// Names of the capabilities that are left.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&str> {
        self.words("CapabilityBoundingSet")
    }

    /// A command that starts what follows it as root with the unit's capabilities except `without`, and no others.
    ///
    /// # Panics
    /// When the unit names one that is not known here.
    #[must_use]
    pub fn privileges(&self, without: Option<&str>) -> Vec<String> {
        let kept = self.capabilities().into_iter().filter(|name| Some(*name) != without);
        let kept = kept.map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
        let mut args =
            vec!["setpriv".to_owned(), "--bounding-set".into(), "-all".to_owned() + &kept.collect::<String>()];
        args.extend(
            (self.options.get("NoNewPrivileges").is_some_and(|it| it == "yes")).then(|| "--no-new-privs".into()),
        );
        args
    }

    /// The set as the kernel shows it in `CapEff`.
    ///
    /// # Panics
    /// When the unit names one that is not known here.
    #[must_use]
    pub fn mask(&self) -> u64 {
        let bit = |name: &&str| CAPABILITIES.iter().find(|(known, _)| known == name).map(|(_, bit)| 1 << bit);
        self.capabilities().iter().map(|name| bit(name).expect("a capability that the cases know")).sum()
    }

    /// As [`Unit::privileges`], and in a mount namespace with the unit's restrictions on paths.
    #[must_use]
    pub fn sandbox(&self) -> Vec<String> {
        let mut script = format!("set -e; {READ_ONLY}");
        for (name, held) in OPTIONS {
            if let (Some(value), Held::Script(line)) = (self.options.get(*name), held) {
                script += &format!("{name}='{value}'; {line}; ");
            }
        }
        script += "exec \"$@\"";
        let unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", &script, "sh"];
        unshare.into_iter().map(str::to_owned).chain(self.privileges(None)).collect()
    }

    /// Names of the system calls that the filter allows, as systemd expands its groups.
    ///
    /// # Panics
    /// When systemd-analyze does not list them.
    #[must_use]
    pub fn allowed_calls(&self) -> BTreeSet<String> {
        let text = crate::mounts::run(Command::new("systemd-analyze").arg("syscall-filter"));
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut group = "";
        for line in text.lines() {
            if line.starts_with('@') {
                group = line.trim();
            } else if !line.trim().is_empty() && !line.trim().starts_with('#') {
                groups.entry(group).or_default().push(line.trim());
            }
        }
        let mut allowed = BTreeSet::new();
        // systemd.exec(5): @default is allowed whatever the filter says.
        let mut wanted = self.words("SystemCallFilter");
        wanted.push("@default");
        while let Some(name) = wanted.pop() {
            match groups.get(name) {
                Some(members) => wanted.extend(members),
                None => {
                    assert!(!name.starts_with('@'), "systemd knows no group {name}");
                    allowed.insert(name.to_owned());
                }
            }
        }
        allowed
    }

    /// Calls in a record of `strace -f` that the unit would not have allowed, one line each. Only calls after the start of
    /// `program` count.
    ///
    /// # Panics
    /// When the record lacks that start.
    #[must_use]
    pub fn refused(&self, record: &str, program: &Path) -> Vec<String> {
        let start = format!("execve(\"{}\"", program.display());
        let begin = record.find(&start).expect("the record has the start of the program");
        let allowed = self.allowed_calls();
        let families = self.words("RestrictAddressFamilies");
        let refuses = |line: &str| {
            let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
            let (name, rest) = call.split_once('(')?;
            if name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                // A signal, an exit, or the rest of an interrupted call.
                return None;
            }
            let has = |words: &[&str]| words.iter().any(|word| rest.contains(word));
            let family = || rest.split([',', ')', ' ']).next().unwrap_or_default();
            let why = match name {
                _ if !allowed.contains(name) => "SystemCallFilter",
                "mmap" if has(&["PROT_WRITE|PROT_EXEC"]) => "MemoryDenyWriteExecute",
                "mprotect" | "pkey_mprotect" if has(&["PROT_EXEC"]) => "MemoryDenyWriteExecute",
                "socket" | "socketpair" if !families.contains(&family()) => "RestrictAddressFamilies",
                "clone" | "clone3" | "unshare" | "setns" if has(&["CLONE_NEW"]) || name == "setns" => {
                    "RestrictNamespaces"
                }
                "chmod" | "fchmod" | "fchmodat" | "open" | "openat" | "mkdirat" if has(&["S_ISUID", "S_ISGID"]) => {
                    "RestrictSUIDSGID"
                }
                "sched_setscheduler" if has(&["SCHED_FIFO", "SCHED_RR"]) => "RestrictRealtime",
                "personality" => "LockPersonality",
                "syslog" => "ProtectKernelLogs",
                "sethostname" | "setdomainname" => "ProtectHostname",
                "clock_settime" | "settimeofday" | "adjtimex" => "ProtectClock",
                _ => return None,
            };
            Some(format!("{why}: {line}"))
        };
        record[begin..].lines().filter_map(refuses).collect()
    }
}

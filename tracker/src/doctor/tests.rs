//! Facts of machines that are not available here, and the findings that must follow.

use std::collections::BTreeSet;

use common::fields::FIELDS;
use common::functions::FUNCTIONS;
use common::hooks::{HOOKS, Role};

use super::directory::{self, Upper};
use super::fs::{self, Seen};
use super::{CAP_SYS_ADMIN, Facts, Finding, Kernel, NEEDED, gather, machine};
use crate::capture::BackEnd;
use crate::units::PathField;

fn whole() -> Kernel {
    Kernel {
        tracepoints: HOOKS.iter().map(|hook| hook.tracepoint).collect(),
        functions: FUNCTIONS.iter().map(|function| function.name).collect(),
        absent: BTreeSet::new(),
        file_systems: fs::KNOWN.into_iter().map(str::to_owned).collect(),
    }
}

fn good() -> Facts {
    Facts {
        release: "6.18.0".into(),
        btf: Some(1),
        kernel: whole(),
        bpffs: Some("/sys/fs/bpf".into()),
        object: true,
        state_dir: "/s".into(),
        state_problem: None,
        capabilities: NEEDED.iter().fold(0, |set, (_, bit, _)| set | 1 << bit),
        lockdown: Some("none [integrity] confidentiality\n".into()),
        modules: Some("capability,bpf\n".into()),
        config: Some("CONFIG_BPF_SYSCALL=y\nCONFIG_BPF_EVENTS=y\nCONFIG_DEBUG_INFO_BTF=y\n".into()),
    }
}

fn find<'a>(findings: &'a [Finding], name: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.name == name).unwrap()
}

#[test]
fn a_good_machine_has_no_fault() {
    let findings = machine(&good(), BackEnd::Tracepoint);
    assert!(findings.iter().all(|finding| finding.ok && finding.fix.is_none()), "{findings:#?}");
    assert_eq!(good().obstacle(), None);
    // A fact that cannot be read is not a fault.
    let blind = Facts { lockdown: None, modules: None, config: None, ..good() };
    assert!(machine(&blind, BackEnd::Tracepoint).iter().all(|finding| finding.ok));
    assert!(find(&machine(&blind, BackEnd::Tracepoint), "lockdown").value.contains("not known"));
}

#[test]
fn every_fault_is_found_named_and_has_a_fix() {
    let without = |gone: &[&'static str]| {
        let tracepoints = whole().tracepoints.into_iter().filter(|name| !gone.contains(name)).collect();
        Kernel { tracepoints, ..whole() }
    };
    let absent = |globals: &[&'static str]| Kernel { absent: globals.iter().copied().collect(), ..whole() };
    let modules = "CONFIG_MODULES=y\nCONFIG_BPF_SYSCALL=y\nCONFIG_BPF_EVENTS=y\nCONFIG_DEBUG_INFO_BTF=y\n";
    let cases = [
        (Facts { btf: None, ..good() }, "btf", "cannot"),
        (Facts { kernel: absent(&["INODE_INO"]), ..good() }, "members", "inode.i_ino"),
        (
            Facts { kernel: absent(&["FOLIO_PAGES", "FOLIO_ORDER", "FOLIO_FLAGS_1"]), ..good() },
            "members",
            "large folio",
        ),
        (Facts { kernel: without(&["ctime_ns_xchg"]), ..good() }, "tracepoints", "ctime_ns_xchg"),
        (Facts { lockdown: Some("none integrity [confidentiality]".into()), ..good() }, "lockdown", "may not"),
        (Facts { capabilities: 1 << 39, ..good() }, "capabilities", "CAP_PERFMON"),
        (Facts { capabilities: 1 << CAP_SYS_ADMIN, ..good() }, "capabilities", "CAP_DAC_READ_SEARCH"),
        (Facts { config: Some("# CONFIG_BPF_EVENTS is not set\n".into()), ..good() }, "config", "CONFIG_BPF_EVENTS"),
        (Facts { config: Some(modules.into()), ..good() }, "config", "CONFIG_DEBUG_INFO_BTF_MODULES"),
        (Facts { bpffs: None, ..good() }, "bpffs", "not mounted"),
        (Facts { object: false, ..good() }, "object", "not in this program"),
        (Facts { state_problem: Some("read-only".into()), ..good() }, "state", "read-only"),
    ];
    for (facts, name, word) in cases {
        let findings = machine(&facts, BackEnd::Tracepoint);
        let found = find(&findings, name);
        assert!(!found.ok && found.value.contains(word), "{name}: {found:?}");
        assert!(findings.iter().all(|finding| finding.ok != finding.fix.is_some()), "{findings:#?}");
    }
}

#[test]
fn what_keeps_programs_out_keeps_capture_out() {
    let bare = Facts { capabilities: 1 << 2, ..good() };
    assert!(bare.obstacle().is_some_and(|why| why.contains("CAP_BPF") && why.contains("CAP_PERFMON")));
    assert_eq!(Facts { capabilities: 1 << CAP_SYS_ADMIN, ..good() }.obstacle(), None, "it stands in for both");
    let locked = Facts { lockdown: Some("none integrity [confidentiality]".into()), ..good() };
    assert!(locked.obstacle().is_some_and(|why| why.contains("locked down")));
}

fn seen(system: &fs::FileSystem, word: &str) -> Seen {
    let row = system.changes.iter().find(|row| row.change.contains(word));
    row.unwrap_or_else(|| panic!("{word} is not said: {system:#?}")).seen
}

#[test]
fn each_file_system_is_told_as_its_programs_are() {
    let of = |name| fs::judge(name, &whole(), BackEnd::Tracepoint);
    for name in ["ext4", "xfs", "btrfs"] {
        let system = of(name);
        assert_eq!((system.backend, system.degraded()), (BackEnd::Tracepoint, false), "{system:#?}");
        assert_eq!(seen(&system, "mapping"), Seen::Blocks);
        assert_eq!(seen(&system, "names"), Seen::Entry);
    }
    assert_eq!(seen(&of("ext4"), "punch"), Seen::Blocks);
    assert_eq!(seen(&of("xfs"), "punch"), Seen::WholeFile);
    assert_eq!(seen(&of("btrfs"), "punch"), Seen::WholeFile);
    assert_eq!(seen(&of("btrfs"), "io_uring"), Seen::WholeFile);
    let tmpfs = of("tmpfs");
    assert_eq!(seen(&tmpfs, "mapping"), Seen::Partly);
    assert!(tmpfs.degraded(), "stores that leave no trace are no small thing");
    // The table of a file system must have every tracepoint of it.
    for hook in
        HOOKS.iter().filter(|hook| hook.role != Role::Write && matches!(hook.serves, common::hooks::Serves::One(_)))
    {
        let told = fs::KNOWN.into_iter().flat_map(|name| of(name).changes);
        assert!(told.into_iter().any(|row| row.by.contains(hook.tracepoint)), "{} is not told of", hook.tracepoint);
    }
}

#[test]
fn what_a_file_system_lacks_makes_it_scan_with_a_reason() {
    let mut kernel = whole();
    kernel.tracepoints.remove("ext4_punch_hole");
    let ext4 = fs::judge("ext4", &kernel, BackEnd::Tracepoint);
    assert_eq!((ext4.backend, ext4.degraded()), (BackEnd::Scan, true));
    assert!(ext4.problems[0].contains("ext4_punch_hole") && ext4.fix.is_some(), "{ext4:#?}");
    assert!(ext4.hooks.iter().any(|hook| !hook.present && hook.name == "ext4_punch_hole"));
    assert_eq!(fs::judge("xfs", &kernel, BackEnd::Tracepoint).backend, BackEnd::Tracepoint, "it needs others");

    let kernel = Kernel { absent: ["XFS_VNODE"].into(), file_systems: BTreeSet::new(), ..whole() };
    let xfs = fs::judge("xfs", &kernel, BackEnd::Tracepoint);
    assert!(xfs.problems[0].contains("i_vnode") && xfs.fix.as_deref().unwrap().contains("modprobe xfs"), "{xfs:#?}");

    let kernel = Kernel { absent: ["REGS_IP"].into(), ..whole() };
    let btrfs = fs::judge("btrfs", &kernel, BackEnd::Tracepoint);
    assert_eq!(seen(&btrfs, "everything else"), Seen::WholeFile);
    assert_eq!(fs::judge("nfs4", &whole(), BackEnd::Tracepoint).backend, BackEnd::Scan);
    assert!(fs::judge("ext4", &whole(), BackEnd::Scan).degraded());
}

#[test]
fn hooked_functions_stand_in_for_tracepoints() {
    // A kernel before 6.13: no change times, no ranges of file systems, no ext4 as a module that is loaded.
    let old = Kernel { tracepoints: ["writeback_dirty_folio"].into(), ..whole() };
    for back_end in [BackEnd::Fentry, BackEnd::Kprobe] {
        for name in ["ext4", "xfs", "btrfs"] {
            let system = fs::judge(name, &old, back_end);
            assert_eq!((system.backend, system.degraded()), (back_end, false), "{system:#?}");
            assert_eq!((seen(&system, "punch"), seen(&system, "truncation")), (Seen::Blocks, Seen::Tail));
            assert!(system.changes.iter().all(|row| !row.by.is_empty()), "{system:#?}");
        }
        assert!(fs::judge("tmpfs", &old, back_end).degraded());
        let bare = Kernel { functions: BTreeSet::new(), ..old.clone() };
        assert_eq!(fs::judge("tmpfs", &bare, back_end).backend, BackEnd::Scan, "it needs noop_dirty_folio");
        let findings = machine(&Facts { kernel: old.clone(), ..good() }, back_end);
        assert!(find(&findings, "tracepoints").ok);
    }
    assert_eq!(fs::judge("ext4", &old, BackEnd::Tracepoint).backend, BackEnd::Scan);
    let moved = |kernel: &Kernel| fs::judge("ext4", kernel, BackEnd::Fentry).limits.len();
    let neither = Kernel { functions: BTreeSet::new(), ..old.clone() };
    assert_eq!((moved(&whole()), moved(&old), moved(&neither)), (1, 1, 2), "one hook of two tells of MOVE_EXT");
}

fn at(fs: &str, upper: Option<Upper>) -> directory::DirectoryFacts {
    let inside = Vec::new();
    directory::DirectoryFacts {
        path: PathField::new(b"/d"),
        fs: fs.into(),
        mount_point: "/".into(),
        upper,
        in_inodes: false,
        inside,
    }
}

#[test]
fn an_overlay_is_judged_by_its_upper_layer() {
    let upper = |fs: Option<&str>| {
        let fs = fs.map(str::to_owned);
        Upper { dir: "/u".into(), fs, volatile: false, metacopy_hidden: false }
    };
    let blind = Upper { metacopy_hidden: true, ..upper(None) };
    let judge = |facts: &directory::DirectoryFacts| directory::judge(facts, &whole(), BackEnd::Tracepoint);
    let fine = judge(&at("overlay", Some(upper(Some("xfs")))));
    assert_eq!((&*fine.file_system.name, fine.degraded()), ("xfs", false), "{fine:#?}");
    for facts in [at("overlay", Some(upper(None))), at("overlay", Some(blind)), at("overlay", None)] {
        let hidden = judge(&facts);
        assert_eq!(hidden.file_system.backend, BackEnd::Scan);
        assert!(hidden.degraded() && hidden.findings.iter().any(|finding| finding.fix.is_some()), "{hidden:#?}");
    }
}

#[test]
fn mounts_inside_degrade_a_directory() {
    let mut facts = at("ext4", None);
    assert!(!directory::judge(&facts, &whole(), BackEnd::Tracepoint).degraded());
    facts.inside.push("/d/m".into());
    let verdict = directory::judge(&facts, &whole(), BackEnd::Tracepoint);
    assert!(verdict.degraded() && verdict.findings.iter().any(|finding| finding.value.contains("/d/m")));
}

#[test]
fn small_files_in_inodes_are_told_with_what_helps() {
    let facts = directory::DirectoryFacts { in_inodes: true, ..at("ext4", None) };
    let verdict = directory::judge(&facts, &whole(), BackEnd::Tracepoint);
    assert!(verdict.degraded() && verdict.file_system.backend == BackEnd::Scan, "{verdict:#?}");
    assert!(verdict.file_system.problems.iter().any(|problem| problem.contains("inline_data")), "{verdict:#?}");
    assert!(verdict.file_system.fix.is_some_and(|fix| fix.contains("^inline_data")));
}

#[test]
fn this_machine_can_be_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let facts = gather::machine(dir.path());
    assert_eq!(facts.state_problem, None);
    let findings = machine(&facts, BackEnd::Tracepoint);
    assert!(findings.iter().all(|finding| finding.ok != finding.fix.is_some()), "{findings:#?}");
    assert!(facts.btf.is_some() || facts.kernel.absent.len() == FIELDS.len());
    let seen = gather::directory(dir.path()).unwrap();
    assert!(!seen.fs.is_empty() && seen.inside.is_empty(), "{seen:?}");
    assert!(gather::directory(&dir.path().join("none")).is_err());
}

/// Every back end but the best states its cost and a fix, and the cost agrees with the rows.
#[test]
fn what_is_not_the_best_has_its_cost_and_a_fix() {
    assert_eq!(super::costs(BackEnd::Fentry), None);
    for back_end in [BackEnd::Kprobe, BackEnd::Tracepoint, BackEnd::Scan] {
        let (cost, fix) = super::costs(back_end).unwrap();
        assert!(!cost.is_empty() && !fix.is_empty());
    }
    let whole_files = |name, back_end| {
        let system = fs::judge(name, &whole(), back_end);
        system.changes.iter().filter(|row| row.seen == fs::Seen::WholeFile).count()
    };
    let (traced, _) = super::costs(BackEnd::Tracepoint).unwrap();
    for name in ["xfs", "btrfs", "tmpfs"] {
        assert!(
            traced.contains(name) && whole_files(name, BackEnd::Tracepoint) > whole_files(name, BackEnd::Fentry),
            "{name}"
        );
    }
    assert_eq!((traced.contains("ext4"), whole_files("ext4", BackEnd::Tracepoint)), (false, 0));
}

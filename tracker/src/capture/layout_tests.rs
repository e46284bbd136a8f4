//! Layouts of three kernels from reduced BTF (`testdata/btf`, made by the example `btf_cut`), and the effect of hostile
//! BTF.

use std::sync::Arc;

use common::fields::FIELDS;

use super::{
    back_end::BackEnd,
    btf::{Btf, BtfError},
    choose::missing_tracepoints,
    cut::cut,
    layout::{KernelTypes, Layout, LayoutError},
    points::functions,
};

const V6_1: &[u8] = include_bytes!("../../testdata/btf/6.1.192.btf");
const V6_12: &[u8] = include_bytes!("../../testdata/btf/6.12.117.btf");
const V6_18: &[u8] = include_bytes!("../../testdata/btf/6.18.44.btf");

fn types(blob: &[u8]) -> KernelTypes {
    KernelTypes::from_blobs("test".into(), blob.to_vec(), Vec::new()).unwrap()
}

/// Each global with its value on 6.1, 6.12 and 6.18; read from full BTF with another tool, not with this reader.
const EXPECTED: &[(&str, [Option<u32>; 3])] = &[
    ("INODE_MODE", [Some(0), Some(0), Some(0)]),
    ("INODE_SB", [Some(40), Some(40), Some(40)]),
    ("INODE_INO", [Some(64), Some(64), Some(64)]),
    ("INODE_SIZE", [Some(80), Some(80), Some(80)]),
    ("INODE_BLKBITS", [Some(142), Some(134), Some(134)]),
    ("INODE_MAPPING", [Some(48), Some(48), Some(48)]),
    ("INODE_COUNT", [Some(344), Some(336), Some(344)]),
    ("SB_DEV", [Some(16), Some(16), Some(16)]),
    ("SB_MAGIC", [Some(96), Some(96), Some(96)]),
    ("MAPPING_HOST", [Some(0), Some(0), Some(0)]),
    ("MAPPING_WRITABLE", [Some(68), Some(68), Some(68)]),
    ("FOLIO_FLAGS", [Some(0), Some(0), Some(0)]),
    ("FOLIO_INDEX", [Some(32), Some(32), Some(32)]),
    ("FOLIO_PAGES", [Some(92), Some(96), Some(120)]),
    ("FOLIO_ORDER", [Some(81), None, None]),
    ("FOLIO_FLAGS_1", [Some(64), Some(64), Some(64)]),
    ("KIOCB_FILE", [Some(0), Some(0), Some(0)]),
    ("KIOCB_POS", [Some(8), Some(8), Some(8)]),
    ("FILE_INODE", [Some(32), Some(40), Some(32)]),
    ("ITER_COUNT", [Some(16), Some(24), Some(24)]),
    ("ITER_SOURCE", [Some(2), Some(2), Some(2)]),
    ("XFS_VNODE", [Some(312), Some(312), Some(312)]),
    ("VMA_FILE", [Some(112), Some(128), Some(88)]),
    ("VMA_FLAGS", [Some(32), Some(32), Some(32)]),
    ("DENTRY_PARENT", [Some(24), Some(24), Some(24)]),
    ("DENTRY_INODE", [Some(48), Some(48), Some(48)]),
    ("IATTR_VALID", [Some(0), Some(0), Some(0)]),
    ("IATTR_SIZE", [Some(16), Some(16), Some(16)]),
    ("DIO_IOCB", [Some(0), Some(0), Some(0)]),
    ("TASK_FILES", [Some(3048), Some(3048), Some(1824)]),
    ("FILES_TABLE", [Some(32), Some(32), Some(32)]),
    ("TABLE_FILES", [Some(8), Some(8), Some(8)]),
    ("REGS_SYSCALL", [Some(120), Some(120), Some(120)]),
    ("REGS_IP", [Some(128), Some(128), Some(128)]),
    ("REGS_ARGUMENT_2", [Some(104), Some(104), Some(104)]),
];

#[test]
fn layouts_of_three_kernels() {
    let layouts = [V6_1, V6_12, V6_18].map(|blob| Layout::resolve(&types(blob)).unwrap());
    for (global, values) in EXPECTED {
        for (layout, expected) in layouts.iter().zip(values) {
            assert_eq!(layout.get(global), *expected, "{global}");
        }
    }
    // The bit depends on the configuration: check only that it exists and is small.
    assert!(layouts.iter().all(|layout| layout.get("PG_HEAD").is_some_and(|bit| bit < 32)));
    assert_eq!(layouts[2].get("PG_HEAD"), Some(6));
    assert_eq!(EXPECTED.len() + 1, FIELDS.len(), "a field has no expectation here");
}

#[test]
fn kernels_without_the_timestamp_tracepoints_are_told_so() {
    assert_eq!(missing_tracepoints(&types(V6_18)), Vec::<&str>::new());
    let ticks = ["inode_set_ctime_to_ts", "ctime_ns_xchg", "ctime_xchg_skip"];
    assert_eq!(missing_tracepoints(&types(V6_12)), ticks);
    let old = missing_tracepoints(&types(V6_1));
    assert!(old.contains(&"iomap_dio_complete") && ticks.iter().all(|tick| old.contains(tick)), "{old:?}");
}

#[test]
fn functions_of_three_kernels_are_those_that_the_programs_read() {
    let names = |blob| -> Vec<&str> {
        let hooked = functions(&types(blob), BackEnd::Fentry).unwrap();
        hooked.into_iter().map(|function| function.name).collect()
    };
    let (old, middle, new) = (names(V6_1), names(V6_12), names(V6_18));
    for name in ["notify_change", "d_move", "vfs_fallocate", "noop_dirty_folio", "ext4_move_extents"] {
        assert!([&old, &middle, &new].iter().all(|names| names.contains(&name)), "{name}");
    }
    assert!(old.contains(&"__iomap_dio_rw") && !middle.contains(&"__iomap_dio_rw"), "6.12 has the tracepoint");
    assert!(middle.contains(&"inode_set_ctime_current"), "{middle:?}");
    // Debian's 6.1 has the function too, backported, but with few callers; 6.13 has the tracepoints instead.
    assert!(!new.contains(&"inode_set_ctime_current"), "{new:?}");
    assert!(!old.contains(&"vfs_set_acl") && middle.contains(&"vfs_set_acl"));
    assert_eq!(functions(&types(V6_18), BackEnd::Tracepoint).unwrap().len(), 0);
}

#[test]
fn a_function_that_is_missing_or_has_other_arguments_is_named() {
    let with = |from: &[u8], to: &[u8]| {
        let mut blob = V6_12.to_vec();
        let at = blob.windows(from.len()).position(|window| window == from).unwrap();
        blob[at..at + to.len()].copy_from_slice(to);
        functions(&types(&blob), BackEnd::Kprobe).unwrap_err()
    };
    assert_eq!(with(b"\0d_move\0", b"\0d_mova\0"), "the kernel has no function d_move");
    let error = with(b"\0iattr\0", b"\0iatts\0");
    assert_eq!(error, "argument 2 of notify_change points to a struct iatts, not iattr");
}

#[test]
fn a_missing_member_is_named_with_struct_and_kernel() {
    let mut blob = V6_18.to_vec();
    let at = blob.windows(6).position(|window| window == b"\0s_dev").unwrap();
    blob[at + 1] = b'z';
    match Layout::resolve(&types(&blob)) {
        Err(error @ LayoutError::Missing { .. }) => {
            let text = error.to_string();
            assert!(text.contains("super_block") && text.contains("s_dev") && text.contains("test"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn cutting_what_was_cut_changes_nothing() {
    for blob in [V6_1, V6_12, V6_18] {
        assert_eq!(cut(&types(blob)).unwrap(), blob);
    }
}

#[test]
fn every_cut_of_the_input_is_an_error_or_a_parse_but_no_panic() {
    for end in 0..V6_18.len() {
        if let Ok(btf) = Btf::parse(V6_18[..end].to_vec(), None) {
            let _ = btf.member_offset("inode", "i_sb");
        }
    }
}

#[test]
fn hostile_words_do_not_panic_or_run_for_ever() {
    // Every word in turn becomes a bad length, reference or kind.
    for at in (0..V6_18.len() - 4).step_by(4) {
        for bad in [0u32, 1, 0x7fff_ffff, u32::MAX, 0x8400_ffff, 0x0400_0001] {
            let mut blob = V6_18.to_vec();
            blob[at..at + 4].copy_from_slice(&bad.to_le_bytes());
            if let Ok(btf) = Btf::parse(blob, None) {
                for (container, member) in [("inode", "i_sb"), ("folio", "_nr_pages"), ("iov_iter", "count")] {
                    let _ = btf.member_offset(container, member);
                }
                let _ = btf.constant("pageflags", "PG_head");
            }
        }
    }
}

/// Builds a blob from head, types and strings.
fn blob(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let mut out = vec![0x9f, 0xeb, 1, 0];
    let bytes = types.len() as u32 * 4;
    for word in [24, 0, bytes, bytes, strings.len() as u32].iter().chain(types) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(strings);
    out
}

const STRUCT: u32 = 4 << 24;
const TYPEDEF: u32 = 8 << 24;
const FLAGGED: u32 = 1 << 31;

#[test]
fn a_modules_types_continue_those_of_the_kernel() {
    // Kernel: 1 = anonymous struct { x at 32 bits }.
    let base = Arc::new(Btf::parse(blob(&[0, STRUCT | 1, 8, 1, 0, 32], b"\0x\0"), None).unwrap());
    // Module: 2 = typedef to 1, 3 = struct m { anonymous 2 at 64 bits }. Its strings begin at 3.
    let module = blob(&[0, TYPEDEF, 1, 4, STRUCT | 1, 16, 0, 2, 64], b"\0m\0");
    let module = Btf::parse(module, Some(base)).unwrap();
    assert_eq!(module.member_offset("m", "x"), Ok(Some(12)));
    assert_eq!(module.member_offset("m", "y"), Ok(None));
}

#[test]
fn bit_fields_disagreeing_types_and_self_nesting_are_refused() {
    let names = b"\0m\0x\0";
    // A bit-field of 3 bits, and one without the flag that does not start at a byte.
    let flagged = Btf::parse(blob(&[1, FLAGGED | STRUCT | 1, 8, 3, 0, 3 << 24 | 8], names), None).unwrap();
    assert!(matches!(flagged.member_offset("m", "x"), Err(BtfError::BitField { .. })));
    let odd = Btf::parse(blob(&[1, STRUCT | 1, 8, 3, 0, 9], names), None).unwrap();
    assert!(matches!(odd.member_offset("m", "x"), Err(BtfError::BitField { .. })));
    // Two structs of one name with different offsets.
    let two = [1, STRUCT | 1, 8, 3, 0, 8, 1, STRUCT | 1, 8, 3, 0, 16];
    let two = Btf::parse(blob(&two, names), None).unwrap();
    assert!(matches!(two.member_offset("m", "x"), Err(BtfError::Ambiguous { .. })));
    // A struct that contains itself twice, anonymously: the walk doubles at each step and must be stopped.
    let own = Btf::parse(blob(&[1, STRUCT | 2, 8, 0, 1, 0, 0, 1, 0], names), None).unwrap();
    assert!(matches!(own.member_offset("m", "x"), Err(BtfError::TooDeep { .. })));
}

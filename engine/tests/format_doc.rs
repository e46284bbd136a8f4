//! `docs/format.md` states constants in tables of two columns (`name` | value); they are the ones in the code.

use engine::checkpoint as cp;
use engine::format::{self, commit, era, frame, limits, pack};
use std::collections::BTreeMap;

fn text(magic: [u8; 3]) -> String {
    String::from_utf8(magic.to_vec()).unwrap()
}

fn in_code() -> BTreeMap<&'static str, String> {
    let mut all = BTreeMap::new();
    macro_rules! numbers {
        ($($name:literal = $value:expr),* $(,)?) => { $(all.insert($name, $value.to_string());)* };
    }
    numbers! {
        "VERSION" = format::VERSION, "STANDING_VERSION" = format::STANDING_VERSION, "CONSISTENCY_VERSION" = format::CONSISTENCY_VERSION,
        "FIRST_VERSION" = format::FIRST_VERSION, "HEAD_BYTES" = format::HEAD_BYTES, "CHECKSUM_BYTES" = format::CHECKSUM_BYTES,
        "MAGIC_FORMAT" = text(format::MAGIC_FORMAT), "MAGIC_COMMIT" = text(format::MAGIC_COMMIT),
        "MAGIC_PACK" = text(format::MAGIC_PACK), "MAGIC_ERA" = text(format::MAGIC_ERA),
        "MAGIC_CHECKPOINT" = text(format::MAGIC_CHECKPOINT), "MAGIC_PAGE" = text(format::MAGIC_PAGE),
        "frame::CONTEXT" = frame::CONTEXT, "pack::CONTEXT" = pack::CONTEXT, "commit::CONTEXT" = commit::CONTEXT,
        "era::ERA_CONTEXT" = era::ERA_CONTEXT, "era::FORMAT_CONTEXT" = era::FORMAT_CONTEXT,
        "checkpoint::CONTEXT" = cp::CONTEXT,
        "frame::MARK" = frame::MARK, "frame::CODEC_RAW" = frame::CODEC_RAW, "frame::CODEC_ZSTD" = frame::CODEC_ZSTD,
        "frame::HEADER_BYTES" = frame::HEADER_BYTES,
        "checkpoint::FILES_A_PAGE" = cp::FILES_A_PAGE, "checkpoint::NAME_CUT_BITS" = cp::NAME_CUT_BITS,
        "checkpoint::NAMES_A_PAGE" = cp::NAMES_A_PAGE, "checkpoint::EXTENTS_WITH_FILE" = cp::EXTENTS_WITH_FILE,
        "checkpoint::EXTENTS_A_PAGE" = cp::EXTENTS_A_PAGE,
        "limits::FRAME_PLAIN" = limits::FRAME_PLAIN, "limits::INLINE" = limits::INLINE,
        "limits::COMMIT" = limits::COMMIT, "limits::PACK" = limits::PACK, "limits::PAGE" = limits::PAGE,
        "limits::PACKS" = limits::PACKS, "limits::FRAMES" = limits::FRAMES, "limits::CHANGES" = limits::CHANGES,
        "limits::OPS" = limits::OPS, "limits::SIZE" = limits::SIZE, "limits::NAME" = limits::NAME,
        "limits::SYMLINK_TARGET" = limits::SYMLINK_TARGET, "limits::XATTRS" = limits::XATTRS,
        "limits::XATTR_NAME" = limits::XATTR_NAME, "limits::XATTR_VALUE" = limits::XATTR_VALUE,
        "limits::EXTENTS" = limits::EXTENTS, "limits::PAGES" = limits::PAGES, "limits::ERA_LEN" = limits::ERA_LEN,
        "DEFAULT_ERA_LEN" = format::DEFAULT_ERA_LEN, "DEFAULT_LEVEL" = format::DEFAULT_LEVEL,
        "DEFAULT_PACK_BYTES" = format::DEFAULT_PACK_BYTES,
    }
    all
}

#[test]
fn the_documents_constants_are_the_codes() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md")).unwrap();
    let mut in_page = BTreeMap::new();
    for table in page.split("\n\n").filter(|block| block.trim_start().starts_with("| name | value |")) {
        for line in table.trim().lines().skip(2) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            in_page.insert(cells[0].trim_matches('`'), cells[1].to_string());
        }
    }
    assert_eq!(in_page, in_code());
}

#[test]
fn every_constant_of_the_code_is_in_this_test() {
    let source = include_str!("../src/format.rs");
    let names = source.lines().filter_map(|l| l.trim_start().strip_prefix("pub const ")?.split(':').next());
    let known = in_code();
    let missing: Vec<&str> =
        names.filter(|n| !known.contains_key(n) && !known.contains_key(format!("limits::{n}").as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

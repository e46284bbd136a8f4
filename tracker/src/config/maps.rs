//! Sizes of the capture's maps as an operator may set them.

use serde::Deserialize;
use strum::VariantNames;

use crate::capture::MapEntries;

/// How many entries a kernel map may have: fewer would be useless, and more could not be allocated at once.
pub const ENTRIES_RANGE: std::ops::RangeInclusive<u32> = 8..=1 << 24;

/// Sets one size of the kernel maps, written as `MAP=ENTRIES`.
pub fn parse_map_entries(text: &str) -> Result<(KernelMap, u32), String> {
    let (map, entries) = text.split_once('=').ok_or_else(|| format!("`{text}` is not MAP=ENTRIES"))?;
    let map: KernelMap = map.parse().map_err(|_| format!("the maps are {}", KernelMap::VARIANTS.join(", ")))?;
    let entries: u32 = entries.parse().map_err(|_| format!("`{entries}` is no number of entries"))?;
    Entries::try_from(entries).map(|entries| (map, entries.0))
}

/// A size that a map may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Entries(u32);

impl TryFrom<u32> for Entries {
    type Error = String;

    fn try_from(entries: u32) -> Result<Entries, String> {
        let (least, most) = (ENTRIES_RANGE.start(), ENTRIES_RANGE.end());
        let within = ENTRIES_RANGE.contains(&entries).then_some(Entries(entries));
        within.ok_or_else(|| format!("a map has from {least} to {most} entries"))
    }
}

impl From<Entries> for u32 {
    fn from(entries: Entries) -> u32 {
        entries.0
    }
}

/// A kernel map whose size an operator can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum KernelMap {
    Dirty,
    Inode,
    Watch,
    Inflight,
}

impl KernelMap {
    /// The field for its size in `entries`.
    pub fn of(self, entries: &mut MapEntries) -> &mut u32 {
        match self {
            KernelMap::Dirty => &mut entries.dirty,
            KernelMap::Inode => &mut entries.inode,
            KernelMap::Watch => &mut entries.watch,
            KernelMap::Inflight => &mut entries.inflight,
        }
    }
}

/// Means for the watch set: as many entries as the files need.
pub const WATCH_BY_FILES: u32 = 0;

/// Sizes of the maps if none are set.
pub fn default_maps() -> MapEntries {
    MapEntries { watch: WATCH_BY_FILES, ..MapEntries::default() }
}

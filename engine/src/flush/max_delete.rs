//! How many files may disappear at once before a person is asked.

/// When the removals of one flush are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxDelete {
    /// More than this share of the files is held back; `None`: nothing ever is.
    pub percent: Option<u8>,
    /// So many files may always go: a person who removes a directory by hand is not asked.
    pub floor: u64,
    /// As many a person has confirmed.
    pub confirmed: u64,
    /// Files that the volume had a little while ago. A tree that is removed over several flushes is measured by what it was, or
    /// the last of these flushes would seem to remove everything.
    pub before: u64,
}

impl MaxDelete {
    /// Half of the files, as a source has to lose its greater part to look emptied; a thousand, since smaller trees are put back
    /// from their history at once, and what people and tools remove all day (a checkout, a temporary directory) is mostly below.
    pub const DEFAULT: MaxDelete = MaxDelete { percent: Some(50), floor: 1000, confirmed: 0, before: 0 };
    pub const OFF: MaxDelete = MaxDelete { percent: None, floor: 0, confirmed: 0, before: 0 };

    /// Whether `lost` of `files` may not be removed.
    pub fn holds(&self, lost: u64, files: u64) -> bool {
        let Some(percent) = self.percent else { return false };
        let of = u128::from(files.max(self.before));
        lost > self.floor && lost > self.confirmed && u128::from(lost) * 100 > of * u128::from(percent)
    }

    /// Whether it can hold at all where at most `lost` are lost.
    pub(super) fn may_hold(&self, lost: usize) -> bool {
        self.percent.is_some() && lost as u64 > self.floor
    }
}

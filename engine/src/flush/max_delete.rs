//! How many files may disappear at once before a person is asked.

/// When the removals of one flush are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxDelete {
    /// More than this share of the files is held back; `None` holds nothing back.
    pub percent: Option<u8>,
    /// Up to this many files may always be removed: a person who removes a directory by hand is not asked.
    pub floor: u64,
    /// How many removals a person has confirmed.
    pub confirmed: u64,
    /// Number of files that the volume had a little while ago. A tree that is removed over several flushes is measured
    /// against this number; otherwise the last flush would seem to remove everything.
    pub before: u64,
}

impl MaxDelete {
    /// Half of the files: a source that looks emptied has lost the greater part of them. A thousand: smaller trees are
    /// quickly restored from history, and what people and tools remove all day (a checkout, a temporary directory) is
    /// mostly smaller.
    pub const DEFAULT: MaxDelete = MaxDelete { percent: Some(50), floor: 1000, confirmed: 0, before: 0 };
    pub const OFF: MaxDelete = MaxDelete { percent: None, floor: 0, confirmed: 0, before: 0 };

    /// Whether removing `lost` of `files` has to wait.
    pub fn holds(&self, lost: u64, files: u64) -> bool {
        let Some(percent) = self.percent else { return false };
        let of = u128::from(files.max(self.before));
        lost > self.floor && lost > self.confirmed && u128::from(lost) * 100 > of * u128::from(percent)
    }

    /// Whether a removal of at most `lost` files could ever have to wait.
    pub(super) fn may_hold(&self, lost: usize) -> bool {
        self.percent.is_some() && lost as u64 > self.floor
    }
}

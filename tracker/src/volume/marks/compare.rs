//! What of a volume is to be compared with its source, as a note in its catalog that outlives the process.

/// Name of the note: it stays until the first pass is through.
pub(crate) const COMPARE: &str = "compare";

/// What must be looked at, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compare {
    /// The marks say what changed.
    Nothing,
    /// Every directory is listed, and files that differ from their record in inode, size or times are read.
    Listings,
    /// Every file is read.
    Everything,
}

impl Compare {
    /// As a note in the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Compare::Nothing => "nothing",
            Compare::Listings => "listings",
            Compare::Everything => "everything",
        }
    }

    /// From a note; what it does not know is everything.
    pub fn of_word(word: Option<&str>) -> Compare {
        match word {
            None | Some("nothing") => Compare::Nothing,
            Some("listings") => Compare::Listings,
            Some(_) => Compare::Everything,
        }
    }
}

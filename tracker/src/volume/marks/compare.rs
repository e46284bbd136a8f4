//! What has to be compared with the source, kept as a note in a volume's catalog so that it outlives the process.

/// Name of the note. It stays until the first pass is complete.
pub(crate) const COMPARE: &str = "compare";

/// What must be compared, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compare {
    /// Nothing: the marks say what changed.
    Nothing,
    /// Every directory is listed, and files that differ from their record in inode, size or times are read.
    Listings,
    /// Every file is read.
    Everything,
}

impl Compare {
    /// The word for the note in the catalog.
    pub fn word(self) -> &'static str {
        match self {
            Compare::Nothing => "nothing",
            Compare::Listings => "listings",
            Compare::Everything => "everything",
        }
    }

    /// Parses a note. An unknown word means everything.
    pub fn of_word(word: Option<&str>) -> Compare {
        match word {
            None | Some("nothing") => Compare::Nothing,
            Some("listings") => Compare::Listings,
            Some(_) => Compare::Everything,
        }
    }
}

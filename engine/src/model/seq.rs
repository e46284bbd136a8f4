//! The number of a commit.

use std::fmt;
use std::num::ParseIntError;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// Number of a commit: one more than its parent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// No commit yet.
    pub const NONE: Seq = Seq(0);
    /// The first commit.
    pub const FIRST: Seq = Seq(1);
    /// The highest number there is.
    pub const MAX: Seq = Seq(u64::MAX);

    /// All numbers from this one to `last`, in order.
    pub fn to(self, last: Seq) -> impl DoubleEndedIterator<Item = Seq> {
        (self.0..=last.0).map(Seq)
    }

    /// The number `by` above this one, if there is one.
    pub fn checked_add(self, by: u64) -> Option<Seq> {
        self.0.checked_add(by).map(Seq)
    }

    /// The number `by` below this one, if there is one.
    pub fn checked_sub(self, by: u64) -> Option<Seq> {
        self.0.checked_sub(by).map(Seq)
    }

    /// The number `by` above this one, or the highest one.
    pub fn saturating_add(self, by: u64) -> Seq {
        Seq(self.0.saturating_add(by))
    }

    /// The number `by` below this one, or [`Seq::NONE`].
    pub fn saturating_sub(self, by: u64) -> Seq {
        Seq(self.0.saturating_sub(by))
    }
}

impl Add<u64> for Seq {
    type Output = Seq;

    fn add(self, by: u64) -> Seq {
        Seq(self.0 + by)
    }
}

impl Sub<u64> for Seq {
    type Output = Seq;

    fn sub(self, by: u64) -> Seq {
        Seq(self.0 - by)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Seq {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Seq, ParseIntError> {
        text.parse().map(Seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_numbers_and_counted() {
        assert_eq!(format!("{} {:03}", Seq(7), Seq(7)), "7 007");
        assert_eq!("12".parse(), Ok(Seq(12)));
        assert_eq!(Seq(2).to(Seq(4)).collect::<Vec<_>>(), [Seq(2), Seq(3), Seq(4)]);
        assert_eq!(Seq(4).to(Seq(3)).count(), 0);
        assert_eq!((Seq::FIRST.checked_sub(1), Seq::NONE.checked_sub(1)), (Some(Seq::NONE), None));
    }
}

//! Whether a commit is the state of the whole tree at one instant, and why it is not.

use std::fmt;

/// What a commit says of the time of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Content, sizes, names and attributes are those of one moment: what `kill -9` of all writers leaves then.
    Instant {
        /// Length of the window in which it was proven that nothing changed.
        window_us: u32,
        /// For how long writers were paused; 0: not at all.
        pause_us: u32,
    },
    /// Each block is as it was at some moment of the flush.
    Live(NotInstant),
}

/// Why a commit is not of one instant. The numbers are those of the store, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NotInstant {
    /// No gap between changes was found in time.
    NeverQuiet = 1,
    /// Too much had changed to be held back.
    TooMuch = 2,
    /// Files were left for the next flush, or could not be read.
    LeftOver = 3,
    /// A map was full, or runs of a program were missed, in the window.
    Uncertain = 4,
    /// Direct writes were in flight.
    DirectIo = 5,
    /// Kernel or back end cannot count changes.
    Kernel = 6,
    /// The file system hides changes.
    FileSystem = 7,
    /// Stores through mappings cannot be seen.
    Mapped = 8,
    /// The first copy was not complete.
    FirstPass = 9,
    /// Writers would have had to be paused, and could not be.
    CannotFreeze = 10,
}

impl NotInstant {
    /// All of them, by number.
    pub const ALL: [NotInstant; 10] = [
        NotInstant::NeverQuiet,
        NotInstant::TooMuch,
        NotInstant::LeftOver,
        NotInstant::Uncertain,
        NotInstant::DirectIo,
        NotInstant::Kernel,
        NotInstant::FileSystem,
        NotInstant::Mapped,
        NotInstant::FirstPass,
        NotInstant::CannotFreeze,
    ];

    /// As the store has it.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// `None`: no reason that this version knows.
    pub fn of_number(number: u64) -> Option<NotInstant> {
        NotInstant::ALL.into_iter().find(|reason| u64::from(reason.number()) == number)
    }

    /// As people, metrics and JSON have it.
    pub fn word(self) -> &'static str {
        match self {
            NotInstant::NeverQuiet => "never_quiet",
            NotInstant::TooMuch => "too_much",
            NotInstant::LeftOver => "left_over",
            NotInstant::Uncertain => "uncertain",
            NotInstant::DirectIo => "direct_io",
            NotInstant::Kernel => "kernel",
            NotInstant::FileSystem => "file_system",
            NotInstant::Mapped => "mapped",
            NotInstant::FirstPass => "first_pass",
            NotInstant::CannotFreeze => "cannot_freeze",
        }
    }
}

impl Consistency {
    /// The word of a commit that is of one instant.
    pub const INSTANT: &str = "instant";

    /// Itself where it is of no instant, and else no longer of one, for the reason `why`.
    pub fn or_live(self, why: NotInstant) -> Consistency {
        if self.is_instant() { Consistency::Live(why) } else { self }
    }

    pub fn is_instant(self) -> bool {
        matches!(self, Consistency::Instant { .. })
    }

    /// `instant`, or the word of the reason why it is not.
    pub fn word(self) -> &'static str {
        match self {
            Consistency::Instant { .. } => Consistency::INSTANT,
            Consistency::Live(reason) => reason.word(),
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Consistency::Instant { .. } => f.write_str(Consistency::INSTANT),
            Consistency::Live(reason) => write!(f, "live: {}", reason.word()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_one_number_and_one_word() {
        for (at, reason) in (1..).zip(NotInstant::ALL) {
            assert_eq!((reason.number(), NotInstant::of_number(at)), (at as u8, Some(reason)));
            assert_eq!(NotInstant::ALL.iter().filter(|other| other.word() == reason.word()).count(), 1);
        }
        for unknown in [0, 11, 257, u64::MAX] {
            assert_eq!(NotInstant::of_number(unknown), None);
        }
        assert_eq!(Consistency::Live(NotInstant::FileSystem).to_string(), "live: file_system");
    }
}

//! Which commit a user means, by number or by time.
//!
//! A person reads a time off a wall clock, so the wall clocks of the commits are searched for the last commit, by number,
//! whose wall clock is not later. If a clock was ahead and was set right, wall clocks do not rise with numbers. Each commit
//! records since which one they do (`Standing::steady_since`): such a stretch is searched by bisection, and the stretch
//! before it only if the whole one is later. That costs one commit read for each stretch that is skipped, and about
//! log2(commits of the stretch) for the search.

use std::fmt;
use std::ops::RangeInclusive;

use engine::format::commit;
use engine::format::era::{Era, era_of, first_seq, last_seq};
use engine::model::{Seq, Time};
use engine::plan::{commit_at_time, last_not_later};

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;
use crate::units::{At, rfc3339};

/// The chosen commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub seq: Seq,
    /// Set if it was chosen by time, and the clocks allow more than one answer.
    pub clocks: Option<ClockWarning>,
}

/// Wall clocks and the order of the commits lead to different answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockWarning {
    /// The last commit whose wall clock is not later: the chosen one.
    pub seq: Seq,
    /// Its wall clock.
    pub wall: Time,
    /// The last commit before all that record a later time; `None`: all do.
    pub in_order: Option<Seq>,
}

impl fmt::Display for ClockWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wall = rfc3339(self.wall.unix_ns());
        write!(
            f,
            "the clock was set back: commit {} says {wall} and is taken, but commits before it say later",
            self.seq
        )?;
        match self.in_order {
            Some(seq) => write!(f, "; the last one before those is commit {seq} (--at {seq})"),
            None => write!(f, ", from the first one on"),
        }
    }
}

/// Which of a commit's times is searched.
#[derive(Clone, Copy)]
enum By {
    /// Rises with every commit, whatever the clock did.
    Order,
    Wall,
}

impl By {
    fn of_commit(self, header: &commit::Header) -> Time {
        match self {
            By::Order => header.time,
            By::Wall => header.wall(),
        }
    }

    fn of_era(self, era: &Era) -> Time {
        match self {
            By::Order => era.time,
            By::Wall => era.standing.map_or(era.time, |standing| standing.wall),
        }
    }
}

impl Reader {
    /// The seq that a user means; the head without `at`.
    ///
    /// # Errors
    /// `SeqAbsent`, `TimeAbsent`; and errors of reading the commits for the search by time.
    pub fn choose(&self, at: Option<At>) -> Result<Chosen, ReadError> {
        let plain = |seq| Ok(Chosen { seq, clocks: None });
        match at {
            None => plain(self.head),
            Some(At::Seq(seq)) if seq == Seq::NONE || seq > self.head => {
                Err(ReadError::SeqAbsent { volume: self.volume.clone(), seq, head: self.head })
            }
            Some(At::Seq(seq)) => plain(seq),
            Some(At::Time(when)) => {
                let nanos = when.as_nanosecond();
                let sec = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
                let nsec = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
                let found = self.at_time(Time { sec, nsec })?;
                found.ok_or_else(|| ReadError::TimeAbsent { volume: self.volume.clone(), when: when.to_string() })
            }
        }
    }

    /// As [`Reader::choose`], for callers that do not warn of clocks that disagree.
    pub fn resolve(&self, at: Option<At>) -> Result<Seq, ReadError> {
        self.choose(at).map(|chosen| chosen.seq)
    }

    fn at_time(&self, when: Time) -> Result<Option<Chosen>, ReadError> {
        let head = self.commit_header(self.head)?;
        let in_order = self.search(Seq::FIRST..=self.head, when, By::Order)?;
        if head.standing.is_none_or(|standing| standing.steady_since == Seq::NONE) {
            return Ok(in_order.map(|seq| Chosen { seq, clocks: None }));
        }
        let Some((seq, wall)) = self.by_wall(when, head)? else { return Ok(None) };
        let clocks = (in_order != Some(seq)).then_some(ClockWarning { seq, wall, in_order });
        Ok(Some(Chosen { seq, clocks }))
    }

    /// The last commit whose wall clock is not later than `when`, with that clock. `top` is the head's header.
    fn by_wall(&self, when: Time, mut top: commit::Header) -> Result<Option<(Seq, Time)>, ReadError> {
        loop {
            // Wall clocks do not fall between these two.
            let first = top.standing.map_or(Seq::NONE, |standing| standing.steady_since).max(Seq::FIRST);
            if let Some(seq) = self.search(first..=top.seq, when, By::Wall)? {
                return Ok(Some((seq, self.commit_header(seq)?.wall())));
            }
            if first == Seq::FIRST {
                return Ok(None);
            }
            top = self.commit_header(first - 1)?;
        }
    }

    /// The last commit of `seqs` that is not later than `when`; the time must not fall in `seqs`. Searches the ends of the
    /// eras first, then inside one.
    fn search(&self, seqs: RangeInclusive<Seq>, when: Time, by: By) -> Result<Option<Seq>, ReadError> {
        let (low, high) = seqs.into_inner();
        let era_len = self.format.era_len;
        // Closed eras that end in the range.
        let (mut next, mut before) = (era_of(low, era_len), None);
        let ends = (era_of(high, era_len) + 1).min(self.closed);
        let ends = if ends > next && last_seq(ends - 1, era_len) > high { ends - 1 } else { ends };
        if ends > next {
            let found = last_not_later(next..=ends - 1, when, |era| Ok::<_, ReadError>(by.of_era(&self.era(era)?)))?;
            if let Some(era) = found {
                before = Some(last_seq(era, era_len)).filter(|seq| *seq > Seq::NONE);
                next = era + 1;
            }
        }
        let first = first_seq(next, era_len).max(low);
        let last = last_seq(next, era_len).min(high);
        if first > last {
            return Ok(before);
        }
        match commit_at_time(first..=last, when, |seq| Ok(by.of_commit(&self.commit_header(seq)?))) {
            Ok(found) => Ok(found.or(before)),
            // Commits of closed eras may be pruned, leaving only checkpoints.
            Err(ReadError::Missing { .. }) if next < self.closed => {
                Ok(self.checkpoint_at(when, first..=last)?.or(before))
            }
            Err(error) => Err(error),
        }
    }
}

//! Finding head, and a commit by its time: pure searches over questions to the store.
//!
//! No LIST (a listing proves presence, never absence: I10) and no clock: only "does this object exist?".

use crate::format::Key;
use crate::format::era::{first_seq, last_seq};
use crate::model::{Seq, Time};
use std::ops::RangeInclusive;

/// The highest commit of the unbroken sequence, [`Seq::NONE`] if there is none.
///
/// Searches `eras/` with growing steps (closed eras have no gap: they are closed in order and never deleted), then the
/// commits of the open era (which are never pruned). About 2 log2(n) questions each.
pub fn find_head<E>(era_len: u64, mut exists: impl FnMut(Key) -> Result<bool, E>) -> Result<Seq, E> {
    let open = first_absent(0, u64::MAX, |era| exists(Key::Era(era)))?;
    let (first, last) = (first_seq(open, era_len), last_seq(open, era_len));
    let absent = first_absent(first.0, last.0, |seq| exists(Key::Commit(Seq(seq))))?;
    Ok(Seq(absent - 1))
}

/// First number from `start` for which `exists` is false, `last + 1` (or `u64::MAX`) if there is none up to `last`.
fn first_absent<E>(start: u64, last: u64, mut exists: impl FnMut(u64) -> Result<bool, E>) -> Result<u64, E> {
    if start > last || !exists(start)? {
        return Ok(start);
    }
    let mut present = start;
    let mut step = 1u64;
    let mut absent = loop {
        if present == last {
            return Ok(last.saturating_add(1));
        }
        let probe = present.saturating_add(step).min(last);
        if !exists(probe)? {
            break probe;
        }
        present = probe;
        step = step.saturating_mul(2);
    };
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        if exists(middle)? {
            present = middle;
        } else {
            absent = middle;
        }
    }
    Ok(absent)
}

/// The last seq in `seqs` whose commit is not later than `when`; `None` if all are later.
///
/// `time_of` reads a commit's header. Times rise with seqs whatever the clocks did, so bisection works.
pub fn commit_at_time<E>(
    seqs: RangeInclusive<Seq>,
    when: Time,
    mut time_of: impl FnMut(Seq) -> Result<Time, E>,
) -> Result<Option<Seq>, E> {
    let (low, high) = seqs.into_inner();
    Ok(last_not_later(low.0..=high.0, when, |seq| time_of(Seq(seq)))?.map(Seq))
}

/// The last of `numbers` whose time is not later than `when`; `None` if all are later. Times must rise with the numbers.
pub fn last_not_later<E>(
    numbers: RangeInclusive<u64>,
    when: Time,
    mut time_of: impl FnMut(u64) -> Result<Time, E>,
) -> Result<Option<u64>, E> {
    let (mut low, mut high) = numbers.into_inner();
    let mut found = None;
    while low <= high {
        let middle = low + (high - low) / 2;
        if time_of(middle)? <= when {
            found = Some(middle);
            match middle.checked_add(1) {
                Some(next) => low = next,
                None => break,
            }
        } else {
            match middle.checked_sub(1) {
                Some(next) => high = next,
                None => break,
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::era::era_of;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn head(era_len: u64, closed: u64, commits: RangeInclusive<u64>) -> (u64, usize) {
        let mut questions = 0;
        let head = find_head(era_len, |key| -> Result<bool, Infallible> {
            questions += 1;
            Ok(match key {
                Key::Era(e) => e < closed,
                Key::Commit(seq) => commits.contains(&seq.0),
                _ => unreachable!("only eras and commits are asked for"),
            })
        });
        (head.unwrap().0, questions)
    }

    proptest! {
        #[test]
        fn head_is_found_whatever_is_pruned(era_len in 1..40u64, true_head in 0..2_000u64, lag: bool) {
            // An era is closed once its last commit exists, at the latest before the next commit.
            let full = if true_head == 0 { 0 } else { era_of(Seq(true_head + 1), era_len) };
            let closed = full - u64::from(lag && full > 0 && last_seq(full - 1, era_len) == Seq(true_head) && true_head > 0);
            // All commits of closed eras are pruned.
            let (found, questions) = head(era_len, closed, first_seq(closed, era_len).0..=true_head);
            prop_assert_eq!(found, true_head);
            prop_assert!(questions < 60, "{} questions", questions);
        }

        #[test]
        fn the_commit_at_a_time(times in prop::collection::btree_set(0..500i64, 0..40), when in 0..500i64) {
            let times: Vec<i64> = times.into_iter().collect();
            let at = |sec| Time { sec, nsec: 0 };
            let found = commit_at_time(Seq(1)..=Seq(times.len() as u64), at(when), |seq| -> Result<Time, Infallible> {
                Ok(at(times[seq.0 as usize - 1]))
            });
            let expected = times.iter().filter(|t| **t <= when).count() as u64;
            prop_assert_eq!(found.unwrap(), (expected > 0).then_some(Seq(expected)));
        }
    }

    #[test]
    fn an_empty_store_and_an_era_just_closed() {
        assert_eq!(head(4096, 0, 0..=0).0, 0);
        assert_eq!(head(4096, 1, 1..=4095).0, 4095);
        assert_eq!(head(4096, 0, 1..=4095).0, 4095);
        assert_eq!(head(4096, 1, 4096..=4096).0, 4096);
        assert_eq!(head(1, 1, 0..=0).0, 0, "era 0 of length 1 holds no seq");
    }
}

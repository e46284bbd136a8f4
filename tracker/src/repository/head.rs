//! The head of a volume: its newest commit, found by requests for single objects and never by a listing.

use engine::format::Key;
use engine::format::era::last_seq;
use engine::model::Seq;
use engine::plan::find_head;

use crate::store::{Store, StoreError};

/// How many ends of eras without a following commit are skipped when looking for the head. Each costs a search.
const STRAY_ERAS: u32 = 64;

/// The head, and the number of closed eras. An era that no commit follows is still open: no commit names its end, and all
/// its commits are there.
///
/// # Errors
/// If the store does not tell.
pub fn head_of(store: &dyn Store, era_len: u64) -> Result<(Seq, u64), StoreError> {
    let there = |key: Key| store.exists(&key.to_string());
    let mut limit = u64::MAX;
    let mut strays = 0;
    loop {
        let mut closed = 0;
        let head = find_head(era_len, |key| match key {
            Key::Era(era) if era >= limit => Ok(false),
            Key::Era(era) => {
                let there = there(key)?;
                closed = if there { closed.max(era.saturating_add(1)) } else { closed };
                Ok(there)
            }
            key => there(key),
        })?;
        let Some(last) = closed.checked_sub(1).filter(|last| last_seq(*last, era_len) == head) else {
            return Ok((head, closed));
        };
        if head == Seq::NONE || strays == STRAY_ERAS || there(Key::Commit(head))? {
            return Ok((head, last));
        }
        // Its last commit does not exist: somebody put the end of an era that has not ended.
        tracing::warn!("the end of era {last} is in the store, and its commits are not: it does not count");
        limit = last;
        strays += 1;
    }
}

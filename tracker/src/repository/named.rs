//! What the chain of commits names. Whoever may only add objects can put ends of eras and checkpoints that no commit stands
//! behind, so these count only where a commit leads to them: commit -> end of the era before -> checkpoint.

use engine::format::Key;
use engine::format::era::{Era, first_seq, last_seq};
use engine::model::{Hash, Seq};
use engine::plan::find_head;

use crate::repository::{ReadError, Reader};
use crate::store::{Store, StoreError};

/// Ends of eras without a commit behind them that are passed over when looking for the head. Each costs a search.
const STRAY_ERAS: u32 = 64;

/// The head, and how many eras are closed by it: 0 up to that number. An era that no commit follows is open still: its end
/// is named by nothing, and its commits are all there.
///
/// # Errors
/// Where the store does not tell.
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
        // Its last commit is not there: somebody put the end of an era that has not ended.
        tracing::warn!("the end of era {last} is in the store, and its commits are not: it does not count");
        limit = last;
        strays += 1;
    }
}

impl Reader {
    /// The end of an era, if the chain names it; `None` if no commit says anything of it.
    ///
    /// # Errors
    /// `Hash` where a commit names another end, or another last commit; else as reading both.
    pub(crate) fn named_era(&self, era: u64) -> Result<Option<Era>, ReadError> {
        let bytes = self.get(Key::Era(era))?;
        let found = self.decode_era(era, &bytes)?;
        let next = first_seq(era + 1, self.format.era_len);
        if next > self.head {
            return Ok(None);
        }
        let header = match self.commit_header(next) {
            Ok(header) => header,
            // What is pruned was closed long ago: only then could nobody add the end of this era any more, since one was
            // there. That this is so is the word of the last era that a commit names.
            Err(ReadError::Missing { .. }) if self.may_be_pruned(next) && era + 1 < self.closed => {
                return Ok(self.named_era(self.closed - 1)?.map(|_| found));
            }
            Err(error) => return Err(error),
        };
        let by = Key::Commit(next);
        self.same_hash(Key::Era(era), found.chain, header.parent, by)?;
        match header.era {
            Some(named) => {
                self.same_hash(Key::Era(era), Hash::from(blake3::hash(&bytes)), named, by).map(|()| Some(found))
            }
            // Version 1 names no eras: the one that was there first is all there is.
            None => Ok(header.standing.is_none().then_some(found)),
        }
    }
}

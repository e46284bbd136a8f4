//! What the chain of commits names. Somebody who may only add objects can put ends of eras and checkpoints that no commit
//! supports. So these count only if a commit leads to them: commit -> end of the previous era -> checkpoint.

use engine::format::Key;
use engine::format::era::{Era, first_seq};
use engine::model::Hash;

use crate::repository::error::ReadError;
use crate::repository::reader::Reader;

impl Reader {
    /// The end of an era, if the chain names it; `None` if no commit says anything about it.
    ///
    /// # Errors
    /// `Hash` if a commit names another end, or another last commit; else errors of reading both.
    pub(crate) fn named_era(&self, era: u64) -> Result<Option<Era>, ReadError> {
        let bytes = self.get(Key::Era(era))?;
        let found = self.decode_era(era, &bytes)?;
        let next = first_seq(era + 1, self.format.era_len);
        if next > self.head {
            return Ok(None);
        }
        let header = match self.commit_header(next) {
            Ok(header) => header,
            // A pruned commit proves its era was closed while this end lay there. We rely on the newest era that a
            // commit names.
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
            // Version 1 names no eras: the end that was put first is all there is.
            None => Ok(header.standing.is_none().then_some(found)),
        }
    }
}

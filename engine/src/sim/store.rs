//! The model's store: creations fail, lose their reply, or arrive later; what is read may be damaged.

use super::world::{SimError, SimWorld};
use crate::flush::world::{CommitStore, Created};
use crate::format::Key;
use crate::model::{ObjectRef, Seq};

impl CommitStore for SimWorld {
    fn era_closed_by_other(&mut self, _: Seq) -> Result<bool, SimError> {
        Ok(false)
    }

    fn next_attempt(&mut self) -> Result<u32, SimError> {
        self.catalog.attempts += 1;
        Ok(self.catalog.attempts * 16)
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), SimError> {
        if !self.inner.borrow_mut().step() {
            return Err(SimError::Crash);
        }
        let key = Key::from(at).to_string();
        let mut packs = self.packs.borrow_mut();
        match packs.get(&key) {
            Some(there) if *there != bytes => Err(SimError::Pack(key)),
            _ => {
                packs.insert(key, bytes);
                Ok(())
            }
        }
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, SimError> {
        self.step()?;
        let key = Key::Commit(seq).to_string();
        self.rival_commits(seq);
        if self.lucky(8) {
            return Err(SimError::Store);
        }
        if self.lucky(5) {
            self.delayed.push((key, bytes.to_vec()));
            return Ok(Created::Unknown);
        }
        if self.lucky(8) {
            return Ok(Created::Unknown);
        }
        if self.store.contains_key(&key) {
            return Ok(Created::Exists);
        }
        self.store.insert(key, bytes.to_vec());
        let lost = self.lucky(5);
        self.step()?;
        Ok(if lost { Created::Unknown } else { Created::Yes })
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, SimError> {
        self.step()?;
        Ok(self.read_back(&Key::Commit(seq).to_string()))
    }
}

//! The volume's commits and packs in the store, as a flush sees them.

use bytes::Bytes;
use engine::flush::world::{CommitStore, Created};
use engine::format::Key;
use engine::model::{Hash, ObjectRef, Seq};

use super::error::WorldError;
use super::parts::VolumeWorld;
use super::presence;
use crate::failpoint;
use crate::repository::era;
use crate::store::{self, ErrorKind};

/// How often a pack is put whose outcome stays unknown.
const ATTEMPTS: u32 = 3;

impl CommitStore for VolumeWorld {
    fn era_before(&mut self, seq: Seq) -> Result<Option<Hash>, WorldError> {
        era::before(self, seq)
    }

    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, WorldError> {
        era::closed_by_other(self, self.volume_id, seq)
    }

    fn next_attempt(&mut self) -> Result<u32, WorldError> {
        self.look_where_free()?;
        // Before anything is put.
        era::before(self, self.catalog.head()?.unwrap_or_default().seq + 1)?;
        Ok(self.catalog.next_attempt()?)
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), WorldError> {
        let key = Key::from(at).to_string();
        match store::create_exact(&*self.store, &key, &Bytes::from(bytes), ATTEMPTS)? {
            store::CreateOutcome::Own => {
                failpoint::hit("pack");
                Ok(())
            }
            // The next flush takes another name; whether it is another writer's shows when the commit is made.
            store::CreateOutcome::Other(_) => Err(WorldError::ForeignPack { key }),
        }
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, WorldError> {
        self.look_where_free()?;
        let created = self.store.create(&Key::Commit(seq).to_string(), Bytes::copy_from_slice(bytes));
        failpoint::hit("put");
        match created {
            Ok(store::Created::Yes) => Ok(Created::Yes),
            Ok(store::Created::Exists) => Ok(Created::Exists),
            Err(error) if error.kind == ErrorKind::Unknown => Ok(Created::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, WorldError> {
        match self.store.get(&Key::Commit(seq).to_string()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn commit_damaged(&mut self, seq: Seq, cause: &str) {
        let key = Key::Commit(seq).to_string();
        tracing::warn!(key, cause, "the commit came back damaged, it is asked for again");
        self.damaged = Some(format!("what the store gives as {key} is damaged: {cause}"));
    }
}

impl VolumeWorld {
    /// Before anything is put into a store that costs nothing to be asked: that the history is there still.
    fn look_where_free(&self) -> Result<(), WorldError> {
        if self.store.properties().remote { Ok(()) } else { presence::look(self) }
    }
}

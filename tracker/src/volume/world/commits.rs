//! The volume's commits and packs in the store, as a flush sees them.

use engine::flush::world::{CommitStore, Created};
use engine::format::Key;
use engine::model::{Hash, ObjectRef, Seq};

use super::error::WorldError;
use super::parts::VolumeWorld;
use crate::repository::Closing;

/// The note of the last end of an era that this host was about to put.
const END_OF_ERA: &str = "end of era";

impl CommitStore for VolumeWorld {
    fn era_before(&mut self, seq: Seq) -> Result<Option<Hash>, WorldError> {
        Ok(self.writer.era_before(seq)?)
    }

    fn era_closed_by_other(&mut self, seq: Seq) -> Result<bool, WorldError> {
        Ok(self.writer.is_closed_by_other(seq)?)
    }

    fn next_attempt(&mut self) -> Result<u32, WorldError> {
        self.look_where_free()?;
        // Before anything is put.
        self.writer.era_before(self.head_seq()? + 1)?;
        Ok(self.catalog.next_attempt()?)
    }

    fn put_pack(&self, at: ObjectRef, bytes: Vec<u8>) -> Result<(), WorldError> {
        Ok(self.writer.put_pack(at, bytes)?)
    }

    fn create_commit(&mut self, seq: Seq, bytes: &[u8]) -> Result<Created, WorldError> {
        self.look_where_free()?;
        Ok(self.writer.create_commit(seq, bytes)?)
    }

    fn read_commit(&mut self, seq: Seq) -> Result<Option<Vec<u8>>, WorldError> {
        Ok(self.writer.read_commit(seq)?)
    }

    fn commit_damaged(&mut self, seq: Seq, cause: &str) {
        let key = Key::Commit(seq).to_string();
        tracing::warn!(key, cause, "the commit came back damaged, it is asked for again");
        self.damaged = Some(format!("what the store gives as {key} is damaged: {cause}"));
    }
}

impl VolumeWorld {
    /// The newest commit of this host; 0 before the first.
    fn head_seq(&self) -> Result<Seq, WorldError> {
        Ok(self.catalog.head()?.unwrap_or_default().seq)
    }

    /// Before a store whose requests are free gets anything: checks that it still has the history.
    fn look_where_free(&self) -> Result<(), WorldError> {
        Ok(self.writer.must_have_where_free(self.head_seq()?)?)
    }

    /// Fails if the store lacks commits of this host.
    pub fn look_for_head(&self) -> Result<(), WorldError> {
        Ok(self.writer.must_have(self.head_seq()?)?)
    }

    /// Closes the era if the head is its last commit, unless a commit is under way; and has checkpoints made.
    pub fn close_era_if_due(&mut self) -> Result<Closing, WorldError> {
        if self.catalog.intent()?.is_some() {
            return Ok(Closing::Done);
        }
        let head = self.catalog.head()?.unwrap_or_default();
        self.writer.tend_checkpoints(head.seq);
        if !self.writer.is_to_close(&head) {
            return Ok(Closing::Done);
        }
        let noted = self.catalog.note(END_OF_ERA)?;
        let note = |text: &str| Ok(self.catalog.set_note(END_OF_ERA, text)?);
        self.writer.close_era(&head, noted.as_deref(), note)
    }
}

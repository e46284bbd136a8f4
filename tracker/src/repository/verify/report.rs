//! What a verification found.

use engine::model::Seq;

use crate::repository::error::ReadError;

const LISTED: usize = 1_000;

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Up to here.
    #[serde(serialize_with = "crate::units::seq")]
    pub seq: Seq,
    /// Whether a complete baseline stands behind that commit; `None`: it does not record that, or cannot be read.
    pub baseline: Option<bool>,
    /// From here; 1 unless older commits are pruned.
    #[serde(serialize_with = "crate::units::seq")]
    pub first: Seq,
    pub commits: u64,
    /// Objects looked at: commits, packs, ends of eras, checkpoints.
    pub objects: u64,
    /// Files whose root was checked (`read_data`), else files of the state at `seq`.
    pub files: u64,
    pub bytes_read: u64,
    /// Each names the object or the file (the first 1,000), and how many there are.
    pub mismatches: Vec<String>,
    pub mismatch_count: u64,
}

impl VerifyReport {
    /// Keeps what is a difference; what is not (a store that does not answer) ends the verification.
    pub(super) fn note(&mut self, error: ReadError) -> Result<(), ReadError> {
        if !error.is_about_object() {
            return Err(error);
        }
        self.mismatch_count += 1;
        if self.mismatches.len() < LISTED {
            self.mismatches.push(crate::error::chain(&error));
        }
        Ok(())
    }

    pub(super) fn check(&mut self, result: Result<(), ReadError>) -> Result<(), ReadError> {
        result.or_else(|error| self.note(error))
    }
}

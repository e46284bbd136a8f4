//! What a verification found.

use engine::model::Seq;

use crate::repository::error::ReadError;

const LISTED: usize = 1_000;

/// What was checked, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Last commit that was verified.
    #[serde(serialize_with = "crate::units::seq")]
    pub seq: Seq,
    /// Whether the baseline is complete at that commit; `None`: it does not record that, or cannot be read.
    pub baseline: Option<bool>,
    /// First commit that was verified; 1 unless older ones are pruned.
    #[serde(serialize_with = "crate::units::seq")]
    pub first: Seq,
    pub commits: u64,
    /// Objects that were checked: commits, packs, ends of eras, checkpoints.
    pub objects: u64,
    /// Files whose root was checked (`read_data`), else files of the state at `seq`.
    pub files: u64,
    pub bytes_read: u64,
    /// The first 1,000 differences, each with its object or file.
    pub mismatches: Vec<String>,
    pub mismatch_count: u64,
}

impl VerifyReport {
    /// Records a difference. Returns other errors (a store that does not answer), which end the verification.
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

//! Random numbers, for what the engine only passes on.

use engine::model::Id;

use super::error::WorldError;

/// A random identifier.
pub(crate) fn random_id() -> Result<Id, WorldError> {
    let mut id = Id::default();
    getrandom::fill(&mut id).map_err(|error| WorldError::Random { cause: error.to_string() })?;
    Ok(id)
}

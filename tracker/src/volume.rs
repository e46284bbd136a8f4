//! Protected volumes: the marks of each (`pending`), one capture for all (`hub`), the real `World` (`world`, `pool`), and
//! the thread that flushes (`life`, `mass_delete`, `ways_on`, `agree`, `arm`, `claim`, `rebind`, `renumber`, `covered`, `markable`, `open`, `pace`, `places`, `problems`, `progress`, `release`, `room`, `trust`, `run`, `era`). Rules are the engine's; here are threads, states and effects.

mod agree;
mod arm;
pub mod audit;
pub mod canary;
mod claim;
mod clock;
mod covered;
mod distrust;
pub mod era;
pub mod fleet;
pub mod hub;
mod inflight;
mod life;
pub(crate) mod markable;
pub mod mass_delete;
pub mod open;
pub mod pace;
mod patience;
pub mod pending;
mod places;
pub mod pool;
mod presence;
mod problems;
pub mod progress;
pub mod prover;
mod rebind;
mod release;
mod reload;
pub mod renew;
mod renumber;
mod room;
pub mod run;
mod start;
mod store_home;
mod tick;
pub mod trust;
mod unread;
pub mod ways_on;
pub mod world;
pub mod write_back;

use engine::model::Id;

/// A random identifier.
pub fn random_id() -> Result<Id, world::WorldError> {
    let mut id = Id::default();
    getrandom::fill(&mut id).map_err(|error| world::WorldError::Random { cause: error.to_string() })?;
    Ok(id)
}

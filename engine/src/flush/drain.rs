//! The steps of a drain: marks out of the kernel, into the catalog (invariants I2, I3).

use super::steps::Steps;

/// The steps of a drain (invariants I2, I3).
pub trait DrainWorld {
    type Error;
    /// Lets programs write into the other set of maps from now on.
    fn swap(&mut self) -> Result<(), Self::Error>;
    /// Returns when no program that saw the old generation is still running.
    fn grace(&mut self) -> Result<(), Self::Error>;
    /// Reads the retired maps and makes what they hold pending, in a way that survives the death of this process.
    fn save_retired(&mut self) -> Result<(), Self::Error>;
    /// Empties the retired maps.
    fn clear_retired(&mut self) -> Result<(), Self::Error>;
}

/// SWAP, GRACE, save, clear.
pub fn drain<W: DrainWorld>(world: &mut W, steps: Steps) -> Result<(), W::Error> {
    if steps.swap {
        world.swap()?;
    }
    if steps.grace {
        world.grace()?;
    }
    if steps.durable_pending {
        world.save_retired()?;
        world.clear_retired()
    } else {
        world.clear_retired()?;
        world.save_retired()
    }
}

/// Repeats the end of a drain before the first SWAP of a process that found the maps of an earlier one. That process may
/// have died at any step of a drain, so the retired generation may hold marks, and programs that saw it may still be
/// running.
pub fn take_up<W: DrainWorld>(world: &mut W) -> Result<(), W::Error> {
    world.grace()?;
    world.save_retired()?;
    world.clear_retired()
}

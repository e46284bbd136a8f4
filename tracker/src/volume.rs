//! One protected volume: what a start may trust (`startup`), the marks that wait for it (`marks`), what a flush reads and
//! writes (`world`), and the thread that drains and flushes (`runner`). The rules are in the engine; here are threads,
//! states and effects.

pub(crate) mod clock;
pub(crate) mod errors;
pub(crate) mod handle;
pub(crate) mod hooks;
pub mod last_flush;
pub(crate) mod life;
pub mod marks;
pub mod mass_delete;
pub mod opened;
pub mod progress;
pub mod runner;
pub mod selftest;
pub mod startup;
pub mod status;
pub mod ways_on;
pub mod world;

//! A volume in a store: which commits there are, the state at one of them, restoring its files ([`restore()`]), verifying
//! it ([`verify()`]), and what its one writer puts there ([`VolumeWriter`]). Knows neither the kernel nor a catalog.
//!
//! Nothing is used before it is checked (I7): version, place, checksum and chain of every object, the root of every file.
//! The head is found without a listing (I10), and a checkpoint counts only if commits name it (`named`).

mod ahead;
mod at;
mod error;
mod fetch;
mod head;
mod history;
mod identity;
mod instant;
mod job;
mod load;
pub mod location;
mod merge;
mod named;
mod parallel;
mod presence;
mod reader;
mod report;
mod restore;
mod stream;
mod verify;
mod versions;
mod write_error;
mod writer;

pub use at::{Chosen, ClockWarning};
pub use error::ReadError;
pub use head::head_of;
pub use history::CommitSummary;
pub use identity::{find_format, is_commit, make_format};
pub use instant::{ConsistencyField, InstantCommit, InstantSearch};
pub use reader::{Reader, of_writer, open};
pub use report::{Failure, Older, RestoreReport};
pub use restore::{RestoreOptions, check_target, restore};
pub use stream::kind_name;
pub use verify::{VerifyReport, verify};
pub use write_error::WriteError;
pub use writer::{Closing, VolumeWriter};

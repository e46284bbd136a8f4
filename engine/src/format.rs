//! Bytes of the store: the layout of each object, how it is written, and how it is checked.
//!
//! `docs/format.md` is the authority on layouts; a test compares its constants with the ones here. Every decoder treats its
//! input as hostile: it checks lengths against the bytes left and against a limit before it allocates, and uses nothing
//! before version, position and checksum are checked (I7). Nothing here touches a store.

pub mod codec;
pub mod commit;
mod consistency;
pub(crate) mod content;
pub mod era;
pub mod frame;
pub mod keys;
pub mod limits;
pub mod pack;
pub(crate) mod parts;
pub mod seal;
mod version;

pub use codec::{DecodeError, EncodeError};
pub use keys::Key;
pub use parts::is_entry_name;
pub use version::{
    CHECKSUM_BYTES, CONSISTENCY_VERSION, DEFAULT_ERA_LEN, DEFAULT_LEVEL, DEFAULT_PACK_BYTES, FIRST_VERSION, HEAD_BYTES,
    MAGIC_CHECKPOINT, MAGIC_COMMIT, MAGIC_ERA, MAGIC_FORMAT, MAGIC_PACK, MAGIC_PAGE, STANDING_VERSION, VERSION,
};

//! Whether the commits of this host are still in the store. If somebody removes objects behind the daemon's back (empties a
//! bucket, removes a directory), no answer to a PUT shows it, and the daemon would continue a history that nobody can read.
//!
//! Checked whenever a caller waits for a sync, and before every commit if checking costs no request.

use engine::format::Key;
use engine::format::era::{era_of, last_seq};
use engine::model::Seq;

use crate::store::{Store, StoreError};

/// The first missing object of those that are needed to read the commits up to `head`.
///
/// # Errors
/// If the store does not tell.
pub(crate) fn lost(store: &dyn Store, era_length: u64, head: Seq) -> Result<Option<Key>, StoreError> {
    let there = |key: Key| store.exists(&key.to_string());
    if !there(Key::Format)? {
        return Ok(Some(Key::Format));
    }
    if head == Seq::NONE || there(Key::Commit(head))? {
        return Ok(None);
    }
    // The last commit of a closed era may be pruned.
    let era = era_of(head, era_length);
    let pruned = last_seq(era, era_length) == head && there(Key::Era(era))?;
    Ok((!pruned).then_some(Key::Commit(head)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::Mem;

    #[test]
    fn a_missing_format_and_a_missing_head_are_named() {
        let store = Mem::new();
        let put = |key: Key| store.create(&key.to_string(), bytes::Bytes::from_static(b"x")).unwrap();
        let lost = |head| lost(&store, 4, head).unwrap();
        assert_eq!(lost(Seq(0)), Some(Key::Format));
        put(Key::Format);
        assert_eq!(lost(Seq(0)), None, "nothing was committed yet");
        assert_eq!(lost(Seq(3)), Some(Key::Commit(Seq(3))));
        put(Key::Commit(Seq(3)));
        assert_eq!(lost(Seq(3)), None);
        // The last commit of an era, pruned.
        assert_eq!(last_seq(0, 4), Seq(3));
        put(Key::Era(1));
        assert_eq!((lost(last_seq(1, 4)), lost(Seq(5))), (None, Some(Key::Commit(Seq(5)))));
    }
}

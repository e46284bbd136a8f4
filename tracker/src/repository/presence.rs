//! Whether the commits of this host are still in the store. If somebody removes objects behind the daemon's back (empties a
//! bucket, removes a directory), no answer to a PUT shows it, and the daemon would continue a history that nobody can read.
//!
//! Checked whenever a caller waits for a sync, and before every commit if checking costs no request.

use engine::format::Key;
use engine::model::Seq;

use crate::store::{Store, StoreError};

/// The first missing object of those that are needed to read the commits up to `head`. A prune takes neither: it leaves the
/// newest commit, also where that is the last of a closed era, since a reader believes an era only once a commit follows it.
///
/// # Errors
/// If the store does not tell.
pub(crate) fn lost(store: &dyn Store, head: Seq) -> Result<Option<Key>, StoreError> {
    let needed = [Some(Key::Format), (head != Seq::NONE).then_some(Key::Commit(head))];
    for key in needed.into_iter().flatten() {
        if !store.exists(&key.to_string())? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::Mem;
    use engine::format::era::last_seq;

    #[test]
    fn a_missing_format_and_a_missing_head_are_named() {
        let store = Mem::new();
        let put = |key: Key| store.create(&key.to_string(), bytes::Bytes::from_static(b"x")).unwrap();
        let lost = |head| lost(&store, head).unwrap();
        assert_eq!(lost(Seq(0)), Some(Key::Format));
        put(Key::Format);
        assert_eq!(lost(Seq(0)), None, "nothing was committed yet");
        assert_eq!(lost(Seq(3)), Some(Key::Commit(Seq(3))));
        put(Key::Commit(Seq(3)));
        assert_eq!(lost(Seq(3)), None);
        // Closing its era does not excuse a missing head.
        let last = last_seq(1, 4);
        put(Key::Era(1));
        assert_eq!(lost(last), Some(Key::Commit(last)));
        put(Key::Commit(last));
        assert_eq!(lost(last), None);
    }
}

//! Distinguishes the caller's own object from another's after a lost reply, and a damaged object from one that was damaged
//! in transfer: whatever comes back wrong is read again before anything is concluded from it.

use bytes::Bytes;

use super::{Created, ErrorKind, Op, Store, StoreError};

/// How often an unexpected object is read.
const READS: u32 = 3;

/// The result of [`create_exact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The key holds exactly the given bytes, durably: by this call, or by an earlier one whose reply was lost.
    Own,
    /// Each of several reads returned other bytes (these are the last). The caller decodes them to see whether they are
    /// somebody else's object, or a damaged one.
    Other(Vec<u8>),
}

/// Creates an object and settles an unknown outcome: tries again with exactly the same bytes up to `attempts` times, and
/// reads an existing object back to compare. Does not wait between attempts.
///
/// # Errors
/// `Unknown` if the outcome is still open: after the last attempt, or if the existing object cannot be read (for whatever
/// cause: the object may be the caller's own). Other kinds mean that this call created nothing.
pub fn create_exact(store: &dyn Store, key: &str, bytes: &Bytes, attempts: u32) -> Result<CreateOutcome, StoreError> {
    let mut unknown = false;
    for left in (0..attempts.max(1)).rev() {
        let error = match store.create(key, bytes.clone()) {
            Ok(Created::Yes) => return Ok(CreateOutcome::Own),
            Ok(Created::Exists) => match get_checked(store, key, |found| (found == &bytes[..]).then_some(()).ok_or(()))
            {
                Ok(Ok((_, ()))) => return Ok(CreateOutcome::Own),
                Ok(Err((found, ()))) => return Ok(CreateOutcome::Other(found)),
                Err(e) => StoreError { op: Op::Create, kind: ErrorKind::Unknown, ..e },
            },
            Err(e) => e,
        };
        // A later failure without effect does not undo what an earlier attempt may have done.
        unknown |= error.kind == ErrorKind::Unknown;
        if left == 0 || error.kind != ErrorKind::Unknown {
            return Err(StoreError { kind: if unknown { ErrorKind::Unknown } else { error.kind }, ..error });
        }
    }
    Err(StoreError::new(Op::Create, key, ErrorKind::Unknown))
}

/// An object with the result of `check`, or with why it was refused each time.
pub type Checked<T, E> = Result<(Vec<u8>, T), (Vec<u8>, E)>;

/// Reads an object until `check` accepts it, at most three times: bytes damaged in transfer must not count as the object's
/// own.
///
/// # Errors
/// As [`Store::get`], from the first read that fails.
pub fn get_checked<T, E>(
    store: &dyn Store,
    key: &str,
    check: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<Checked<T, E>, StoreError> {
    let mut reads = 1;
    loop {
        let bytes = store.get(key)?;
        match check(&bytes) {
            Ok(taken) => return Ok(Ok((bytes, taken))),
            Err(refused) if reads == READS => return Ok(Err((bytes, refused))),
            Err(_) => reads += 1,
        }
    }
}

//! What a commit says of its instant: a kind, and what belongs to it.

use super::codec::{DecodeError, Reader, Writer};
use crate::model::{Consistency, NotInstant};

const INSTANT: u8 = 1;
const LIVE: u8 = 2;

pub(super) fn put_consistency(w: &mut Writer, consistency: Consistency) {
    match consistency {
        Consistency::Instant { window_us, pause_us } => {
            w.u8(INSTANT);
            w.varint(u64::from(window_us));
            w.varint(u64::from(pause_us));
        }
        Consistency::Live(reason) => {
            w.u8(LIVE);
            w.varint(u64::from(reason.number()));
        }
    }
}

pub(super) fn consistency(r: &mut Reader<'_>) -> Result<Consistency, DecodeError> {
    match r.u8("consistency")? {
        INSTANT => Ok(Consistency::Instant {
            window_us: r.u32_varint("window of the instant")?,
            pause_us: r.u32_varint("pause of the writers")?,
        }),
        LIVE => {
            let found = r.varint("why it is not of one instant")?;
            let reason = NotInstant::of_number(found);
            reason.map(Consistency::Live).ok_or(DecodeError::Tag { field: "why it is not of one instant", found })
        }
        found => Err(DecodeError::Tag { field: "consistency", found: u64::from(found) }),
    }
}

//! What breaks the rules of the layers today. It may only shrink.

/// Arrows, from a file to a file. One that is mended leaves the list: an entry that is not needed is a fault.
pub(super) const KNOWN: &[(&str, &str)] = &[];

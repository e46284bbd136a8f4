//! Names of the objects of one volume, relative to `<prefix>/<volume>/`; built and parsed only here.
//!
//! Numbers that are listed in order have 20 digits, so that names sort as numbers. Parsing is strict: a name that `Display`
//! would not write is not a key, so a foreign object is never taken for ours.

use crate::model::{Hash, Id, ObjectRef, Seq};
use std::{fmt, str::FromStr};
use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `format`
    Format,
    /// `keys/<32 hex digits>`
    WrappedKey(Id),
    /// `commits/<seq>`
    Commit(Seq),
    /// `packs/<seq>-<epoch>-<n>`
    Pack { seq: Seq, epoch: u64, n: u32 },
    /// `eras/<e>`
    Era(u64),
    /// `checkpoints/<seq>`
    Checkpoint(Seq),
    /// `checkpoints/pages/<64 hex digits>`
    Page(Hash),
    /// `prune/<32 hex digits>`
    Prune(Id),
}

/// The folders a listing may ask for.
pub const COMMITS: &str = "commits/";
pub const PACKS: &str = "packs/";
pub const ERAS: &str = "eras/";
pub const CHECKPOINTS: &str = "checkpoints/";
pub const PAGES: &str = "checkpoints/pages/";
pub const KEYS: &str = "keys/";
pub const PRUNE: &str = "prune/";
pub const FORMAT: &str = "format";

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not the name of an object")]
pub struct KeyError {
    pub text: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Format => f.write_str(FORMAT),
            Key::WrappedKey(id) => hex(f, KEYS, id),
            Key::Commit(seq) => write!(f, "{COMMITS}{seq:020}"),
            Key::Pack { seq, epoch, n } => write!(f, "{PACKS}{seq:020}-{epoch}-{n}"),
            Key::Era(e) => write!(f, "{ERAS}{e:020}"),
            Key::Checkpoint(seq) => write!(f, "{CHECKPOINTS}{seq:020}"),
            Key::Page(hash) => hex(f, PAGES, hash),
            Key::Prune(id) => hex(f, PRUNE, id),
        }
    }
}

fn hex(f: &mut fmt::Formatter<'_>, folder: &str, bytes: &[u8]) -> fmt::Result {
    f.write_str(folder)?;
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

impl From<ObjectRef> for Key {
    fn from(object: ObjectRef) -> Key {
        match object {
            ObjectRef::Commit(seq) => Key::Commit(seq),
            ObjectRef::Pack { seq, epoch, n } => Key::Pack { seq, epoch, n },
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Key, KeyError> {
        parse(text).ok_or_else(|| KeyError { text: text.chars().take(300).collect() })
    }
}

fn parse(text: &str) -> Option<Key> {
    if text == FORMAT {
        return Some(Key::Format);
    }
    if let Some(rest) = text.strip_prefix(COMMITS) {
        return padded(rest).map(|seq| Key::Commit(Seq(seq)));
    }
    if let Some(rest) = text.strip_prefix(ERAS) {
        return padded(rest).map(Key::Era);
    }
    if let Some(rest) = text.strip_prefix(PAGES) {
        return unhex(rest).map(Key::Page);
    }
    if let Some(rest) = text.strip_prefix(CHECKPOINTS) {
        return padded(rest).map(|seq| Key::Checkpoint(Seq(seq)));
    }
    if let Some(rest) = text.strip_prefix(PACKS) {
        let mut parts = rest.split('-');
        let key =
            Key::Pack { seq: Seq(padded(parts.next()?)?), epoch: plain(parts.next()?)?, n: plain(parts.next()?)? };
        return parts.next().is_none().then_some(key);
    }
    if let Some(rest) = text.strip_prefix(KEYS) {
        return unhex(rest).map(Key::WrappedKey);
    }
    text.strip_prefix(PRUNE).and_then(unhex).map(Key::Prune)
}

fn padded(text: &str) -> Option<u64> {
    (text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Decimal without sign, space or leading zero.
fn plain<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_key() -> impl Strategy<Value = Key> {
        prop_oneof![
            Just(Key::Format),
            any::<Id>().prop_map(Key::WrappedKey),
            any::<u64>().prop_map(|seq| Key::Commit(Seq(seq))),
            any::<(u64, u64, u32)>().prop_map(|(seq, epoch, n)| Key::Pack { seq: Seq(seq), epoch, n }),
            any::<u64>().prop_map(Key::Era),
            any::<u64>().prop_map(|seq| Key::Checkpoint(Seq(seq))),
            any::<Hash>().prop_map(Key::Page),
            any::<Id>().prop_map(Key::Prune),
        ]
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in any_key()) {
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }

        #[test]
        fn what_parses_is_written_the_same(text in "(commits|packs|eras|checkpoints|checkpoints/pages)/[0-9a-f+-]{0,66}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "",
            "format/",
            "commits/1",
            "commits/+0000000000000000001",
            "commits/99999999999999999999",
            "commits/00000000000000000001.tmp",
            "packs/00000000000000000001-01-0",
            "packs/00000000000000000001-1-0-0",
            "packs/00000000000000000001-1-4294967296",
            "checkpoints/pages/",
            "keys/ABCDEFABCDEFABCDEFABCDEFABCDEFAB",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
        assert_eq!(Key::Pack { seq: Seq(7), epoch: 2, n: 0 }.to_string(), "packs/00000000000000000007-2-0");
    }
}

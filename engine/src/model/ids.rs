//! Random identifiers, each with its own type so that none is mistaken for another.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A text that is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an id of 32 hexadecimal digits")]
pub struct IdError;

fn parse(text: &str) -> Result<[u8; 16], IdError> {
    if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(IdError);
    }
    u128::from_str_radix(text, 16).map(u128::to_be_bytes).map_err(|_| IdError)
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                parse(text).map($name)
            }
        }

        impl From<[u8; 16]> for $name {
            fn from(bytes: [u8; 16]) -> $name {
                $name(bytes)
            }
        }
    )+};
}

ids! {
    /// A volume, as every object of its store names it.
    VolumeId;
    /// A writer: a host's catalog of a volume.
    WriterId;
    /// One attempt to commit; tells this writer's commit from another's after an unknown outcome.
    CommitId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_digits_and_from_nothing_else() {
        let id = VolumeId([0x0a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xab, 0xcd, 0xef, 0, 0, 0xff]);
        assert_eq!(id.to_string(), "0a010203040506070809abcdef0000ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "0a", "+a010203040506070809abcdef0000ff", "0a010203040506070809abcdef0000fff"] {
            assert_eq!(text.parse::<CommitId>(), Err(IdError), "{text:?}");
        }
    }
}

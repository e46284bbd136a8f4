//! Names of volumes: `STORE/VOLUME`, and volume names alone.
//!
//! Parsing and printing only: nothing here checks whether the place exists.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::store::{StoreUrl, UrlError};

/// Most bytes of a volume name: it is one path component and one part of an S3 key.
pub const VOLUME_NAME_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error(transparent)]
    Store(#[from] UrlError),
    #[error("`{text}` is not STORE/VOLUME")]
    NoVolume { text: String },
    #[error("`{name}` is no volume name: {why}")]
    Name { name: String, why: &'static str },
}

/// `STORE/VOLUME`: the last part is the volume, everything before it the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRef {
    pub store: StoreUrl,
    pub volume: String,
}

impl FromStr for VolumeRef {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let split = text.parse::<StoreUrl>()?.split_volume();
        let (store, volume) = split.ok_or_else(|| LocationError::NoVolume { text: text.to_string() })?;
        check_volume_name(&volume)?;
        Ok(VolumeRef { store, volume })
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.volume)
    }
}

/// Refuses names that are not one plain path component, or that a label, key or terminal would garble.
pub fn check_volume_name(name: &str) -> Result<(), LocationError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > VOLUME_NAME_MAX {
        "it is longer than 128 bytes"
    } else if name.starts_with(['.', '-']) {
        "it begins with `.` or `-`"
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        "only letters, digits, `.`, `_` and `-` are allowed"
    } else {
        return Ok(());
    };
    Err(LocationError::Name { name: name.to_string(), why })
}

/// The default name of a volume: the base name of its directory. `None` for `/`, or if that is not a valid name.
pub fn default_volume_name(source: &Path) -> Option<String> {
    let name = source.file_name()?.to_str()?;
    check_volume_name(name).ok().map(|()| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_the_volume() {
        let parse = |text: &str| text.parse::<VolumeRef>().map(|v| (v.store.to_string(), v.volume));
        assert_eq!(parse("./backup/data").unwrap(), ("./backup".into(), "data".into()));
        assert_eq!(parse("s3://bucket/p/data/").unwrap(), ("s3://bucket/p".into(), "data".into()));
        assert_eq!(parse("s3://bucket/data").unwrap(), ("s3://bucket".into(), "data".into()));
        assert_eq!(parse("data").unwrap(), (".".into(), "data".into()));
        assert_eq!(parse("/data").unwrap(), ("/".into(), "data".into()));
        assert_eq!(parse("file:///a%20b/data").unwrap(), ("/a b".into(), "data".into()));
        for text in ["", "/", "s3://bucket", "s3://b/data", "file:///", "a/..", "a/b c", "a/.hidden"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_name_is_the_base_name() {
        assert_eq!(default_volume_name(Path::new("/srv/data")).as_deref(), Some("data"));
        assert_eq!(default_volume_name(Path::new("/")), None);
        assert_eq!(default_volume_name(Path::new("/srv/my data")), None);
        assert!(check_volume_name(&"a".repeat(128)).is_ok());
        assert!(check_volume_name(&"a".repeat(129)).is_err());
    }
}

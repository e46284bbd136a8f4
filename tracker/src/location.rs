//! Where volumes are kept and what they are called: store URLs, `STORE/VOLUME`, volume names.
//!
//! Parsing and printing only: nothing here looks whether the place exists.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Most bytes of a volume name: it is one path component and one part of an S3 key.
pub const VOLUME_NAME_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    #[error("the store URL is empty")]
    Empty,
    #[error("`{scheme}://` is no kind of store (use a path, file:///path or s3://bucket/prefix)")]
    Scheme { scheme: String },
    #[error("a file URL has no host: write file:///path, not `{url}`")]
    FileHost { url: String },
    #[error("credentials do not belong into a store URL; the standard AWS variables and files carry them")]
    Credentials,
    #[error("`{url}` names no bucket")]
    Bucket { url: String },
    #[error("`{url}` has a part that is empty, `.` or `..`")]
    Component { url: String },
    #[error("a store URL takes no `?` or `#`: `{url}`")]
    Query { url: String },
    #[error("`{text}` is not STORE/VOLUME")]
    NoVolume { text: String },
    #[error("`{name}` is no volume name: {why}")]
    Name { name: String, why: &'static str },
}

/// A store: a local directory, or a bucket and a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreUrl {
    Local(PathBuf),
    /// `prefix` has no slash at either end; empty for the whole bucket.
    S3 {
        bucket: String,
        prefix: String,
    },
}

impl StoreUrl {
    /// The directory of a local store.
    pub fn local(&self) -> Option<&Path> {
        match self {
            StoreUrl::Local(path) => Some(path),
            StoreUrl::S3 { .. } => None,
        }
    }
}

impl FromStr for StoreUrl {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        let url = || text.to_string();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(StoreUrl::Local(PathBuf::from(text)));
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(StoreUrl::Local(PathBuf::from(rest))),
            "file" => Err(LocationError::FileHost { url: url() }),
            "s3" if rest.contains('@') => Err(LocationError::Credentials),
            "s3" if rest.contains(['?', '#']) => Err(LocationError::Query { url: url() }),
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(LocationError::Bucket { url: url() });
                }
                let prefix = prefix.trim_end_matches('/');
                if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
                    return Err(LocationError::Component { url: url() });
                }
                Ok(StoreUrl::S3 { bucket: bucket.to_string(), prefix: prefix.to_string() })
            }
            _ => Err(LocationError::Scheme { scheme: scheme.to_string() }),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Local(path) => write!(f, "{}", path.display()),
            StoreUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            StoreUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
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
        let error = || LocationError::NoVolume { text: text.to_string() };
        let trimmed = text.trim_end_matches('/');
        let (store, volume) = match trimmed.rsplit_once('/') {
            Some(("", volume)) => ("/", volume),
            Some((store, volume)) => (store, volume),
            None => (".", trimmed),
        };
        // `s3://bucket` alone would read as the store `s3:/`.
        if store.ends_with(":/") || store.ends_with("://") {
            return Err(error());
        }
        check_volume_name(volume)?;
        Ok(VolumeRef { store: store.parse()?, volume: volume.to_string() })
    }
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.volume)
    }
}

/// Refuses names that would not be one plain path component, or that a label, key or terminal would mangle.
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

/// The default name of a volume: the base name of its directory. `None` for `/`, or when that is no volume name.
pub fn default_volume_name(source: &Path) -> Option<String> {
    let name = source.file_name()?.to_str()?;
    check_volume_name(name).ok().map(|()| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_printed() {
        for (text, shown) in [
            ("./backup", "./backup"),
            ("/srv/b", "/srv/b"),
            ("file:///srv/b", "/srv/b"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "http://x/y",
            "file://host/x",
            "s3://",
            "s3:///x",
            "s3://k:s@b/x",
            "s3://b/a//c",
            "s3://b/../c",
            "s3://b?x",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_part_is_the_volume() {
        let parse = |text: &str| text.parse::<VolumeRef>().map(|v| (v.store.to_string(), v.volume));
        assert_eq!(parse("./backup/data").unwrap(), ("./backup".into(), "data".into()));
        assert_eq!(parse("s3://b/p/data/").unwrap(), ("s3://b/p".into(), "data".into()));
        assert_eq!(parse("s3://b/data").unwrap(), ("s3://b".into(), "data".into()));
        assert_eq!(parse("data").unwrap(), (".".into(), "data".into()));
        assert_eq!(parse("/data").unwrap(), ("/".into(), "data".into()));
        for text in ["", "/", "s3://b", "a/..", "a/b c", "a/.hidden"] {
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

//! Store URLs: `path`, `file:///path`, `s3://bucket/prefix`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::error::Op;
use super::key;

/// Where a store is, without any secret. `Display` returns a text that parses to the same store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreUrl {
    Local(PathBuf),
    S3 {
        bucket: String,
        /// Empty for the whole bucket, or a legal key.
        prefix: String,
    },
}

/// Why a text is not a store URL. No variant repeats what may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the store URL is empty")]
    Empty,
    #[error("`{scheme}://` is no kind of store (use a path, file:///path or s3://bucket/prefix)")]
    Scheme { scheme: String },
    #[error(
        "`{before}:` is no kind of store (use s3://bucket/prefix, file:///path or a path; a local directory with a colon in its name is written ./{before}:..)"
    )]
    Colon { before: String },
    #[error("a store URL begins with {right}")]
    Spelling { right: &'static str },
    #[error("a file URL has three slashes and an absolute path: file:///path")]
    FileHost,
    #[error("a file URL has % followed by two hexadecimal digits, and no %00")]
    Escape,
    #[error("credentials do not belong into a store URL; the standard AWS variables and files carry them")]
    Credentials,
    #[error("a store URL takes no `?` or `#`")]
    Query,
    #[error("a bucket is 3 to 63 letters, digits, dots, hyphens or underscores")]
    Bucket,
    #[error("the prefix `{prefix}` has a part that is empty, `.`, `..`, or otherwise no part of a key")]
    Prefix { prefix: String },
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<StoreUrl, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        check_colon(text)?;
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(StoreUrl::Local(PathBuf::from(text)));
        };
        match scheme {
            "file" if rest.starts_with('/') => Ok(StoreUrl::Local(unescape(rest)?)),
            "file" => Err(UrlError::FileHost),
            "s3" if rest.contains('@') => Err(UrlError::Credentials),
            "s3" if rest.contains(['?', '#']) => Err(UrlError::Query),
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(legal) {
                    return Err(UrlError::Bucket);
                }
                let prefix = prefix.trim_end_matches('/');
                if !prefix.is_empty() && key::check(Op::Open, prefix).is_err() {
                    return Err(UrlError::Prefix { prefix: prefix.to_owned() });
                }
                Ok(StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
            }
            _ if is_scheme(scheme) => Err(UrlError::Scheme { scheme: scheme.to_owned() }),
            // `./a://b` is a path.
            _ => Ok(StoreUrl::Local(PathBuf::from(text))),
        }
    }
}

/// Refuses what looks like a URL or a remote place but is not one: `s3:bucket/x`, `host:/x` and `S3://bucket` would
/// otherwise be local directories of that name. A colon after the first slash belongs to a path.
fn check_colon(text: &str) -> Result<(), UrlError> {
    let first = text.split('/').next().unwrap_or(text);
    let Some((before, _)) = first.split_once(':') else { return Ok(()) };
    let slashes = text[before.len() + 1..].starts_with("//");
    match before.to_ascii_lowercase().as_str() {
        "s3" if !slashes || before != "s3" => Err(UrlError::Spelling { right: "s3://bucket/prefix" }),
        "file" if !slashes || before != "file" => Err(UrlError::Spelling { right: "file:///path" }),
        _ if slashes && is_scheme(before) => Ok(()),
        // The text before an `@` may be a secret.
        _ => Err(UrlError::Colon { before: before.rsplit('@').next().unwrap_or_default().to_owned() }),
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn unescape(text: &str) -> Result<PathBuf, UrlError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16)).ok_or(UrlError::Escape);
        out.push((digit()? * 16 + digit()?) as u8);
    }
    if out.contains(&0) {
        return Err(UrlError::Escape);
    }
    Ok(PathBuf::from(OsString::from_vec(out)))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Local(path) => match path.to_str() {
                Some(text) => f.write_str(text),
                None if !path.is_absolute() => write!(f, "{}", path.display()),
                None => {
                    f.write_str("file://")?;
                    path.as_os_str().as_bytes().iter().try_for_each(|byte| match byte {
                        b'%' | 0x80.. => write!(f, "%{byte:02X}"),
                        plain => write!(f, "{}", char::from(*plain)),
                    })
                }
            },
            StoreUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            StoreUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl StoreUrl {
    /// The directory of a local store.
    pub fn local(&self) -> Option<&Path> {
        match self {
            StoreUrl::Local(path) => Some(path),
            StoreUrl::S3 { .. } => None,
        }
    }

    /// Splits `STORE/VOLUME` at the last slash. `None` without a volume name or without a store.
    pub fn split_volume(&self) -> Option<(StoreUrl, String)> {
        match self {
            StoreUrl::Local(path) => {
                let name = path.file_name()?.to_str()?.to_owned();
                let parent = match path.parent()? {
                    p if p.as_os_str().is_empty() => Path::new("."),
                    p => p,
                };
                Some((StoreUrl::Local(parent.to_owned()), name))
            }
            StoreUrl::S3 { bucket, prefix } => {
                let (prefix, name) = prefix.rsplit_once('/').unwrap_or(("", prefix));
                let store = StoreUrl::S3 { bucket: bucket.clone(), prefix: prefix.to_owned() };
                (!name.is_empty()).then(|| (store, name.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StoreUrl, UrlError> {
        text.parse()
    }

    fn s3(bucket: &str, prefix: &str) -> StoreUrl {
        StoreUrl::S3 { bucket: bucket.into(), prefix: prefix.into() }
    }

    #[test]
    fn urls_parse() {
        assert_eq!(parse("/srv/store"), Ok(StoreUrl::Local("/srv/store".into())));
        assert_eq!(parse("store"), Ok(StoreUrl::Local("store".into())));
        assert_eq!(parse("./a://b"), Ok(StoreUrl::Local("./a://b".into())));
        assert_eq!(parse("file:///a%20b/c"), Ok(StoreUrl::Local("/a b/c".into())));
        assert_eq!(parse("s3://bucket"), Ok(s3("bucket", "")));
        assert_eq!(parse("s3://bucket/"), Ok(s3("bucket", "")));
        assert_eq!(parse("s3://bucket/a/b/"), Ok(s3("bucket", "a/b")));
        assert_eq!(parse(""), Err(UrlError::Empty));
        assert_eq!(parse("file://host/a"), Err(UrlError::FileHost));
        assert_eq!(parse("file:///a%2"), Err(UrlError::Escape));
        assert_eq!(parse("file:///a%00"), Err(UrlError::Escape));
        for scheme in ["gs", "http"] {
            let error = UrlError::Scheme { scheme: scheme.into() };
            assert_eq!(parse(&format!("{scheme}://b/p")), Err(error));
        }
        assert_eq!(parse("a b://c"), Err(UrlError::Colon { before: "a b".into() }));
        for text in ["s3://", "s3:///x", "s3://b/p", "s3://bu:cket/p"] {
            assert_eq!(parse(text), Err(UrlError::Bucket), "{text}");
        }
        for text in ["s3://bucket/../x", "s3://bucket/a//c", "s3://bucket//a"] {
            assert!(matches!(parse(text), Err(UrlError::Prefix { .. })), "{text}");
        }
    }

    #[test]
    fn what_looks_like_a_url_is_never_a_path() {
        for (text, right) in [
            ("s3:/bucket/x", "s3://bucket/prefix"),
            ("s3:bucket/x", "s3://bucket/prefix"),
            ("s3:", "s3://bucket/prefix"),
            ("S3://bucket/x", "s3://bucket/prefix"),
            ("file:/srv/x", "file:///path"),
            ("FILE:///srv/x", "file:///path"),
        ] {
            assert_eq!(parse(text), Err(UrlError::Spelling { right }), "{text}");
        }
        for (text, before) in [
            ("sftp:host:/x", "sftp"),
            ("b2:bucket:x", "b2"),
            ("host:/srv/x", "host"),
            ("host:x", "host"),
            ("C:\\x", "C"),
            (":x", ""),
            ("key:secret@host/x", "key"),
            ("user@host:/x", "host"),
            ("http:/host/x", "http"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, UrlError::Colon { before: before.into() }, "{text}");
            assert!(error.to_string().contains(&format!("./{before}:")), "{error}");
        }
        // A path with a colon can still be written.
        for text in ["./s3:bucket/x", "/srv/a:b", "a/b:c", "../host:/x"] {
            assert_eq!(parse(text), Ok(StoreUrl::Local(text.into())), "{text}");
        }
        assert_eq!(parse("file:///srv/a:b"), Ok(StoreUrl::Local("/srv/a:b".into())));
    }

    #[test]
    fn secrets_in_urls_are_refused_and_not_repeated() {
        for (text, why) in [
            ("s3://AKIA:hunter2@bucket/p", UrlError::Credentials),
            ("s3://AKIA:hun/ter2@bucket/p", UrlError::Credentials),
            ("s3://bucket/p?secret=hunter2", UrlError::Query),
            ("s3://bucket/p#hunter2", UrlError::Query),
            ("s3://AKIA:hunter2", UrlError::Bucket),
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("ter2"), "{error}");
            assert_eq!(error, why);
        }
        let keys = crate::store::StaticCredentials {
            access_key: "AK".into(),
            secret_key: "hunter2".into(),
            session_token: Some("hunter2".into()),
        };
        assert!(!format!("{keys:?}").contains("hunter2"));
    }

    #[test]
    fn volumes_split_off() {
        let split = |text| parse(text).unwrap().split_volume();
        assert_eq!(split("/srv/store/v"), Some((StoreUrl::Local("/srv/store".into()), "v".into())));
        assert_eq!(split("v"), Some((StoreUrl::Local(".".into()), "v".into())));
        assert_eq!(split("s3://bucket/p/v"), Some((s3("bucket", "p"), "v".into())));
        assert_eq!(split("s3://bucket/v"), Some((s3("bucket", ""), "v".into())));
        assert_eq!(split("s3://bucket"), None);
        assert_eq!(split("/"), None);
    }

    #[test]
    fn display_parses_back() {
        let local = |bytes: &[u8]| StoreUrl::Local(OsString::from_vec(bytes.to_vec()).into());
        let odd = [local(b"/a b"), local(b"/a%20b"), local(b"/s3://b"), local(b"./x"), local(b"/50%/\xff")];
        for url in odd.into_iter().chain([s3("bucket", ""), s3("bucket", "a/b")]) {
            assert_eq!(parse(&url.to_string()), Ok(url));
        }
        for (text, shown) in [
            ("./backup", "./backup"),
            ("/srv/b", "/srv/b"),
            ("file:///srv/b", "/srv/b"),
            ("file:///srv/%62%FF", "file:///srv/b%FF"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }
}

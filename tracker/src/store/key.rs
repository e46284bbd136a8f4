//! Which keys are legal: those that every store can hold, list, and keep inside its own location.

use super::error::{ErrorKind, Op, StoreError};

/// S3's limit for a whole key in bytes, including the prefix of the store.
pub const MAX_KEY_BYTES: usize = 1024;
/// Below the 255 bytes of a file name, to leave room for temporary names.
pub const MAX_NAME_BYTES: usize = 200;
/// Names with this prefix are temporary files of the local store.
pub const TEMP_PREFIX: &str = ".tmp-";

/// Accepts `a/b/c`: names of 1 to 200 bytes, none of them `.` or `..` or a temporary name, no control characters
/// (they cannot occur in an S3 listing), no backslash (SeaweedFS takes it for a slash, so two keys would be one object),
/// at most 1024 bytes in all.
///
/// # Errors
/// `Misconfigured`, with the reason.
pub fn check(op: Op, key: &str) -> Result<(), StoreError> {
    match problem(key) {
        None => Ok(()),
        Some(why) => Err(StoreError::new(op, key, ErrorKind::Misconfigured).code("IllegalKey").detail(why)),
    }
}

/// Like [`check`] for the prefix of a listing, which may be empty and may end anywhere inside a name.
pub fn check_prefix(op: Op, prefix: &str) -> Result<(), StoreError> {
    let whole = prefix.strip_suffix('/').unwrap_or(prefix);
    if whole.is_empty() && prefix.is_empty() { Ok(()) } else { check(op, whole) }
}

fn problem(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        return Some("a key must not be empty");
    }
    if key.len() > MAX_KEY_BYTES {
        return Some("a key has at most 1024 bytes");
    }
    if key.chars().any(char::is_control) {
        return Some("a key must not contain control characters");
    }
    if key.contains('\\') {
        return Some("a key must not contain a backslash, which some servers take for a slash");
    }
    key.split('/').find_map(|name| match name {
        "" => Some("a key must not begin or end with a slash, or contain two in a row"),
        "." | ".." => Some("a key must not contain . or .. as a name"),
        _ if name.starts_with(TEMP_PREFIX) => Some("names beginning with .tmp- are reserved"),
        _ if name.len() > MAX_NAME_BYTES => Some("a name in a key has at most 200 bytes"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_oddities_are_refused() {
        let long_name = "n".repeat(201);
        let long_key = ["n"; 600].join("/");
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\0b",
            "a\nb",
            "a\\b",
            "x/.tmp-1-y",
            &long_name,
            &long_key,
        ] {
            assert!(check(Op::Get, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ordinary_and_odd_but_legal_keys_pass() {
        for good in [
            "a",
            "v/commits/00000000000000000001",
            "...",
            "..a",
            "a b+c%2F&=?#'\"<>~",
            "gr\u{f6}\u{df}e/\u{30c7}\u{30fc}\u{30bf}",
            ".hidden",
            "*",
        ] {
            assert!(check(Op::Get, good).is_ok(), "{good:?}");
        }
        for good in ["", "a/", "a/b", "commits/0001"] {
            assert!(check_prefix(Op::List, good).is_ok(), "{good:?}");
        }
        for bad in ["/", "../", "a//"] {
            assert!(check_prefix(Op::List, bad).is_err(), "{bad:?}");
        }
    }
}

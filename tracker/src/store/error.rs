//! The one error of all stores: which operation, on which key, of which kind, and what an operator can do about it.
//!
//! Callers act on the kind, so it is chosen with care: `Transient` only if certainly nothing was done.

use std::fmt;

use crate::error::{AppError, ExitCode};

/// Error code: a store that was used before is absent or empty now.
pub const AWAY: &str = "Away";
/// Error code: the path now leads to another store than the one that was opened.
pub const OTHER_STORE: &str = "OtherStore";
/// Error code: the directory that should contain the store does not exist.
pub const NO_PARENT: &str = "NoParent";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    Open,
    Probe,
    Create,
    Get,
    GetRange,
    Exists,
    Delete,
    List,
}

impl Op {
    /// All operations, in the order of `as usize`.
    pub const ALL: [Op; 8] = [Op::Open, Op::Probe, Op::Create, Op::Get, Op::GetRange, Op::Exists, Op::Delete, Op::List];

    /// Name as in logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Op::Open => "open",
            Op::Probe => "probe",
            Op::Create => "create",
            Op::Get => "get",
            Op::GetRange => "get_range",
            Op::Exists => "exists",
            Op::Delete => "delete",
            Op::List => "list",
        }
    }

    /// Whether the operation only reads, so that repeating it cannot change the store.
    pub fn reads(self) -> bool {
        matches!(self, Op::Get | Op::GetRange | Op::Exists | Op::List)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The store answered: no object under this key.
    NotFound,
    /// The bucket or directory itself does not exist.
    StoreAbsent,
    /// The change may or may not have taken effect.
    Unknown,
    /// Nothing was done; the same call may succeed later.
    Transient,
    /// The credentials or permissions do not allow it.
    Denied,
    NoSpace,
    ReadOnly,
    /// The answer contradicts itself or the request: too short, too long, wrong checksum, range outside the object.
    Corrupt,
    /// The setup cannot work: an illegal key, a wrong region, a file instead of a folder, a missing function.
    Misconfigured,
    /// The store accepts a second create of a key, so it cannot keep two writers apart (only from the probe).
    Unfenced,
}

impl ErrorKind {
    /// All kinds, in the order of `as usize`.
    pub const ALL: [ErrorKind; 10] = [
        ErrorKind::NotFound,
        ErrorKind::StoreAbsent,
        ErrorKind::Unknown,
        ErrorKind::Transient,
        ErrorKind::Denied,
        ErrorKind::NoSpace,
        ErrorKind::ReadOnly,
        ErrorKind::Corrupt,
        ErrorKind::Misconfigured,
        ErrorKind::Unfenced,
    ];

    /// Name as in logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not_found",
            ErrorKind::StoreAbsent => "store_absent",
            ErrorKind::Unknown => "unknown",
            ErrorKind::Transient => "transient",
            ErrorKind::Denied => "denied",
            ErrorKind::NoSpace => "no_space",
            ErrorKind::ReadOnly => "read_only",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Misconfigured => "misconfigured",
            ErrorKind::Unfenced => "unfenced",
        }
    }

    /// One word for what an operator sees: failures with the same word are one trouble, whatever the cause of each try.
    pub fn trouble(self) -> &'static str {
        match self {
            ErrorKind::Transient | ErrorKind::Unknown | ErrorKind::StoreAbsent => "away",
            kind => kind.name(),
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "no such object",
            ErrorKind::StoreAbsent => "the store itself is not there",
            ErrorKind::Unknown => "the outcome is unknown",
            ErrorKind::Transient => "failed for now",
            ErrorKind::Denied => "not allowed",
            ErrorKind::NoSpace => "no space left",
            ErrorKind::ReadOnly => "the store is read-only",
            ErrorKind::Corrupt => "the answer is damaged",
            ErrorKind::Misconfigured => "cannot work as configured",
            ErrorKind::Unfenced => "the store does not keep two writers apart",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// What to do about a mount whose server is gone.
pub const DEAD_MOUNT: &str =
    "what is mounted there has lost its server: mount it again (where the dead mount is in the way: umount -l)";

/// The lowest cause of an error.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A sentence as a [`Source`], if no lower layer made an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Detail(pub String);

/// The error of a store call. `Display` includes the causes, on one line.
#[derive(Debug, thiserror::Error)]
#[error("{op} {key:?}{}: {kind}{}", of(.site), causes(.code, .source))]
pub struct StoreError {
    pub op: Op,
    /// The key, or the store's location for `Open`, `Probe` and `List`.
    pub key: String,
    pub kind: ErrorKind,
    /// The store's own code for it (`AccessDenied`, `ENOSPC`), if it has one.
    pub code: Option<String>,
    pub source: Option<Source>,
    /// Set by a store whose address is not in the key.
    pub site: Option<Box<Site>>,
}

/// Where a failure occurred, and advice that only this place can give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Which store, for operators, without secrets; empty if unknown.
    pub place: String,
    /// Precedes the general hint for the kind and code.
    pub hint: Option<String>,
}

fn of(site: &Option<Box<Site>>) -> String {
    match site {
        Some(site) if !site.place.is_empty() => format!(" of {}", site.place),
        _ => String::new(),
    }
}

fn causes(code: &Option<String>, source: &Option<Source>) -> String {
    let mut out = String::new();
    if let Some(code) = code {
        out = format!(" ({code})");
    }
    let mut next: Option<&dyn std::error::Error> = source.as_deref().map(|s| s as _);
    let mut last = String::new();
    while let Some(e) = next {
        // Layers often repeat the text of the layer below; once is enough.
        let text = e.to_string();
        if text != last && !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        last = text;
        next = e.source();
    }
    out
}

impl StoreError {
    pub fn new(op: Op, key: &str, kind: ErrorKind) -> StoreError {
        StoreError { op, key: key.to_owned(), kind, code: None, source: None, site: None }
    }

    pub fn with(self, source: impl Into<Source>) -> StoreError {
        StoreError { source: Some(source.into()), ..self }
    }

    pub fn detail(self, text: impl Into<String>) -> StoreError {
        self.with(Detail(text.into()))
    }

    pub fn code(self, code: impl Into<String>) -> StoreError {
        StoreError { code: Some(code.into()), ..self }
    }

    /// Adds a specific hint, which precedes the general one.
    pub fn advise(self, hint: impl Into<String>) -> StoreError {
        let place = self.site.as_ref().map(|site| site.place.clone()).unwrap_or_default();
        StoreError { site: Some(Box::new(Site { place, hint: Some(hint.into()) })), ..self }
    }

    /// What an operator can do; empty if there is nothing to do but wait or read the causes.
    pub fn hint(&self) -> &str {
        let own = self.site.as_ref().and_then(|site| site.hint.as_deref());
        own.unwrap_or_else(|| self.general_hint())
    }

    /// The general hint for the kind and code.
    pub fn general_hint(&self) -> &'static str {
        let code = self.code.as_deref().unwrap_or("");
        match (self.kind, code) {
            (ErrorKind::Denied, "SignatureDoesNotMatch") => {
                "the secret key does not belong to the access key (or a proxy changed the request); check the credentials"
            }
            (ErrorKind::Denied, "InvalidAccessKeyId") => {
                "this server does not know the access key; check the credentials"
            }
            (ErrorKind::Denied, "RequestTimeTooSkewed") => "this host's clock differs from the server's; set the clock",
            (ErrorKind::Denied, "ExpiredToken" | "TokenRefreshRequired") => "the session token has expired; renew it",
            (ErrorKind::Denied, "NoCredentials") => {
                "no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the host a role"
            }
            (ErrorKind::Denied, "EACCES" | "EPERM") => {
                "the user tracker runs as may not do this; check owner and mode of the folder"
            }
            (ErrorKind::Denied, _) if self.op.reads() => {
                "allow s3:GetObject, and s3:ListBucket too: without it the server answers 403 for objects that are only absent"
            }
            (ErrorKind::Denied, _) => "allow s3:PutObject, s3:GetObject and s3:ListBucket on this bucket and prefix",
            (ErrorKind::StoreAbsent, NO_PARENT) => {
                "the directory above the store is not there either: is a disk not mounted? --create (in the configuration: create = true) makes the whole path"
            }
            (ErrorKind::StoreAbsent, AWAY) => {
                "mount the disk or share it lies on; if the store was removed on purpose, --create makes a new one for a volume of another name"
            }
            (ErrorKind::StoreAbsent, OTHER_STORE) => {
                "mount the disk or share that the store lies on at this path; nothing was read from or written to the one that is there"
            }
            (ErrorKind::StoreAbsent, _) => {
                "create the bucket or directory, or mount it; check its name and the endpoint"
            }
            (
                ErrorKind::Misconfigured,
                "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException",
            ) => "the bucket is in another region; set AWS_REGION to it",
            (ErrorKind::Misconfigured, "NotImplemented") => {
                "the server lacks a function that is needed (conditional writes); use a newer one"
            }
            (ErrorKind::Misconfigured, "InvalidRequest" | "InvalidArgument") => {
                "if the server is older, try AWS_REQUEST_CHECKSUM_CALCULATION=WHEN_REQUIRED"
            }
            (ErrorKind::Misconfigured, "ENOTDIR") => "a file is where a folder must be",
            (ErrorKind::NoSpace, _) => "free or add space in the store; nothing was lost",
            (ErrorKind::ReadOnly, _) => {
                "the file system is mounted read-only; look for earlier I/O errors in the kernel log"
            }
            (ErrorKind::Unfenced, _) => {
                "use a store with atomic conditional writes, or set single_writer = true if no other host will ever write here"
            }
            (_, "ENOTCONN" | "ESTALE") => DEAD_MOUNT,
            (ErrorKind::Unknown | ErrorKind::Transient, _) => {
                // Only the caller knows whether it is tried again: a restore, or a start in the foreground, is not.
                "check that the store is reachable"
            }
            (ErrorKind::Corrupt, _) => "run `tracker verify`; look for a proxy or disk that damages data",
            (ErrorKind::NotFound | ErrorKind::Misconfigured, _) => "",
        }
    }
}

/// Converts a failed system call. `changed`: the failing step came after the point of effect, so the outcome is unknown.
pub fn from_errno(op: Op, key: &str, errno: rustix::io::Errno, changed: bool) -> StoreError {
    use rustix::io::Errno;
    let (kind, code) = match errno {
        _ if changed => (ErrorKind::Unknown, ""),
        Errno::NOENT => (ErrorKind::NotFound, ""),
        Errno::ACCESS => (ErrorKind::Denied, "EACCES"),
        Errno::PERM => (ErrorKind::Denied, "EPERM"),
        Errno::NOSPC => (ErrorKind::NoSpace, "ENOSPC"),
        Errno::DQUOT => (ErrorKind::NoSpace, "EDQUOT"),
        Errno::ROFS => (ErrorKind::ReadOnly, "EROFS"),
        Errno::NOTDIR => (ErrorKind::Misconfigured, "ENOTDIR"),
        Errno::ISDIR => (ErrorKind::Misconfigured, "EISDIR"),
        Errno::XDEV => (ErrorKind::Misconfigured, "EXDEV"),
        Errno::LOOP => (ErrorKind::Misconfigured, "ELOOP"),
        Errno::NAMETOOLONG => (ErrorKind::Misconfigured, "ENAMETOOLONG"),
        Errno::OPNOTSUPP => (ErrorKind::Misconfigured, "EOPNOTSUPP"),
        Errno::NOSYS => (ErrorKind::Misconfigured, "ENOSYS"),
        Errno::INVAL => (ErrorKind::Misconfigured, "EINVAL"),
        Errno::FBIG => (ErrorKind::Misconfigured, "EFBIG"),
        Errno::NOTCONN => (ErrorKind::Transient, "ENOTCONN"),
        Errno::STALE => (ErrorKind::Transient, "ESTALE"),
        // EIO, EMFILE, ENOMEM, ETIMEDOUT and the rest: before the point of effect, so nothing was done.
        _ => (ErrorKind::Transient, ""),
    };
    let error = StoreError::new(op, key, kind).with(std::io::Error::from(errno));
    if code.is_empty() { error } else { error.code(code) }
}

impl AppError {
    /// What a store's refusal means to an operator.
    pub fn from_store(error: &StoreError) -> AppError {
        let code = match error.kind {
            ErrorKind::StoreAbsent => ExitCode::Absent,
            ErrorKind::Corrupt => ExitCode::Mismatch,
            _ => ExitCode::Error,
        };
        let told = AppError::new(code, error);
        match error.hint() {
            "" => told,
            hint => told.hint(hint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn errnos_are_classed_by_what_the_caller_must_do() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::NoSpace),
            (Errno::DQUOT, ErrorKind::NoSpace),
            (Errno::ROFS, ErrorKind::ReadOnly),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::NOTDIR, ErrorKind::Misconfigured),
            (Errno::IO, ErrorKind::Transient),
            (Errno::NOTCONN, ErrorKind::Transient),
            (Errno::STALE, ErrorKind::Transient),
        ] {
            let e = from_errno(Op::Create, "k", errno, false);
            assert_eq!(e.kind, kind);
            assert!(!e.hint().is_empty(), "{e}");
            assert_eq!(from_errno(Op::Create, "k", errno, true).kind, ErrorKind::Unknown);
        }
    }

    #[test]
    fn names_and_positions_agree() {
        for (i, op) in Op::ALL.iter().enumerate() {
            assert_eq!(*op as usize, i);
        }
        for (i, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, i);
        }
    }

    #[test]
    fn display_is_one_line_with_causes() {
        let e = from_errno(Op::Create, "v/commits/1", Errno::NOSPC, false);
        assert_eq!(
            e.to_string(),
            "create \"v/commits/1\": no space left (ENOSPC): No space left on device (os error 28)"
        );
    }
}

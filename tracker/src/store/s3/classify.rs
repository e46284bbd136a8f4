//! What an S3 failure means: whether something was done, whether it may be repeated, and who caused it.
//!
//! If uncertain, the kind is `Unknown`: it costs a read, while a wrong `Transient` could cost a commit.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStreamError;

use super::super::{ErrorKind, Op, StoreError};

/// Code of a body that arrived damaged or truncated: worth another attempt, then `Corrupt`.
pub(super) const BAD_BODY: &str = "BadBody";

/// The HTTP status of an answer, where there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|r| r.status().as_u16())
}

pub(super) fn classify<E>(op: Op, key: &str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let mut code = match &error {
        SdkError::ServiceError(e) => e.err().code().unwrap_or("").to_owned(),
        _ => String::new(),
    };
    let kind = match &error {
        // The request could not even be built.
        SdkError::ConstructionFailure(_) => ErrorKind::Transient,
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => {
            let text = chain(&error);
            if text.contains("credentials") || text.contains("identity") {
                return StoreError::new(op, key, ErrorKind::Denied).code("NoCredentials").with(error);
            }
            code = no_answer(&text).to_owned();
            if never_sent(&text) { ErrorKind::Transient } else { ErrorKind::Unknown }
        }
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => {
            let status = status(&error).unwrap_or(0);
            if code.is_empty() && error.raw_response().is_some_and(asks_for_tls) {
                code = "NeedsTls".to_owned();
            } else if status == 407 {
                code = "Proxy".to_owned();
            }
            kind_of(op, status, &code)
        }
        _ => ErrorKind::Unknown,
    };
    let region = error.raw_response().and_then(|answer| answer.headers().get("x-amz-bucket-region")).map(str::to_owned);
    let shown = match (code.is_empty(), status(&error)) {
        (false, _) => code,
        (true, Some(status)) => format!("HTTP {status}"),
        (true, None) => String::new(),
    };
    let mut out = StoreError::new(op, key, kind).with(error);
    if let (ErrorKind::Misconfigured, Some(region)) = (kind, region) {
        out = out.advise(format!("the bucket is in the region {region}: set AWS_REGION to it"));
    }
    if shown.is_empty() { out } else { out.code(shown) }
}

/// Whether a server says that TLS was missing: in words (those of Go and nginx), or by a redirect.
fn asks_for_tls(answer: &HttpResponse) -> bool {
    let says =
        |word: &[u8]| answer.body().bytes().is_some_and(|body| body.windows(word.len()).any(|part| part == word));
    let status = answer.status().as_u16();
    let sent_on = || answer.headers().get("location").is_some_and(|to| to.starts_with("https://"));
    (status == 400 && says(b"HTTPS")) || (matches!(status, 301 | 302 | 307 | 308) && sent_on())
}

/// The code for a request without an answer, from the texts of its causes (`site` has the hints). As with `never_sent`, the
/// client has no public types for these; `tests/tests/store_s3_errors.rs` provokes each of them.
fn no_answer(text: &str) -> &'static str {
    const SIGNS: [(&str, &str); 16] = [
        // Before the failure of the tunnel itself.
        ("failed to lookup address", "NameNotFound"),
        ("dns error", "NameNotFound"),
        ("Connection refused", "ConnectionRefused"),
        ("tunnel error", "Proxy"),
        ("InvalidContentType", "NotTls"),
        ("UnknownIssuer", "UnknownIssuer"),
        ("CaUsedAsEndEntity", "UnknownIssuer"),
        ("not valid for name", "WrongName"),
        ("NotValidForName", "WrongName"),
        ("certificate expired", "WrongTime"),
        ("certificate not valid yet", "WrongTime"),
        ("invalid peer certificate", "Certificate"),
        ("HTTP connect timeout", "ConnectTimeout"),
        ("unreachable", "Unreachable"),
        ("No route to host", "Unreachable"),
        ("invalid HTTP version", "NotHttp"),
    ];
    SIGNS.iter().find(|(sign, _)| text.contains(sign)).map_or("", |(_, code)| code)
}

/// The kind of an answer, by its code first and its status second.
fn kind_of(op: Op, status: u16, code: &str) -> ErrorKind {
    match (code, status) {
        ("NoSuchBucket", _) => ErrorKind::StoreAbsent,
        ("NoSuchKey", _) => ErrorKind::NotFound,
        // Only an answer that names the object proves that it is absent; a proxy's 404 does not.
        (_, 404) => ErrorKind::Misconfigured,
        ("ConditionalRequestConflict" | "OperationAborted", _) | (_, 409) => ErrorKind::Transient,
        ("SlowDown" | "SlowDownWrite" | "SlowDownRead" | "TooManyRequests" | "RequestLimitExceeded", _) | (_, 429) => {
            ErrorKind::Transient
        }
        // The body did not arrive as sent, or not in time; nothing was stored.
        ("RequestTimeout" | "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody", _) => ErrorKind::Transient,
        ("ExpiredToken" | "TokenRefreshRequired" | "InvalidToken", _) => ErrorKind::Denied,
        ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientCapacity", _) | (_, 507) => ErrorKind::NoSpace,
        ("NotImplemented", _) | (_, 501 | 405) => ErrorKind::Misconfigured,
        ("InvalidRange", _) | (_, 416) => ErrorKind::Corrupt,
        (_, 401 | 403) => ErrorKind::Denied,
        (_, 300..=499) => ErrorKind::Misconfigured,
        // 500, 502, 503 of a proxy, 504, and an answer that could not be parsed: anything may have happened.
        _ if op.reads() => ErrorKind::Transient,
        _ => ErrorKind::Unknown,
    }
}

/// A failure while the body of an answer was read.
pub(super) fn incomplete(op: Op, key: &str, error: ByteStreamError) -> StoreError {
    let damaged = chain(&error).contains("checksum");
    let kind = if damaged { ErrorKind::Corrupt } else { ErrorKind::Transient };
    StoreError::new(op, key, kind).code(BAD_BODY).with(error)
}

/// The texts of an error and all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(e) = next {
        text.push_str(&e.to_string());
        text.push('\n');
        next = e.source();
    }
    text
}

/// Whether no connection was made, so that nothing can have been done. The client has no public types for this. If its
/// texts change, the kind falls back to `Unknown`, and a test in `tests/tests/store_s3.rs` fails.
fn never_sent(text: &str) -> bool {
    ["client error (Connect)", "HTTP connect timeout", "dns error"].iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classed_by_what_was_done() {
        for (op, status, code, kind) in [
            (Op::Create, 409, "ConditionalRequestConflict", ErrorKind::Transient),
            (Op::Create, 503, "SlowDown", ErrorKind::Transient),
            (Op::Create, 503, "ServiceUnavailable", ErrorKind::Unknown),
            (Op::Create, 500, "InternalError", ErrorKind::Unknown),
            (Op::Create, 504, "", ErrorKind::Unknown),
            (Op::Create, 200, "", ErrorKind::Unknown),
            (Op::Create, 404, "NoSuchBucket", ErrorKind::StoreAbsent),
            (Op::Create, 501, "NotImplemented", ErrorKind::Misconfigured),
            (Op::Create, 400, "RequestTimeout", ErrorKind::Transient),
            (Op::Create, 400, "ExpiredToken", ErrorKind::Denied),
            (Op::Create, 403, "RequestTimeTooSkewed", ErrorKind::Denied),
            (Op::Create, 507, "", ErrorKind::NoSpace),
            (Op::Get, 500, "InternalError", ErrorKind::Transient),
            (Op::Get, 404, "NoSuchKey", ErrorKind::NotFound),
            (Op::Get, 404, "", ErrorKind::Misconfigured),
            (Op::Get, 403, "AccessDenied", ErrorKind::Denied),
            (Op::GetRange, 416, "InvalidRange", ErrorKind::Corrupt),
            (Op::Get, 301, "PermanentRedirect", ErrorKind::Misconfigured),
        ] {
            assert_eq!(kind_of(op, status, code), kind, "{op} {status} {code}");
        }
    }
}

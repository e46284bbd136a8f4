//! What a person is told in addition to an S3 failure: which server and bucket were contacted, and what can be done.

use super::super::error::Site;
use super::super::{ErrorKind, StoreError};
use super::http::Http;

/// Variables that people set for the address of a server, but that no program with AWS's conventions reads.
const NO_ENDPOINT: [&str; 3] = ["AWS_ENDPOINT", "AWS_S3_ENDPOINT", "S3_ENDPOINT"];

/// Where requests are sent.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `s3://bucket/prefix`.
    bucket: String,
    /// URL of a server other than AWS, without user and password.
    endpoint: Option<String>,
    region: String,
    /// The proxy for requests, without user and password.
    proxy: Option<String>,
    /// Whether `AWS_CA_BUNDLE` names certificates.
    bundle: bool,
    /// A variable of [`NO_ENDPOINT`] that is set although there is no endpoint.
    mistaken: Option<&'static str>,
    /// Whether the keys come from variables, which cannot change.
    fixed_keys: bool,
}

/// Whether a variable is set and not empty.
pub(super) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

impl Place {
    pub(super) fn new(bucket: &str, endpoint: Option<&str>, region: &str, http: &Http) -> Place {
        let url = endpoint.map_or_else(|| format!("https://s3.{region}.amazonaws.com"), str::to_owned);
        Place {
            bucket: bucket.to_owned(),
            endpoint: endpoint.map(without_user),
            region: region.to_owned(),
            proxy: http.proxy(&url).map(|proxy| without_user(&proxy.to_string())),
            bundle: is_set("AWS_CA_BUNDLE"),
            mistaken: mistaken(endpoint),
            fixed_keys: is_set("AWS_ACCESS_KEY_ID"),
        }
    }

    /// The scheme of the proxy if it is not an HTTP proxy.
    pub(super) fn unknown_proxy(&self) -> Option<&str> {
        let (scheme, _) = self.proxy.as_deref()?.split_once("://")?;
        (!matches!(scheme, "http" | "https")).then_some(scheme)
    }

    /// For operators: bucket, server, region, proxy.
    pub(super) fn name(&self) -> String {
        let at = self.endpoint.as_deref().unwrap_or("AWS");
        let by = self.proxy.as_ref().map(|proxy| format!(", by the proxy {proxy}")).unwrap_or_default();
        format!("{} at {at}, region {}{by}", self.bucket, self.region)
    }

    /// Adds this place and a hint to an error of a request.
    pub(super) fn tell(&self, error: StoreError) -> StoreError {
        let hint = self.hint(&error);
        let site = Site { place: self.name(), hint };
        StoreError { site: Some(Box::new(site)), ..error }
    }

    /// What can be done; `None` if the general hint for the kind and code says it.
    fn hint(&self, error: &StoreError) -> Option<String> {
        if error.kind == ErrorKind::NotFound {
            return None;
        }
        if let Some(variable) = self.mistaken {
            return Some(not_an_endpoint(variable));
        }
        let code = error.code.as_deref().unwrap_or_default();
        let endpoint = self.endpoint.as_deref();
        let server = endpoint.unwrap_or("AWS");
        let other = |to: &str| endpoint.and_then(|e| e.split_once("://")).map(|(_, rest)| format!("{to}://{rest}"));
        let hint = match code {
            "NotTls" => match other("http") {
                Some(url) => format!("what answers there does not speak TLS: if it is the S3 server, its address is {url}"),
                None => "what answers there does not speak TLS; look for a proxy or a captive network".to_owned(),
            },
            "NeedsTls" | "NotHttp" => match other("https") {
                Some(url) => format!("the server expects TLS: set the endpoint to {url}"),
                None => "what answers there speaks no HTTP; look for a proxy or a captive network".to_owned(),
            },
            "NameNotFound" if endpoint.is_none() => {
                format!("no such name: check the bucket's name, the region ({}) and this host's DNS", self.region)
            }
            "NameNotFound" => "no such host name: check the endpoint's spelling, and this host's DNS".to_owned(),
            "ConnectionRefused" if self.proxy.is_some() => {
                "nothing listens at the proxy's address or the server's; a server that is reached directly is named in NO_PROXY".to_owned()
            }
            "ConnectionRefused" => format!("nothing listens there: check host and port of {server}, and that it runs"),
            "ConnectTimeout" | "Unreachable" => {
                "no way there: check host and port, firewalls, and whether a proxy is needed (HTTPS_PROXY)".to_owned()
            }
            "Proxy" => {
                "the proxy refuses or cannot reach the server: check HTTPS_PROXY or HTTP_PROXY with user and password; a server that is reached directly is named in NO_PROXY".to_owned()
            }
            "UnknownIssuer" if self.bundle => {
                "nobody who is trusted signed the server's certificate: put its authority's certificate, or this very certificate, into the file of AWS_CA_BUNDLE".to_owned()
            }
            "UnknownIssuer" => {
                "nobody who is trusted signed the server's certificate: name a file with its authority's certificate, or with this very certificate, in AWS_CA_BUNDLE".to_owned()
            }
            "WrongName" => {
                "the server's certificate is for another name: use that name in the endpoint, or make one with this name in subjectAltName".to_owned()
            }
            "WrongTime" => "the server's certificate is not valid now: renew it, or set this host's clock".to_owned(),
            "Certificate" => {
                "the server's certificate cannot be used: make one of version 3 with the server's name in subjectAltName".to_owned()
            }
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" if self.fixed_keys => format!(
                "{}; these come from environment variables, which stay as they were at the start: keys that change belong into a file (AWS_SHARED_CREDENTIALS_FILE)",
                error.general_hint()
            ),
            code if code.starts_with("HTTP 3") || code.starts_with("HTTP 4") => format!(
                "what answers there does not answer as S3 does: check host and port of {server} (is it the port of a console?), and proxies before it"
            ),
            _ => return error.site.as_ref().and_then(|site| site.hint.clone()),
        };
        Some(hint)
    }
}

/// A variable that is set but not read, if there is no endpoint.
pub(super) fn mistaken(endpoint: Option<&str>) -> Option<&'static str> {
    NO_ENDPOINT.into_iter().find(|name| endpoint.is_none() && is_set(name))
}

pub(super) fn not_an_endpoint(variable: &str) -> String {
    format!("{variable} is set, which is not read: the address of a server that is not AWS stands in AWS_ENDPOINT_URL")
}

/// A URL without user and password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}{path}").trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Op;

    fn place(endpoint: Option<&str>) -> Place {
        Place {
            bucket: "s3://bucket/p".into(),
            endpoint: endpoint.map(without_user),
            region: "eu-west-1".into(),
            proxy: None,
            bundle: false,
            mistaken: None,
            fixed_keys: false,
        }
    }

    fn told(place: &Place, kind: ErrorKind, code: &str) -> StoreError {
        place.tell(StoreError::new(Op::Get, "v/format", kind).code(code))
    }

    #[test]
    fn every_s3_error_names_server_bucket_and_region() {
        let error = told(&place(Some("http://user:hunter2@host:9000/")), ErrorKind::Transient, "ConnectionRefused");
        assert_eq!(
            error.to_string(),
            "get \"v/format\" of s3://bucket/p at http://host:9000, region eu-west-1: failed for now (ConnectionRefused)"
        );
        assert!(error.hint().contains("host and port"), "{}", error.hint());
        let error = told(&place(None), ErrorKind::StoreAbsent, "NoSuchBucket");
        assert!(error.to_string().contains("of s3://bucket/p at AWS, region eu-west-1"), "{error}");
        let by = Place { proxy: Some("http://proxy:3128".into()), ..place(None) };
        assert!(by.name().ends_with(", by the proxy http://proxy:3128"), "{}", by.name());
    }

    #[test]
    fn a_hint_says_what_to_change() {
        let (http, https) = (place(Some("http://host:9000")), place(Some("https://host:9000")));
        for (place, kind, code, words) in [
            (&https, ErrorKind::Transient, "NotTls", "its address is http://host:9000"),
            (&http, ErrorKind::Misconfigured, "NeedsTls", "set the endpoint to https://host:9000"),
            (&http, ErrorKind::Unknown, "NotHttp", "set the endpoint to https://host:9000"),
            (&http, ErrorKind::Transient, "NameNotFound", "endpoint's spelling"),
            (&self::place(None), ErrorKind::Transient, "NameNotFound", "the region (eu-west-1)"),
            (&https, ErrorKind::Transient, "UnknownIssuer", "AWS_CA_BUNDLE"),
            (&https, ErrorKind::Transient, "WrongName", "subjectAltName"),
            (&https, ErrorKind::Transient, "WrongTime", "clock"),
            (&http, ErrorKind::Misconfigured, "HTTP 404", "console"),
            (&http, ErrorKind::Denied, "InvalidAccessKeyId", "does not know the access key"),
            (&http, ErrorKind::StoreAbsent, "NoSuchBucket", "create the bucket"),
            (&http, ErrorKind::Misconfigured, "AuthorizationHeaderMalformed", "AWS_REGION"),
        ] {
            let error = told(place, kind, code);
            assert!(error.hint().contains(words), "{code}: {}", error.hint());
        }
        let fixed = Place { fixed_keys: true, ..http.clone() };
        assert!(told(&fixed, ErrorKind::Denied, "InvalidAccessKeyId").hint().contains("AWS_SHARED_CREDENTIALS_FILE"));
        let mistaken = Place { mistaken: Some("AWS_ENDPOINT"), ..self::place(None) };
        let error = told(&mistaken, ErrorKind::Denied, "InvalidAccessKeyId");
        assert!(error.hint().contains("AWS_ENDPOINT_URL"), "{}", error.hint());
        assert_eq!(told(&mistaken, ErrorKind::NotFound, "NoSuchKey").hint(), "");
    }
}

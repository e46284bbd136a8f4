//! What a person is told when an S3 server cannot be used, and what helps: each failure names the server and the bucket,
//! and what to change. Proxies and certificates are real ones.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use tests::http_proxy::HttpProxy;
use tests::mounts::programs_or_skip;
use tests::s3_server::{S3Server, options};
use tests::tls_front::{Certificate, TlsFront};
use tracker::store::{Created, ErrorKind, Store, StoreError, StoreOptions, StoreUrl, open};

const BUCKET: &str = "tracker-test";
const INSIDE: &str = "TRACKER_TEST_INSIDE";

fn url(prefix: &str) -> StoreUrl {
    StoreUrl::S3 { bucket: BUCKET.to_owned(), prefix: prefix.to_owned() }
}

fn server(name: &str) -> Option<Arc<S3Server>> {
    S3Server::shared_or_skip(name, BUCKET)
}

/// A server that answers each connection with these bytes, whatever the request.
fn answering(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = client.read(&mut [0; 16 << 10]);
                let _ = client.write_all(bytes);
            });
        }
    });
    port
}

fn at(endpoint: &str) -> StoreOptions {
    StoreOptions { endpoint: Some(endpoint.to_owned()), attempts: 1, ..options(1) }
}

/// The failure of a read at an endpoint; it must name the endpoint and the bucket.
#[track_caller]
fn failure(endpoint: &str) -> StoreError {
    let error = open(&url("p"), &at(endpoint)).unwrap().get("v/format").unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("of s3://{BUCKET}/p at {endpoint}, region us-east-1")), "{text}");
    error
}

#[track_caller]
fn is(error: &StoreError, code: &str, hint: &str) {
    assert_eq!(error.code.as_deref(), Some(code), "{error}");
    assert!(error.hint().contains(hint), "{error}: {}", error.hint());
}

/// Needs no server, so it never skips.
#[test]
fn each_way_to_get_no_answer_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    is(&failure(&format!("http://127.0.0.1:{free}")), "ConnectionRefused", "host and port");
    is(&failure("http://no-such-host.invalid:9000"), "NameNotFound", "spelling");
    // TLS to a server without it, with its three ways to answer.
    for answer in [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], b"SSH-2.0-OpenSSH\r\n"] {
        let port = answering(answer);
        is(&failure(&format!("https://127.0.0.1:{port}")), "NotTls", &format!("http://127.0.0.1:{port}"));
    }
    // No TLS to a server that requires it: of Go, of nginx, of one that redirects, of one that speaks nothing else.
    let go = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let nginx = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 56\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center>";
    let sends = b"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n";
    for (answer, code) in
        [(&go[..], "NeedsTls"), (nginx, "NeedsTls"), (sends, "NeedsTls"), (b"\x15\x03\x01\x00\x02\x02\x46", "NotHttp")]
    {
        let port = answering(answer);
        is(&failure(&format!("http://127.0.0.1:{port}")), code, &format!("https://127.0.0.1:{port}"));
    }
    let console = answering(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<a/>");
    is(&failure(&format!("http://127.0.0.1:{console}")), "HTTP 404", "console");
}

/// Needs no server, so it never skips. A load balancer keeps a connection to one server: what fails there is retried on
/// another connection.
#[test]
fn a_server_that_fails_is_tried_by_another_connection() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut first = true;
        for mut client in listener.incoming().flatten() {
            let answer: &[u8] = match std::mem::replace(&mut first, false) {
                true => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
                false => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"e\"\r\n\r\ngood",
            };
            // Kept open, as servers do.
            thread::spawn(move || {
                while client.read(&mut [0; 16 << 10]).is_ok_and(|bytes| bytes > 0) {
                    client.write_all(answer).unwrap();
                }
            });
        }
    });
    let options = StoreOptions { attempts: 5, ..at(&format!("http://127.0.0.1:{port}")) };
    assert_eq!(open(&url("p"), &options).unwrap().get("v/format").unwrap(), b"good");
}

#[test]
fn a_bucket_in_another_region_is_named_with_its_region() {
    let moved = answering(
        b"HTTP/1.1 301 Moved Permanently\r\nx-amz-bucket-region: eu-north-1\r\nContent-Length: 52\r\n\r\n<Error><Code>PermanentRedirect</Code></Error>       ",
    );
    is(&failure(&format!("http://127.0.0.1:{moved}")), "PermanentRedirect", "eu-north-1");
    let malformed = answering(
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 70\r\n\r\n<Error><Code>AuthorizationHeaderMalformed</Code></Error>               ",
    );
    is(&failure(&format!("http://127.0.0.1:{malformed}")), "AuthorizationHeaderMalformed", "AWS_REGION");
}

#[test]
fn refusals_of_a_real_server_name_it() {
    let Some(server) = server("refusals_of_a_real_server_name_it") else { return };
    let mut wrong = server.options();
    wrong.credentials.as_mut().unwrap().access_key = "NOBODY".into();
    let error = open(&url("p"), &wrong).unwrap().get("k").unwrap_err();
    is(&error, "InvalidAccessKeyId", "does not know the access key");
    assert!(error.to_string().contains(&format!("s3://{BUCKET}/p at {}", server.endpoint())), "{error}");
    let absent = StoreUrl::S3 { bucket: "no-such-bucket".into(), prefix: String::new() };
    let error = open(&absent, &server.options()).unwrap().get("k").unwrap_err();
    is(&error, "NoSuchBucket", "create the bucket");
    assert!(error.to_string().contains(&format!("s3://no-such-bucket at {}", server.endpoint())), "{error}");
}

/// Runs this program's case `name` in a child whose environment has only `env`; returns its output.
#[track_caller]
fn in_environment(name: &str, env: &[(&str, &str)]) -> String {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env_clear()
        .envs(env.iter().copied())
        .env(INSIDE, "1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

/// Opens the store from the environment, and tries to create an object and to read it.
fn tell() {
    let outcome = open(&url("env"), &StoreOptions { attempts: 1, ..StoreOptions::default() }).and_then(|store| {
        let made = store.create("k", Bytes::from_static(b"x"))?;
        assert!(matches!(made, Created::Yes | Created::Exists));
        store.get("k")
    });
    match outcome {
        Ok(bytes) => println!("told: works {}", bytes.len()),
        Err(error) => {
            let (code, hint) = (error.code.as_deref().unwrap_or_default(), error.hint());
            println!("told: {:?} {code} | {error} | {hint}", error.kind);
        }
    }
}

const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", tests::s3_server::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", tests::s3_server::SECRET_KEY)];

/// Needs no server, so it never skips.
#[test]
fn a_variable_that_is_no_endpoint_is_pointed_at() {
    let name = "a_variable_that_is_no_endpoint_is_pointed_at";
    if std::env::var_os(INSIDE).is_some() {
        return tell();
    }
    let told = in_environment(name, &[("AWS_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(
        told.contains("Misconfigured NoRegion") && told.contains("AWS_ENDPOINT is set, which is not read"),
        "{told}"
    );
    let told = in_environment(name, &[]);
    assert!(told.contains("NoRegion") && told.contains("set AWS_REGION to the bucket's region"), "{told}");
    let told = in_environment(name, &[("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(told.contains("Denied NoCredentials") && told.contains("which is not read"), "{told}");
    assert!(told.contains(&format!("s3://{BUCKET}/env at AWS, region eu-west-1")), "{told}");
    let told = in_environment(
        name,
        &[("AWS_REGION", "eu-west-1"), ("AWS_CA_BUNDLE", "/nonexistent/ca.pem"), KEYS[0], KEYS[1]],
    );
    assert!(told.contains("Misconfigured AWS_CA_BUNDLE") && told.contains("/nonexistent/ca.pem"), "{told}");
    let proxy = [("AWS_ENDPOINT_URL", "https://127.0.0.1:1"), ("ALL_PROXY", "socks5://127.0.0.1:1"), KEYS[0], KEYS[1]];
    let told = in_environment(name, &proxy);
    assert!(told.contains("socks5:// is no kind of proxy"), "{told}");
}

#[test]
fn proxies_of_the_environment_are_used_and_gone_around() {
    let name = "proxies_of_the_environment_are_used_and_gone_around";
    if std::env::var_os(INSIDE).is_some() {
        return tell();
    }
    let Some(server) = server(name) else { return };
    if !programs_or_skip(name, "openssl", &["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(dir.path(), "server", &["-addext", "subjectAltName=IP:127.0.0.1"]);
    let front = TlsFront::before(server.port(), &certificate);
    let bundle = certificate.certificate.to_str().unwrap();
    let (plain, tls) = (server.endpoint(), format!("https://127.0.0.1:{}", front.port()));
    // user:pw
    let proxy = HttpProxy::start(Some("Basic dXNlcjpwdw=="));
    let by = |user: &str| format!("http://{user}127.0.0.1:{}", proxy.port());
    let (right, wrong) = (by("user:pw@"), by("user:hunter2@"));
    let ask = |endpoint: &str, proxies: &[(&str, &str)]| {
        let fixed =
            [("AWS_ENDPOINT_URL", endpoint), ("AWS_REGION", "us-east-1"), ("AWS_CA_BUNDLE", bundle), KEYS[0], KEYS[1]];
        let before = proxy.counts();
        let told = in_environment(name, &[&fixed[..], proxies].concat());
        let after = proxy.counts();
        (told, (after.0 - before.0 > 0, after.1 - before.1 > 0, after.2 - before.2 > 0))
    };
    for (endpoint, variable, used) in [
        (&plain, "HTTP_PROXY", (false, true, false)),
        (&plain, "http_proxy", (false, true, false)),
        (&plain, "ALL_PROXY", (false, true, false)),
        (&plain, "HTTPS_PROXY", (false, false, false)),
        (&tls, "HTTPS_PROXY", (true, false, false)),
        (&tls, "https_proxy", (true, false, false)),
        (&tls, "all_proxy", (true, false, false)),
        (&tls, "HTTP_PROXY", (false, false, false)),
    ] {
        let (told, counts) = ask(endpoint, &[(variable, &right)]);
        assert!(told.contains("told: works 1"), "{variable}: {told}");
        assert_eq!(counts, used, "{variable} at {endpoint}");
        for (no, around) in [("NO_PROXY", "127.0.0.1"), ("no_proxy", "10.0.0.0/8, 127.0.0.0/8"), ("NO_PROXY", "*")] {
            let (told, counts) = ask(endpoint, &[(variable, &right), (no, around)]);
            assert!(told.contains("told: works 1"), "{no}={around}: {told}");
            assert_eq!(counts, (false, false, false), "{no}={around}");
        }
    }
    for (endpoint, variable) in [(&plain, "HTTP_PROXY"), (&tls, "HTTPS_PROXY")] {
        let (told, counts) = ask(endpoint, &[(variable, &wrong)]);
        assert!(counts.2 && told.contains(" Proxy | ") && told.contains("the proxy refuses"), "{told}");
        assert!(told.contains(&format!("by the proxy {}", by(""))) && !told.contains("hunter2"), "{told}");
    }
    let (told, _) = ask(&tls, &[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    assert!(told.contains("ConnectionRefused") && told.contains("proxy's address"), "{told}");
}

#[test]
fn a_certificate_is_believed_when_it_was_named_and_is_right() {
    let name = "a_certificate_is_believed_when_it_was_named_and_is_right";
    if std::env::var_os(INSIDE).is_some() {
        return tell();
    }
    let Some(server) = server(name) else { return };
    if !programs_or_skip(name, "openssl", &["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, args: &[&str]| Certificate::make(dir.path(), name, args);
    let san = ["-addext", "subjectAltName=IP:127.0.0.1"];
    let with = |more: &[&'static str]| [&san[..], more].concat();
    let ask = |front: &Certificate, bundle: Option<&Path>| {
        let front = TlsFront::before(server.port(), front);
        let endpoint = format!("https://127.0.0.1:{}", front.port());
        let mut env = vec![("AWS_ENDPOINT_URL", endpoint.as_str()), ("AWS_REGION", "us-east-1"), KEYS[0], KEYS[1]];
        env.extend(bundle.map(|bundle| ("AWS_CA_BUNDLE", bundle.to_str().unwrap())));
        in_environment(name, &env)
    };
    // What `openssl req -x509` makes by default: it claims to be an authority.
    let own = make("own", &san);
    let told = ask(&own, Some(&own.certificate));
    assert!(told.contains("told: works"), "{told}");
    let told = ask(&own, None);
    assert!(
        told.contains(" UnknownIssuer | ") && told.contains("with this very certificate, in AWS_CA_BUNDLE"),
        "{told}"
    );
    // The same name but another key: it is not the named one.
    let twin = make("own", &san);
    let other = make("other", &san);
    let told = ask(&twin, Some(&other.certificate));
    assert!(told.contains(" UnknownIssuer | ") && told.contains("into the file of AWS_CA_BUNDLE"), "{told}");
    // Not an authority.
    let leaf = make("leaf", &with(&["-addext", "basicConstraints=critical,CA:FALSE"]));
    let told = ask(&leaf, Some(&leaf.certificate));
    assert!(told.contains("told: works"), "{told}");
    // Named, but for another name, or expired.
    let elsewhere = make("elsewhere", &["-addext", "subjectAltName=DNS:elsewhere.example"]);
    let told = ask(&elsewhere, Some(&elsewhere.certificate));
    assert!(told.contains(" WrongName | ") && told.contains("subjectAltName"), "{told}");
    let over = Certificate::expired(dir.path(), "over");
    let told = ask(&over, Some(&over.certificate));
    assert!(told.contains(" WrongTime | ") && told.contains("renew it"), "{told}");
    // Signed by an authority, the usual way: a file with both.
    let authority = make("authority", &[]);
    let (ca, key) = (authority.certificate.to_str().unwrap(), authority.key.to_str().unwrap());
    let mut args = with(&["-addext", "basicConstraints=critical,CA:FALSE"]);
    args.extend(["-CA", ca, "-CAkey", key]);
    let signed = Certificate::make(dir.path(), "signed", &args);
    let told = ask(&signed, Some(&authority.certificate));
    assert!(told.contains("told: works"), "{told}");
    let told = ask(&signed, Some(&own.certificate));
    assert!(told.contains(" UnknownIssuer | "), "{told}");
    // Its own certificate without that of its authority.
    let told = ask(&signed, Some(&signed.certificate));
    assert!(told.contains("told: works"), "{told}");
}

/// Needs no server, so it never skips.
#[test]
fn a_failure_never_shows_a_password() {
    let error = open(&url("p"), &at("http://user:hunter2@127.0.0.1:1")).and_then(|store| store.get("k")).unwrap_err();
    assert_ne!(error.kind, ErrorKind::NotFound);
    assert!(!error.to_string().contains("hunter2") && !error.hint().contains("hunter2"), "{error}");
}

//! A real S3 server for tests: SeaweedFS, one process per [`S3Server`], on free ports, with its data in a temporary folder.
//!
//! Found at `$TRACKER_WEED`, in `target/tools/venv/bin/weed`, or in the path. Killed by its process id when dropped: it
//! takes up to half a minute to obey SIGTERM, and its data is discarded.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracker::store::{ErrorKind, StaticCredentials, StoreError, StoreOptions, StoreUrl, open};

pub const ACCESS_KEY: &str = "AKTEST";
pub const SECRET_KEY: &str = "SKTESTSKTEST";
/// Generous: virtual machines and full CI machines start it slowly.
const START: Duration = Duration::from_secs(90);

pub struct S3Server {
    weed: PathBuf,
    /// `None` while it is stopped.
    child: Option<Child>,
    /// Ports of its parts; the same after a stop.
    ports: Ports,
    folder: tempfile::TempDir,
    /// The buckets that were created.
    buckets: Mutex<Vec<String>>,
}

#[derive(Clone, Copy)]
struct Ports {
    master: u16,
    volume: u16,
    filer: u16,
    s3: u16,
}

/// The server's program, where it is installed.
pub fn weed() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TRACKER_WEED") {
        return Some(PathBuf::from(path)).filter(|p| p.is_file());
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv/bin/weed");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(installed).chain(std::env::split_paths(&path).map(|d| d.join("weed"))).find(|p| p.is_file())
}

/// Whether `TRACKER_TEST_REQUIRE` (a comma list) says that tests with `what` must run.
pub fn required(what: &str) -> bool {
    std::env::var("TRACKER_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item.trim() == what))
}

impl S3Server {
    /// Like [`S3Server::start_or_skip`], but shares a server that another test of this program uses. Each test then uses
    /// its own prefix. The last user's drop ends it, since a static would never be dropped.
    ///
    /// # Panics
    /// As [`S3Server::start_or_skip`].
    pub fn shared_or_skip(name: &str, bucket: &str) -> Option<Arc<S3Server>> {
        static SHARED: Mutex<Weak<S3Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(S3Server::start_or_skip(name, bucket)?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// Starts a server with one bucket, or prints why the test `name` is skipped.
    ///
    /// # Panics
    /// When the server is installed and does not start; when it is not installed and `TRACKER_TEST_REQUIRE` names `s3`.
    pub fn start_or_skip(name: &str, bucket: &str) -> Option<S3Server> {
        let Some(weed) = weed() else {
            let reason = "no weed (SeaweedFS): run `cargo xtask setup`, or set TRACKER_WEED";
            assert!(!required("s3"), "{name}: {reason}");
            println!("SKIP {name}: {reason}");
            return None;
        };
        // Another process may take a port between our check and the server's start: then try again with others.
        for _ in 0..3 {
            if let Some(server) = S3Server::start(&weed) {
                server.create_bucket(bucket);
                return Some(server);
            }
        }
        panic!("{name}: {} does not start", weed.display());
    }

    fn start(weed: &Path) -> Option<S3Server> {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(folder.path().join("data")).expect("data folder");
        let [master, volume, filer, s3] = free_ports();
        let ports = Ports { master, volume, filer, s3 };
        let mut server = S3Server { weed: weed.to_path_buf(), child: None, ports, folder, buckets: Mutex::default() };
        server.know(&[(ACCESS_KEY, SECRET_KEY)]);
        server.run().then_some(server)
    }

    /// Starts the process on its ports and data, and waits until it answers. `false` if it ends or does not answer.
    fn run(&mut self) -> bool {
        let log = self.folder.path().join("weed.log");
        let log = File::options().create(true).append(true).open(log).expect("log");
        let Ports { master, volume, filer, s3 } = self.ports;
        let mut child = Command::new(&self.weed)
            .args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data"])
            .args([format!("-master.port={master}"), format!("-volume.port={volume}")])
            .args(["-master.volumeSizeLimitMB=64", "-volume.max=30", "-filer", "-s3", "-s3.iam=false"])
            .args([format!("-filer.port={filer}"), format!("-s3.port={s3}")])
            // Off, so that several servers can run at once: these have fixed ports by default.
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-metricsPort=0", "-master.telemetry=false"])
            .arg("-s3.config=s3.json")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("weed starts");
        let begun = Instant::now();
        let answers = loop {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                eprintln!("weed ended at start:\n{}", self.log());
                break false;
            }
            if self.is_ready() {
                break true;
            }
            if begun.elapsed() > START {
                eprintln!("weed is not ready after {START:?}:\n{}", self.log());
                break false;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        self.child = Some(child);
        answers
    }

    /// Writes down the keys, access and secret, that the server accepts from its next start on.
    fn know(&self, keys: &[(&str, &str)]) {
        let credential =
            |(access, secret): &(&str, &str)| format!(r#"{{"accessKey":"{access}","secretKey":"{secret}"}}"#);
        let credentials: Vec<String> = keys.iter().map(credential).collect();
        let identity = format!(
            r#"{{"identities":[{{"name":"test","credentials":[{}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#,
            credentials.join(",")
        );
        std::fs::write(self.folder.path().join("s3.json"), identity).expect("s3.json");
    }

    /// Restarts it with other keys, at the same address and with the same data.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn take_only(&mut self, keys: &[(&str, &str)]) {
        self.stop();
        self.know(keys);
        self.start_again();
    }

    /// Ends the process as a crash would; its data stay.
    ///
    /// # Panics
    /// When it cannot be ended.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("weed is killed");
            child.wait().expect("its end");
        }
    }

    /// Restarts it after a stop, at the same address and with the same data, and waits until it stores and returns objects:
    /// at first it answers requests with 500.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none() && self.run(), "weed does not start again");
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for bucket in buckets {
            self.wait_for(&bucket, Instant::now());
        }
    }

    /// Waits until an object can be written to a bucket and read back. A rejection of the keys counts as an answer too.
    fn wait_for(&self, bucket: &str, begun: Instant) {
        let url = StoreUrl::S3 { bucket: bucket.to_owned(), prefix: String::new() };
        let store = open(&url, &self.options()).expect("the client opens");
        let tried = || -> Result<(), StoreError> {
            store.create("ready", Bytes::from_static(b"x"))?;
            store.exists("ready")?;
            store.get("ready")?;
            store.delete("ready")
        };
        while let Err(e) = tried()
            && e.kind != ErrorKind::Denied
        {
            assert!(begun.elapsed() < START, "bucket {bucket} cannot be used: {e}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn port(&self) -> u16 {
        self.ports.s3
    }

    /// Its process id; 0 while it is stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Options to reach this server, independent of the environment.
    pub fn options(&self) -> StoreOptions {
        options(self.port())
    }

    /// As [`env()`].
    pub fn env(&self) -> Vec<(&'static str, String)> {
        env(self.port())
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("weed.log")).unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        request(self.port(), "GET /status HTTP/1.0\r\n\r\n").is_some_and(|answer| answer.contains(" 200 "))
    }

    /// Creates a bucket: in this server, a folder of the filer. The filer answers before all parts behind it are up, so
    /// this is retried for a while.
    ///
    /// # Panics
    /// When that does not succeed.
    pub fn create_bucket(&self, bucket: &str) {
        let text = format!("POST /buckets/{bucket}/ HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        let begun = Instant::now();
        while !request(self.ports.filer, &text).is_some_and(|answer| answer.contains(" 201 ")) {
            assert!(begun.elapsed() < START, "bucket {bucket} cannot be made:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        // Objects can be stored once the volume server has joined too.
        self.wait_for(bucket, begun);
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).push(bucket.to_owned());
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Only fails for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The environment for a program under test to find a server (or a proxy in front of it) by the standard variables.
pub fn env(port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

/// Options for a server (or a proxy in front of it) on a local port.
pub fn options(port: u16) -> StoreOptions {
    StoreOptions {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: Some("us-east-1".to_owned()),
        credentials: Some(StaticCredentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            session_token: None,
        }),
        ..StoreOptions::default()
    }
}

/// Sends a request and returns the answer as text.
fn request(port: u16, text: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Free ports whose counterparts 10,000 above (the server's gRPC ports) are free too.
fn free_ports<const N: usize>() -> [u16; N] {
    // Held until all are found, so that none is found twice.
    let mut held = Vec::new();
    std::array::from_fn(|_| {
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let given = listener.local_addr().expect("its number").port();
            // The kernel returns ports from 32768 up; below there is more room, and the counterpart stays in range.
            let port = 11_000 + given % 20_000;
            let pair = [port, port + 10_000].map(|p| TcpListener::bind((Ipv4Addr::LOCALHOST, p)));
            if let [Ok(a), Ok(b)] = pair {
                held.extend([listener, a, b]);
                return port;
            }
        }
    })
}

//! The listening side of the control socket: accepts, reads one bounded line, answers, closes.
//!
//! One thread accepts, a bounded number of threads answer. The caller holds the state directory's lock, so a socket
//! file found here belongs to nobody.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::daemon::control::protocol::{CONNECTIONS_MAX, Control, ControlError, REQUEST_MAX, Reply, Request, answer};

/// A client that sends nothing, or reads nothing, is disconnected after this long.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a server that waits for a free place checks whether it should stop.
const STOP_POLL: Duration = Duration::from_millis(100);

/// A listening control socket; closed and removed when dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path` (mode 0600, a stale socket is replaced). Only the holder of the state directory's lock may
    /// call this. `on_stop` is called when a client asked the daemon to stop.
    pub fn start(path: &Path, control: Arc<dyn Control>, on_stop: Box<dyn Fn() + Send + Sync>) -> io::Result<Server> {
        match fs::symlink_metadata(path) {
            Ok(_) => fs::remove_file(path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let listener = bind_private(path)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let on_stop: Arc<dyn Fn() + Send + Sync> = Arc::from(on_stop);
        let thread = std::thread::Builder::new()
            .name("control".to_string())
            .spawn(move || accept_loop(&listener, &control, &on_stop, &seen))?;
        Ok(Server { path: path.to_path_buf(), stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // A connection of our own wakes the thread from accept().
        let woken = UnixStream::connect(&self.path).is_ok();
        if let Some(thread) = self.thread.take()
            && woken
        {
            // The thread panics only through a bug, which the panic hook has already printed.
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds in a private directory beside `path` and moves the socket into place, so that it never has wider permissions than
/// 0600 (the umask belongs to the whole process and is not changed).
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let private = parent.join(".control");
    match fs::remove_dir_all(&private) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::create_dir(&private)?;
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
    let fresh = private.join("s");
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    fs::remove_dir(&private)?;
    Ok(listener)
}

/// Counts the connections being served.
#[derive(Default)]
struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

impl Places {
    /// Waits for a place; `false` if the server stops meanwhile.
    fn take(&self, stop: &AtomicBool) -> bool {
        let mut taken = self.taken.lock();
        while *taken >= CONNECTIONS_MAX {
            if stop.load(Ordering::SeqCst) {
                return false;
            }
            self.freed.wait_for(&mut taken, STOP_POLL);
        }
        *taken += 1;
        true
    }

    fn free(&self) {
        *self.taken.lock() -= 1;
        self.freed.notify_one();
    }
}

/// Releases a place, also if the answering thread panics.
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free();
    }
}

fn accept_loop(
    listener: &UnixListener,
    control: &Arc<dyn Control>,
    on_stop: &Arc<dyn Fn() + Send + Sync>,
    stop: &AtomicBool,
) {
    let places = Arc::new(Places::default());
    let errors = AtomicUsize::new(0);
    loop {
        if !places.take(stop) {
            return;
        }
        let place = Place(Arc::clone(&places));
        let accepted = listener.accept();
        if stop.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, _)) => {
                let (control, on_stop) = (Arc::clone(control), Arc::clone(on_stop));
                let spawned = std::thread::Builder::new().name("control-client".to_string()).spawn(move || {
                    let _place = place;
                    if let Err(error) = serve(&stream, control.as_ref(), on_stop.as_ref()) {
                        tracing::debug!(%error, "a control client went away");
                    }
                });
                if let Err(error) = spawned {
                    tracing::warn!(%error, "cannot start a thread for a control client");
                }
            }
            Err(error) => {
                // Most likely out of file descriptors: slow down instead of spinning, and log it once.
                if errors.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(%error, "cannot accept control clients");
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

fn serve(stream: &UnixStream, control: &dyn Control, on_stop: &(dyn Fn() + Send + Sync)) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let (reply, stopping) = match read_request(stream)? {
        None => return Ok(()),
        Some(Ok(request)) => (answer(control, &request), request == Request::Stop),
        Some(Err(cause)) => (Reply::Error { cause }, false),
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    let mut out = stream;
    out.write_all(&line)?;
    if stopping {
        on_stop();
    }
    Ok(())
}

/// One line, or `None` if the client closed without a request.
pub(crate) fn read_request(stream: &UnixStream) -> io::Result<Option<Result<Request, ControlError>>> {
    let mut line = Vec::new();
    let limit = REQUEST_MAX as u64 + 1;
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > REQUEST_MAX {
        return Ok(Some(Err(ControlError::TooLong { max: REQUEST_MAX })));
    }
    Ok(Some(serde_json::from_slice(&line).map_err(|e| ControlError::BadRequest { reason: e.to_string() })))
}

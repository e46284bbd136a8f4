//! Reads files in parallel, each under a deadline, so that one stalled writer or slow write-back does not hold up the
//! volume.
//!
//! A thread inside a system call cannot be interrupted. So a late file keeps its thread, is not tried again before that
//! thread returns, and gets twice the time at its next try. Other files are read by other threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use engine::flush::Steps;
use engine::flush::read::read_file;
use engine::model::Ino;
use engine::source::{FileError, FileImage, FileOps, ReadJob};
use parking_lot::Mutex;

/// Threads that may be reading at once, stalled ones not counted.
const THREADS: usize = 4;
/// Threads that may exist, stalled ones included.
const THREADS_MAX: usize = 64;
/// Deadline of a file at its first try.
const DEADLINE: Duration = Duration::from_millis(250);
/// Longest deadline.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Opens the file of a job; runs on a pool thread.
pub type Opener<F> = Arc<dyn Fn(&ReadJob) -> Result<F, FileError> + Send + Sync>;

struct Task<F> {
    index: usize,
    job: ReadJob,
    steps: Steps,
    open: Opener<F>,
    reply: Sender<Reply>,
}

enum Reply {
    Started(usize, Instant),
    Done(usize, Result<FileImage, FileError>),
}

/// The threads and what is known of late files.
pub struct Pool<F> {
    queue: Sender<Task<F>>,
    source: Arc<Mutex<Receiver<Task<F>>>>,
    threads: usize,
    /// Inodes being read by a thread, and whether that read is late.
    running: Arc<Mutex<HashMap<Ino, bool>>>,
    late: HashMap<Ino, u32>,
    deadline: Duration,
}

impl<F: FileOps + 'static> Pool<F> {
    pub fn new() -> Pool<F> {
        let (queue, source) = channel();
        Pool {
            queue,
            source: Arc::new(Mutex::new(source)),
            threads: 0,
            running: Arc::default(),
            late: HashMap::new(),
            deadline: DEADLINE,
        }
    }

    /// For tests.
    pub fn with_deadline(deadline: Duration) -> Pool<F> {
        Pool { deadline, ..Pool::new() }
    }

    /// Files whose thread has not returned.
    pub fn stalled(&self) -> usize {
        self.running.lock().values().filter(|late| **late).count()
    }

    fn add_threads(&mut self) {
        let want = (THREADS + self.stalled()).min(THREADS_MAX);
        while self.threads < want {
            let (source, running) = (Arc::clone(&self.source), Arc::clone(&self.running));
            let work = move || {
                loop {
                    // The lock is held while waiting: one idle thread waits in `recv`, the others for the lock.
                    let Ok(task) = source.lock().recv() else { return };
                    running.lock().insert(task.job.inode.ino, false);
                    // A reply nobody waits for any more is dropped: the file was late.
                    let _ = task.reply.send(Reply::Started(task.index, Instant::now()));
                    let image = (task.open)(&task.job).and_then(|mut file| read_file(&mut file, &task.job, task.steps));
                    running.lock().remove(&task.job.inode.ino);
                    let _ = task.reply.send(Reply::Done(task.index, image));
                }
            };
            match std::thread::Builder::new().name("read".into()).spawn(work) {
                Ok(_) => self.threads += 1,
                Err(_) => return,
            }
        }
    }

    /// Reads all jobs. The results are in the order of the jobs.
    pub fn read(&mut self, jobs: &[ReadJob], steps: Steps, open: &Opener<F>) -> Vec<Result<FileImage, FileError>> {
        self.add_threads();
        let (reply, replies) = channel();
        let mut results: Vec<Option<Result<FileImage, FileError>>> = vec![None; jobs.len()];
        let mut waiting = 0;
        for (index, job) in jobs.iter().enumerate() {
            let busy = self.running.lock().contains_key(&job.inode.ino);
            let task = Task { index, job: job.clone(), steps, open: Arc::clone(open), reply: reply.clone() };
            if busy || self.threads == 0 || self.queue.send(task).is_err() {
                if let Some(result) = results.get_mut(index) {
                    *result = Some(Err(FileError::Late));
                }
            } else {
                waiting += 1;
            }
        }
        let mut due: HashMap<usize, Instant> = HashMap::new();
        while waiting > 0 {
            let next = due.values().min().copied();
            let timeout = next.map_or(DEADLINE_MAX, |at| at.saturating_duration_since(Instant::now()));
            match replies.recv_timeout(timeout) {
                Ok(Reply::Started(index, at)) => {
                    let tries = jobs.get(index).and_then(|job| self.late.get(&job.inode.ino)).copied().unwrap_or(0);
                    let time = self.deadline.saturating_mul(1 << tries.min(16)).min(DEADLINE_MAX);
                    if results.get(index).is_some_and(Option::is_none) {
                        due.insert(index, at + time);
                    }
                }
                Ok(Reply::Done(index, image)) => {
                    due.remove(&index);
                    if let Some(slot) = results.get_mut(index).filter(|slot| slot.is_none()) {
                        *slot = Some(image);
                        waiting -= 1;
                    }
                    if let Some(job) = jobs.get(index) {
                        self.late.remove(&job.inode.ino);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    let over: Vec<usize> = due.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
                    for index in over {
                        due.remove(&index);
                        let (Some(job), Some(slot)) = (jobs.get(index), results.get_mut(index)) else { continue };
                        // Not running any more: it has just returned, and its reply is on the way.
                        let mut running = self.running.lock();
                        let Some(late) = running.get_mut(&job.inode.ino) else { continue };
                        *late = true;
                        *slot = Some(Err(FileError::Late));
                        waiting -= 1;
                        *self.late.entry(job.inode.ino).or_default() += 1;
                    }
                    // Its thread is blocked for now: the files behind it need another one.
                    self.add_threads();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Err(FileError::Late))).collect()
    }
}

impl<F: FileOps + 'static> Default for Pool<F> {
    fn default() -> Self {
        Pool::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::dirty::Marks;
    use engine::model::{FileId, InodeId, Kind, Time};
    use engine::source::Stat;
    use engine::xattrs::ReadXattrs;
    use std::sync::mpsc::SyncSender;

    /// A file whose barrier waits until it is told to go on.
    struct Stalling {
        gate: Option<Arc<Mutex<Receiver<()>>>>,
    }

    impl FileOps for Stalling {
        fn statx(&mut self) -> Result<Stat, FileError> {
            Ok(Stat {
                inode: InodeId { ino: Ino(1), generation: 0 },
                kind: Kind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                rdev: 0,
                size: 3,
                nlink: 1,
                mtime: Time::default(),
                ctime: Time::default(),
            })
        }
        fn xattrs(&mut self) -> Result<ReadXattrs, FileError> {
            Ok(ReadXattrs::default())
        }
        fn clean(&mut self) -> Result<(), FileError> {
            Ok(())
        }
        fn barrier(&mut self) -> Result<(), FileError> {
            if let Some(gate) = &self.gate {
                gate.lock().recv().unwrap();
            }
            Ok(())
        }
        fn uncache(&mut self) -> Result<(), FileError> {
            Ok(())
        }
        fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<usize, FileError> {
            buffer.fill(7);
            Ok(buffer.len())
        }
        fn data_ranges(&mut self, start: u64, end: u64) -> Result<Vec<(u64, u64)>, FileError> {
            Ok(vec![(start, end)])
        }
    }

    fn job(ino: u64) -> ReadJob {
        let inode = InodeId { ino: Ino(ino), generation: 0 };
        ReadJob { id: FileId(ino), inode, marks: Marks::default(), committed_size: None }
    }

    fn opener(stalled: u64) -> (Opener<Stalling>, SyncSender<()>) {
        let (go, gate) = std::sync::mpsc::sync_channel(8);
        let gate = Arc::new(Mutex::new(gate));
        let open: Opener<Stalling> =
            Arc::new(move |job| Ok(Stalling { gate: (job.inode.ino == Ino(stalled)).then(|| Arc::clone(&gate)) }));
        (open, go)
    }

    #[test]
    fn a_stalled_file_is_late_and_the_others_are_read() {
        let mut pool = Pool::with_deadline(Duration::from_millis(30));
        let (open, go) = opener(1);
        let results = pool.read(&[job(1), job(2), job(3)], Steps::ALL, &open);
        assert_eq!(results[0], Err(FileError::Late));
        assert!(results[1].is_ok() && results[2].is_ok());
        // Not tried again while its thread is blocked, so the others do not wait for it a second time.
        let results = pool.read(&[job(1), job(2)], Steps::ALL, &open);
        assert_eq!((results[0].clone(), pool.stalled()), (Err(FileError::Late), 1));
        go.send(()).unwrap();
        while pool.stalled() > 0 {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        assert!(pool.read(&[job(1)], Steps::ALL, &open)[0].is_ok());
    }
}

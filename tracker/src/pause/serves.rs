//! Whether a group has a process that serves the store: the other end of a connection of this process, or a server of FUSE where the
//! store lies on one. Looked at before anybody is paused; what a proxy between the two speaks to is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// `FUSE_SUPER_MAGIC`
const FUSE: u64 = 0x6573_5546;
/// `TCP_ESTABLISHED` and `TCP_LISTEN`, as the tables have them.
const ESTABLISHED: &str = "01";
const LISTENS: &str = "0A";
/// An IPv4 address in a table of IPv6.
const MAPPED: &str = "0000000000000000FFFF0000";

/// One line of `/proc/PID/net/tcp` or `tcp6`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    /// Address and port, as the kernel writes them.
    local: String,
    remote: String,
    state: String,
    inode: String,
}

/// By what this process can be served.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Its connections, as their other ends have them: local and remote address.
    others: BTreeSet<(String, String)>,
    /// The store lies on FUSE.
    fuse: bool,
}

impl Served {
    /// `store`: its directory, where it is a local one.
    pub(super) fn now(store: Option<&Path>) -> Served {
        let own = descriptors("self").unwrap_or_default();
        let mine = |socket: &Socket| own.contains(&format!("socket:[{}]", socket.inode));
        let others = others(&tables("self").into_iter().filter(mine).collect::<Vec<_>>());
        let fuse = store.and_then(|dir| rustix::fs::statfs(dir).ok()).is_some_and(|fs| fs.f_type as u64 == FUSE);
        Served { others, fuse }
    }

    /// Whether a process below this group serves it. What may not be looked at counts as if it did, where something on this host
    /// does.
    pub(super) fn by(&self, group: &Path) -> bool {
        if self.others.is_empty() && !self.fuse {
            return false;
        }
        let mut sockets: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        tasks(group).iter().any(|task| {
            let net = fs::read_link(format!("/proc/{task}/ns/net")).unwrap_or_else(|_| task.into());
            let ends = sockets.entry(net).or_insert_with(|| self.ends(&tables(task)));
            if ends.is_empty() && !self.fuse {
                return false;
            }
            let serves = |open: &String| ends.contains(open) || self.fuse && open == "/dev/fuse";
            descriptors(task).map_or_else(|| is_there(task), |open| open.iter().any(serves))
        })
    }

    /// Which sockets of a network are other ends.
    fn ends(&self, sockets: &[Socket]) -> BTreeSet<String> {
        let is_end = |socket: &&Socket| self.others.contains(&(socket.local.clone(), socket.remote.clone()));
        sockets.iter().filter(is_end).map(|socket| format!("socket:[{}]", socket.inode)).collect()
    }
}

/// The other ends of these connections, without those that somebody else has made to a port of ours.
fn others(mine: &[Socket]) -> BTreeSet<(String, String)> {
    let port = |address: &str| address.rsplit(':').next().map(str::to_owned);
    let serves: BTreeSet<_> =
        mine.iter().filter(|socket| socket.state == LISTENS).map(|socket| port(&socket.local)).collect();
    let made = mine.iter().filter(|socket| socket.state == ESTABLISHED && !serves.contains(&port(&socket.local)));
    made.map(|socket| (socket.remote.clone(), socket.local.clone())).collect()
}

fn is_there(task: &str) -> bool {
    Path::new("/proc").join(task).exists()
}

/// Where the descriptors of a process lead to; `None`: that may not be asked, or it has ended.
fn descriptors(process: &str) -> Option<BTreeSet<String>> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok();
    Some(entries.flatten().filter_map(target).collect())
}

/// The sockets of the network that a process is in.
fn tables(process: &str) -> Vec<Socket> {
    let read = |table: &str| fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
    ["tcp", "tcp6"].iter().flat_map(|table| sockets(&read(table))).collect()
}

fn sockets(table: &str) -> Vec<Socket> {
    let plain = |address: &str| address.strip_prefix(MAPPED).unwrap_or(address).to_owned();
    let socket = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (local, remote) = (plain(fields.nth(1)?), plain(fields.next()?));
        let (state, inode) = (fields.next()?.to_owned(), fields.nth(5)?.to_owned());
        Some(Socket { local, remote, state, inode })
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// The threads of a group and of all below it. A group of threads names no processes.
fn tasks(group: &Path) -> BTreeSet<String> {
    let named = |file: &str| fs::read_to_string(group.join(file));
    let text = named("cgroup.procs").or_else(|_| named("cgroup.threads")).unwrap_or_default();
    let mut tasks: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    // It may be gone by now.
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tasks.append(&mut self::tasks(&entry.path()));
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:C001 0100007F:2328 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 0 10 -1
   2: 0100007F:1F90 0100007F:C002 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20 4 0 10 -1
";

    #[test]
    fn the_other_ends_are_those_of_connections_that_we_have_made() {
        let mine = sockets(TABLE);
        assert_eq!(mine.len(), 3);
        let expected = ("0100007F:2328".to_owned(), "0100007F:C001".to_owned());
        assert_eq!(others(&mine), BTreeSet::from([expected]), "8080 is ours");
        let other = "x\n 0: 0000000000000000FFFF00000100007F:2328 0000000000000000FFFF00000100007F:C001 01 0:0 0:0 0 0 0 77 1\n";
        let served = Served { others: others(&mine), fuse: false };
        assert_eq!(served.ends(&sockets(other)), BTreeSet::from(["socket:[77]".to_owned()]), "a server of both kinds");
        assert_eq!(served.ends(&mine), BTreeSet::new(), "our own end is not the other one");
    }

    /// A directory that looks like a group with these tasks.
    fn group(tasks: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        fs::write(dir.path().join("below/cgroup.threads"), tasks).unwrap();
        dir
    }

    #[test]
    fn whoever_serves_fuse_may_serve_a_store_on_it() {
        let (ours, on_fuse) = (group(&std::process::id().to_string()), Served { fuse: true, ..Served::default() });
        let Ok(fuse) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
            println!("SKIP whoever_serves_fuse_may_serve_a_store_on_it: no /dev/fuse");
            return;
        };
        assert!(on_fuse.by(ours.path()));
        assert!(!Served::default().by(ours.path()), "the store lies elsewhere");
        drop(fuse);
        assert!(!on_fuse.by(ours.path()), "it does not serve any more");
    }

    #[test]
    fn whoever_has_the_other_end_serves() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"x").unwrap();
        let end = |of: &TcpStream, to: &TcpStream| {
            let find = |socket: &&Socket| {
                let port = |address: &str, of: u16| address.ends_with(&format!(":{of:04X}"));
                port(&socket.local, of.local_addr().unwrap().port())
                    && port(&socket.remote, to.local_addr().unwrap().port())
            };
            tables("self").iter().find(find).cloned().unwrap()
        };
        // As if the accepted end were another process's.
        let served = Served { others: others(&[end(&connection, &accepted)]), fuse: false };
        let (ours, ended) = (group(&std::process::id().to_string()), group("4194304"));
        assert!(served.by(ours.path()));
        assert!(!served.by(ended.path()), "a task that has ended");
        drop(accepted);
        assert!(!served.by(ours.path()), "it has hung up");
        assert!(!Served::default().by(ours.path()), "nobody serves us");
    }
}

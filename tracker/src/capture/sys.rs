//! The `bpf(2)` calls that aya does not offer: batches over maps, pinned objects by path, program and link information, and
//! the array of maps whose update waits for running programs. The only `unsafe` code of capture.
//!
//! Values are plain integers and `repr(C)` structs of them; `Table` checks sizes against the map.
#![expect(unsafe_code, reason = "the bpf(2) calls that aya does not offer: batches, pins by path, link information")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use super::plain::Plain;

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const MAP_NEXT_KEY: i32 = 4;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_TEST_RUN: i32 = 10;
const INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;
const MAP_DELETE_BATCH: i32 = 27;

/// Internal to the kernel, but batch calls return it.
const ENOTSUPP: i32 = 524;

const TYPE_HASH: u32 = 1;
const TYPE_ARRAY: u32 = 2;
const TYPE_ARRAY_OF_MAPS: u32 = 12;
/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
/// `BPF_NOEXIST`
const NO_REPLACE: u64 = 1;

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The arguments of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    program: u32,
    returned: u32,
    data_bytes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u64,
}

/// What the kernel says about a program (the head of `struct bpf_prog_info`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramInfoRaw {
    kind: u32,
    id: u32,
    tag: u64,
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    map_count: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    bits: u32,
    netns: [u64; 2],
    jited_counts: [u32; 2],
    jited: [u64; 2],
    btf_id: u32,
    func_info_size: u32,
    func_info: u64,
    info_counts: [u32; 2],
    line_info: [u64; 2],
    line_counts: [u32; 4],
    prog_tags: u64,
    run_time_ns: u64,
    run_count: u64,
    recursion_misses: u64,
}

const _: () = assert!(std::mem::offset_of!(ProgramInfoRaw, recursion_misses) == 208);

/// What health needs to know about a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    pub(super) id: u32,
    /// Runs skipped because the program was already running on that CPU.
    pub(super) misses: u64,
}

fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i64> {
    let size = size_of::<T>();
    // SAFETY: `attr` lives through the call and `size` is its size. The callers below make pointers in it point to buffers
    // that live as long and are as large as the kernel reads or writes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The new descriptor that a call returned.
fn owned(result: i64) -> io::Result<OwnedFd> {
    let raw = i32::try_from(result).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the call succeeded, so this is a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // Never negative for a borrowed descriptor.
    fd.as_raw_fd() as u32
}

fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<()>() as u64
}

/// Opens a pinned map, program or link.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    owned(bpf(OBJ_GET, &mut ObjectAttr { path: address(path.as_ptr()), fd: 0, file_flags: 0 })?)
}

/// Pins a map, program or link.
pub(super) fn pin(path: &Path, fd: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(OBJ_PIN, &mut ObjectAttr { path: address(path.as_ptr()), fd: raw(fd), file_flags: 0 }).map(drop)
}

/// Information about a program.
pub(super) fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfoRaw::default();
    let len = size_of::<ProgramInfoRaw>() as u32;
    bpf(INFO_BY_FD, &mut InfoAttr { fd: raw(fd), len, info: address(&raw mut info) })?;
    Ok(ProgramInfo { id: info.id, misses: info.recursion_misses })
}

/// Runs a raw tracepoint's program on this CPU, with one argument, and gives what it returns.
pub(super) fn run_once(program: BorrowedFd<'_>, arguments: &[u64]) -> io::Result<u32> {
    let mut attr = RunAttr {
        program: raw(program),
        context_in_bytes: size_of_val(arguments) as u32,
        context_in: address(arguments.as_ptr()),
        ..RunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.returned)
}

/// Id of the program behind a link.
pub(super) fn link_program(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // type, id, prog_id, and room for what the kernel adds by link type.
    let mut info = [0u32; 32];
    let len = size_of_val(&info) as u32;
    bpf(INFO_BY_FD, &mut InfoAttr { fd: raw(fd), len, info: address(&raw mut info) })?;
    Ok(info[2])
}

/// Waits until every program that runs now has ended, by changing an array of maps: the kernel guarantees this wait in
/// every configuration (`membarrier` is refused on some).
#[derive(Debug)]
pub(super) struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    pub(super) fn new() -> io::Result<Self> {
        let array =
            CreateAttr { map_type: TYPE_ARRAY, key_size: 4, value_size: 8, max_entries: 1, ..CreateAttr::default() };
        let inner = owned(bpf(MAP_CREATE, &mut { array })?)?;
        let mut outer = CreateAttr {
            map_type: TYPE_ARRAY_OF_MAPS,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            inner_map_fd: raw(inner.as_fd()),
            ..CreateAttr::default()
        };
        let outer = owned(bpf(MAP_CREATE, &mut outer)?)?;
        Ok(Self { outer, inner })
    }

    pub(super) fn wait(&self) -> io::Result<()> {
        let key = 0u32;
        let value = raw(self.inner.as_fd());
        let mut attr = ElementAttr {
            map_fd: raw(self.outer.as_fd()),
            pad: 0,
            key: address(&raw const key),
            value: address(&raw const value),
            flags: 0,
        };
        bpf(MAP_UPDATE, &mut attr).map(drop)
    }
}

/// A hash or array map with keys `K` and values `V`.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    fd: OwnedFd,
    entries: u32,
    kind: std::marker::PhantomData<(K, V)>,
}

/// What a map holds: keys, and the value of each at the same index.
pub(super) type Elements<K, V> = (Vec<K>, Vec<V>);

/// Elements of a first batch call, and of one at most.
const FIRST_BATCH: usize = 256;
const BATCH: usize = 4096;

impl<K: Plain, V: Plain> Table<K, V> {
    fn create(map_type: u32, entries: u32, map_flags: u32, called: &str) -> io::Result<Self> {
        let mut name = [0; 16];
        // The kernel wants a zero byte behind it.
        name.iter_mut().zip(called.bytes().take(15)).for_each(|(to, from)| *to = from);
        let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
        let mut attr = CreateAttr {
            map_type,
            key_size,
            value_size,
            max_entries: entries,
            map_flags,
            name,
            ..CreateAttr::default()
        };
        Self::new(owned(bpf(MAP_CREATE, &mut attr)?)?)
    }

    /// A new hash map that allocates its entries when they are inserted.
    pub(super) fn hash_without_preallocation(entries: u32, name: &str) -> io::Result<Self> {
        Self::create(TYPE_HASH, entries, NO_PREALLOC, name)
    }

    /// A new array.
    pub(super) fn array(entries: u32, name: &str) -> io::Result<Self> {
        Self::create(TYPE_ARRAY, entries, 0, name)
    }

    /// A second handle to the same map.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, entries: self.entries, kind: std::marker::PhantomData })
    }

    /// Takes a map, after checking that its keys and values have the sizes of `K` and `V`.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        // type, id, key_size, value_size, max_entries, map_flags
        let mut info = [0u32; 32];
        let len = size_of_val(&info) as u32;
        bpf(INFO_BY_FD, &mut InfoAttr { fd: raw(fd.as_fd()), len, info: address(&raw mut info) })?;
        if info[2] as usize != size_of::<K>() || info[3] as usize != size_of::<V>() {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok(Self { fd, entries: info[4], kind: std::marker::PhantomData })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// How many elements it can hold.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    fn element(&self, key: u64, value: u64, flags: u64) -> ElementAttr {
        ElementAttr { map_fd: raw(self.fd()), pad: 0, key, value, flags }
    }

    pub(super) fn get(&self, key: K) -> io::Result<Option<V>> {
        let mut value = V::ZERO;
        match bpf(MAP_LOOKUP, &mut self.element(address(&raw const key), address(&raw mut value), 0)) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn set(&self, key: K, value: V) -> io::Result<()> {
        bpf(MAP_UPDATE, &mut self.element(address(&raw const key), address(&raw const value), 0)).map(drop)
    }

    /// Removes an element; a missing one is not an error.
    pub(super) fn remove(&self, key: K) -> io::Result<()> {
        match bpf(MAP_DELETE, &mut self.element(address(&raw const key), 0, 0)) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads every element. Complete only if nobody changes the map meanwhile; otherwise at least the elements that stay.
    pub(super) fn read_all(&self) -> io::Result<Elements<K, V>> {
        match self.read_batches() {
            Err(error) if is_unsupported(&error) => self.read_one_by_one(),
            other => other,
        }
    }

    fn read_batches(&self) -> io::Result<Elements<K, V>> {
        let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
        let mut room = FIRST_BATCH;
        // The cursor is 4 bytes for hash maps and a key for arrays, whose keys are 4 bytes.
        let mut cursor = 0u32;
        let mut started = false;
        loop {
            // Not zeroed: this runs while an instant waits, and most maps hold few elements.
            keys.reserve(room);
            values.reserve(room);
            let mut next = 0u32;
            let mut attr = BatchAttr {
                in_batch: if started { address(&raw const cursor) } else { 0 },
                out_batch: address(&raw mut next),
                keys: address(keys.spare_capacity_mut().as_mut_ptr()),
                values: address(values.spare_capacity_mut().as_mut_ptr()),
                count: room as u32,
                map_fd: raw(self.fd()),
                element_flags: 0,
                flags: 0,
            };
            let result = bpf(MAP_LOOKUP_BATCH, &mut attr);
            let code = result.as_ref().err().and_then(io::Error::raw_os_error);
            match (result, code) {
                // One bucket has more elements than fit into the buffer.
                (Err(_), Some(libc::ENOSPC)) if room < 1 << 24 => {
                    room *= 2;
                    continue;
                }
                (Ok(_), _) | (_, Some(libc::ENOENT)) => {}
                (Err(error), _) => return Err(error),
            }
            let count = (attr.count as usize).min(room);
            // SAFETY: there is room for `count` more, which the kernel has written, and any bytes are a value.
            unsafe {
                keys.set_len(keys.len() + count);
                values.set_len(values.len() + count);
            }
            if code.is_some() {
                return Ok((keys, values));
            }
            room = room.max(BATCH);
            cursor = next;
            started = true;
        }
    }

    fn read_one_by_one(&self) -> io::Result<Elements<K, V>> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut key = K::ZERO;
        let mut started = false;
        loop {
            let mut next = K::ZERO;
            let from = if started { address(&raw const key) } else { 0 };
            match bpf(MAP_NEXT_KEY, &mut self.element(from, address(&raw mut next), 0)) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok((keys, values)),
                Err(error) => return Err(error),
            }
            if let Some(value) = self.get(next)? {
                keys.push(next);
                values.push(value);
            }
            key = next;
            started = true;
        }
    }

    /// Inserts elements. Returns how many were inserted before the first failure, and its error.
    pub(super) fn add(&self, key: K, value: V) -> io::Result<bool> {
        match bpf(MAP_UPDATE, &mut self.element(address(&raw const key), address(&raw const value), NO_REPLACE)) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes elements; missing ones are not an error.
    pub(super) fn remove_all(&self, keys: &[K]) -> io::Result<()> {
        for chunk in keys.chunks(BATCH) {
            let (count, result) = self.delete_batch(chunk);
            if result.is_err() {
                // A batch stops at the first missing key: remove the rest one by one.
                for &key in &chunk[count..] {
                    self.remove(key)?;
                }
            }
        }
        Ok(())
    }

    /// How many of `keys` are removed, from the first on, and why no more.
    fn delete_batch(&self, keys: &[K]) -> (usize, io::Result<()>) {
        let mut attr = BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: address(keys.as_ptr()),
            values: 0,
            count: keys.len() as u32,
            map_fd: raw(self.fd()),
            element_flags: 0,
            flags: 0,
        };
        let result = bpf(MAP_DELETE_BATCH, &mut attr).map(drop);
        // If the kernel refuses before doing anything, it leaves the count as it was.
        let count = match &result {
            Err(error) if is_unsupported(error) => 0,
            _ => (attr.count as usize).min(keys.len()),
        };
        (count, result)
    }
}

impl Table<u32, u64> {
    /// One cell of a per-CPU array, summed over `cpus` possible CPUs.
    pub(super) fn sum(fd: BorrowedFd<'_>, key: u32, cpus: usize) -> io::Result<u64> {
        let mut cells = vec![0u64; cpus];
        let mut attr = ElementAttr {
            map_fd: raw(fd),
            pad: 0,
            key: address(&raw const key),
            value: address(cells.as_mut_ptr()),
            flags: 0,
        };
        bpf(MAP_LOOKUP, &mut attr)?;
        Ok(cells.iter().fold(0, |sum, cell| sum.wrapping_add(*cell)))
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP))
}

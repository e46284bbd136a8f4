//! A few threads over a list of work, so that requests overlap. No queue, no state beyond the call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Calls `f` for every item, on up to `threads` threads (the caller's among them). The first error stops the rest.
pub(crate) fn try_each<T: Sync, E: Send>(
    threads: usize,
    items: &[T],
    f: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(None);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = f(item) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            // If no thread can be started, fewer threads do the work.
            if std::thread::Builder::new().name("tracker-read".into()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    failed.into_inner().map_or(Ok(()), Err)
}

/// The results of `f` for every item, in the order of the items.
pub(crate) fn map<T: Sync, R: Send>(threads: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let numbered: Vec<(usize, &T)> = items.iter().enumerate().collect();
    let out = Mutex::new(Vec::with_capacity(items.len()));
    let done: Result<(), std::convert::Infallible> = try_each(threads, &numbered, |(n, item)| {
        let made = f(item);
        out.lock().push((*n, made));
        Ok(())
    });
    let Ok(()) = done;
    let mut out = out.into_inner();
    out.sort_by_key(|(n, _)| *n);
    out.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_an_error_ends_it() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(map(4, &items, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        let done = AtomicUsize::new(0);
        let failed = try_each(2, &items, |n| {
            done.fetch_add(1, Ordering::Relaxed);
            if *n == 10 { Err(*n) } else { Ok(()) }
        });
        assert_eq!(failed, Err(10));
        assert!(done.into_inner() < 1000);
    }
}

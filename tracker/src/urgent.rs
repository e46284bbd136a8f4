//! The real-time class for the calling thread: for the moments of one look at the tree, since whatever runs in between may change it;
//! and for the guard of a pause, which is to end it on time.
#![expect(unsafe_code, reason = "sched_setscheduler(2), which rustix does not offer")]

/// The calling thread is of the real-time class until this is dropped.
pub(crate) struct Urgent(());

impl Urgent {
    /// The priority of a look.
    pub(crate) const LOOK: i32 = 1;
    /// .. and of the guard, which comes before it.
    pub(crate) const GUARD: i32 = 2;

    /// `None` where that is not allowed: a look then takes longer and fails more often, and a pause may last longer.
    pub(crate) fn begin(priority: i32) -> Option<Urgent> {
        // Threads that are made meanwhile are of the ordinary class.
        set(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, priority).then_some(Urgent(()))
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if !set(libc::SCHED_OTHER, 0) {
            tracing::warn!("the thread cannot leave the real-time class");
        }
    }
}

fn set(policy: i32, priority: i32) -> bool {
    // SAFETY: all zeros is a value of this struct of integers, and the call only reads it.
    unsafe {
        let mut parameter: libc::sched_param = std::mem::zeroed();
        parameter.sched_priority = priority;
        libc::sched_setscheduler(0, policy, &raw const parameter) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: a call without pointers.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn a_thread_is_urgent_for_a_while() {
        let Some(urgent) = Urgent::begin(Urgent::LOOK) else {
            eprintln!("SKIPPED a_thread_is_urgent_for_a_while: the real-time class is not allowed here");
            return;
        };
        assert_eq!(policy(), libc::SCHED_FIFO);
        let child = std::thread::spawn(policy).join().unwrap();
        assert_eq!(child, libc::SCHED_OTHER, "not inherited");
        drop(urgent);
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}

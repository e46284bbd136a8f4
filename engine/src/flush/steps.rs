//! The steps of the protocol by name, so that the simulation can leave one out.

/// Which steps of the protocol run. All of them, outside of tests: the simulation switches one off at a time and must then
/// find lost data, which proves that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    pub swap: bool,
    pub grace: bool,
    pub clean: bool,
    pub barrier: bool,
    /// A file whose pages in memory may be older than its blocks is read from the disk.
    pub uncache: bool,
    /// Pending marks are saved before the maps are cleared.
    pub durable_pending: bool,
    /// The commit is in the store before its marks are forgotten.
    pub commit_before_forget: bool,
    /// While the outcome of a seq is unknown, exactly the same bytes are put again.
    pub same_bytes: bool,
    /// A file that was read under another name than it would be committed under is dropped.
    pub content_of_names: bool,
    /// A new entry whose attributes could not be read waits for the next flush.
    pub whole_entries: bool,
    /// Only a flush whose commit was settled as this writer's is acknowledged to waiting callers.
    pub settled_only: bool,
    /// A commit that comes back damaged is read again, and is not taken for another writer's.
    pub ask_again: bool,
    /// A file recognised as a known one by a number without a generation is read before that is committed.
    pub read_claimed: bool,
    /// After another mount, files without a generation are found again by their names.
    pub rebind: bool,
    /// Of one instant: changes are counted before the marks are read, not after.
    pub count_first: bool,
    /// .. and once more after the last read: the count must be the same.
    pub count_again: bool,
    /// .. also while writers are paused: they stop at their own pace, and what they have begun goes on.
    pub count_paused: bool,
    /// .. files that can be stored to through a mapping are cleaned in the window.
    pub clean_mapped: bool,
    /// .. a writer that holds the inode lock is waited for, also where only a change time tells of it.
    pub barrier_always: bool,
    /// .. no direct write is under way.
    pub none_in_flight: bool,
    /// .. what an earlier look has read of pages that stay dirty is read again.
    pub read_again: bool,
    /// .. what was watched only in this look is looked at once more.
    pub watch_first: bool,
}

impl Steps {
    pub const ALL: Steps = Steps {
        swap: true,
        grace: true,
        clean: true,
        barrier: true,
        uncache: true,
        durable_pending: true,
        commit_before_forget: true,
        same_bytes: true,
        content_of_names: true,
        whole_entries: true,
        settled_only: true,
        ask_again: true,
        read_claimed: true,
        rebind: true,
        count_first: true,
        count_again: true,
        count_paused: true,
        clean_mapped: true,
        barrier_always: true,
        none_in_flight: true,
        read_again: true,
        watch_first: true,
    };
}

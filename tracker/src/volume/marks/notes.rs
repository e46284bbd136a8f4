//! Notes in a volume's catalog that tell the next process what its marks are worth. What it has to compare stands in
//! `compare`.

use engine::model::Dev;

/// Name of the note that the baseline is committed.
pub(crate) const BASELINE: &str = "baseline";

/// Name of the note with the last run of capture in which a volume was registered.
pub(crate) const RUN: &str = "capture run";

/// The run in a note, if it was on superblock `dev`. A file system that is mounted again may have another number, under
/// which nothing was marked or watched.
pub(crate) fn run_on(note: &str, dev: Dev) -> Option<u64> {
    let (run, on) = note.split_once(' ')?;
    run.parse().ok().filter(|_| on.parse() == Ok(dev.kernel()))
}

#[cfg(test)]
mod tests {
    use engine::model::Dev;

    /// After a mount under another number nothing was marked: the earlier run does not count.
    #[test]
    fn a_run_on_another_superblock_does_not_count() {
        assert_eq!(super::run_on("7 9", Dev::of_kernel(9)), Some(7));
        for note in ["7 8", "7", "", "x 9", "7 9 9"] {
            assert_eq!(super::run_on(note, Dev::of_kernel(9)), None, "{note}");
        }
    }
}

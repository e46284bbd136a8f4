//! What the verbs that read a volume say of the instant of a commit, and which commit `--instant` takes.

use engine::model::{Consistency, Seq};
use serde::Serialize;

use super::reading::{app_error, show_time};
use crate::error::AppError;
use crate::output::Out;
use crate::repository::{ConsistencyField, InstantCommit, ReadError, Reader};
use crate::units::show_seconds;

/// Commits that are looked at for one of one instant: where it is asked for, and where it is only to be named.
const LOOKED_FOR: u64 = 10_000;
const NAMED: u64 = 1_000;

/// The newest commit of one instant, where the one that was taken is not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct OlderInstant {
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// How much older it is.
    pub commits_older: u64,
    pub seconds_older: f64,
}

/// What is known of the instant of the commit that was taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// What the commit says; `None`: nothing.
    pub consistency: Option<Consistency>,
    pub newest: Option<OlderInstant>,
}

impl Told {
    pub(super) fn field(&self) -> Option<ConsistencyField> {
        self.consistency.map(ConsistencyField::from)
    }
}

/// The newest commit of one instant at or before `chosen`.
pub(super) fn take(reader: &Reader, chosen: Seq) -> Result<Seq, AppError> {
    let search = reader.newest_instant(chosen, LOOKED_FOR).map_err(|error| app_error(&error))?;
    let none = || ReadError::NoInstant { volume: reader.volume().to_owned(), seq: chosen, looked: search.looked };
    search.found.map(|found| found.seq).ok_or_else(|| app_error(&none()))
}

/// Says on stderr, and with `--json` in an object of the type `warning`, where a commit is not of one instant. `search`: and how
/// much older the newest one is that is.
pub(super) fn tell(reader: &Reader, seq: Seq, search: bool, out: &mut Out) -> Result<Told, AppError> {
    // What cannot be read here fails where the state is read, with a better word.
    let Ok(Some((consistency, time))) = reader.consistency(seq) else { return Ok(Told::default()) };
    let Some(Consistency::Live(_)) = consistency else { return Ok(Told { consistency, newest: None }) };
    let older = |found: InstantCommit| OlderInstant {
        seq: found.seq.0,
        time: show_time(found.wall),
        commits_older: seq.0 - found.seq.0,
        seconds_older: time.unix_ns().saturating_sub(found.time.unix_ns()) as f64 / 1e9,
    };
    let told = consistency.map(|said| said.to_string()).unwrap_or_default();
    let is_not = format!("commit {seq} is not of one instant ({told})");
    let searched = if search { reader.newest_instant(seq, NAMED).ok() } else { None };
    let newest = searched.and_then(|search| search.found).map(older);
    let message = match (&newest, searched) {
        (Some(found), _) => format!(
            "{is_not}; the newest one that is, commit {} of {}, is {} older, by {} commits: --instant takes it",
            found.seq,
            found.time,
            show_seconds(found.seconds_older),
            found.commits_older
        ),
        (None, Some(search)) => format!("{is_not}, and of the {} newest up to it none is", search.looked),
        (None, None) => is_not,
    };
    out.warn("not_instant", message)?;
    Ok(Told { consistency, newest })
}

//! Write-back errors that nobody has acknowledged. The kernel reports an error once, and the next write-back succeeds.
//! Without a note that stays, the only sign that an application lost data would disappear with the flush that saw it.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, CatalogError};
use crate::units::{PathField, rfc3339};
use std::os::unix::ffi::OsStrExt;

/// Name of the note in the catalog.
const NOTE: &str = "write-back errors";

/// What was seen since the last acknowledgement. Survives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteBack {
    pub count: u64,
    /// Time of the first and of the last one, nanoseconds since 1970.
    pub first_ns: u64,
    pub last_ns: u64,
    /// File of the last error, relative to the source.
    #[serde(flatten)]
    pub path: PathField,
    /// The kernel's word for the last.
    pub cause: String,
}

impl WriteBack {
    /// Adds an error.
    pub fn add(&mut self, path: &Path, cause: &str, now_ns: u64) {
        self.count += 1;
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        self.last_ns = now_ns;
        self.path = PathField::new(path.as_os_str().as_bytes());
        cause.clone_into(&mut self.cause);
    }

    /// Loads what an earlier process saved. A note that cannot be read counts as one error.
    pub fn load(catalog: &Catalog) -> Option<WriteBack> {
        let text = catalog.note(NOTE).ok().flatten().filter(|text| !text.is_empty())?;
        let unknown = || WriteBack { count: 1, cause: "unknown".into(), ..WriteBack::default() };
        Some(serde_json::from_str(&text).unwrap_or_else(|_| unknown()))
    }

    /// Keeps it in the catalog.
    pub fn save(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        // Plain values, so serializing cannot fail.
        catalog.set_note(NOTE, &serde_json::to_string(self).unwrap_or_else(|_| "{}".into()))
    }

    /// Clears the alert after an acknowledgement.
    pub fn forget(catalog: &Catalog) -> Result<(), CatalogError> {
        catalog.set_note(NOTE, "")
    }
}

impl fmt::Display for WriteBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WriteBack { count, cause, .. } = self;
        let (path, last) = (self.path.for_people(), rfc3339(self.last_ns));
        write!(
            f,
            "{count} write-back errors, the last of {path} at {last} ({cause}): an application may have lost data; \
             `tracker acknowledge` takes this note away"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_and_the_last_one_is_named() {
        let mut errors = WriteBack::default();
        errors.add(Path::new("a"), "EIO", 5_000_000_000);
        errors.add(Path::new("d/b"), "ENOSPC", 6_000_000_000);
        assert_eq!((errors.count, errors.first_ns, errors.last_ns), (2, 5_000_000_000, 6_000_000_000));
        let text = errors.to_string();
        assert!(text.contains("2 write-back errors") && text.contains("d/b at 1970-01-01T00:00:06"), "{text}");
        let json = serde_json::to_string(&errors).unwrap();
        assert_eq!(serde_json::from_str::<WriteBack>(&json).unwrap(), errors);
    }

    #[test]
    fn the_note_outlives_the_process_until_it_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let at = Catalog::location(dir.path(), "v");
        let mut errors = WriteBack::default();
        errors.add(Path::new("a"), "EIO", 7);
        {
            let catalog = Catalog::open_or_create(&at).unwrap();
            assert_eq!(WriteBack::load(&catalog), None);
            errors.save(&catalog).unwrap();
        }
        let catalog = Catalog::open(&at).unwrap();
        assert_eq!(WriteBack::load(&catalog), Some(errors));
        WriteBack::forget(&catalog).unwrap();
        assert_eq!(WriteBack::load(&catalog), None);
        catalog.set_note(NOTE, "garbage").unwrap();
        assert_eq!(WriteBack::load(&catalog).map(|errors| errors.count), Some(1));
    }
}

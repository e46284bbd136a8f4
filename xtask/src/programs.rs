//! The test programs of the workspace, as cargo names them when it has built them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sh;

/// A program of tests, or one that tests start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Of the file that it is made of: `matrix` for `tests/tests/matrix.rs`.
    pub(crate) name: String,
    /// The folder of its package, in which its tests run.
    pub(crate) folder: PathBuf,
    pub(crate) path: PathBuf,
}

impl Program {
    /// The name of its package's folder.
    pub(crate) fn package(&self) -> &str {
        self.folder.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// What the tests have to know about what was built for them.
pub(crate) fn variables() -> [(String, String); 1] {
    [("TRACKER_TEST_BIN".into(), sh::target_dir().join("debug/tracker").display().to_string())]
}

/// The test programs in cargo's messages (`--message-format=json`), in order of package and name.
pub(crate) fn of_messages<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Program> {
    let mut programs: Vec<Program> = lines.into_iter().filter_map(of_message).collect();
    programs.sort_by(|a, b| (&a.folder, &a.name, &a.path).cmp(&(&b.folder, &b.name, &b.path)));
    programs
}

fn of_message(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["profile"]["test"] == true;
    let path = message["executable"].as_str().filter(|_| is_test)?.into();
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Program { name: message["target"]["name"].as_str()?.to_owned(), folder, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let lines = [
            r#"{"reason":"compiler-artifact","target":{"name":"tests"},"executable":null}"#,
            r#"{"target":{"name":"kernels"},"profile":{"test":true},"manifest_path":"/w/tests/Cargo.toml","executable":"/t/kernels-1"}"#,
            r#"{"target":{"name":"tracker"},"profile":{"test":false},"manifest_path":"/w/tracker/Cargo.toml","executable":"/t/tracker"}"#,
            "not json",
            r#"{"target":{"name":"engine"},"profile":{"test":true},"manifest_path":"/w/engine/Cargo.toml","executable":"/t/engine-1"}"#,
        ];
        let programs = of_messages(lines);
        assert_eq!(programs.iter().map(|program| program.name.as_str()).collect::<Vec<_>>(), ["engine", "kernels"]);
        assert_eq!((programs[1].package(), &*programs[1].path), ("tests", Path::new("/t/kernels-1")));
    }
}

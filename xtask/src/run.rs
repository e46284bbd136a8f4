//! `run -- ARGS`: from a fresh clone to a running tracker with one command.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;

use crate::sh;
use crate::{release, setup};

/// That the directory to protect is there: to be told so after eight minutes of building is no welcome.
fn is_there(args: &[String]) -> Result<()> {
    let [verb, dir, ..] = args else { return Ok(()) };
    // An option first: which of its words is the directory, tracker itself will say.
    if !matches!(verb.as_str(), "protect" | "watch") || dir.starts_with('-') || std::path::Path::new(dir).is_dir() {
        return Ok(());
    }
    let help = format!("make it first: mkdir -p {dir}");
    Err(sh::missing(format!("{dir} (the directory to {verb})"), help))
}

pub(crate) fn main(args: &[String]) -> Result<()> {
    is_there(args)?;
    setup::build_tools()?;
    release::build()?;
    let mut command = Command::new(sh::target_dir().join("release/tracker"));
    command.args(args);
    // exec, so that signals and the exit code are tracker's own; it runs in the user's directory.
    let failed = command.exec();
    sh::of(&command, Err(failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_missing_is_said_before_the_build() {
        let told = |words: &[&str]| is_there(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let error = told(&["protect", "./no-such-data", "--store", "./backup"]).unwrap_err();
        assert!(error.to_string().contains("mkdir -p ./no-such-data"), "{error}");
        let here = std::env::temp_dir().display().to_string();
        for words in [&["protect", &here, "--store", "x"][..], &["protect", "--store", "x", "y"], &["status"], &[]] {
            assert!(told(words).is_ok(), "{words:?}");
        }
    }
}

//! Running other programs. An error names the command and shows its output, so that a failure in a log of thousands of
//! lines explains itself. No verb logic lives here.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Error, Result, anyhow};

/// Something is not there that only the user can provide; `help` says how.
pub(crate) fn missing(what: impl Display, help: impl Display) -> Error {
    anyhow!("{what}\n{help}")
}

/// `command` ran and failed; `output` is empty where it went to the terminal.
pub(crate) fn failed(command: impl Display, status: ExitStatus, output: &str) -> Error {
    match output.trim_end() {
        "" => anyhow!("`{command}` failed ({status})"),
        output => anyhow!("`{command}` failed ({status}); its output:\n{output}"),
    }
}

/// Says of a result which command could not be started or awaited.
pub(crate) fn of<T>(command: &Command, result: std::io::Result<T>) -> Result<T> {
    result.with_context(|| format!("cannot run `{}`", show(command)))
}

/// The command as a user would type it, with the variables that were set for it.
pub(crate) fn show(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set = set.map(|(name, value)| format!("{}={} ", name.to_string_lossy(), quote(&value.to_string_lossy())));
    let words = [command.get_program()].into_iter().chain(command.get_args());
    set.collect::<String>() + &line(words.map(|word| word.to_string_lossy()))
}

/// `words` as a shell reads them.
pub(crate) fn line(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    words.into_iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Lines of a shell that run all of these, and fail if one does.
pub(crate) fn each_of(lines: impl IntoIterator<Item = String>) -> String {
    let lines: String = lines.into_iter().map(|line| format!("{line} || code=1\n")).collect();
    format!("code=0\n{lines}exit $code\n")
}

/// `word` as a shell reads it as one word.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Runs `command` with its output on our terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status();
    let status = of(command, status)?;
    if status.success() { Ok(()) } else { Err(failed(show(command), status, "")) }
}

/// Runs `command` silently and returns its stdout; on failure the error holds both streams.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let Output { status, stdout, stderr } = of(command, output)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(failed(show(command), status, &String::from_utf8_lossy(&[stdout, stderr].concat())))
}

/// True if `command` starts and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    output(command).is_ok()
}

/// The first executable called `name` on PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A program of this version: the one that setup installed under `target`, else one on PATH.
pub(crate) fn tool(name: &str, version: &str) -> Option<PathBuf> {
    let right = |file: &PathBuf| {
        output(Command::new(file).arg("--version"))
            .is_ok_and(|text| text.split_whitespace().any(|word| word == version))
    };
    Some(root().join("target/tools/bin").join(name)).filter(right).or_else(|| which(name).filter(right))
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    // xtask is compiled inside the repository it serves, so the compile-time path is right for every run through cargo.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds for the host: `CARGO_TARGET_DIR`, else `target`.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that started us, working in the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// True if we run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_command_and_its_output() {
        for (words, told) in [
            (&["sh", "-c", "echo seen; exit 3"][..], &["sh -c 'echo seen; exit 3'", "seen\n", "status: 3"][..]),
            (&["no-such-program-here"], &["cannot run `no-such-program-here`"]),
        ] {
            let text = format!("{:#}\n", output(Command::new(words[0]).args(&words[1..])).unwrap_err());
            assert!(told.iter().all(|told| text.contains(told)), "{text}");
        }
    }
}

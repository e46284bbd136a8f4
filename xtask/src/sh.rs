//! Running other programs, and the one error type of xtask. An error names the command and shows its output, so that
//! a failure in a log of thousands of lines explains itself. No verb logic lives here.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a verb stopped.
#[derive(Debug)]
pub(crate) enum Error {
    /// The program could not be started at all.
    Spawn { command: String, source: io::Error },
    /// The program ran and failed. `output` is empty where it went to the terminal.
    Failed { command: String, status: ExitStatus, output: String },
    /// A file operation of xtask itself.
    Io { what: String, source: io::Error },
    /// Something that only the user can provide; `help` says how.
    Missing { what: String, help: String },
    /// The command line was not understood.
    Usage { text: String },
    /// A guest did not end as a cut of its power demands; `output` is the end of what it said.
    Cut { boot: u64, seed: u64, end: String, output: String },
    /// A check found faults; they were printed already.
    Found { count: usize, what: String },
}

impl Error {
    /// Exit code of xtask: 2 for a wrong command line, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Error::Usage { .. }) { 2 } else { 1 }
    }

    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Spawn { command, source } => write!(f, "cannot start `{command}`: {source}"),
            Error::Failed { command, status, output } if output.is_empty() => {
                write!(f, "`{command}` failed ({status})")
            }
            Error::Failed { command, status, output } => {
                write!(f, "`{command}` failed ({status}); its output:\n{}", output.trim_end())
            }
            Error::Io { what, source } => write!(f, "{what}: {source}"),
            Error::Missing { what, help } => write!(f, "{what}\n{help}"),
            Error::Usage { text } => f.write_str(text.trim_end()),
            Error::Cut { boot, seed, end, output } => {
                write!(f, "boot {boot} of the seed {seed} ended with {end}; the end of its output:\n{output}")
            }
            Error::Found { count, what } => write!(f, "{count} {what}"),
        }
    }
}

/// The command as a user would type it, with the variables that were set for it.
pub(crate) fn show(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quote(&value.to_string_lossy())));
        }
    }
    words.push(quote(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|arg| quote(&arg.to_string_lossy())));
    words.join(" ")
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
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| Error::Spawn { command: show(command), source })?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: show(command), status, output: String::new() }) }
}

/// Runs `command` silently and returns its stdout; on failure the error holds both streams.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| Error::Spawn { command: show(command), source })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Error::Failed { command: show(command), status: output.status, output: format!("{stdout}{stderr}") })
}

/// True if `command` starts and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The first executable called `name` on PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
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
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_output() {
        let error = output(Command::new("sh").args(["-c", "echo seen; exit 3"])).expect_err("exit 3 is a failure");
        let text = error.to_string();
        assert!(text.contains("sh -c 'echo seen; exit 3'") && text.contains("seen") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).expect_err("it does not exist");
        assert!(error.to_string().contains("no-such-program-here"));
    }
}

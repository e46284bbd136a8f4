//! Arguments of every verb, and how a typed path is resolved.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{AppError, ExitCode};
use crate::logging;

/// What every verb takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Print JSON: one object, or one per line, each with a "type".
    #[arg(long, global = true)]
    pub json: bool,
    /// Where catalog, control socket and lock lie [default: /var/lib/tracker as root, else $XDG_STATE_HOME/tracker].
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Log what is done and why, of tracker itself. Wins over RUST_LOG; --log wins over it.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to log, as in RUST_LOG: a level, or module=level, ..
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look; they go to stderr.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: logging::Format,
}

impl Global {
    /// `--state-dir`, or its default for this user.
    pub fn state_dir(&self) -> Result<PathBuf, AppError> {
        let var = |name: &str| std::env::var_os(name);
        match &self.state_dir {
            Some(dir) => Ok(dir.clone()),
            None => default_state_dir(rustix::process::geteuid().is_root(), &var),
        }
    }
}

/// `/var/lib/tracker` for root, else `$XDG_STATE_HOME/tracker`, else `~/.local/state/tracker`.
fn default_state_dir(is_root: bool, var: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, AppError> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/tracker"));
    }
    // The XDG rules: a relative or empty value counts as not set.
    let absolute = |name: &str| var(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    base.map(|base| base.join("tracker")).ok_or_else(|| {
        AppError::new(ExitCode::Usage, "there is no default state directory: neither XDG_STATE_HOME nor HOME is set")
            .hint("name one with --state-dir")
    })
}

/// A path made absolute: what is stored and compared later must not depend on the working directory.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, AppError> {
    std::path::absolute(path)
        .map_err(|e| AppError::new(ExitCode::Error, format_args!("cannot resolve {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_follows_user_and_environment() {
        let none = |_: &str| None;
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/u"));
        let xdg = |name: &str| (name == "XDG_STATE_HOME").then(|| OsString::from("/s"));
        let relative = |name: &str| Some(OsString::from(if name == "HOME" { "/home/u" } else { "s" }));
        assert_eq!(default_state_dir(true, &home).unwrap(), Path::new("/var/lib/tracker"));
        assert_eq!(default_state_dir(false, &home).unwrap(), Path::new("/home/u/.local/state/tracker"));
        assert_eq!(default_state_dir(false, &xdg).unwrap(), Path::new("/s/tracker"));
        assert_eq!(default_state_dir(false, &relative).unwrap(), Path::new("/home/u/.local/state/tracker"));
        assert_eq!(default_state_dir(false, &none).unwrap_err().code, ExitCode::Usage);
    }
}

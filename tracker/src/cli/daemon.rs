//! `tracker daemon`: many volumes from one configuration file, under a service manager.

use std::path::PathBuf;

use clap::Args;

use super::global::Global;
use crate::config::{self, Listen};
use crate::daemon::service;
use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Protect all volumes of a configuration file. SIGHUP reads it again.
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The configuration, TOML; `tracker config check` checks it.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Serve /metrics, /healthz and /readyz here instead of where the file says; `off` for nowhere.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<Listen>,
}

pub(super) fn run(args: &DaemonArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let default_dir = super::global::absolute(&global.state_dir()?)?;
    // The command line overrides the file, and the guard must check the directory that will be used.
    let mut config = config::load(&super::global::absolute(&args.config)?, &default_dir)?;
    if let Some(listen) = args.metrics_listen {
        config.listen_by_command = true;
        config.metrics_listen = listen.0;
    }
    let state_dir = match (&global.state_dir, &config.state_dir) {
        (None, Some(dir)) => dir.clone(),
        _ => default_dir,
    };
    let mut refused =
        crate::config::guard::check_paths(&config.guarded(), &state_dir, &crate::config::guard::log_files());
    refused.retain(|refused| refused.volume.is_none() || !refused.kind.is_away());
    if let Some(first) = refused.into_iter().next() {
        return Err(first.into());
    }
    service::run(&config, &state_dir, out)
}

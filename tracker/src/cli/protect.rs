//! `tracker protect`: one directory, in the foreground.

use std::path::PathBuf;

use clap::Args;

use super::global::Global;
use crate::config::{
    Allow, Config, KernelMap, Lease, Listen, Memory, ProcessConfig, StopTimeout, Tracking, VolumeConfig, VolumeOptions,
    default_maps, guard, parse_map_entries,
};
use crate::daemon::service;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::repository::location;
use crate::store::StoreUrl;

/// Protect one directory, in the foreground. Prints `ready` once the baseline is committed.
#[derive(Debug, Args)]
pub struct ProtectArgs {
    #[command(flatten)]
    volume: VolumeArgs,
    /// Size of a kernel map: dirty, inode, watch or inflight [default: 65536, 65536, by files, 8192].
    #[arg(long, value_name = "MAP=ENTRIES", value_parser = parse_map_entries)]
    pub map_entries: Vec<(KernelMap, u32)>,
    /// Go on marking in the kernel after a clean stop: the next start then need not compare the tree.
    #[arg(long)]
    pub keep_tracking: bool,
    /// For how long programs that stay in the kernel go on marking after this process was last alive.
    #[arg(long, value_name = "DURATION", default_value_t)]
    pub tracking_lease: Lease,
    /// How long a stop tries to commit what is left.
    #[arg(long, value_name = "DURATION", default_value_t)]
    pub stop_timeout: StopTimeout,
    /// Most kernel memory that all captures on this host may have together for one more to be attached.
    #[arg(long, value_name = "SIZE", default_value_t)]
    pub tracking_memory: Memory,
    /// Serve /metrics, /healthz and /readyz here; `off` for nowhere.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = Listen::OFF)]
    pub metrics_listen: Listen,
}

/// The arguments that make a volume.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    /// The directory to protect.
    pub dir: PathBuf,
    /// Where to keep it: a path, file:///path or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    pub store: StoreUrl,
    /// The volume's name in the store [default: the directory's base name].
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub options: VolumeOptions,
    /// The directory was restored, moved or created again: compare it with the newest commit, and continue the same
    /// history.
    #[arg(long)]
    pub adopt: bool,
    /// The store was moved or renamed: continue if it holds the same volume with this host's newest commit.
    #[arg(long)]
    pub store_moved: bool,
}

pub(super) fn run(args: &ProtectArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let config = config(args)?;
    let state_dir = super::global::absolute(&global.state_dir()?)?;
    let refused = guard::check_paths(&config.guarded(), &state_dir, &guard::log_files());
    if let Some(first) = refused.into_iter().next() {
        return Err(first.into());
    }
    service::run(&config, &state_dir, out)
}

fn config(args: &ProtectArgs) -> Result<Config, AppError> {
    let mut kernel_maps = default_maps();
    for (map, entries) in &args.map_entries {
        *map.of(&mut kernel_maps) = *entries;
    }
    // A foreground volume may not come back: what costs kernel memory ends with it, unless requested otherwise.
    let tracking = Tracking { keep: args.keep_tracking, lease: args.tracking_lease, memory: args.tracking_memory };
    Ok(Config {
        file: None,
        state_dir: None,
        metrics_listen: args.metrics_listen.0,
        listen_by_command: true,
        kernel_maps,
        process: ProcessConfig { stop_timeout: args.stop_timeout, tracking },
        volumes: vec![args.volume.config()?],
    })
}

impl VolumeArgs {
    /// The configuration of the volume, with absolute paths.
    pub(super) fn config(&self) -> Result<VolumeConfig, AppError> {
        // Only existing directories resolve; the guard reports the others.
        let source = self.dir.canonicalize().or_else(|_| super::global::absolute(&self.dir))?;
        let name = match &self.name {
            Some(name) => {
                location::check_volume_name(name)
                    .map_err(|e| AppError::new(ExitCode::Usage, e).hint("give the volume another name with --name"))?;
                name.clone()
            }
            None => location::default_volume_name(&source).ok_or_else(|| {
                AppError::new(ExitCode::Usage, format_args!("the name of {} is no volume name", source.display()))
                    .hint("give the volume a name of letters, digits, `.`, `_` and `-` with --name")
            })?,
        };
        let store = match &self.store {
            StoreUrl::Local(path) => StoreUrl::Local(super::global::absolute(path)?),
            s3 @ StoreUrl::S3 { .. } => s3.clone(),
        };
        let allow = Allow { source: self.adopt, store: self.store_moved };
        Ok(VolumeConfig { name, source, store, options: self.options.clone(), allow })
    }
}

//! `tracker protect`: one directory, in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use engine::scrub::Rate;

use super::{Global, Out};
use crate::config::process::{parse_lease, parse_memory, parse_stop_timeout};
use crate::config::{
    Allow, CUT_UNAVAILABLE, CaptureMode, Config, Consistency, INTERVAL_DEFAULT, KernelMap, MAX_DELETE_DEFAULT,
    MaxDelete, ProcessConfig, Replaced, VolumeConfig, default_maps, guard, parse_interval, parse_listen,
    parse_map_entries, parse_scrub,
};
use crate::daemon::service;
use crate::error::{AppError, ExitCode};
use crate::repository::location;
use crate::store::StoreUrl;

/// Protect one directory, in the foreground. Prints `ready` once the baseline is committed.
#[derive(Debug, Args)]
pub struct ProtectArgs {
    /// The directory to protect.
    pub dir: PathBuf,
    /// Where to keep it: a path, file:///path or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    pub store: StoreUrl,
    /// The volume's name in the store [default: the directory's base name].
    #[arg(long)]
    pub name: Option<String>,
    /// Minimum gap between two flushes [default: 250ms].
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    pub interval: Option<Duration>,
    /// Which capture back end to take.
    #[arg(long, value_enum, default_value_t)]
    pub capture: CaptureMode,
    /// How the blocks of one commit relate in time.
    #[arg(long, value_enum, default_value_t)]
    pub consistency: Consistency,
    /// How much of the volume is read again in an hour to find changes that capture has missed: a percentage, or off
    /// [default: 1%].
    #[arg(long, value_name = "PERCENT", value_parser = parse_scrub)]
    pub scrub: Option<Rate>,
    /// My word that no other host writes this volume: accept a store that cannot refuse a second writer.
    #[arg(long)]
    pub single_writer: bool,
    /// Make the whole path of a local store. Else only its last part is made: the rest may be a disk that is not mounted.
    #[arg(long)]
    pub create: bool,
    /// What follows when the directory is replaced by another one at its path: stop, or adopt (compare it with the newest
    /// commit and go on).
    #[arg(long, value_enum, default_value_t)]
    pub replaced: Replaced,
    /// Removals of more than this share of the files in one flush (and more than 1,000 files) wait for `tracker confirm`: a
    /// percentage, or off [default: 50%].
    #[arg(long, value_name = "PERCENT", value_parser = MaxDelete::parse)]
    pub max_delete: Option<MaxDelete>,
    /// The directory was restored, moved or made again: compare it with the newest commit, and go on in the same history.
    #[arg(long)]
    pub adopt: bool,
    /// The store was moved or renamed: go on if it holds the same volume with this host's newest commit.
    #[arg(long)]
    pub store_moved: bool,
    /// Size of a kernel map: dirty, inode, watch or inflight [default: 65536, 65536, by files, 8192].
    #[arg(long, value_name = "MAP=ENTRIES", value_parser = parse_map_entries)]
    pub map_entries: Vec<(KernelMap, u32)>,
    /// Go on marking in the kernel after a clean stop: the next start then need not compare the tree.
    #[arg(long)]
    pub keep_tracking: bool,
    /// For how long programs that stay in the kernel go on marking after this process was last alive [default: 24h].
    #[arg(long, value_name = "DURATION", value_parser = parse_lease)]
    pub tracking_lease: Option<Duration>,
    /// How long a stop tries to commit what is left [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = parse_stop_timeout)]
    pub stop_timeout: Option<Duration>,
    /// Most kernel memory that all captures on this host may have together for one more to be attached [default: 1GiB].
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub tracking_memory: Option<u64>,
    /// Serve /metrics, /healthz and /readyz here; `off` for nowhere [default: off].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<String>,
}

pub(super) fn run(args: &ProtectArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let config = config(args)?;
    let state_dir = super::absolute(&global.state_dir()?)?;
    let refused = guard::check_paths(&config.guarded(), &state_dir, &guard::log_files());
    if let Some(first) = refused.into_iter().next() {
        return Err(first.into());
    }
    service::run(&config, &state_dir, out)
}

fn config(args: &ProtectArgs) -> Result<Config, AppError> {
    if args.consistency == Consistency::Cut {
        return Err(AppError::new(ExitCode::Usage, CUT_UNAVAILABLE)
            .hint("leave --consistency out; docs/guarantees.md says what `live` promises to databases"));
    }
    // Only existing directories resolve; for others the guard finds the words.
    let source = args.dir.canonicalize().or_else(|_| super::absolute(&args.dir))?;
    let name = match &args.name {
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
    let store = match &args.store {
        StoreUrl::Local(path) => StoreUrl::Local(super::absolute(path)?),
        s3 @ StoreUrl::S3 { .. } => s3.clone(),
    };
    let interval = args.interval.unwrap_or(INTERVAL_DEFAULT);
    let scrub = args.scrub.unwrap_or(Rate::DEFAULT);
    let volume = VolumeConfig {
        name,
        source,
        store,
        interval,
        capture: args.capture,
        scrub,
        single_writer: args.single_writer,
        create: args.create,
        replaced: args.replaced,
        max_delete: args.max_delete.map_or(MAX_DELETE_DEFAULT, |max| max.0),
        allow: Allow { source: args.adopt, store: args.store_moved },
    };
    let mut kernel_maps = default_maps();
    for (map, entries) in &args.map_entries {
        *map.of(&mut kernel_maps) = *entries;
    }
    let listen = args.metrics_listen.as_deref().unwrap_or("off");
    let metrics_listen =
        parse_listen(listen).map_err(|e| AppError::new(ExitCode::Usage, e).hint("`off` serves nowhere"))?;
    // A volume of the foreground is not known to come back: what would cost in the kernel ends with it, unless asked for.
    let defaults = ProcessConfig::daemon();
    let process = ProcessConfig {
        stop_timeout: args.stop_timeout.unwrap_or(defaults.stop_timeout),
        keep_tracking: args.keep_tracking,
        lease: args.tracking_lease.unwrap_or(defaults.lease),
        memory: args.tracking_memory.unwrap_or(defaults.memory),
    };
    let (file, state_dir, listen_by_command) = (None, None, true);
    Ok(Config { file, state_dir, metrics_listen, listen_by_command, kernel_maps, process, volumes: vec![volume] })
}

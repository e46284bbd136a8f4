//! `tracker adopt`: continues the history of a source that was restored, moved or created again, or of a store that was
//! moved.

use clap::Args;
use serde_json::json;

use super::global::Global;
use crate::config::Allow;
use crate::daemon::control::Client;
use crate::daemon::fleet;
use crate::daemon::state_dir::StateDir;
use crate::error::{AppError, ExitCode};
use crate::output::Out;
use crate::volume::status::State;

/// Continue a volume whose directory was replaced: it is compared with the newest commit, and only differences are
/// uploaded. Applies to one start: at once if a daemon runs, else to the next one.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The volume, as `tracker status` names it.
    volume: String,
    /// The store was moved, not the directory: continue if it holds the same volume with this host's newest commit.
    #[arg(long)]
    store_moved: bool,
}

pub(super) fn run(args: &AdoptArgs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let allow = Allow { source: !args.store_moved, store: args.store_moved };
    let state_dir = super::global::absolute(&global.state_dir()?)?;
    let client = Client::new(&state_dir);
    let running = client.is_there();
    let mut needed = true;
    if running {
        let found = client.status()?.into_iter().find(|volume| volume.volume == args.volume);
        needed = found.is_none_or(|volume| matches!(volume.state, State::Waiting | State::Fenced | State::Stopped));
        if needed {
            client.adopt(&args.volume, allow)?;
        }
    } else {
        // No daemon may use it meanwhile; and asking must not create a directory.
        let _lock = state_dir.is_dir().then(|| StateDir::lock(&state_dir)).transpose()?;
        fleet::allow(&state_dir, &args.volume, allow)?;
    }
    let when = match (needed, running) {
        (false, _) => "it runs: there is nothing to adopt",
        (true, true) => "it is tried now",
        (true, false) => "its next start goes on",
    };
    let text = format!("{}: {when}", args.volume);
    let object = json!({
        "type": "adopt", "volume": args.volume, "source": allow.source, "store": allow.store,
        "running": running, "needed": needed,
    });
    out.line(text, &object)?;
    Ok(ExitCode::Ok)
}

//! `tracker volume`: adds, changes and removes volumes of a running daemon.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::global::Global;
use super::protect::VolumeArgs;
use crate::daemon::change::{Change, Outcome};
use crate::daemon::control::Client;
use crate::error::{AppError, ExitCode};
use crate::output::Out;

/// Add, change and remove volumes of a running daemon. The configuration file is not changed: a volume added here is gone
/// with the daemon, and a reload undoes a changed setting.
#[derive(Debug, Args)]
pub struct VolumeVerbs {
    #[command(subcommand)]
    verb: VolumeVerb,
}

#[derive(Debug, Subcommand)]
enum VolumeVerb {
    /// Protect one more directory.
    Add(Box<VolumeArgs>),
    /// Change settings of a volume, as in the configuration file.
    Set {
        /// The volume, as `tracker status` names it.
        volume: String,
        /// Settings, such as interval=1s or scrub=off.
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = setting)]
        settings: Vec<(String, Value)>,
    },
    /// Commit what is left of a volume and stop protecting it. The store keeps its history.
    Remove {
        /// The volume, as `tracker status` names it.
        volume: String,
    },
}

/// Parses a setting as TOML, except that text needs no quotes.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    let plain = serde_json::from_str(value).ok().filter(|value: &Value| value.is_boolean() || value.is_number());
    Ok((key.trim().to_owned(), plain.unwrap_or_else(|| value.into())))
}

pub(super) fn run(args: &VolumeVerbs, global: &Global, out: &mut Out) -> Result<ExitCode, AppError> {
    let client = Client::new(&global.state_dir()?);
    let changes = match &args.verb {
        VolumeVerb::Add(volume) => client.add(&volume.config()?),
        VolumeVerb::Set { volume, settings } => client.change(volume, &settings.iter().cloned().collect::<Map<_, _>>()),
        VolumeVerb::Remove { volume } => client.remove(volume),
    };
    tell(&changes?, out)
}

/// Prints each change. If any was refused, returns an exit code for that.
pub(super) fn tell(changes: &[Change], out: &mut Out) -> Result<ExitCode, AppError> {
    for change in changes {
        let text = match &change.outcome {
            Outcome::Refused { hint, .. } => format!("{change}; {hint}"),
            _ => change.to_string(),
        };
        let mut object = serde_json::to_value(change).map_err(|e| AppError::from_error(&e))?;
        object["type"] = json!("configured");
        out.line(text, &object)?;
    }
    let left = |change: &Change| matches!(change.outcome, Outcome::Removed { left: Some(_) });
    Ok(if changes.iter().any(Change::is_refused) {
        ExitCode::Guard
    } else if changes.iter().any(left) {
        ExitCode::Partial
    } else {
        ExitCode::Ok
    })
}

#[cfg(test)]
mod tests {
    use super::setting;

    #[test]
    fn a_setting_is_text_unless_it_is_a_number_or_a_truth() {
        let read = |text| setting(text).unwrap();
        assert_eq!(read("interval=1s"), ("interval".to_owned(), "1s".into()));
        assert_eq!(read("create=true"), ("create".to_owned(), true.into()));
        assert_eq!(read("x=5"), ("x".to_owned(), 5.into()));
        assert_eq!(read("x=[1]=2"), ("x".to_owned(), "[1]=2".into()));
        assert!(setting("interval").is_err());
    }
}

//! What a request or a reload has changed, and what it has not: one record for the answer and the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// One change, made or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `None`: of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The setting; `None`: of the volume as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The requested value, in its written form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Added,
    Removed {
        /// What could not be committed first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<String>,
    },
    Applied,
    /// Nothing has changed; `hint` says how to get the change.
    Refused {
        reason: String,
        hint: String,
    },
}

impl Outcome {
    pub(crate) fn refused(reason: impl fmt::Display, hint: &str) -> Outcome {
        Outcome::Refused { reason: reason.to_string(), hint: hint.to_owned() }
    }
}

impl Change {
    /// A change of a volume as a whole.
    pub(crate) fn of_volume(volume: &str, outcome: Outcome) -> Change {
        Change { volume: Some(volume.to_owned()), key: None, value: None, outcome }
    }

    /// A change of one setting; `volume` is `None` for a setting of the process.
    pub(crate) fn of_setting(volume: Option<&str>, key: &str, value: &str, outcome: Outcome) -> Change {
        Change { volume: volume.map(str::to_owned), key: Some(key.to_owned()), value: Some(value.to_owned()), outcome }
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused { .. })
    }

    /// Logs the change in one line.
    pub(crate) fn log(&self) {
        match &self.outcome {
            Outcome::Refused { hint, .. } => tracing::error!(hint, "{self}"),
            Outcome::Removed { left: Some(_) } => tracing::warn!("{self}"),
            _ => tracing::info!("{self}"),
        }
    }
}

/// Without the hint.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.volume {
            Some(volume) => write!(f, "volume {volume}: ")?,
            None => f.write_str("the process: ")?,
        }
        if let Some(key) = &self.key {
            write!(f, "{key}")?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            f.write_str(" ")?;
        }
        match &self.outcome {
            Outcome::Added => f.write_str("added"),
            Outcome::Removed { left: None } => f.write_str("removed"),
            Outcome::Removed { left: Some(left) } => write!(f, "removed, but not all of it is committed: {left}"),
            Outcome::Applied => f.write_str("applied"),
            Outcome::Refused { reason, .. } => write!(f, "refused: {reason}"),
        }
    }
}

/// A setting of the process that differs, and when it can take effect.
#[derive(Clone, Debug)]
pub(crate) struct Differs {
    pub key: &'static str,
    pub value: String,
    pub takes: ProcessTakes,
    /// Applies the setting to the configuration in force.
    pub apply: fn(&mut Config, &Config),
}

/// When a process can apply a changed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessTakes {
    AtOnce,
    /// The endpoint moves to another address.
    Endpoint,
    /// Only before a capture is attached.
    BeforeCapture,
    Restart,
}

/// The settings of the process in which two configurations differ. If the command line gave the address of the metrics, the
/// file cannot change it.
pub(crate) fn of_process(old: &Config, new: &Config) -> Vec<Differs> {
    use ProcessTakes::{AtOnce, BeforeCapture, Endpoint, Restart};
    let mut found = Vec::new();
    let mut compare = |key, differs: bool, value: String, takes, apply| {
        if differs {
            found.push(Differs { key, value, takes, apply });
        }
    };
    let differs = !old.listen_by_command && old.metrics_listen != new.metrics_listen;
    let value = new.metrics_listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
    compare("metrics.listen", differs, value, Endpoint, |old, new| old.metrics_listen = new.metrics_listen);
    let value = new.state_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
    compare("state_dir", old.state_dir != new.state_dir, value, Restart, |_, _| {});
    let (was, is) = (old.kernel_maps, new.kernel_maps);
    compare("kernel_maps", was != is, format!("{is:?}"), BeforeCapture, |old, new| old.kernel_maps = new.kernel_maps);
    let (was, is) = (old.process.stop_timeout, new.process.stop_timeout);
    compare("stop_timeout", was != is, is.to_string(), AtOnce, |old, new| {
        old.process.stop_timeout = new.process.stop_timeout;
    });
    let (was, is) = (&old.process.tracking, &new.process.tracking);
    compare("tracking.keep", was.keep != is.keep, is.keep.to_string(), AtOnce, |old, new| {
        old.process.tracking.keep = new.process.tracking.keep;
    });
    compare("tracking.lease", was.lease != is.lease, is.lease.to_string(), BeforeCapture, |old, new| {
        old.process.tracking.lease = new.process.tracking.lease;
    });
    compare("tracking.memory", was.memory != is.memory, is.memory.to_string(), AtOnce, |old, new| {
        old.process.tracking.memory = new.process.tracking.memory;
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(global: &str) -> Config {
        crate::config::parse(&format!("{global}\n[[volume]]\nsource = \"/s\"\nstore = \"/b\"\n")).unwrap().0
    }

    #[test]
    fn settings_of_the_process_are_never_ignored() {
        let was = parse("");
        let of = |global: &str| -> Vec<&str> { of_process(&was, &parse(global)).iter().map(|d| d.key).collect() };
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of("[metrics]\nlisten = \"off\""), ["metrics.listen"]);
        assert_eq!(of("state_dir = \"/x\"\n[kernel_maps]\ndirty = 9000"), ["state_dir", "kernel_maps"]);
        let tracking = "stop_timeout = \"5s\"\n[tracking]\nkeep = false\nlease = \"1h\"\nmemory = \"1MiB\"";
        assert_eq!(of(tracking), ["stop_timeout", "tracking.keep", "tracking.lease", "tracking.memory"]);
        let by_command = Config { listen_by_command: true, ..was.clone() };
        assert!(of_process(&by_command, &parse("[metrics]\nlisten = \"off\"")).is_empty());
        // After it is applied, nothing differs.
        let (mut now, new) = (was.clone(), parse(tracking));
        of_process(&was, &new).iter().for_each(|differs| (differs.apply)(&mut now, &new));
        assert_eq!(now.process, new.process);
    }

    #[test]
    fn what_cannot_be_applied_is_named_alone() {
        let refused = Outcome::refused("it is fixed", "restart");
        let refused = Change::of_setting(Some("v"), "store", "/x", refused);
        assert_eq!(refused.to_string(), "volume v: store = /x refused: it is fixed");
        assert!(refused.is_refused());
        let added = Change::of_volume("v", Outcome::Added);
        assert_eq!(added.to_string(), "volume v: added");
        for change in [refused, added, Change::of_volume("v", Outcome::Removed { left: Some("x".into()) })] {
            let sent = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<Change>(&sent).unwrap(), change, "{sent}");
        }
    }
}

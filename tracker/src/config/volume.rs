//! What an operator sets for one volume. `VolumeOptions` is the only list of a volume's settings: the file, the command
//! line, the control interface and a reload are derived from it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::capture::CaptureMode;
use crate::config::guard::GuardedVolume;
use crate::config::hooks::{HookLine, HookTimeout};
use crate::config::replaced::{Allow, Replaced};
use crate::config::values::{ConsistencyMode, Interval, MaxDelete, Nice, Pause, ScrubRate};
use crate::repository::location;
use crate::store::StoreUrl;

/// When a changed setting takes effect on a running volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// From the next round of the volume on, or when the setting is next used.
    AtOnce,
    /// The volume flushes and is opened again.
    Reopening,
}

/// A setting with another value than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub key: &'static str,
    /// The new value, as it is written.
    pub value: String,
    pub takes: Takes,
}

/// A value as a person writes it.
fn written(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(value) => value.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Declares the settings of a volume: `Takes`, then the field as serde and clap see it. Its type has the default.
macro_rules! volume_options {
    ($($(#[$meta:meta])* $takes:ident $key:ident: $kind:ty,)*) => {
        /// The settings of one volume: keys of `[[volume]]` and `[defaults]`, and flags of `protect`.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
        #[serde(default, deny_unknown_fields)]
        pub struct VolumeOptions {
            $($(#[$meta])* pub $key: $kind,)*
        }

        impl VolumeOptions {
            /// The keys, as they are written.
            pub const KEYS: &[&str] = &[$(stringify!($key)),*];

            /// The settings whose values differ in `new`.
            pub fn changed(&self, new: &VolumeOptions) -> Vec<Changed> {
                let mut changed = Vec::new();
                $(if self.$key != new.$key {
                    let (key, value, takes) = (stringify!($key), written(&new.$key), Takes::$takes);
                    changed.push(Changed { key, value, takes });
                })*
                changed
            }
        }
    };
}

volume_options! {
    /// Minimum gap between two flushes while the volume is dirty.
    #[arg(long, value_name = "DURATION", default_value_t)]
    AtOnce interval: Interval,
    /// Which capture back end to take.
    #[arg(long, value_enum, default_value_t)]
    Reopening capture: CaptureMode,
    /// Whether commits are made states of one instant where that can be, and say so (instant), or not (live).
    #[arg(long, value_name = "MODE", default_value_t)]
    AtOnce consistency: ConsistencyMode,
    /// For how long writers may be paused in a flush so that a commit is of one instant; 0: never, and at most 1s.
    #[arg(long, value_name = "DURATION", default_value_t)]
    AtOnce pause: Pause,
    /// How much of the volume is read again in an hour to find changes that capture has missed: a percentage, or off.
    #[arg(long, value_name = "PERCENT", default_value_t)]
    AtOnce scrub: ScrubRate,
    /// Accept a store that cannot reject a second writer; you guarantee that only one host writes.
    #[arg(long)]
    Reopening single_writer: bool,
    /// Create the whole path of a local store. Otherwise only its last part is created: the rest may be a disk that is not
    /// mounted.
    #[arg(long)]
    Reopening create: bool,
    /// What follows when the directory is replaced by another one at its path: stop, or adopt (compare it with the newest
    /// commit and go on).
    #[arg(long, value_enum, default_value_t)]
    AtOnce replaced: Replaced,
    /// Removals of more than this share of the files in one flush (and more than 1,000 files) wait for `tracker confirm`: a
    /// percentage, or off.
    #[arg(long, value_name = "PERCENT", default_value_t)]
    AtOnce max_delete: MaxDelete,
    /// The nice value of the volume's threads, 0 to 19: the higher, the more they give way to others. It never raises their
    /// priority above the process's.
    #[arg(long, value_name = "N", default_value_t)]
    Reopening nice: Nice,
    /// A command line that /bin/sh runs before a flush reads what has changed, to bring the application to rest; its failure does not keep
    /// the flush from committing.
    #[arg(long, value_name = "COMMAND", default_value_t, hide_default_value = true)]
    AtOnce before: HookLine,
    /// A command line that /bin/sh runs after that flush, to let the application go on; always, once `before` was started.
    #[arg(long, value_name = "COMMAND", default_value_t, hide_default_value = true)]
    AtOnce after: HookLine,
    /// How long each of the two may take before it is killed: 100 ms to 60 s.
    #[arg(long, value_name = "DURATION", default_value_t)]
    AtOnce hook_timeout: HookTimeout,
}

/// One volume to protect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    pub name: String,
    pub source: PathBuf,
    pub store: StoreUrl,
    pub options: VolumeOptions,
    /// What the operator allows this start to do.
    #[serde(default)]
    pub allow: Allow,
}

impl VolumeConfig {
    /// Checks what can be checked without other volumes, for one that did not come from a file.
    ///
    /// # Errors
    /// What is wrong with its name or its paths.
    pub fn check(&self) -> Result<(), String> {
        location::check_volume_name(&self.name).map_err(|e| e.to_string())?;
        for (what, path) in [("source", Some(self.source.as_path())), ("store", self.store.local())] {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(format!("`{what}` must be an absolute path, not `{}`", path.display()));
            }
        }
        Ok(())
    }

    /// The volume, for `guard`.
    pub fn guarded(&self) -> GuardedVolume {
        let store = self.store.local().map(Path::to_path_buf);
        GuardedVolume { name: self.name.clone(), source: self.source.clone(), store }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_when_it_is_taken() {
        let was = VolumeOptions::default();
        assert_eq!(was.changed(&was), []);
        let new = VolumeOptions { create: true, max_delete: MaxDelete(None), ..was.clone() };
        let changed = |key, value: &str, takes| Changed { key, value: value.into(), takes };
        let expected = [changed("create", "true", Takes::Reopening), changed("max_delete", "off", Takes::AtOnce)];
        assert_eq!(was.changed(&new), expected);
    }

    #[test]
    fn what_the_control_interface_sends_is_read_back() {
        let options = VolumeOptions { single_writer: true, max_delete: MaxDelete(None), ..VolumeOptions::default() };
        let sent = serde_json::to_value(&options).unwrap();
        assert_eq!(sent.as_object().unwrap().len(), VolumeOptions::KEYS.len());
        assert_eq!(serde_json::from_value::<VolumeOptions>(sent).unwrap(), options);
        assert!(serde_json::from_str::<VolumeOptions>(r#"{"intervall": "1s"}"#).is_err());
        assert_eq!(serde_json::from_str::<VolumeOptions>("{}").unwrap(), VolumeOptions::default());
    }
}

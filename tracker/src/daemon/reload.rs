//! What of a configuration that is read again can be applied to volumes that run, and what needs a restart, by name.

use std::time::Duration;

use engine::scrub::Rate;

use crate::config::{Config, VolumeConfig};

/// What of a running volume can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) interval: Duration,
    pub(crate) scrub: Rate,
    pub(crate) max_delete: Option<u8>,
}

impl Settings {
    pub(crate) fn of(config: &VolumeConfig) -> Settings {
        Settings { interval: config.interval, scrub: config.scrub, max_delete: config.max_delete }
    }

    /// The configuration with these settings in it.
    pub(crate) fn applied_to(self, config: &VolumeConfig) -> VolumeConfig {
        let Settings { interval, scrub, max_delete } = self;
        VolumeConfig { interval, scrub, max_delete, ..config.clone() }
    }
}

/// The settings in which two configurations of one volume differ and that can be applied, and those that cannot.
pub(crate) fn differences(old: &VolumeConfig, new: &VolumeConfig) -> (Vec<&'static str>, Vec<&'static str>) {
    // Without `..`: a new setting has to find its place here.
    let VolumeConfig {
        name: _,
        source,
        store,
        interval,
        capture,
        scrub,
        single_writer,
        create,
        replaced,
        max_delete,
        allow: _,
    } = old;
    let differ = |settings: &[(&'static str, bool)]| -> Vec<&'static str> {
        settings.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
    };
    let live = differ(&[
        ("interval", *interval != new.interval),
        ("scrub", *scrub != new.scrub),
        ("max_delete", *max_delete != new.max_delete),
    ]);
    let fixed = differ(&[
        ("source", *source != new.source),
        ("store", *store != new.store),
        ("capture", *capture != new.capture),
        ("single_writer", *single_writer != new.single_writer),
        ("create", *create != new.create),
        ("replaced", *replaced != new.replaced),
    ]);
    (live, fixed)
}

/// The settings of the whole process that differ; none can be applied. Where the command line said where the metrics are
/// served, the file has no say in it.
pub(crate) fn of_the_process(old: &Config, new: &Config) -> Vec<&'static str> {
    let listen = !old.listen_by_command && old.metrics_listen != new.metrics_listen;
    let all = [
        ("metrics.listen", listen),
        ("state_dir", old.state_dir != new.state_dir),
        ("kernel_maps", old.kernel_maps != new.kernel_maps),
        ("stop_timeout or tracking", old.process != new.process),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// What is said of settings that were not applied: which, and nothing about the others.
pub(crate) fn refusal(of: &str, settings: &[&str]) -> String {
    format!("{of}: {} cannot be changed while it runs; restart to change it", settings.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(global: &str, volume: &str) -> Config {
        let text = format!("{global}\n[[volume]]\nname = \"v\"\nsource = \"/s\"\nstore = \"/b\"\n{volume}\n");
        crate::config::parse(&text).unwrap().0
    }

    #[test]
    fn what_cannot_be_applied_is_named_alone() {
        let was = parse("", "");
        let of = |volume: &str| differences(&was.volumes[0], &parse("", volume).volumes[0]);
        assert_eq!(of(""), (vec![], vec![]));
        let live = of("interval = \"1s\"\nscrub = \"off\"\nmax_delete = \"off\"");
        assert_eq!(live, (vec!["interval", "scrub", "max_delete"], vec![]));
        let (live, fixed) = of("interval = \"1s\"\ncapture = \"scan\"\nsingle_writer = true\ncreate = true");
        assert_eq!((live, fixed.clone()), (vec!["interval"], vec!["capture", "single_writer", "create"]));
        let said = refusal("volume v", &fixed);
        assert!(said.contains("v: capture, single_writer, create cannot") && !said.contains("interval"), "{said}");
    }

    #[test]
    fn settings_of_the_process_are_never_ignored() {
        let was = parse("", "");
        let of = |global: &str| of_the_process(&was, &parse(global, ""));
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of("[metrics]\nlisten = \"off\""), ["metrics.listen"]);
        assert_eq!(of("state_dir = \"/x\"\n[kernel_maps]\ndirty = 9000"), ["state_dir", "kernel_maps"]);
        let by_command = Config { listen_by_command: true, ..was.clone() };
        assert_eq!(of_the_process(&by_command, &parse("[metrics]\nlisten = \"off\"", "")), [""; 0]);
    }
}

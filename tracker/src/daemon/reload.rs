//! What of a configuration that is read again can be applied to volumes that run, and what needs a restart, by name.

use crate::config::{Config, Takes, VolumeConfig, VolumeOptions};

/// `new` with those settings of `old` that only a volume which is opened takes.
pub(crate) fn with_applied(old: &VolumeOptions, new: &VolumeOptions) -> VolumeOptions {
    let (capture, single_writer, create) = (old.capture, old.single_writer, old.create);
    VolumeOptions { capture, single_writer, create, ..new.clone() }
}

/// The settings in which two configurations of one volume differ and that can be applied, and those that cannot.
pub(crate) fn differences(old: &VolumeConfig, new: &VolumeConfig) -> (Vec<&'static str>, Vec<&'static str>) {
    let places = [("source", old.source != new.source), ("store", old.store != new.store)];
    let mut fixed: Vec<_> = places.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    let (live, opening): (Vec<_>, Vec<_>) =
        old.options.changed(&new.options).into_iter().partition(|(_, takes)| *takes == Takes::AtOnce);
    fixed.extend(opening.into_iter().map(|(key, _)| key));
    (live.into_iter().map(|(key, _)| key).collect(), fixed)
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

//! `powercut`: a guest loses its power in the middle of a load, again and again, on disks that survive. What happens in the
//! guest, and what must hold there, is the program `powercut` of the crate `tests`; here are the disks, the moments, and the
//! memory of what was acknowledged: the only thing that knows more than the disks do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::setup;
use crate::sh::{self, Error};
use crate::vm::{self, Disk, End, Folder, Kernel, Request, Series};

const USAGE: &str = "usage: cargo xtask powercut [--cuts N] [--seed N] [--kernel 6.1|6.12] [--build release|debug]
  N cuts of power (50), each followed by a boot that compares; without --kernel the two take turns; of the release build (the gate has debug)";

/// From the start of QEMU to the cut, or to the end of the last boot. A minute or two when the machine is not busy.
const LIMIT: Duration = Duration::from_secs(900);
/// Longest time under load before the cut, in milliseconds.
const LOAD_MS: u64 = 12_000;
/// Longest time under a load of which a stopped daemon sees nothing.
const STILL_MS: u64 = 5_000;
/// Longest time between the first acknowledgement and a cut behind it.
const ACKNOWLEDGED_MS: u64 = 8_000;
/// Longest time from the first word of the comparison to a cut in it.
const COMPARISON_MS: u64 = 1_000;
/// Cuts that are surely under load; of those behind them one in five is in the comparison.
const SURELY_LOADED: u64 = 3;

/// The disks, as the guest's program expects them: store and state, then the sources. Nothing is pruned from the store, which
/// grows by about 20 MiB a cut.
const DISKS: [(&str, u64, &[&str]); 4] = [
    ("store", 2 << 30, &["mkfs.ext4", "-q", "-F"]),
    ("ext4", 512 << 20, &["mkfs.ext4", "-q", "-F"]),
    ("xfs", 512 << 20, &["mkfs.xfs", "-q", "-f"]),
    ("btrfs", 512 << 20, &["mkfs.btrfs", "-q", "-f"]),
];

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Campaign {
    pub(crate) cuts: u64,
    pub(crate) seed: u64,
    /// The program under test as it is released, which an emulated machine runs in half the time. The gate has built the other one.
    pub(crate) release: bool,
    /// Taking turns, one a boot.
    pub(crate) kernels: Vec<Series>,
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// So long after the load has begun.
    Load(Duration),
    /// The same, with the daemon stopped. Only so is a catalog surely as new as its store after the cut; an older one is made anew
    /// from the store, and has every file read for that reason alone.
    Still(Duration),
    /// So long after the load's first acknowledgement.
    Acknowledged(Duration),
    /// So long after the comparison with the tree was first seen.
    Comparison(Duration),
}

impl Campaign {
    /// Fifty cuts with a seed of its own, on all kernels, of the debug build.
    pub(crate) fn by_the_clock() -> Self {
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() % 1_000_000);
        Campaign { cuts: 50, seed, release: false, kernels: Series::ALL.to_vec() }
    }

    /// As the command runs it: the release build.
    fn parse(args: &[String]) -> Result<Self, Error> {
        let usage = |why: String| Error::Usage { text: format!("{why}\n{USAGE}") };
        let mut campaign = Campaign { release: true, ..Self::by_the_clock() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or_else(|| usage(format!("nothing behind `{arg}`")))?;
            let number = || value.parse::<u64>().map_err(|_| usage(format!("`{value}` is no number")));
            match arg.as_str() {
                "--cuts" => campaign.cuts = number()?,
                "--seed" => campaign.seed = number()?,
                "--build" => match value.as_str() {
                    "release" => campaign.release = true,
                    "debug" => campaign.release = false,
                    other => return Err(usage(format!("no build `{other}`"))),
                },
                "--kernel" => {
                    let series = Series::parse(value).ok_or_else(|| usage(format!("no kernel `{value}`")))?;
                    campaign.kernels = vec![series];
                }
                other => return Err(usage(format!("unexpected `{other}`"))),
            }
        }
        if campaign.cuts == 0 {
            return Err(usage("--cuts takes a number from 1 on".into()));
        }
        Ok(campaign)
    }

    fn kernel(&self, boot: u64) -> Option<Series> {
        let turn = (self.seed % self.kernels.len().max(1) as u64 + boot) % self.kernels.len().max(1) as u64;
        self.kernels.get(turn as usize).copied()
    }

    fn moment(&self, boot: u64) -> Moment {
        let number = mixed(self.seed ^ mixed(boot + 1));
        let within = |bound: u64| Duration::from_millis(number / 5 % bound);
        // Begins late enough for some files to have changed.
        let still = Moment::Still(Duration::from_millis(STILL_MS / 5) + within(STILL_MS * 4 / 5));
        match (boot, number % 5) {
            (0, _) => still,
            (1..SURELY_LOADED, _) => Moment::Acknowledged(within(ACKNOWLEDGED_MS)),
            (_, 0) => Moment::Comparison(within(COMPARISON_MS)),
            (_, 1) => still,
            (_, 2) => Moment::Load(within(LOAD_MS)),
            _ => Moment::Acknowledged(within(ACKNOWLEDGED_MS)),
        }
    }
}

/// A number that looks like chance (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn main(args: &[String]) -> Result<(), Error> {
    let campaign = Campaign::parse(args)?;
    if vm::obstacle().is_some() {
        setup::test_programs()?;
    }
    if let Some(what) = vm::obstacle() {
        return Err(Error::Missing { what, help: "see docs/testing.md".into() });
    }
    crate::ebpf::build()?;
    sh::run(cargo_build(&campaign).args(["-p", "tracker"]))?;
    let log = sh::root().join("target/vm/powercut.log");
    run(&campaign, &log, |line| println!("{line}"))
}

/// What a campaign has come to.
#[derive(Debug, Default)]
struct Tally {
    /// Cuts while the load ran.
    loaded: u64,
    /// What the guests counted, by its name.
    counts: BTreeMap<String, u64>,
    /// Time by the step at whose end it was over, over all boots.
    steps: Vec<(String, Duration)>,
}

impl Tally {
    /// Of a line `COUNT N what`.
    fn count(&mut self, line: &str) {
        if let Some((Ok(count), what)) = line.split_once(' ').map(|(count, what)| (count.parse::<u64>(), what)) {
            *self.counts.entry(what.to_owned()).or_default() += count;
        }
    }

    fn step(&mut self, name: &str, took: Duration) {
        match self.steps.iter_mut().find(|(known, _)| known == name) {
            Some((_, all)) => *all += took,
            None => self.steps.push((name.to_owned(), took)),
        }
    }

    /// Lines for people, after `boots`.
    fn lines(&self, boots: u64) -> Vec<String> {
        let counts = self.counts.iter().map(|(what, count)| format!("{count} {what}"));
        let mean = |(name, all): &(String, Duration)| format!("{name} {:.1}", all.as_secs_f64() / boots.max(1) as f64);
        let steps: Vec<String> = self.steps.iter().map(mean).collect();
        let loaded = format!("{} cuts under load", self.loaded);
        [loaded]
            .into_iter()
            .chain(counts)
            .chain([format!("seconds a boot, in the mean: {}", steps.join(", "))])
            .collect()
    }
}

/// A program of the guest's, in the campaign's build.
fn built(name: &str, campaign: &Campaign) -> PathBuf {
    sh::target_dir().join(if campaign.release { "release" } else { "debug" }).join(name)
}

fn cargo_build(campaign: &Campaign) -> Command {
    let mut command = sh::cargo();
    command.args(["build", "-q"]);
    if campaign.release {
        command.arg("--release");
    }
    command
}

/// Builds the guest's program.
fn program(campaign: &Campaign) -> Result<PathBuf, Error> {
    sh::output(cargo_build(campaign).args(["-p", "tests", "--bin", "powercut"]))?;
    Ok(built("powercut", campaign))
}

/// Cuts the power so many times and boots once more. The output of all boots goes to files beside `log`, one a boot; `say` gets a line or two
/// for each. The program under test is built by the caller.
#[expect(clippy::too_many_lines, reason = "it is to be cut where it turns a corner")]
pub(crate) fn run(campaign: &Campaign, log: &std::path::Path, mut say: impl FnMut(&str)) -> Result<(), Error> {
    let program = program(campaign)?;
    let kernels: Vec<Kernel> = campaign.kernels.iter().map(|series| vm::ensure(*series)).collect::<Result<_, _>>()?;
    let folder = Folder::new("disks")?;
    let mut disks = Vec::new();
    for (name, bytes, tool) in DISKS {
        let disk = Disk::new(&folder.path, name, bytes)?;
        disk.format(tool)?;
        disks.push(disk);
    }
    say(&format!("seed {}, {} cuts", campaign.seed, campaign.cuts));
    // Of the boot before: what it acknowledged, and how it was cut.
    let (mut acknowledged, mut before, mut tally) = (None::<u64>, "idle", Tally::default());
    for boot in 0..=campaign.cuts {
        let last = boot == campaign.cuts;
        let moment = campaign.moment(boot);
        let mut words = vec![program.display().to_string(), boot.to_string(), campaign.seed.to_string()];
        words.push(acknowledged.map_or_else(|| "-".into(), |number| number.to_string()));
        words.push(before.into());
        words.push(
            if last {
                "last"
            } else if matches!(moment, Moment::Still(_)) {
                "still"
            } else {
                "cut"
            }
            .into(),
        );
        (acknowledged, before) = (None, "idle");

        let series = campaign.kernel(boot);
        let at = campaign.kernels.iter().position(|one| Some(*one) == series).unwrap_or_default();
        let Some(kernel) = kernels.get(at) else { continue };
        for disk in &disks {
            disk.power_on()?;
        }
        let (started, mut lines, mut refused) = (Instant::now(), Vec::new(), 0);
        let mut step = started;
        let mut each = |line: &str| {
            lines.push(line.to_owned());
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, moment) {
                // Only a whole line is one, and a later one counts.
                ("ACKNOWLEDGED", _) => {
                    acknowledged = rest.parse().ok().or(acknowledged);
                    if let Moment::Acknowledged(after) = moment {
                        return (!last).then_some(after);
                    }
                }
                // A machine too slow to acknowledge under this load is cut all the same.
                ("not", Moment::Acknowledged(after)) => {
                    refused += 1;
                    return (refused >= 2 && !last).then_some(after);
                }
                ("STEP", _) => {
                    tally.step(rest, step.elapsed());
                    step = Instant::now();
                }
                ("COUNT", _) => tally.count(rest),
                ("FOUND", _) => say(&format!("boot {boot}: {rest}")),
                ("COMPARING", Moment::Comparison(after)) if !last => return Some(after),
                ("LOAD", _) => {
                    before = if matches!(moment, Moment::Still(_)) { "still" } else { "loaded" };
                    if let Moment::Load(after) | Moment::Still(after) = moment {
                        return (!last).then_some(after);
                    }
                }
                _ => {}
            }
            None
        };
        let log = log.with_extension(format!("{boot}.log"));
        let variables = [("TRACKER_TEST_BIN".to_owned(), built("tracker", campaign).display().to_string())];
        let request = Request { words: &words, variables: &variables, limit: LIMIT, disks: &disks };
        let end = vm::boot(kernel, &request, &log, &mut each)?;
        for disk in &disks {
            disk.power_off()?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let loaded = before != "idle";
        tally.step(if loaded { "load until the cut" } else { "cut or end" }, step.elapsed());
        tally.loaded += u64::from(loaded);
        let wanted = if last { End::Code(0) } else { End::Cut };
        if end != wanted {
            let output = lines.get(lines.len().saturating_sub(80)..).unwrap_or_default().join("\n");
            return Err(Error::Cut { boot, seed: campaign.seed, end: format!("{end:?}"), output });
        }
        let words =
            acknowledged.map_or_else(|| "nothing acknowledged".into(), |number| format!("{number} acknowledged"));
        let what = if last { "ended".into() } else { format!("cut at {moment:?}, {words}") };
        say(&format!("boot {boot}: {} {what}; {seconds:.0} s", kernel.release()));
    }
    tally.lines(campaign.cuts + 1).iter().for_each(|line| say(line));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Campaign, Moment, Tally};
    use crate::vm::Series;

    fn parse(text: &str) -> Option<Campaign> {
        Campaign::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn cuts_seed_and_kernel_are_told_apart() {
        let campaign = parse("--cuts 3 --kernel 6.12 --seed 9").expect("valid");
        assert_eq!(campaign, Campaign { cuts: 3, seed: 9, release: true, kernels: vec![Series::V6_12] });
        assert_eq!(parse("").map(|campaign| campaign.cuts), Some(50));
        assert_eq!(parse("--build debug").map(|campaign| campaign.release), Some(false));
        for text in ["--cuts", "--cuts 0", "--cuts x", "--kernel 6.2", "--build x", "7"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_the_boots_say_is_added_up() {
        let mut tally = Tally::default();
        ["7 files", "2 others", "4 files", "x files", "5"].into_iter().for_each(|line| tally.count(line));
        tally.step("kernel", Duration::from_secs(3));
        tally.step("load", Duration::from_secs(1));
        tally.step("kernel", Duration::from_secs(4));
        let mean = "seconds a boot, in the mean: kernel 3.5, load 0.5";
        assert_eq!(tally.lines(2), ["0 cuts under load", "11 files", "2 others", mean]);
    }

    #[test]
    fn a_seed_gives_the_same_moments_and_every_kind_of_them() {
        let campaign = |seed| Campaign { cuts: 50, seed, release: true, kernels: Series::ALL.to_vec() };
        let moments = |seed| (0..50).map(|boot| campaign(seed).moment(boot)).collect::<Vec<_>>();
        assert_eq!(moments(1), moments(1));
        assert_ne!(moments(1), moments(2));
        for seed in 1..20 {
            let loaded = |moment: &&Moment| !matches!(moment, Moment::Comparison(_));
            assert!((30..50).contains(&moments(seed).iter().filter(loaded).count()));
            assert_eq!(moments(seed).iter().take(3).filter(loaded).count(), 3);
            let kernels: Vec<_> = (0..2).filter_map(|boot| campaign(seed).kernel(boot)).collect();
            assert!(Series::ALL.iter().all(|series| kernels.contains(series)), "{kernels:?}");
        }
    }
}

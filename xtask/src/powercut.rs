//! `powercut`: a guest loses its power in the middle of a load, again and again, on disks that survive. What happens in the
//! guest, and what must hold there, is the program `powercut` of the crate `tests`; here are the disks, the moments, and the
//! memory of what was acknowledged: the only thing that knows more than the disks do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::sh;
use crate::vm::{self, Disk, End, Folder, Kernel, Request, Series};

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

/// How the guest's programs were built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Build {
    /// As it is released, which an emulated machine runs in half the time
    Release,
    /// As the gate has built it
    Debug,
}

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cuts of power, each followed by a boot that compares
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    cuts: u64,
    /// Of the moments and of what is written; another one each time without it
    #[arg(long)]
    seed: Option<u64>,
    /// Without it the two take turns
    #[arg(long)]
    kernel: Option<Series>,
    #[arg(long, value_enum, default_value = "release")]
    build: Build,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Campaign {
    pub(crate) cuts: u64,
    pub(crate) seed: u64,
    pub(crate) build: Build,
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
    /// So many cuts with a seed of its own, on all kernels, of the debug build.
    pub(crate) fn by_the_clock(cuts: u64) -> Self {
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() % 1_000_000);
        Campaign { cuts, seed, build: Build::Debug, kernels: Series::ALL.to_vec() }
    }

    /// Which of the kernels the boot has.
    fn turn(&self, boot: u64) -> usize {
        let kernels = self.kernels.len().max(1) as u64;
        ((self.seed % kernels + boot) % kernels) as usize
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

pub(crate) fn main(options: &Options) -> Result<()> {
    let drawn = Campaign::by_the_clock(options.cuts);
    let campaign = Campaign {
        seed: options.seed.unwrap_or(drawn.seed),
        build: options.build,
        kernels: options.kernel.map_or(drawn.kernels, |kernel| vec![kernel]),
        ..drawn
    };
    vm::prepare()?;
    crate::ebpf::build()?;
    for parts in [&["tracker"][..], &["tests", "--bin", "powercut"]] {
        let release = ["--release"].into_iter().filter(|_| campaign.build == Build::Release);
        sh::run(sh::cargo().args(["build", "-q", "-p"]).args(parts).args(release))?;
    }
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
fn built(name: &str, campaign: &Campaign) -> String {
    let folder = if campaign.build == Build::Release { "release" } else { "debug" };
    sh::target_dir().join(folder).join(name).display().to_string()
}

/// What one boot has said.
#[derive(Debug)]
struct Boot {
    moment: Moment,
    last: bool,
    /// Newest change that it acknowledged.
    acknowledged: Option<u64>,
    /// How it stood when it was cut: `idle`, under a load (`loaded`), or under one with the daemon stopped (`still`).
    state: &'static str,
    /// How often it did not acknowledge.
    refused: u32,
    lines: Vec<String>,
    step: Instant,
}

impl Boot {
    fn new(moment: Moment, last: bool) -> Self {
        let step = Instant::now();
        Boot { moment, last, acknowledged: None, state: "idle", refused: 0, lines: Vec::new(), step }
    }

    /// Takes a line of the guest's; after which time the power goes, if that is decided now.
    fn line(&mut self, line: &str, tally: &mut Tally, say: &mut dyn FnMut(&str)) -> Option<Duration> {
        self.lines.push(line.to_owned());
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let cut = match (word, self.moment) {
            ("ACKNOWLEDGED", moment) => {
                // Only a whole line is one, and a later one counts.
                self.acknowledged = rest.parse().ok().or(self.acknowledged);
                if let Moment::Acknowledged(after) = moment { Some(after) } else { None }
            }
            // A machine too slow to acknowledge under this load is cut all the same.
            ("not", Moment::Acknowledged(after)) => {
                self.refused += 1;
                (self.refused >= 2).then_some(after)
            }
            ("STEP", _) => {
                self.step(rest, tally);
                None
            }
            ("COUNT", _) => {
                tally.count(rest);
                None
            }
            ("FOUND", _) => {
                say(rest);
                None
            }
            ("COMPARING", Moment::Comparison(after)) => Some(after),
            ("LOAD", moment) => {
                self.state = if matches!(moment, Moment::Still(_)) { "still" } else { "loaded" };
                if let Moment::Load(after) | Moment::Still(after) = moment { Some(after) } else { None }
            }
            _ => None,
        };
        cut.filter(|_| !self.last)
    }

    fn step(&mut self, name: &str, tally: &mut Tally) {
        tally.step(name, self.step.elapsed());
        self.step = Instant::now();
    }
}

/// Cuts the power so many times and boots once more. The output of all boots goes to files beside `log`, one a boot; `say` gets a line or two
/// for each. The programs are built by the caller.
pub(crate) fn run(campaign: &Campaign, log: &Path, mut say: impl FnMut(&str)) -> Result<()> {
    let kernels: Vec<Kernel> = campaign.kernels.iter().map(|series| vm::ensure(*series)).collect::<Result<_>>()?;
    let folder = Folder::new("disks")?;
    let mut disks = Vec::new();
    for (name, bytes, tool) in DISKS {
        let disk = Disk::new(&folder.path, name, bytes)?;
        disk.format(tool)?;
        disks.push(disk);
    }
    say(&format!("seed {}, {} cuts", campaign.seed, campaign.cuts));
    let mut tally = Tally::default();
    let mut before = Boot::new(Moment::Load(Duration::ZERO), false);
    for boot in 0..=campaign.cuts {
        let (moment, last) = (campaign.moment(boot), boot == campaign.cuts);
        let Some(kernel) = kernels.get(campaign.turn(boot)) else { continue };
        let acknowledged = before.acknowledged.map_or_else(|| "-".into(), |number| number.to_string());
        let way = if last { "last" } else { if matches!(moment, Moment::Still(_)) { "still" } else { "cut" } };
        let program = built("powercut", campaign);
        let words = [&program, &boot.to_string(), &campaign.seed.to_string(), &acknowledged, before.state, way];
        let variables = [("TRACKER_TEST_BIN".to_owned(), built("tracker", campaign))];
        let words = words.map(str::to_owned);
        let request = Request { words: &words, variables: &variables, limit: LIMIT, disks: &disks };

        let (started, mut this) = (Instant::now(), Boot::new(moment, last));
        disks.iter().try_for_each(Disk::power_on)?;
        let mut each = |line: &str| this.line(line, &mut tally, &mut |found| say(&format!("boot {boot}: {found}")));
        let end = vm::boot(kernel, &request, &log.with_extension(format!("{boot}.log")), &mut each)?;
        disks.iter().try_for_each(Disk::power_off)?;

        let loaded = this.state != "idle";
        this.step(if loaded { "load until the cut" } else { "cut or end" }, &mut tally);
        tally.loaded += u64::from(loaded);
        if end != (if last { End::Code(0) } else { End::Cut }) {
            let output = this.lines.get(this.lines.len().saturating_sub(80)..).unwrap_or_default().join("\n");
            let seed = campaign.seed;
            bail!("boot {boot} of the seed {seed} ended with {end:?}; the end of its output:\n{output}");
        }
        let number = this.acknowledged.map_or_else(|| "nothing".into(), |number| number.to_string());
        let what = if last { "ended".into() } else { format!("cut at {moment:?}, {number} acknowledged") };
        say(&format!("boot {boot}: {} {what}; {:.0} s", kernel.release(), started.elapsed().as_secs_f64()));
        before = this;
    }
    tally.lines(campaign.cuts + 1).iter().for_each(|line| say(line));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Build, Campaign, Moment, Tally};
    use crate::vm::Series;

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
        let campaign = |seed| Campaign { cuts: 50, seed, build: Build::Release, kernels: Series::ALL.to_vec() };
        let moments = |seed| (0..50).map(|boot| campaign(seed).moment(boot)).collect::<Vec<_>>();
        assert_eq!(moments(1), moments(1));
        assert_ne!(moments(1), moments(2));
        for seed in 1..20 {
            let loaded = |moment: &&Moment| !matches!(moment, Moment::Comparison(_));
            assert!((30..50).contains(&moments(seed).iter().filter(loaded).count()));
            assert_eq!(moments(seed).iter().take(3).filter(loaded).count(), 3);
            assert_ne!(campaign(seed).turn(0), campaign(seed).turn(1), "both kernels");
        }
    }
}

//! `powercut`: a guest loses its power in the middle of a load, again and again, on disks that survive. What happens in the
//! guest, and what must hold there, is the program `powercut` of the crate `tests`; here are the disks, the moments, and the
//! memory of what was acknowledged: the only thing that knows more than the disks do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::sh;
use crate::stream::{self, Chosen};
use crate::vm::{self, Disk, Kernel, Request, Series};

/// From the start of QEMU to the cut, or to the end of the last boot. A minute or two when the machine is not busy.
const LIMIT: Duration = Duration::from_secs(900);
/// Longest time under load before the cut, in milliseconds.
const LOAD_MS: u64 = 12_000;
/// The same under writers without gaps, of whom commits of one instant are slow to come.
const SEARCH_MS: u64 = 30_000;
/// One cut in so many is under these. The second one is the first of them, so that the gate has one.
const SEARCH_EVERY: u64 = 3;
/// Longest time under a load of which a stopped daemon sees nothing.
const STILL_MS: u64 = 5_000;
/// Longest time between the first acknowledgement and a cut behind it.
const ACKNOWLEDGED_MS: u64 = 8_000;
/// Longest time from the first word of the comparison to a cut in it; of a pause, which is shorter, a third.
const COMPARISON_MS: u64 = 1_000;
/// Cuts that are surely under load; of those behind them one in five is in the comparison.
const SURELY_LOADED: u64 = 3;

/// The disks, as the guest's program expects them: store and state, then the sources. Nothing is pruned from the store, which
/// grows by about 20 MiB a cut.
const DISKS: [(&str, u64, [&str; 3]); 4] = [
    ("store", 2 << 30, ["mkfs.ext4", "-q", "-F"]),
    ("ext4", 512 << 20, ["mkfs.ext4", "-q", "-F"]),
    ("xfs", 512 << 20, ["mkfs.xfs", "-q", "-f"]),
    ("btrfs", 512 << 20, ["mkfs.btrfs", "-q", "-f"]),
];

/// How the guest's programs were built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Build {
    /// As it is released, which an emulated machine runs in half the time
    Release,
    /// As the gate has built it
    Debug,
}

/// What is to be done.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cuts of power, each followed by a boot that compares
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    cuts: u64,
    /// Of the moments and of what is written; another one each time without it
    #[arg(long, default_value_t = by_the_clock(), hide_default_value = true)]
    seed: u64,
    /// Without it the two take turns, one a boot
    #[arg(long = "kernel", value_name = "KERNEL", default_values = Series::ALL.map(Series::name))]
    kernels: Vec<Series>,
    /// Every so many cuts, one is under writers without gaps, who are paused for an instant
    #[arg(long, default_value_t = SEARCH_EVERY, value_parser = clap::value_parser!(u64).range(1..))]
    search_every: u64,
    #[arg(long, value_enum, default_value = "release")]
    build: Build,
}

fn by_the_clock() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs() % 1_000_000)
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    /// Under which load: of all kinds (`cut`), with the daemon stopped (`still`), or of writers without gaps, who are paused for an
    /// instant (`search`). Only with the daemon stopped is a catalog surely as new as its store after the cut; an older one is made
    /// anew from the store, and has every file read for that reason alone.
    way: &'static str,
    /// So long after ..
    after: Duration,
    /// .. the guest's first line with this word: the load has begun, pauses or acknowledges; or the tree is seen to be compared.
    word: &'static str,
}

impl Options {
    /// So many cuts with a seed of their own, on all kernels, of the debug build.
    pub(crate) fn of_the_gate(cuts: u64) -> Self {
        let (seed, kernels) = (by_the_clock(), Series::ALL.to_vec());
        Options { cuts, seed, kernels, build: Build::Debug, search_every: SEARCH_EVERY }
    }

    /// Which of the kernels the boot has.
    fn turn(&self, boot: u64) -> usize {
        (self.seed.wrapping_add(boot) % self.kernels.len() as u64) as usize
    }

    fn moment(&self, boot: u64) -> Moment {
        let mut random = fastrand::Rng::with_seed(self.seed.rotate_left(32) ^ boot);
        let searches = boot % self.search_every == 1 % self.search_every;
        let (way, word, least, most) = match (boot, random.u8(..5)) {
            (_, 0..3) if searches => ("search", "LOAD", SEARCH_MS / 3, SEARCH_MS),
            (..) if searches => ("search", "PAUSED", 0, COMPARISON_MS / 3),
            // Begins late enough for some files to have changed.
            (0, _) | (SURELY_LOADED.., 1) => ("still", "LOAD", STILL_MS / 5, STILL_MS),
            (SURELY_LOADED.., 0) => ("cut", "COMPARING", 0, COMPARISON_MS),
            (SURELY_LOADED.., 2) => ("cut", "LOAD", 0, LOAD_MS),
            _ => ("cut", "ACKNOWLEDGED", 0, ACKNOWLEDGED_MS),
        };
        Moment { way, word, after: Duration::from_millis(random.u64(least..most)) }
    }

    /// A program of the guest's, in this build.
    fn built(&self, name: &str) -> String {
        let folder = if self.build == Build::Release { "release" } else { "debug" };
        sh::target_dir().join(folder).join(name).display().to_string()
    }
}

pub(crate) fn main(options: &Options) -> Result<()> {
    vm::prepare()?;
    crate::ebpf::build()?;
    for parts in [&["tracker"][..], &["tests", "--bin", "powercut"]] {
        let release = ["--release"].into_iter().filter(|_| options.build == Build::Release);
        sh::run(sh::cargo().args(["build", "-q", "-p"]).args(parts).args(release))?;
    }
    run(options, &vm::folder().join("powercut.log"), |line| println!("{line}"))
}

/// What all boots have come to.
#[derive(Debug, Default)]
struct Tally {
    /// The end of the last step.
    begun: Option<Instant>,
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

    /// The end of this step.
    fn step(&mut self, name: &str) {
        let took = self.begun.replace(Instant::now()).map_or(Duration::ZERO, |begun| begun.elapsed());
        match self.steps.iter_mut().find(|(known, _)| known == name) {
            Some((_, all)) => *all += took,
            None => self.steps.push((name.to_owned(), took)),
        }
    }

    /// Lines for people, after `boots`.
    fn lines(&self, boots: u64) -> Vec<String> {
        let mean = |(name, all): &(String, Duration)| format!("{name} {:.1}", all.as_secs_f64() / boots.max(1) as f64);
        let steps: Vec<String> = self.steps.iter().map(mean).collect();
        let mut lines: Vec<String> = self.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        lines.push(format!("seconds a boot, in the mean: {}", steps.join(", ")));
        lines
    }
}

/// What one boot has said.
#[derive(Debug, Default)]
struct Boot {
    /// Newest change that it acknowledged.
    acknowledged: Option<u64>,
    /// The load under which it was cut, if any.
    state: Option<&'static str>,
    /// How often it did not acknowledge.
    refused: u32,
    lines: Vec<String>,
}

impl Boot {
    /// Takes a line of the guest's; after which time the power goes, if that is decided now.
    fn line(&mut self, line: &str, moment: Moment, tally: &mut Tally, say: impl FnOnce(&str)) -> Option<Duration> {
        self.lines.push(line.to_owned());
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            // Only a whole line is one, and a later one counts.
            "ACKNOWLEDGED" => self.acknowledged = rest.parse().ok().or(self.acknowledged),
            "not" => self.refused += 1,
            "STEP" => tally.step(rest),
            "COUNT" => tally.count(rest),
            "FOUND" => say(rest),
            "LOAD" => self.state = Some(moment.way),
            _ => {}
        }
        // A machine too slow to acknowledge under this load is cut all the same.
        let gives_up = word == "not" && moment.word == "ACKNOWLEDGED" && self.refused >= 2;
        (word == moment.word || gives_up).then_some(moment.after)
    }
}

/// Cuts the power so many times and boots once more. The output of all boots goes to files beside `log`, one a boot; `say` gets a
/// line or two for each. The programs are built by the caller.
pub(crate) fn run(options: &Options, log: &Path, mut say: impl FnMut(&str)) -> Result<()> {
    let kernels: Vec<Kernel> = options.kernels.iter().map(|series| vm::ensure(*series)).collect::<Result<_>>()?;
    let folder = vm::temporary("disks")?;
    let mut disks = Vec::new();
    for (name, bytes, tool) in DISKS {
        let disk = Disk::new(folder.path(), name, bytes)?;
        disk.format(tool)?;
        disks.push(disk);
    }
    let Options { cuts, seed, .. } = options;
    say(&format!("seed {seed}, {cuts} cuts"));
    let (mut tally, mut before) = (Tally::default(), Boot::default());
    for boot in 0..=*cuts {
        let (moment, last) = (options.moment(boot), boot == *cuts);
        let kernel = &kernels[options.turn(boot)];
        let acknowledged = before.acknowledged.map_or_else(|| "-".into(), |number| number.to_string());
        let way = if last { "last" } else { moment.way };
        let (powercut, tracker) = (sh::quote(&options.built("powercut")), sh::quote(&options.built("tracker")));
        let words = format!("{boot} {seed} {acknowledged} {} {way}", before.state.unwrap_or("idle"));
        let script = format!("TRACKER_TEST_BIN={tracker} {powercut} {words}");
        let (started, mut this, cut) = (Instant::now(), Boot::default(), Chosen::default());
        let request = Request { script: &script, limit: LIMIT, disks: &disks, cut: Some(&cut) };

        disks.iter().try_for_each(Disk::power_on)?;
        tally.begun = Some(started);
        let code = vm::run(kernel, request, &log.with_extension(format!("{boot}.log")), |line| {
            let after = this.line(line, moment, &mut tally, |found| say(&format!("boot {boot}: {found}")));
            // The first decision stands.
            cut.set(cut.get().or_else(|| Some(Instant::now() + after.filter(|_| !last)?)));
        })?;
        disks.iter().try_for_each(Disk::power_off)?;

        tally.step(if this.state.is_some() { "load until the cut" } else { "cut or end" });
        this.state.iter().for_each(|way| tally.count(&format!("1 cuts under load ({way})")));
        let now = this.lines.iter().rev().find_map(|line| line.strip_prefix("NOW "));
        now.iter().for_each(|now| tally.count(&format!("1 cuts {now}")));
        if code != last.then_some(0) {
            let output = stream::tail(&this.lines, 80);
            bail!("boot {boot} of the seed {seed} ended with {code:?} (a cut: None); the end of its output:\n{output}");
        }
        let number = this.acknowledged.map_or_else(|| "nothing".into(), |number| number.to_string());
        let end = if last { "ended" } else { &format!("cut {} at {moment:?}", now.unwrap_or("somewhere")) };
        let (kernel, seconds) = (&kernel.release, started.elapsed().as_secs());
        say(&format!("boot {boot}: {kernel} {end}, {number} acknowledged; {seconds} s"));
        before = this;
    }
    tally.lines(cuts + 1).iter().for_each(|line| say(line));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_boots_say_is_added_up() {
        let mut tally = Tally::default();
        ["7 files", "2 others", "4 files", "x files", "5"].into_iter().for_each(|line| tally.count(line));
        for (name, seconds) in [("kernel", 3), ("load", 1), ("kernel", 4)] {
            tally.begun = Some(Instant::now() - Duration::from_secs(seconds));
            tally.step(name);
        }
        let mean = "seconds a boot, in the mean: kernel 3.5, load 0.5";
        assert_eq!(tally.lines(2), ["11 files", "2 others", mean]);
    }

    #[test]
    fn a_seed_gives_the_same_moments_and_every_kind_of_them() {
        let options = |seed| Options { seed, ..Options::of_the_gate(50) };
        let moments = |seed| (0..50).map(|boot| options(seed).moment(boot)).collect::<Vec<_>>();
        assert_eq!(moments(1), moments(1));
        assert_ne!(moments(1), moments(2));
        for seed in 1..20 {
            let loaded = |moment: &&Moment| moment.word != "COMPARING";
            assert!((30..50).contains(&moments(seed).iter().filter(loaded).count()));
            assert_eq!(moments(seed).iter().take(3).filter(loaded).count(), 3);
            assert_ne!(options(seed).turn(0), options(seed).turn(1), "both kernels");
        }
    }

    #[test]
    fn the_power_goes_when_the_guest_has_come_so_far() {
        let after = Duration::from_secs(1);
        for (word, lines, decided) in [
            ("LOAD", &["STEP mounts", "LOAD"][..], 1),
            ("ACKNOWLEDGED", &["LOAD", "ACKNOWLEDGED 5"], 1),
            ("ACKNOWLEDGED", &["LOAD", "not yet", "not yet"], 2),
            ("COMPARING", &["COMPARING", "LOAD"], 0),
        ] {
            let moment = Moment { way: "cut", after, word };
            let (mut boot, mut tally) = (Boot::default(), Tally::default());
            let cuts = lines.iter().map(|line| boot.line(line, moment, &mut tally, |_| ()));
            assert_eq!(cuts.collect::<Vec<_>>().iter().position(Option::is_some), Some(decided), "{lines:?}");
        }
    }
}

//! Values that are written as text: each type parses and prints the one form that the file, the command line and the
//! control interface share, and holds its limits and its default.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use engine::flush;
use engine::scrub::Rate;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::capture::CaptureMode;
use crate::store::StoreUrl;
use crate::units::{self, parse_duration, show_duration};

/// Serde for types that are written with `FromStr` and `Display`.
macro_rules! written_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

written_as_text!(
    CaptureMode,
    Interval,
    ScrubRate,
    MaxDelete,
    ConsistencyMode,
    Pause,
    Listen,
    StopTimeout,
    Lease,
    Memory,
    StoreUrl
);

fn within(text: &str, range: &RangeInclusive<Duration>, what: &str) -> Result<Duration, String> {
    let found = parse_duration(text).map_err(|e| e.to_string())?;
    if range.contains(&found) {
        return Ok(found);
    }
    Err(format!("{what} must lie between {} and {}", show_duration(*range.start()), show_duration(*range.end())))
}

/// A duration with limits and a default.
macro_rules! duration {
    ($(#[$meta:meta])* $name:ident, $default:expr, $range:expr, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub Duration);

        impl Default for $name {
            fn default() -> Self {
                $name($default)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                within(text, &$range, $what).map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&show_duration(self.0))
            }
        }
    };
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

duration! {
    /// Time between two flushes. Below the range a flush would find only its own overhead; above it, "incremental" has no
    /// meaning.
    Interval, Duration::from_millis(250), Duration::from_millis(10)..=seconds(3600), "the interval"
}

duration! {
    /// How long a stop tries to make the last flush. One flush needs some time; a service manager kills what takes too
    /// long.
    StopTimeout, seconds(30), seconds(1)..=seconds(3600), "the time for a stop"
}

duration! {
    /// How long the kernel's programs go on marking after the last daemon was seen. A running daemon renews the lease at
    /// least once a minute; nobody plans for longer than a month.
    Lease, seconds(24 * 3600), seconds(5)..=seconds(31 * 24 * 3600), "the lease of tracking"
}

/// A nice value that does not raise a priority. Unlike the other values it is written as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct Nice(u8);

impl Nice {
    const MAX: u8 = 19;

    /// The nice value to set where `current` is in force, if there is one to set: a process that was started with a higher one
    /// keeps it.
    pub fn above(self, current: i32) -> Option<i32> {
        let wanted = i32::from(self.0);
        (wanted > 0 && wanted > current).then_some(wanted)
    }
}

impl TryFrom<i64> for Nice {
    type Error = String;

    fn try_from(number: i64) -> Result<Nice, String> {
        match u8::try_from(number) {
            Ok(nice) if nice <= Nice::MAX => Ok(Nice(nice)),
            _ => Err(format!("`{number}` is no nice value: 0 (as the process) to {}", Nice::MAX)),
        }
    }
}

impl From<Nice> for u8 {
    fn from(nice: Nice) -> u8 {
        nice.0
    }
}

impl FromStr for Nice {
    type Err = String;

    fn from_str(text: &str) -> Result<Nice, String> {
        let number = text.parse::<i64>();
        number.map_err(|_| format!("`{text}` is no nice value: 0 (as the process) to {}", Nice::MAX))?.try_into()
    }
}

impl fmt::Display for Nice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Kernel memory of all captures on this host together above which no further one is attached, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

impl Default for Memory {
    fn default() -> Memory {
        Memory(1 << 30)
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Memory, String> {
        units::parse_size(text).map(Memory).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::show_size(self.0))
    }
}

/// How much of a volume the scrub reads again in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubRate(pub Rate);

impl Default for ScrubRate {
    fn default() -> ScrubRate {
        ScrubRate(Rate::DEFAULT)
    }
}

/// Highest rate of the scrub: the whole volume once an hour. Tests cannot wait for that: `TRACKER_SCRUB_MAX` sets another
/// one.
fn scrub_percent_max() -> f64 {
    crate::test_switches::value("TRACKER_SCRUB_MAX").unwrap_or(100.0)
}

impl FromStr for ScrubRate {
    type Err = String;

    /// Reads a percentage of the volume per hour, `off` or 0 for none.
    fn from_str(text: &str) -> Result<ScrubRate, String> {
        if text == "off" || text == "0" {
            return Ok(ScrubRate(Rate::OFF));
        }
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match percent {
            Some(percent) if (0.0..=scrub_percent_max()).contains(&percent) => {
                Ok(ScrubRate(Rate { millionths: (percent * 10_000.0).round() as u64 }))
            }
            _ => Err(format!(
                "`{text}` is no share of the volume per hour (write for example 1%, 0.25%, or off; at most 100%)"
            )),
        }
    }
}

impl fmt::Display for ScrubRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Rate::OFF => f.write_str("off"),
            Rate { millionths } => write!(f, "{}%", millionths as f64 / 10_000.0),
        }
    }
}

/// If one flush would remove more than this percentage of the files, the removals wait for confirmation; `None`: none wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxDelete(pub Option<u8>);

impl Default for MaxDelete {
    fn default() -> MaxDelete {
        MaxDelete(flush::MaxDelete::DEFAULT.percent)
    }
}

impl FromStr for MaxDelete {
    type Err = String;

    /// Reads a whole percentage, or `off` for no guard.
    fn from_str(text: &str) -> Result<MaxDelete, String> {
        if text == "off" {
            return Ok(MaxDelete(None));
        }
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<u8>().ok());
        match percent {
            Some(percent) if percent < 100 => Ok(MaxDelete(Some(percent))),
            _ => Err(format!("`{text}` is no share of the files (write for example 50%, at most 99%, or off)")),
        }
    }
}

impl fmt::Display for MaxDelete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(percent) => write!(f, "{percent}%"),
            None => f.write_str("off"),
        }
    }
}

/// Whether commits of one instant are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsistencyMode {
    /// Each commit is made a state of one instant where that can be, and says so.
    #[default]
    Instant,
    /// Each block as it was at some moment of the flush; commits say nothing of an instant.
    Live,
}

impl FromStr for ConsistencyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<ConsistencyMode, String> {
        match text {
            "instant" => Ok(ConsistencyMode::Instant),
            "live" => Ok(ConsistencyMode::Live),
            _ => Err(format!("`{text}` is no consistency (write instant or live)")),
        }
    }
}

impl fmt::Display for ConsistencyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConsistencyMode::Instant => "instant",
            ConsistencyMode::Live => "live",
        })
    }
}

/// For how long writers may be paused so that a commit is of one instant; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause(pub Duration);

impl Pause {
    /// The longest that can be allowed. Looks take milliseconds: a longer pause would not find more.
    const MAX: Duration = Duration::from_secs(1);
}

impl FromStr for Pause {
    type Err = String;

    fn from_str(text: &str) -> Result<Pause, String> {
        match text {
            "0" => Ok(Pause(Duration::ZERO)),
            _ => match parse_duration(text) {
                Ok(pause) if pause <= Pause::MAX => Ok(Pause(pause)),
                Ok(_) => Err(format!("writers are paused for at most {}", show_duration(Pause::MAX))),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::ZERO => f.write_str("0"),
            pause => f.write_str(&show_duration(pause)),
        }
    }
}

/// Where `/metrics`, `/healthz` and `/readyz` are served; `None` for nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl Listen {
    pub const OFF: Listen = Listen(None);
}

/// The default of a daemon: the loopback interface.
impl Default for Listen {
    fn default() -> Listen {
        Listen(Some(SocketAddr::from(([127, 0, 0, 1], 9750))))
    }
}

impl FromStr for Listen {
    type Err = String;

    /// Reads `ADDRESS:PORT`, or `off`.
    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "off" {
            return Ok(Listen::OFF);
        }
        let address = text.parse().map(|address| Listen(Some(address)));
        address.map_err(|_| format!("`{text}` is no ADDRESS:PORT (write for example {}, or off)", Listen::default()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_files_is_read() {
        let read = |text: &str| text.parse::<MaxDelete>().map(|max| max.0);
        assert_eq!(read("50%"), Ok(Some(50)));
        assert_eq!(read("0 %"), Ok(Some(0)));
        assert_eq!(read("off"), Ok(None));
        // 100% would be a guard that never holds anything but seems to exist.
        for wrong in ["", "50", "100%", "-1%", "0.5%", "none", "300%"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_nice_value_gives_way_and_never_raises_a_priority() {
        let nice = |text: &str| text.parse::<Nice>().unwrap();
        assert_eq!(nice("0").above(0), None, "as the process");
        assert_eq!(nice("5").above(0), Some(5));
        assert_eq!(nice("5").above(-10), Some(5), "it is absolute");
        for current in [5, 10, 19] {
            assert_eq!(nice("5").above(current), None, "{current}");
        }
        assert_eq!(nice("0").above(-10), None);
        for wrong in ["", "20", "-1", "300", "5.0", "low"] {
            assert!(wrong.parse::<Nice>().is_err(), "{wrong}");
        }
    }

    /// The control interface sends what is printed here, and the other end reads it.
    #[test]
    fn what_is_printed_reads_back() {
        fn same<T: FromStr<Err: fmt::Debug> + fmt::Display + PartialEq + fmt::Debug>(texts: &[&str]) {
            for text in texts {
                let value: T = text.parse().unwrap();
                assert_eq!(value.to_string().parse::<T>().unwrap(), value, "{text}");
            }
        }
        same::<Interval>(&["10ms", "250ms", "1.5s", "60m"]);
        same::<ScrubRate>(&["off", "0", "0.25%", "0.0001%", "33.3333%", "100%"]);
        same::<MaxDelete>(&["off", "0%", "99%"]);
        same::<Memory>(&["0", "4096", "1GiB", "1.5GiB", "1000001"]);
        same::<Listen>(&["off", "127.0.0.1:9750", "[::1]:1"]);
        same::<Lease>(&["5s", "36h"]);
        same::<ConsistencyMode>(&["instant", "live"]);
        same::<Pause>(&["0", "0s"]);
        assert_eq!(Pause::default().to_string(), "0");
        same::<Nice>(&["0", "19"]);
    }
}

//! Numbers as users write them: durations, sizes, points in history, times.
//!
//! Parsing and printing only; it reads no clock.

use std::str::FromStr;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use engine::model::Seq;
use jiff::Timestamp;

/// Why a text is not a duration, size or point in history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("`{text}` is no duration (write for example 250ms, 1s, 5m)")]
    Duration { text: String },
    #[error("`{text}` is no size (write for example 4096, 64KiB, 256MiB)")]
    Size { text: String },
    #[error("`{text}` is neither a seq (digits) nor a time such as 2026-11-24T06:00:00Z")]
    At { text: String },
}

/// Reads a duration: a whole or decimal number and one of `ns us ms s m h d`; several parts add up (`1m30s`).
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let error = || UnitError::Duration { text: text.to_string() };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            _ => return Err(error()),
        };
        let part = scaled(number, nanos).ok_or_else(error)?;
        total = total.checked_add(Duration::from_nanos(part)).ok_or_else(error)?;
        rest = tail;
    }
    Ok(total)
}

/// Parses a size in bytes: digits alone, or with `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1,024), `kB`, `MB`, `GB`, `TB`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let error = || UnitError::Size { text: text.to_string() };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let scale: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(error()),
    };
    scaled(number, scale).ok_or_else(error)
}

/// `number * scale` for `12` or `1.5`, exactly, rounded down to an integer; `None` if malformed or too large.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let mut value = u128::from(whole.parse::<u64>().ok()?) * u128::from(scale);
    if !fraction.is_empty() {
        let digits = u32::try_from(fraction.len()).ok()?;
        value += u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale) / 10u128.pow(digits);
    }
    u64::try_from(value).ok()
}

/// A size as the configuration writes it: the largest unit that keeps it whole.
pub fn show_size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.into_iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// A size for people: `512 B`, `1.5 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Seconds for people: `0 s`, `35 ms`, `1.20 s`, `3m 20s`.
pub fn show_seconds(seconds: f64) -> String {
    if seconds <= 0.0 {
        "0 s".to_string()
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 60.0 {
        format!("{seconds:.2} s")
    } else {
        let whole = seconds as u64;
        match (whole / 3600, whole / 60 % 60, whole % 60) {
            (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
            (hours, minutes, _) => format!("{hours}h {minutes}m"),
        }
    }
}

/// A duration as the configuration writes it: the largest unit that keeps it whole.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, scale) in [("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanos >= scale && nanos.is_multiple_of(scale) {
            return format!("{}{unit}", nanos / scale);
        }
    }
    format!("{nanos}ns")
}

/// A point in a volume's history, as `--at` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The commit with this number.
    Seq(Seq),
    /// The last commit not later than this.
    Time(Timestamp),
}

impl FromStr for At {
    type Err = UnitError;

    /// Digits are a seq; everything else must be an RFC 3339 time with its zone.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::At { text: text.to_string() };
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(At::Seq).map_err(|_| error());
        }
        text.parse().map(At::Time).map_err(|_| error())
    }
}

impl At {
    /// The time in nanoseconds since 1970 for `Time`, as commits carry it; 0 for times before that.
    pub fn unix_nanos(self) -> Option<u64> {
        match self {
            At::Seq(_) => None,
            At::Time(time) => Some(u64::try_from(time.as_nanosecond()).unwrap_or(0)),
        }
    }
}

/// RFC 3339 in UTC for nanoseconds since 1970; `?` if no calendar date can represent it.
pub fn rfc3339(unix_nanos: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(unix_nanos)) {
        Ok(time) => time.to_string(),
        Err(_) => "?".to_string(),
    }
}

/// Bytes of a file name or path in JSON: `path` if they are UTF-8, else `path_base64`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PathField {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_base64: Option<String>,
}

impl PathField {
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(path) => PathField { path: Some(path.to_string()), path_base64: None },
            Err(_) => PathField { path: None, path_base64: Some(BASE64_STANDARD.encode(bytes)) },
        }
    }

    /// The original bytes; empty if a peer sent neither field, or invalid base64.
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.path, &self.path_base64) {
            (Some(path), _) => path.clone().into_bytes(),
            (None, code) => code.as_ref().and_then(|code| BASE64_STANDARD.decode(code).ok()).unwrap_or_default(),
        }
    }

    /// For a terminal: quoted as a shell takes it (see [`crate::quoting`]).
    pub fn for_people(&self) -> String {
        crate::quoting::quote(&self.bytes())
    }
}

/// The number of a commit in JSON.
pub fn seq<S: serde::Serializer>(seq: &engine::model::Seq, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(seq.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("250ms", 250_000_000),
            ("1s", 1_000_000_000),
            ("5m", 300_000_000_000),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90_000_000_000),
            ("0s", 0),
            ("10us", 10_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in
            ["", "5", "ms", "1 s", "-1s", "1x", "1..2s", ".5s", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(show_duration(Duration::from_millis(250)), "250ms");
        assert_eq!(show_duration(Duration::from_secs(300)), "5m");
        assert_eq!(show_duration(Duration::ZERO), "0ns");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64KiB", 65536), ("256 MiB", 256 << 20), ("1.5GiB", 3 << 29), ("1kB", 1000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1Ki", "18446744073709551616", "17179869184GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_seconds(0.035), "35 ms");
        assert_eq!(show_seconds(3723.0), "1h 2m");
    }

    #[test]
    fn points_in_history() {
        assert_eq!("42".parse(), Ok(At::Seq(Seq(42))));
        let at: At = "2026-11-24T06:00:00+01:00".parse().unwrap();
        assert_eq!(at.unix_nanos(), Some(1_795_496_400_000_000_000));
        assert_eq!(rfc3339(1_795_496_400_000_000_000), "2026-11-24T05:00:00Z");
        assert_eq!("1960-01-01T00:00:00Z".parse::<At>().unwrap().unix_nanos(), Some(0));
        for text in ["", "yesterday", "2026-11-24", "2026-11-24T06:00:00", "99999999999999999999"] {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
        assert_eq!(rfc3339(u64::MAX), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn paths_that_are_not_utf8_become_base64() {
        assert_eq!(serde_json::to_string(&PathField::new(b"a/b")).unwrap(), r#"{"path":"a/b"}"#);
        assert_eq!(serde_json::to_string(&PathField::new(b"\xff\x00a")).unwrap(), r#"{"path_base64":"/wBh"}"#);
        for bytes in [&b"a\nb"[..], b"\xff\x00a", b"", b"base64:Zg=="] {
            assert_eq!(PathField::new(bytes).bytes(), bytes);
        }
        assert_eq!(PathField::new(b"a\nb").for_people(), "$'a\\nb'");
    }
}

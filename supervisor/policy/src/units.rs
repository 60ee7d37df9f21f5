//! Quantities of profiles: each is written with its unit.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An amount of memory or storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(pub u64);

/// A share of one CPU in percent: 200 is two CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Percent(pub u32);

const SIZES: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Bytes {
    /// Reads `"8GiB"`.
    ///
    /// # Errors
    /// With what is accepted, when it is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        scaled(text, &SIZES)
            .map(Self)
            .ok_or_else(|| "a size is a number and B, KiB, MiB, GiB or TiB, like \"8GiB\"".into())
    }
}

impl Percent {
    /// Reads `"200%"`.
    ///
    /// # Errors
    /// With what is accepted, when it is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
        number
            .filter(|&percent| percent > 0)
            .map(Self)
            .ok_or_else(|| "a share is percent of one CPU, like \"200%\"".into())
    }
}

/// Reads `"15m"`.
///
/// # Errors
/// With what is accepted, when it is something else.
pub fn duration(text: &str) -> Result<Duration, String> {
    let milliseconds = scaled(text, &TIMES);
    milliseconds
        .map(Duration::from_millis)
        .ok_or_else(|| "a duration is a number and ms, s, m, h or d, like \"15m\"".into())
}

/// Zero is no quantity: a limit of nothing starts nothing, so it is a mistake in the profile.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let number = text[..digits].parse::<u64>().ok().filter(|&number| number > 0)?;
    let unit = text[digits..].trim_start_matches(' ');
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |&&(_, factor): &&(&str, u64)| self.0 >= factor && self.0.is_multiple_of(factor);
        let (unit, factor) = SIZES.iter().rev().find(fits).unwrap_or(&SIZES[0]);
        write!(out, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_are_exact() {
        assert_eq!(Bytes::parse("8GiB"), Ok(Bytes(8 << 30)));
        assert_eq!(Bytes(1536 << 20).to_string(), "1536MiB");
        for wrong in
            ["8", "8GB", "GiB", "-1B", "0B", "99999999999999999999B", "18446744073709551615TiB", "8.5GiB", ""]
        {
            assert!(Bytes::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_and_shares_need_a_unit() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert!(duration("15").is_err() && duration("1w").is_err() && duration("0s").is_err());
        assert_eq!(Percent::parse("200%"), Ok(Percent(200)));
        assert!(Percent::parse("200").is_err() && Percent::parse("0%").is_err());
    }
}

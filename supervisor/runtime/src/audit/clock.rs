//! The two clocks of a record: the wall clock, which people read and anyone may set, and the boot clock, which
//! only goes forward and runs on through suspend.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: SystemTime,
    pub(super) boot: Duration,
}

impl Moment {
    pub(super) fn now() -> Self {
        // CLOCK_BOOTTIME exists since Linux 2.6.39 and cannot fail with a valid pointer.
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self { wall: SystemTime::now(), boot }
    }
}

/// This boot's id, 36 characters, by which boot times of different boots are told apart.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// RFC 3339 in UTC with microseconds: `2026-11-20T20:24:51.000123Z`, always 27 characters, so that the order of
/// the strings is the order of the times.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

/// The time of an RFC 3339 text in UTC; the fraction and even the time of day may be missing.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next().unwrap_or(Some(0))?);
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    // A day of the month too many would be one of the next month: then the way back leads elsewhere.
    let days = days(year, month, day).filter(|&days| civil(days) == (year, month, day))?;
    let nanos = number(fraction)? * 10_u64.pow(9 - u32::try_from(fraction.len()).ok()?);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

fn number(digits: &str) -> Option<u64> {
    let digits =
        Some(digits).filter(|d| (1..=9).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Days from 1970-01-01 to a date, after Howard Hinnant's `days_from_civil`.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year - u64::from(month <= 2);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let (era, yoe) = (year / 400, year % 400);
    (era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy).checked_sub(719_468)
}

/// Year, month and day of a day counted from 1970-01-01, after Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
    }

    #[test]
    fn known_times_are_written_and_read_back() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_609_459_199, "2020-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(at(seconds, 0)), text);
            assert_eq!(parse_rfc3339(text), Some(at(seconds, 0)), "{text}");
        }
        assert_eq!(rfc3339(at(1, 42)), "1970-01-01T00:00:01.000042Z");
    }

    #[test]
    fn days_until_2500_survives_a_round_trip() {
        for day in (0..193_000).step_by(3) {
            let time = at(day * 86_400 + day % 86_400, day % 1_000_000);
            assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }
    }

    #[test]
    fn short_forms_are_read_and_nonsense_is_not() {
        assert_eq!(parse_rfc3339("1970-01-02"), Some(at(86_400, 0)));
        assert_eq!(parse_rfc3339("1970-01-02 01:00"), Some(at(90_000, 0)));
        for text in [
            "",
            "x",
            "1970-02-30",
            "1970-13-01",
            "1970-01-01T24:00:00",
            "1969-01-01",
            "1970-01-01T00:00:00.-1Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}

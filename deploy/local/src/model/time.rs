//! The time of a cloud. Callers pass it in; the model never reads a clock.

use std::ops::Add;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Seconds with a fraction, the timestamps of the JSON protocols.
    pub fn epoch_seconds(self) -> f64 {
        Duration::from_millis(self.0).as_secs_f64()
    }

    /// `2026-01-01T00:00:00Z`, the timestamps of the XML protocols.
    pub fn iso(self) -> String {
        self.civil("%Y-%m-%dT%H:%M:%SZ")
    }

    /// `Thu, 01 Jan 2026 00:00:00 GMT`, the timestamps of HTTP headers.
    pub fn http_date(self) -> String {
        self.civil("%a, %d %b %Y %H:%M:%S GMT")
    }

    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    fn civil(self, format: &str) -> String {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX).strftime(format).to_string()
    }
}

/// The epoch for earlier times.
impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        Self::default() + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_format_of_each_protocol() {
        let time = Time::from_millis(1_767_225_600_250);
        assert_eq!(time.iso(), "2026-01-01T00:00:00Z");
        assert_eq!(time.http_date(), "Thu, 01 Jan 2026 00:00:00 GMT");
        assert!((time.epoch_seconds() - 1_767_225_600.25).abs() < 1e-9);
    }
}

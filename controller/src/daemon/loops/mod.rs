//! The loops: each one waits for a cause and enqueues the locations that it concerns.

pub mod refresh;
pub mod refs;
pub mod source;
pub mod sweep;
pub mod tags;
pub mod worker;

use std::time::Duration;

/// The shortest and the longest time between two reads of waiting locations.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause after a read that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The pause after a read of this many locations: reads are rare enough to leave most of AWS's rates to changes.
fn pause_after(locations: usize, for_each: Duration) -> Duration {
    (for_each * u32::try_from(locations).unwrap_or(u32::MAX)).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_batch_within_limits() {
        let each = Duration::from_millis(60);
        assert_eq!(pause_after(1, each), SHORTEST_PAUSE);
        assert_eq!(pause_after(100, each), Duration::from_secs(6));
        assert_eq!(pause_after(100_000, each), LONGEST_PAUSE);
    }
}

//! When codeloc lists the images of each location to delete unused ones: once a day, spread over the day, and not in the first hour.
//! A start costs no calls for it, and locations that were created together are not read together.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Mutex;
use std::time::Duration;

use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use tokio::time::Instant;

const EVERY: Duration = Duration::from_hours(24);
const FIRST_AFTER: Duration = Duration::from_hours(1);
/// The first time of each location is within a day after the start.
const SPREAD: Duration = Duration::from_hours(23);

#[derive(Debug)]
pub struct ImageSchedule {
    started: Instant,
    next: Mutex<HashMap<LocationName, Instant>>,
}

impl ImageSchedule {
    pub fn starting_at(started: Instant) -> Self {
        Self { started, next: Mutex::default() }
    }

    pub fn is_due(&self, name: &LocationName, now: Instant) -> bool {
        let next = lock(&self.next).get(name).copied();
        next.unwrap_or_else(|| self.started + FIRST_AFTER + spread(name)) <= now
    }

    /// Records an attempt, successful or not.
    pub fn done(&self, name: &LocationName, now: Instant) {
        lock(&self.next).insert(name.clone(), now + EVERY);
    }

    pub fn forget(&self, name: &LocationName) {
        lock(&self.next).remove(name);
    }
}

/// A delay that differs between locations and is the same after each start.
fn spread(name: &LocationName) -> Duration {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    Duration::from_secs(hash % SPREAD.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    #[tokio::test(start_paused = true)]
    async fn each_location_is_due_once_a_day_after_the_first_hour() {
        let start = Instant::now();
        let schedule = ImageSchedule::starting_at(start);
        let names: Vec<LocationName> = (0..1000).map(|number| location_name(&format!("location{number}"))).collect();
        let mut turns = vec![0; names.len()];
        let mut most_at_once = 0;
        for minute in 0..3 * 24 * 60 {
            let now = start + Duration::from_mins(minute);
            let mut at_once = 0;
            for (name, turns) in names.iter().zip(&mut turns) {
                if schedule.is_due(name, now) {
                    assert!(minute >= 60, "{name} at minute {minute}");
                    schedule.done(name, now);
                    *turns += 1;
                    at_once += 1;
                }
            }
            most_at_once = most_at_once.max(at_once);
        }
        assert!(turns.iter().all(|turns| *turns == 3 || *turns == 2), "{turns:?}");
        assert!(most_at_once < 10, "{most_at_once} in one minute");
    }
}

//! Backing off after a failed pass, longer with each failure in a row.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use codeloc_aws::Class;
use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(300);
/// AWS needs seconds, at most a minute, until it sees a new resource. After this time only a person can help: a missing `iam:PassRole` has
/// the same words as a role that is too new.
const LONGEST_NOT_YET: Duration = Duration::from_mins(2);

/// Failed passes in a row, by location. A restart forgets them.
#[derive(Debug, Default)]
pub struct Retry {
    failures: Mutex<HashMap<LocationName, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// The time of the first one.
    since: Instant,
    /// The time of the first one of the class [`Class::NotYet`].
    not_yet: Option<Instant>,
}

/// How codeloc reacts to a failed pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// The class of the error, after the time that it has lasted.
    pub class: Class,
    /// How long to wait before the next pass.
    pub backoff: Duration,
}

impl Retry {
    /// Counts a failed pass.
    pub fn failed(&self, name: &LocationName, class: Class) -> Reaction {
        let (mut failures, now) = (lock(&self.failures), Instant::now());
        let failures = failures.entry(name.clone()).or_insert(Failures { count: 0, since: now, not_yet: None });
        failures.count += 1;
        let class = match class {
            Class::NotYet if *failures.not_yet.get_or_insert(now) + LONGEST_NOT_YET <= now => Class::Terminal,
            class => class,
        };
        let doubled = FIRST.saturating_mul(1 << (failures.count - 1).min(16));
        Reaction { class, backoff: doubled.min(longest(class)) }
    }

    pub fn succeeded(&self, name: &LocationName) {
        lock(&self.failures).remove(name);
    }

    /// When the first of the failures in a row happened; nothing after a success. `name` is that of a status.
    pub fn failing_since(&self, name: &str) -> Option<Instant> {
        lock(&self.failures).get(name).map(|failures| failures.since)
    }
}

fn longest(class: Class) -> Duration {
    match class {
        Class::NotYet => Duration::from_secs(5),
        // The rate limit already delays the next call.
        Class::Throttled => Duration::from_secs(2),
        // The location waits for the lease.
        Class::Fenced => Duration::from_secs(15),
        Class::Transient | Class::Terminal => LAST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    #[tokio::test(start_paused = true)]
    async fn each_failure_in_a_row_doubles_the_wait() {
        let retry = Retry::default();
        let waits: Vec<u64> =
            (0..11).map(|_| retry.failed(&location_name("orders"), Class::Transient).backoff.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_starts_the_count_again() {
        let retry = Retry::default();
        retry.failed(&location_name("orders"), Class::Terminal);
        retry.failed(&location_name("orders"), Class::Terminal);
        retry.succeeded(&location_name("orders"));
        assert_eq!(retry.failing_since("orders"), None);
        assert_eq!(retry.failed(&location_name("orders"), Class::Terminal).backoff, FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resource_that_aws_does_not_see_is_retried_soon() {
        let retry = Retry::default();
        for _ in 0..20 {
            let Reaction { class, backoff } = retry.failed(&location_name("orders"), Class::NotYet);
            assert!(class == Class::NotYet && backoff <= Duration::from_secs(5));
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        // Another failure in between does not start the time again.
        retry.failed(&location_name("orders"), Class::Throttled);
        tokio::time::advance(Duration::from_secs(20)).await;
        let late = retry.failed(&location_name("orders"), Class::NotYet);
        assert_eq!(late, Reaction { class: Class::Terminal, backoff: LAST });
        retry.succeeded(&location_name("orders"));
        assert_eq!(retry.failed(&location_name("orders"), Class::NotYet).class, Class::NotYet);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_one_location_do_not_delay_another() {
        let retry = Retry::default();
        for _ in 0..5 {
            retry.failed(&location_name("orders"), Class::Transient);
        }
        assert_eq!(retry.failed(&location_name("billing"), Class::Transient).backoff, FIRST);
    }
}

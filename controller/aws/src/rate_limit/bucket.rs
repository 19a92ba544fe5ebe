//! One token bucket that learns the rate of AWS's bucket. Pure: the time is an argument.

use std::time::Duration;

/// Successes under demand before the rate is raised for the first time: enough that AWS refuses a rate that is one probe too high.
const FIRST_PROBE: u32 = 12;
/// The most successes before a probe: a rate that is too low is corrected within a day's work.
const LAST_PROBE: u32 = 5_000;
/// The longest time between two probes: a rate learned in a bad hour is corrected in the next.
const PROBE_AT_LEAST: Duration = Duration::from_secs(300);
/// The lowest rate, as a part of the initial one: refusals by chance measure nothing.
const FLOOR: f64 = 0.1;
/// The highest rate, as a multiple of the initial one: without refusals there is nothing to learn.
const CEILING: f64 = 100.0;
/// The factor by which a probe raises the rate. AWS refuses a large step soon, which measures its rate.
const PROBE: f64 = 1.25;
/// Tokens that the real bucket may have held when a probe started.
const SURPLUS: f64 = 2.0;
/// Refusals within this time come from the same empty bucket.
const SAME_REFUSAL: Duration = Duration::from_millis(100);
/// Fewer calls than this between two refusals do not measure a rate.
const ENOUGH: u32 = 10;

#[derive(Debug)]
pub(super) struct Bucket {
    burst: f64,
    initial: f64,
    rate: f64,
    tokens: f64,
    filled: Duration,
    /// When the rate was last changed.
    changed: Duration,
    /// The highest rate at which AWS refused nothing for a while.
    proven: f64,
    /// Successes under demand since the rate last changed.
    successes: u32,
    probe_after: u32,
    /// When the rate was last raised since the last refusal, and the number of tokens taken before.
    probing: Option<(Duration, u32)>,
    last_refusal: Option<Duration>,
    /// Tokens taken since the last refusal.
    taken: u32,
    /// Whether more than one token was left at some time since the last refusal: then the real bucket filled up too.
    slack: bool,
    /// Whether the bucket has been empty since it last held more than one token.
    hungry: bool,
    refusals: u64,
}

impl Bucket {
    pub fn new(burst: f64, rate: f64) -> Self {
        Self {
            burst,
            initial: rate,
            rate,
            tokens: burst,
            filled: Duration::ZERO,
            changed: Duration::ZERO,
            proven: rate,
            successes: 0,
            probe_after: FIRST_PROBE,
            probing: None,
            last_refusal: None,
            taken: 0,
            slack: true,
            hungry: false,
            refusals: 0,
        }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.filled = now;
    }

    /// Takes a token, or returns the time until the next one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.refill(now);
        // Rounding may leave slightly less than one token.
        if self.tokens >= 1.0 - 1e-6 {
            if self.tokens >= 2.0 {
                self.slack = true;
                self.hungry = false;
            }
            self.tokens -= 1.0;
            self.taken += 1;
            return Ok(());
        }
        self.hungry = true;
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
    }

    /// A call passed. `waited_for`: other calls wait, so the rate is the bottleneck.
    pub fn passed(&mut self, waited_for: bool) {
        // Only calls that waited for their token measure the rate.
        if !waited_for || !self.hungry {
            return;
        }
        self.successes += 1;
        let long_ago = self.filled.saturating_sub(self.changed) >= PROBE_AT_LEAST && self.successes >= FIRST_PROBE;
        if self.successes >= self.probe_after || long_ago {
            self.changed = self.filled;
            self.proven = self.rate;
            self.rate = (self.rate * PROBE).min(self.initial * CEILING);
            self.successes = 0;
            // The previous probe passed: probe sooner.
            if self.probing.is_some() {
                self.probe_after = (self.probe_after / 2).max(FIRST_PROBE);
            }
            self.probing = Some((self.filled, self.taken));
        }
    }

    /// AWS refused a call: the real bucket is empty now.
    pub fn refused(&mut self, now: Duration) {
        self.refusals += 1;
        self.refill(now);
        let since = self.last_refusal.map(|at| now.saturating_sub(at));
        if since.is_some_and(|since| since < SAME_REFUSAL) {
            self.tokens = self.tokens.min(0.0);
            return;
        }
        if self.tokens >= 1.0 {
            // The real bucket is smaller by the tokens that were left here.
            self.burst = (self.burst - self.tokens).max(1.0);
        }
        self.rate = match (self.probing, since) {
            // The calls that passed during the probe, less the tokens left from before, came in while it lasted.
            (Some((began, before)), _) => {
                let passed = f64::from(self.taken - before) - 1.0 - SURPLUS;
                let lasted = now.saturating_sub(began).as_secs_f64();
                (passed / lasted.max(0.001)).clamp(self.proven, self.rate)
            }
            // Empty then and empty now: the calls in between are exactly the tokens that came in.
            (None, Some(since)) if !self.slack && self.taken > ENOUGH => {
                (f64::from(self.taken - 1) / since.as_secs_f64()).clamp(self.rate / 2.0, self.proven)
            }
            // Refused again at once: the rate is far too high.
            (None, Some(_)) if !self.slack => self.rate * 0.7,
            _ => self.rate,
        };
        self.rate = self.rate.max(self.initial * FLOOR);
        self.changed = now;
        self.proven = self.rate;
        self.tokens = 0.0;
        self.successes = 0;
        self.probe_after = (self.probe_after * 2).min(LAST_PROBE);
        self.last_refusal = Some(now);
        self.taken = 0;
        self.slack = false;
        self.probing = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bucket of AWS.
    struct Real {
        burst: f64,
        rate: f64,
        tokens: f64,
        filled: f64,
    }

    impl Real {
        fn admits(&mut self, now: f64) -> bool {
            self.tokens = (self.tokens + (now - self.filled) * self.rate).min(self.burst);
            self.filled = now;
            let admitted = self.tokens >= 1.0;
            self.tokens -= if admitted { 1.0 } else { 0.0 };
            admitted
        }
    }

    struct Run {
        seconds: f64,
        refused: u32,
        refused_late: u32,
    }

    /// Drives `calls` calls that all wait from the start and are repeated if refused.
    fn drive(initial: (f64, f64), real: (f64, f64), calls: u32) -> Run {
        let mut bucket = Bucket::new(initial.0, initial.1);
        let mut aws = Real { burst: real.0, rate: real.1, tokens: real.0, filled: 0.0 };
        let mut now = Duration::ZERO;
        let mut run = Run { seconds: 0.0, refused: 0, refused_late: 0 };
        let mut done = 0;
        while done < calls {
            match bucket.take(now) {
                Ok(()) if aws.admits(now.as_secs_f64()) => {
                    bucket.passed(true);
                    done += 1;
                }
                Ok(()) => {
                    bucket.refused(now);
                    run.refused += 1;
                    run.refused_late += u32::from(done > calls / 10);
                }
                Err(pause) => now += pause,
            }
        }
        run.seconds = now.as_secs_f64();
        run
    }

    #[test]
    fn a_right_initial_rate_is_used_fully() {
        let run = drive((20.0, 1.0), (20.0, 1.0), 1000);
        assert!(run.seconds <= 980.0 * 1.02, "{} s", run.seconds);
        assert!(run.refused <= 10, "{} refused", run.refused);
    }

    #[test]
    fn half_and_twice_the_initial_rate_are_learned() {
        for (rate, bound) in [(0.5, 980.0 / 0.5), (2.0, 980.0 / 2.0)] {
            let run = drive((20.0, 1.0), (20.0, rate), 1000);
            assert!(run.seconds <= bound * 1.15, "rate {rate}: {} s, bound {bound}", run.seconds);
            assert!(run.refused_late <= 10, "rate {rate}: {} refused late", run.refused_late);
        }
    }

    #[test]
    fn a_smaller_burst_is_learned_from_its_first_refusal() {
        let run = drive((50.0, 5.0), (10.0, 5.0), 500);
        assert!(run.refused <= 10, "{} refused", run.refused);
        assert!(run.seconds <= 98.0 * 1.05, "{} s", run.seconds);
    }

    /// As when a network drops every tenth call for an hour.
    #[test]
    fn refusals_by_chance_do_not_stop_the_bucket() {
        let mut bucket = Bucket::new(20.0, 10.0);
        let mut now = Duration::ZERO;
        for call in 0..2_000_u32 {
            while let Err(pause) = bucket.take(now) {
                now += pause;
            }
            if call % 10 == 0 { bucket.refused(now) } else { bucket.passed(true) }
        }
        assert!(bucket.rate() >= 1.0, "{}", bucket.rate());
        let began = now;
        for _ in 0..4_000 {
            while let Err(pause) = bucket.take(now) {
                now += pause;
            }
            bucket.passed(true);
        }
        let lasted = now.saturating_sub(began);
        assert!(lasted.as_secs() < 2_000, "{lasted:?}, rate {}", bucket.rate());
    }

    proptest! {
        #[test]
        fn any_real_bucket_is_learned_with_few_refusals(
            burst in 1.0..60.0_f64, rate in 0.6..30.0_f64,
        ) {
            let run = drive((20.0, 5.0), (burst, rate), 600);
            let bound = (600.0 - burst) / rate;
            prop_assert!(run.seconds <= bound * 2.5 + 20.0, "{} s, bound {bound}", run.seconds);
            prop_assert!(run.refused <= 120, "{} refused", run.refused);
        }
    }
}

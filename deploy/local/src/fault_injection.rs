//! Fault injection: failures of the network, a load balancer and a busy control plane, by plan or drawn from a seed.
//!
//! A fault affects only what the caller sees; the cloud stays consistent. Equal plans and equal calls give equal faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Throttled, with the error code of the service.
    Throttle,
    /// Throttled, in the message of an `InvalidParameterException` (seen from ECS in dagster#33439).
    HiddenThrottle,
    /// 500, nothing applied.
    ServerError,
    /// 503, nothing applied.
    Unavailable,
    /// Answered after this delay.
    Delay(Duration),
    /// The connection breaks before the call is applied.
    ResetBefore,
    /// The connection breaks after the call is applied; the answer is lost.
    ResetAfter,
    /// No answer comes. Only a timeout of the caller ends the call.
    Hang { applied: bool },
}

impl Fault {
    /// The outcome in the record of calls.
    pub fn description(self) -> &'static str {
        match self {
            Self::Throttle => "fault: throttled",
            Self::HiddenThrottle => "fault: throttled, in a message",
            Self::ServerError => "fault: 500",
            Self::Unavailable => "fault: 503",
            Self::Delay(_) => "fault: delayed",
            Self::ResetBefore => "fault: reset before",
            Self::ResetAfter => "fault: reset after",
            Self::Hang { applied: false } => "fault: hangs, not applied",
            Self::Hang { applied: true } => "fault: hangs, applied",
        }
    }
}

/// The probability of each fault, in 1/1000 of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chances {
    pub throttle: u32,
    pub hidden_throttle: u32,
    pub server_error: u32,
    pub delay: u32,
    pub reset_before: u32,
    pub reset_after: u32,
    pub hang: u32,
}

impl Chances {
    /// Makes each fault this many times as likely.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self {
            throttle: factor * self.throttle,
            hidden_throttle: factor * self.hidden_throttle,
            server_error: factor * self.server_error,
            delay: factor * self.delay,
            reset_before: factor * self.reset_before,
            reset_after: factor * self.reset_after,
            hang: factor * self.hang,
        }
    }
}

/// The properties of a call that rules match.
#[derive(Clone, Copy, Debug)]
pub struct CallInfo<'a> {
    pub caller: &'a str,
    pub service: &'static str,
    pub operation: &'a str,
    pub mutating: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    /// By the number of the call, from 1, among those that the rule matches.
    At(BTreeMap<u64, Fault>),
    Always(Fault),
    Random(fastrand::Rng, Chances),
}

/// One rule of a plan. It matches all calls until it is narrowed.
#[derive(Clone, Debug)]
pub struct Rule {
    kind: Kind,
    caller: Option<String>,
    operations: BTreeSet<&'static str>,
    without: BTreeSet<&'static str>,
    mutating: bool,
    counted: u64,
}

impl Rule {
    fn new(kind: Kind) -> Self {
        Self { kind, caller: None, operations: BTreeSet::new(), without: BTreeSet::new(), mutating: false, counted: 0 }
    }

    /// Matches the `number`-th call from now, from 1.
    pub fn at(number: u64, fault: Fault) -> Self {
        Self::new(Kind::At(BTreeMap::from([(number, fault)])))
    }

    pub fn always(fault: Fault) -> Self {
        Self::new(Kind::Always(fault))
    }

    pub fn random(seed: u64, chances: Chances) -> Self {
        Self::new(Kind::Random(fastrand::Rng::with_seed(seed), chances))
    }

    /// Matches only calls signed with this access key id.
    #[must_use]
    pub fn of(self, caller: &str) -> Self {
        Self { caller: Some(caller.to_owned()), ..self }
    }

    /// Matches only these operations.
    #[must_use]
    pub fn on(mut self, operations: &[&'static str]) -> Self {
        self.operations.extend(operations);
        self
    }

    /// Matches no calls of these services, named as in the record of calls.
    #[must_use]
    pub fn but(mut self, services: &[&'static str]) -> Self {
        self.without.extend(services);
        self
    }

    #[must_use]
    pub fn mutating_only(self) -> Self {
        Self { mutating: true, ..self }
    }

    fn next(&mut self, call: CallInfo<'_>) -> Option<Fault> {
        let matches = self.caller.as_deref().is_none_or(|caller| caller == call.caller)
            && (self.operations.is_empty() || self.operations.contains(call.operation))
            && !self.without.contains(call.service)
            && (call.mutating || !self.mutating);
        if !matches {
            return None;
        }
        self.counted += 1;
        match &mut self.kind {
            Kind::At(numbers) => numbers.get(&self.counted).copied(),
            Kind::Always(fault) => Some(*fault),
            Kind::Random(rng, chances) => draw(rng, chances),
        }
    }
}

fn draw(rng: &mut fastrand::Rng, chances: &Chances) -> Option<Fault> {
    let mut rest = rng.u32(0..1000);
    // Draw these for every call, so that the fault of one call does not change later draws.
    let (delay, applied) = (Duration::from_millis(rng.u64(100..8_000)), rng.bool());
    let kinds = [
        (chances.throttle, Fault::Throttle),
        (chances.hidden_throttle, Fault::HiddenThrottle),
        (chances.server_error, if applied { Fault::ServerError } else { Fault::Unavailable }),
        (chances.delay, Fault::Delay(delay)),
        (chances.reset_before, Fault::ResetBefore),
        (chances.reset_after, Fault::ResetAfter),
        (chances.hang, Fault::Hang { applied }),
    ];
    for (chance, fault) in kinds {
        if rest < chance {
            return Some(fault);
        }
        rest -= chance;
    }
    None
}

/// A fault plan. The first rule with a fault for a call wins; every rule counts every call that it matches.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rules: Vec<Rule>,
}

impl Faults {
    pub fn none() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn and(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    pub fn next(&mut self, call: CallInfo<'_>) -> Option<Fault> {
        let mut found = None;
        for rule in &mut self.rules {
            let fault = rule.next(call);
            found = found.or(fault);
        }
        found
    }
}

impl From<Rule> for Faults {
    fn from(rule: Rule) -> Self {
        Self { rules: vec![rule] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: &'static str, mutating: bool) -> CallInfo<'static> {
        CallInfo { caller: "a", service: "ecs", operation, mutating }
    }

    #[test]
    fn a_rule_counts_only_matching_calls() {
        let mut faults = Faults::from(Rule::at(2, Fault::ResetAfter).mutating_only().of("a"));
        let other_caller = CallInfo { caller: "b", ..call("CreateService", true) };
        assert_eq!(faults.next(call("CreateService", true)), None);
        assert_eq!(faults.next(call("ListServices", false)), None);
        assert_eq!(faults.next(other_caller), None);
        assert_eq!(faults.next(call("UpdateService", true)), Some(Fault::ResetAfter));
        assert_eq!(faults.next(call("UpdateService", true)), None);
    }

    #[test]
    fn a_rule_excludes_services() {
        let mut faults = Faults::from(Rule::always(Fault::Throttle).but(&["s3"]));
        assert_eq!(faults.next(CallInfo { service: "s3", ..call("PutObject", true) }), None);
        assert_eq!(faults.next(call("CreateService", true)), Some(Fault::Throttle));
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let chances = Chances { throttle: 100, delay: 100, reset_after: 100, hang: 50, ..Chances::default() };
        let drawn = |seed| {
            let mut faults = Faults::from(Rule::random(seed, chances));
            (0..1000).map(|_| faults.next(call("ListServices", false))).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let faultd = drawn(7).iter().flatten().count();
        assert!((250..450).contains(&faultd), "{faultd} of 1000");
    }
}

//! How fast AWS may be called: one token bucket for each family of operations that AWS counts together, shared by everybody in
//! this process. Whoever is more urgent gets the next token; among equals, whoever came first.
//!
//! The figures below are where learning starts. AWS publishes few of them and changes them by account, so each bucket learns: a
//! refusal tells that the real bucket is empty at that moment, two of them in a row of calls tell its rate; while
//! calls wait and none is refused, the rate is raised bit by bit.

mod bucket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bucket::Bucket;
use codeloc_core::lock::lock;
use codeloc_core::priority::Priority;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Operations that share a bucket in AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    TaskDefinitionsModify,
    TaskDefinitionsRead,
    ServicesModify,
    ServicesRead,
    TasksRead,
    EcsTags,
    CloudMapList,
    CloudMapModify,
    CloudMapRead,
    IamWrite,
    IamRead,
    IamAccount,
    LogsCreate,
    LogsModify,
    LogsRead,
    EcrWrite,
    EcrRead,
    ScalingWrite,
    ScalingRead,
    Other,
}

impl Family {
    const ALL: [Self; 20] = [
        Self::TaskDefinitionsModify,
        Self::TaskDefinitionsRead,
        Self::ServicesModify,
        Self::ServicesRead,
        Self::TasksRead,
        Self::EcsTags,
        Self::CloudMapList,
        Self::CloudMapModify,
        Self::CloudMapRead,
        Self::IamWrite,
        Self::IamRead,
        Self::IamAccount,
        Self::LogsCreate,
        Self::LogsModify,
        Self::LogsRead,
        Self::EcrWrite,
        Self::EcrRead,
        Self::ScalingWrite,
        Self::ScalingRead,
        Self::Other,
    ];

    /// By `service:Operation`, as it stands in IAM policies.
    pub fn of(operation: &str) -> Self {
        let (service, name) = operation.split_once(':').unwrap_or(("", operation));
        let reads = !super::mutates(operation);
        match (service, name) {
            ("ecs", "RegisterTaskDefinition" | "DeregisterTaskDefinition" | "DeleteTaskDefinitions") => {
                Self::TaskDefinitionsModify
            }
            ("ecs", "DescribeTaskDefinition" | "ListTaskDefinitions") => Self::TaskDefinitionsRead,
            ("ecs", "CreateService" | "UpdateService" | "DeleteService") => Self::ServicesModify,
            ("ecs", "DescribeServices" | "ListServices") => Self::ServicesRead,
            ("ecs", "DescribeTasks" | "ListTasks") => Self::TasksRead,
            ("ecs", "TagResource" | "UntagResource" | "ListTagsForResource") => Self::EcsTags,
            ("servicediscovery", "ListServices" | "ListNamespaces") => Self::CloudMapList,
            ("servicediscovery", "ListInstances" | "GetService" | "GetOperation") => Self::CloudMapRead,
            ("servicediscovery", _) => Self::CloudMapModify,
            ("iam", "GetAccountAuthorizationDetails") => Self::IamAccount,
            ("iam", _) if reads => Self::IamRead,
            ("iam", _) => Self::IamWrite,
            ("logs", "CreateLogGroup" | "DeleteLogGroup") => Self::LogsCreate,
            ("logs", "DescribeLogGroups" | "DescribeLogStreams" | "ListTagsForResource") => Self::LogsRead,
            ("logs", _) => Self::LogsModify,
            ("ecr", _) if reads => Self::EcrRead,
            ("ecr", _) => Self::EcrWrite,
            ("application-autoscaling", _) if reads => Self::ScalingRead,
            ("application-autoscaling", _) => Self::ScalingWrite,
            _ => Self::Other,
        }
    }

    /// Burst in calls and rate in calls per second that are assumed before anything was learned.
    #[expect(clippy::match_same_arms, reason = "each figure stands beside its own source")]
    const fn assumed(self) -> (f64, f64) {
        match self {
            // AWS support, in aws-actions/amazon-ecs-deploy-task-definition#502: 20 at once, then one a second.
            Self::TaskDefinitionsModify => (20.0, 1.0),
            // ECS, request throttling: bursts as documented; rates from memory.
            Self::TaskDefinitionsRead => (50.0, 20.0),
            Self::ServicesModify => (50.0, 5.0),
            Self::ServicesRead | Self::TasksRead => (100.0, 20.0),
            // aws-cloud-map-mcs-controller-for-k8s limits itself to these.
            Self::CloudMapList => (10.0, 2.0),
            Self::CloudMapModify => (50.0, 5.0),
            Self::CloudMapRead => (100.0, 50.0),
            // CloudWatch Logs quotas: 5 or 10 a second.
            Self::LogsCreate | Self::LogsModify | Self::LogsRead => (10.0, 5.0),
            // AWS gives no figures for these. A cautious start costs seconds, once.
            Self::EcsTags | Self::IamWrite | Self::ScalingWrite => (20.0, 5.0),
            Self::IamRead => (40.0, 10.0),
            Self::IamAccount => (5.0, 1.0),
            Self::EcrWrite => (10.0, 5.0),
            Self::EcrRead | Self::ScalingRead => (20.0, 10.0),
            Self::Other => (50.0, 20.0),
        }
    }
}

/// How things stand with one family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateState {
    pub family: Family,
    /// Calls per second, as learned so far.
    pub rate: f64,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Calls that AWS refused for their rate.
    pub refused: u64,
}

#[derive(Debug)]
pub struct Limits {
    start: Instant,
    gates: Vec<Mutex<Gate>>,
    /// Attempts so far.
    attempts: Mutex<BTreeMap<String, [u64; 3]>>,
}

/// What became of one attempt of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Passed,
    /// Refused for another reason than its rate, or without an answer.
    Failed,
    Throttled,
}

#[derive(Debug)]
struct Gate {
    bucket: Bucket,
    arrived: u64,
    waiting: BTreeMap<(Priority, u64), Arc<Notify>>,
}

impl Default for Limits {
    fn default() -> Self {
        let gate = |family: Family| {
            let (burst, rate) = family.assumed();
            Mutex::new(Gate { bucket: Bucket::new(burst, rate), arrived: 0, waiting: BTreeMap::new() })
        };
        Self { start: Instant::now(), gates: Family::ALL.into_iter().map(gate).collect(), attempts: Mutex::default() }
    }
}

impl Limits {
    /// For a cloud that refuses nothing, such as one on this machine.
    pub fn none() -> Self {
        Self { start: Instant::now(), gates: vec![], attempts: Mutex::default() }
    }

    fn gate(&self, family: Family) -> Option<&Mutex<Gate>> {
        self.gates.get(family as usize)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for the call's turn.
    pub async fn admit(&self, operation: &str, priority: Priority) {
        let Some(gate) = self.gate(Family::of(operation)) else { return };
        let place = {
            let mut gate = lock(gate);
            if gate.waiting.is_empty() && gate.bucket.take(self.now()).is_ok() {
                return;
            }
            gate.arrived += 1;
            let key = (priority, gate.arrived);
            let turn = Arc::new(Notify::new());
            gate.waiting.insert(key, turn.clone());
            (key, turn)
        };
        let (key, turn) = place;
        // Leaves the line also when the caller is dropped.
        let _place = Place { gate, key };
        loop {
            let pause = {
                let mut gate = lock(gate);
                if gate.waiting.first_key_value().is_some_and(|(first, _)| *first == key) {
                    match gate.bucket.take(self.now()) {
                        Ok(()) => return,
                        Err(pause) => Some(pause),
                    }
                } else {
                    None
                }
            };
            match pause {
                Some(pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = turn.notified() => {}
                },
                None => turn.notified().await,
            }
        }
    }

    /// Learns from one attempt, and counts it.
    pub fn attempted(&self, operation: &str, attempt: Attempt) {
        self.count(operation, attempt);
        let Some(gate) = self.gate(Family::of(operation)) else { return };
        let now = self.now();
        let mut gate = lock(gate);
        if attempt == Attempt::Throttled {
            gate.bucket.refused(now);
        } else {
            let waited_for = !gate.waiting.is_empty();
            gate.bucket.passed(waited_for);
        }
    }

    /// An attempt that got no answer, of which nothing can be learned.
    pub fn count(&self, operation: &str, attempt: Attempt) {
        let mut attempts = lock(&self.attempts);
        match attempts.get_mut(operation) {
            Some(counts) => counts[attempt as usize] += 1,
            None => attempts.entry(operation.to_owned()).or_default()[attempt as usize] += 1,
        }
    }

    /// Attempts so far, by operation: passed, failed and throttled.
    pub fn attempts(&self) -> Vec<(String, [u64; 3])> {
        lock(&self.attempts).iter().map(|(operation, counts)| (operation.clone(), *counts)).collect()
    }

    pub fn rate_state(&self) -> Vec<RateState> {
        let rate_state = |family: Family| {
            let gate = lock(self.gate(family)?);
            let (rate, refused) = (gate.bucket.rate(), gate.bucket.refusals());
            Some(RateState { family, rate, waiting: gate.waiting.len(), refused })
        };
        Family::ALL.into_iter().filter_map(rate_state).collect()
    }
}

struct Place<'a> {
    gate: &'a Mutex<Gate>,
    key: (Priority, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut gate = lock(self.gate);
        gate.waiting.remove(&self.key);
        if let Some((_, next)) = gate.waiting.first_key_value() {
            next.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_stands_where_its_number_says() {
        for (index, family) in Family::ALL.into_iter().enumerate() {
            assert_eq!(family as usize, index);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_commit_overtakes_those_that_wait() {
        let limits = Arc::new(Limits::default());
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (name, priority) in (0..40).map(|_| ("cold", Priority::Cold)).chain([("commit", Priority::Commit)]) {
            let (limits, done) = (limits.clone(), done.clone());
            tokio::spawn(async move {
                limits.admit("ecs:RegisterTaskDefinition", priority).await;
                done.send(name).expect("somebody listens");
            });
            tokio::task::yield_now().await;
        }
        drop(done);
        let mut finished = vec![];
        while let Some(name) = order.recv().await {
            finished.push(name);
        }
        assert_eq!(finished.iter().position(|name| *name == "commit"), Some(20));
        assert_eq!(limits.start.elapsed().as_secs(), 21);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_waiting_takes_no_token() {
        let limits = Limits::default();
        for _ in 0..20 {
            limits.admit("ecs:RegisterTaskDefinition", Priority::Cold).await;
        }
        let waiting = limits.admit("ecs:RegisterTaskDefinition", Priority::Commit);
        assert!(tokio::time::timeout(Duration::from_millis(500), waiting).await.is_err());
        limits.admit("ecs:RegisterTaskDefinition", Priority::Cold).await;
        assert_eq!(limits.now().as_millis(), 1000);
    }
}

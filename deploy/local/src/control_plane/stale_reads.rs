//! Stale reads: AWS's reads do not see every write at once.

use std::collections::VecDeque;
use std::mem::swap;
use std::time::Duration;

use crate::model::Cloud;
use crate::model::autoscaling::AutoScaling;
use crate::model::cloudmap::CloudMap;
use crate::model::ecr::Ecr;
use crate::model::ecs::Ecs;
use crate::model::iam::Iam;
use crate::model::logs::Logs;
use crate::model::time::Time;

/// The tables that a stale read sees. S3 is not among them: AWS promises that its reads are consistent.
#[derive(Clone)]
pub struct Snapshot {
    autoscaling: AutoScaling,
    cloudmap: CloudMap,
    ecr: Ecr,
    ecs: Ecs,
    iam: Iam,
    logs: Logs,
}

impl Snapshot {
    fn of(cloud: &Cloud) -> Self {
        Self {
            autoscaling: cloud.autoscaling.clone(),
            cloudmap: cloud.cloudmap.clone(),
            ecr: cloud.ecr.clone(),
            ecs: cloud.ecs.clone(),
            iam: cloud.iam.clone(),
            logs: cloud.logs.clone(),
        }
    }

    /// Exchanges these tables with those of the cloud.
    pub fn swap(&mut self, cloud: &mut Cloud) {
        swap(&mut self.autoscaling, &mut cloud.autoscaling);
        swap(&mut self.cloudmap, &mut cloud.cloudmap);
        swap(&mut self.ecr, &mut cloud.ecr);
        swap(&mut self.ecs, &mut cloud.ecs);
        swap(&mut self.iam, &mut cloud.iam);
        swap(&mut self.logs, &mut cloud.logs);
    }
}

#[derive(Default)]
pub struct StaleReads {
    window: Duration,
    rng: Option<fastrand::Rng>,
    /// Snapshots with the time until which each was current, oldest first.
    snapshots: VecDeque<(Time, Snapshot)>,
}

impl StaleReads {
    pub fn new(window: Duration, seed: &[u8; 32]) -> Self {
        let mut number = [0; 8];
        number.copy_from_slice(&seed[..8]);
        let rng = (!window.is_zero()).then(|| fastrand::Rng::with_seed(u64::from_le_bytes(number)));
        Self { window, rng, snapshots: VecDeque::new() }
    }

    /// Records the tables before a change.
    pub fn record(&mut self, cloud: &Cloud) {
        if self.rng.is_none() {
            return;
        }
        let now = cloud.now();
        while self.snapshots.front().is_some_and(|(until, _)| now.since(*until) > self.window) {
            self.snapshots.pop_front();
        }
        self.snapshots.push_back((now, Snapshot::of(cloud)));
    }

    /// The tables for one read; `None` means the current ones, which half of the reads see.
    pub fn pick(&mut self, now: Time) -> Option<Snapshot> {
        let rng = self.rng.as_mut()?;
        if rng.bool() {
            return None;
        }
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let lag = Duration::from_millis(rng.u64(0..=window));
        let (_, snapshot) = self.snapshots.iter().find(|(until, _)| now.since(*until) < lag)?;
        Some(snapshot.clone())
    }
}

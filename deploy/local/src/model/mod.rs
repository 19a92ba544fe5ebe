//! The data of a cloud: tables per service, time, timers, and effects for the driver.

pub mod autoscaling;
pub mod cloudmap;
pub mod codebuild;
pub mod ecr;
pub mod ecs;
pub mod iam;
pub mod images;
pub mod launch;
pub mod logs;
pub mod policy;
pub mod quotas;
pub mod rules;
pub mod s3;
pub mod time;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use autoscaling::AutoScaling;
use cloudmap::CloudMap;
use codebuild::CodeBuild;
use ecr::Ecr;
use ecs::Ecs;
use iam::Iam;
use images::{Images, MemoryImages};
use launch::Launch;
use logs::Logs;
use rules::Rules;
use s3::S3;
use time::Time;

/// What the driver has to do.
#[derive(Clone, Debug)]
pub enum Effect {
    Launch(Launch),
    Stop { task_arn: String },
}

/// An action at a later time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Timer {
    Service { cluster: String, name: String },
    ForgetService { cluster: String, name: String },
    ForgetTask { arn: String },
    ForgetDefinition { arn: String },
    Operation { id: String },
}

#[derive(Serialize, Deserialize)]
pub struct Cloud {
    #[serde(skip)]
    pub rules: Rules,
    #[serde(skip, default = "MemoryImages::shared")]
    pub images: Arc<dyn Images>,
    pub autoscaling: AutoScaling,
    pub cloudmap: CloudMap,
    #[serde(default)]
    pub codebuild: CodeBuild,
    pub ecr: Ecr,
    pub ecs: Ecs,
    pub iam: Iam,
    pub logs: Logs,
    pub s3: S3,
    now: Time,
    drawn: u64,
    timers: BTreeSet<(Time, Timer)>,
    #[serde(skip)]
    effects: Vec<Effect>,
}

impl Cloud {
    pub fn new(rules: Rules, images: Arc<dyn Images>) -> Self {
        Self {
            rules,
            images,
            autoscaling: AutoScaling::default(),
            cloudmap: CloudMap::default(),
            codebuild: CodeBuild::default(),
            ecr: Ecr::default(),
            ecs: Ecs::default(),
            iam: Iam::default(),
            logs: Logs::default(),
            s3: S3::default(),
            now: Time::default(),
            drawn: 0,
            timers: BTreeSet::new(),
            effects: Vec::new(),
        }
    }

    /// Advances the time. It never goes back, even if the caller's clock does.
    pub fn set_time(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn schedule(&mut self, at: Time, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// When the next timer is due.
    pub fn next_due(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Removes the first timer that is due.
    pub fn take_due_timer(&mut self) -> Option<Timer> {
        self.next_due().filter(|due| *due <= self.now)?;
        self.timers.pop_first().map(|(_, timer)| timer)
    }

    pub fn push_effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// A new unique id of `length` hexadecimal digits, at most 64, from the seed and a counter.
    pub fn draw(&mut self, length: usize) -> String {
        self.drawn += 1;
        let digest = Sha256::new().chain_update(self.rules.seed).chain_update(self.drawn.to_be_bytes()).finalize();
        let mut id = hex::encode(digest);
        id.truncate(length);
        id
    }

    /// A number from the seed, a topic and an id. It draws no id, so that a decision by this number does not change
    /// other ids.
    pub fn seeded_number(&self, what: &str, id: &str) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.rules.seed)
            .chain_update(what.as_bytes())
            .chain_update([0])
            .chain_update(id.as_bytes())
            .finalize();
        digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    /// Whether an event with this probability in percent happens to this id.
    pub fn happens(&self, percent: u32, what: &str, id: &str) -> bool {
        self.seeded_number(what, id) % 100 < u64::from(percent)
    }

    /// `8-4-4-4-12`.
    pub fn draw_uuid(&mut self) -> String {
        let id = self.draw(32);
        format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..])
    }

    /// `ecs-svc/` and nineteen digits.
    pub fn draw_deployment_id(&mut self) -> String {
        let number = u64::from_str_radix(&self.draw(15), 16).unwrap_or_default();
        format!("ecs-svc/{number:019}")
    }

    pub fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.rules.region, self.rules.account)
    }
}

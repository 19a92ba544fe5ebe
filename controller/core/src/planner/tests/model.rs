//! A pure model of AWS and Dagster for one location. It refuses the calls that AWS refuses.

use std::net::SocketAddr;
use std::time::Duration;

use codeloc_crds::Location;
use proptest::prelude::*;

use super::{Answered, Input, Plan, Runs, WebserverState, lint, plan};
use crate::dagster::{Answer, Entry, WebLocation};
use crate::ids::Arn;
use crate::image::Image;
use crate::planner::needs::{Purpose, failing, needs};
use crate::resources::service::{Rollout, ServiceDeployment, Status};
use crate::resources::{
    Kind, ObservedResources, Step, discovery, image_repository, log_group, role, run_definition, scaling, service,
    task_definition, workspace,
};
use crate::shared::Shared;
use crate::tags;

pub(in crate::planner) use crate::desired::Desired;
pub(in crate::planner) use crate::fixtures::{NAME, deployment, image, location, present, with_image};

/// The desired state at one moment.
#[derive(Clone, Debug)]
pub(in crate::planner) enum Desire {
    Present(Box<Location>, Image),
    Absent,
}

pub(in crate::planner) fn desire() -> impl Strategy<Value = Desire> {
    let present = (prop::sample::select(vec![512, 1024, 2048]), 1_u32..=3, prop::option::of("[a-z]{1,4}"), 0_u8..4)
        .prop_map(|(memory, max, tag, version)| Desire::Present(Box::new(location(memory, max, tag)), image(version)));
    prop_oneof![6 => present, 1 => Just(Desire::Absent)]
}

/// AWS and Dagster, as far as they concern one location.
#[derive(Clone, Debug, Default)]
pub(in crate::planner) struct Model {
    pub(in crate::planner) observed: ObservedResources,
    pub(in crate::planner) entry: Option<Entry>,
    /// The revision that the webserver shows.
    pub(in crate::planner) shown: Option<String>,
    pub(in crate::planner) revisions: i32,
    pub(in crate::planner) deployments: u32,
    /// Images whose code fails to import.
    pub(in crate::planner) broken: Vec<String>,
    pub(in crate::planner) now_ms: i64,
}

impl Model {
    pub(in crate::planner) fn serving_id(&self) -> Option<String> {
        let service =
            self.observed.service.as_ref().filter(|service| service.status == Status::Active && service.running > 0)?;
        // While a new deployment rolls, the old one's tasks answer.
        let serving = service.deployments.iter().find(|deployment| deployment.rollout == Rollout::Completed)?;
        let definition =
            self.observed.task_definitions.iter().find(|definition| definition.arn == serving.task_definition)?;
        definition.revision().map(String::from)
    }

    fn answers(&self) -> Vec<Answered> {
        let address: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let answer = |server_id| Answered { address, answer: Answer::Loaded { server_id, repositories: vec![] } };
        self.serving_id().map(answer).into_iter().collect()
    }

    pub(in crate::planner) fn plan(&mut self, desire: &Desire) -> Plan {
        self.now_ms += 1000;
        let deployment = deployment();
        let answers = self.answers();
        let observed = workspace::Observed {
            entry: self.entry.clone(),
            web: self.shown.clone().map(|id| WebLocation::Loaded { server_id: Some(id) }),
        };
        let desired = match desire {
            Desire::Present(location, image) => present(location, image),
            Desire::Absent => Desired::Absent,
        };
        let input = Input {
            name: &NAME,
            desired: &desired,
            deployment: &deployment,
            observed: &self.observed,
            workspace: &observed,
            webserver: WebserverState::Answers,
            answers: &answers,
            failure_excerpt: None,
            record: None,
            steady_for: Duration::ZERO,
            unlisted_for: Duration::ZERO,
            now_ms: self.now_ms,
            hold: None,
            may_protect: false,
            runs: &Runs::None,
        };
        if let Desired::Present(location) = &desired {
            assert_eq!(needs(&input, Purpose::Converge).failure_logs, failing(&input, location).0);
        }
        let plan = plan(input);
        assert_eq!(lint(&input, &plan), Ok(()));
        plan
    }

    /// Applies one step as AWS does, and refuses the steps that AWS refuses.
    pub(in crate::planner) fn apply(&mut self, step: &Step) {
        match step {
            Step::LogGroup(change) => self.apply_log_group(change),
            Step::ImageRepository(change) => self.apply_image_repository(change),
            Step::Role(change) => {
                let used = self.observed.service.as_deref().is_some_and(service::Observed::exists);
                apply_role(change, &mut self.observed.role, used);
            }
            Step::ExecutionRole(change) => {
                let arn = self.observed.execution_role.as_ref().map(|role| role.arn.clone());
                let mut definitions = self.observed.task_definitions.iter().chain(&self.observed.run_definitions);
                let used = definitions
                    .any(|one| one.content.as_ref().map(|content| &content.execution_role_arn) == arn.as_ref());
                apply_role(change, &mut self.observed.execution_role, used);
            }
            Step::RunDefinition(change) => self.apply_run_definition(change),
            Step::TaskDefinition(change) => self.apply_task_definition(change),
            Step::Discovery(change) => self.apply_discovery(change),
            Step::Service(change) => self.apply_service(change),
            Step::Scaling(change) => self.apply_scaling(change),
            Step::Workspace(change) => self.apply_workspace(change),
        }
    }

    fn apply_log_group(&mut self, change: &log_group::Change) {
        match change {
            log_group::Change::Create(desired) => {
                let arn = Arn::from(format!("arn:logs:{}", desired.name));
                let retention_days = Some(desired.retention_days);
                self.observed.log_group = Some(
                    log_group::Observed {
                        arn,
                        name: desired.name.clone(),
                        retention_days,
                        tags: desired.tags.clone().into(),
                    }
                    .into(),
                );
            }
            log_group::Change::SetRetention { to, .. } => {
                self.observed.log_group.as_mut().unwrap().retention_days = Some(*to);
            }
            log_group::Change::Tag { tags, .. } => tags.apply(&mut self.observed.log_group.as_mut().unwrap().tags),
            log_group::Change::Delete { .. } => self.observed.log_group = None,
        }
    }

    fn apply_image_repository(&mut self, change: &image_repository::Change) {
        use image_repository::Change;
        match change {
            Change::Create(desired) => {
                self.observed.image_repository = Some(
                    image_repository::Observed {
                        arn: format!("arn:ecr:{}", desired.name).into(),
                        name: desired.name.clone(),
                        uri: format!("registry/{}", desired.name),
                        created_ms: None,
                        immutable_tags: desired.immutable_tags,
                        scan_on_push: desired.scan_on_push,
                        tags: desired.tags.clone().into(),
                    }
                    .into(),
                );
            }
            Change::SetImmutableTags { to, .. } => {
                self.observed.image_repository.as_mut().unwrap().immutable_tags = *to;
            }
            Change::SetScanOnPush { to, .. } => self.observed.image_repository.as_mut().unwrap().scan_on_push = *to,
            Change::Tag { tags, .. } => tags.apply(&mut self.observed.image_repository.as_mut().unwrap().tags),
            Change::DeleteImages { digests, .. } => {
                self.observed.images.as_mut().unwrap().retain(|image| !digests.contains(&image.digest));
            }
            Change::Delete { .. } => self.observed.image_repository = None,
        }
    }

    fn apply_run_definition(&mut self, change: &run_definition::Change) {
        use run_definition::Change;
        match change {
            Change::Register { desired, .. } => {
                assert!(
                    self.observed.role.is_some() && self.observed.log_group.is_some(),
                    "registered before its needs"
                );
                let family =
                    self.observed.run_definitions.iter().filter(|observed| observed.family() == desired.family);
                let number = 1 + family.map(|observed| observed.number).max().unwrap_or_default();
                let arn = Arn::from(format!("arn:task-definition/{}:{number}", desired.family));
                let (content, tags) = (Some(desired.content.clone()), desired.tags.clone());
                let observed = task_definition::Observed { arn, number, content, foreign: vec![], tags: tags.into() };
                self.observed.run_definitions.insert(0, observed.into());
            }
            Change::Tag { arn, tags } => {
                let observed = self.observed.run_definitions.iter_mut().find(|observed| observed.arn == *arn).unwrap();
                tags.apply(&mut observed.tags);
            }
            Change::Deregister { arn } => self.observed.run_definitions.retain(|observed| observed.arn != *arn),
        }
    }

    fn apply_task_definition(&mut self, change: &task_definition::Change) {
        use task_definition::Change;
        match change {
            Change::Register { desired, attempt, .. } => {
                assert!(
                    self.observed.role.is_some() && self.observed.log_group.is_some(),
                    "registered before its needs"
                );
                let equal = self.observed.task_definitions.iter().any(|observed| observed.content == desired.content);
                assert!(!equal, "an equal task definition was registered twice");
                self.revisions += 1;
                let mut tags = desired.tags.clone();
                tags.extend(attempt.tags());
                let arn = Arn::from(format!("arn:task-definition/{}:{}", desired.family, self.revisions));
                let (number, content) = (self.revisions, desired.content.clone());
                let observed = task_definition::Observed { arn, number, content, foreign: vec![], tags: tags.into() };
                self.observed.task_definitions.insert(0, observed.into());
            }
            Change::Attempt { arn, attempt, .. } => {
                let observed = self.observed.task_definitions.iter_mut().find(|observed| observed.arn == *arn).unwrap();
                observed.tags.extend(attempt.tags());
            }
            Change::Tag { arn, tags } => {
                let observed = self.observed.task_definitions.iter_mut().find(|observed| observed.arn == *arn).unwrap();
                tags.apply(&mut observed.tags);
            }
            Change::Deregister { arn } => self.observed.task_definitions.retain(|observed| observed.arn != *arn),
        }
    }

    fn apply_discovery(&mut self, change: &discovery::Change) {
        use discovery::Change;
        match change {
            Change::Create(desired) => {
                let (id, name) = ("srv-1".to_owned(), desired.name.clone());
                self.observed.discovery = Some(
                    discovery::Observed {
                        arn: format!("arn:{id}").into(),
                        id,
                        name,
                        records: vec![("A".to_owned(), desired.ttl)],
                        multivalue: true,
                        health_check: true,
                        instances: None,
                        tags: desired.tags.clone().into(),
                    }
                    .into(),
                );
            }
            Change::SetRecord { ttl, .. } => {
                self.observed.discovery.as_mut().unwrap().records = vec![("A".to_owned(), *ttl)];
            }
            Change::Immutable { .. } => panic!("a report-only step was executed"),
            Change::Tag { tags, .. } => tags.apply(&mut self.observed.discovery.as_mut().unwrap().tags),
            Change::Delete { .. } => {
                assert!(
                    self.observed.service.as_ref().is_none_or(|service| !service.exists()),
                    "a registry in use was deleted"
                );
                self.observed.discovery = None;
            }
        }
    }

    fn start_rollout(&mut self) -> ServiceDeployment {
        self.deployments += 1;
        let newest = self
            .observed
            .task_definitions
            .iter()
            .max_by_key(|observed| observed.number)
            .expect("a task definition to run");
        ServiceDeployment {
            id: format!("ecs-svc/{}", self.deployments),
            started_ms: self.now_ms,
            task_definition: newest.arn.clone(),
            rollout: Rollout::InProgress,
            reason: String::new(),
            desired_count: 1,
            running: 0,
            failed: 0,
        }
    }

    fn apply_service(&mut self, change: &service::Change) {
        use service::Change;
        match change {
            Change::Create { desired, task_definition, registry, .. } => {
                assert!(
                    self.observed.service.as_ref().is_none_or(|service| !service.exists()),
                    "a service was created twice"
                );
                let discovery = self.observed.discovery.as_ref().expect("a service needs its registry");
                assert!(registry.known().is_none_or(|arn| *arn == discovery.arn));
                let (arn, registry) = (Arn::from(format!("arn:{}", desired.name)), Some(discovery.arn.clone()));
                let mut first = self.start_rollout();
                if let Some(arn) = task_definition.known() {
                    arn.clone_into(&mut first.task_definition);
                }
                self.observed.service = Some(
                    service::Observed {
                        arn,
                        name: desired.name.clone(),
                        status: Status::Active,
                        task_definition: first.task_definition.clone(),
                        desired_count: desired.count,
                        running: 0,
                        deployments: vec![first],
                        network: desired.network.clone(),
                        deployment: desired.deployment,
                        options: desired.options.clone(),
                        registry,
                        tags: desired.tags.clone().into(),
                    }
                    .into(),
                );
            }
            Change::Deploy { task_definition, .. } => {
                let mut next = self.start_rollout();
                if let Some(arn) = task_definition.known() {
                    arn.clone_into(&mut next.task_definition);
                }
                let observed = self.observed.service.as_mut().unwrap();
                observed.task_definition.clone_from(&next.task_definition);
                observed.deployments.insert(0, next);
            }
            Change::Redeploy { task_definition, .. } => {
                let mut next = self.start_rollout();
                task_definition.clone_into(&mut next.task_definition);
                let observed = self.observed.service.as_mut().unwrap();
                observed.task_definition.clone_from(task_definition);
                observed.deployments.insert(0, next);
            }
            Change::Configure { network, deployment, options, registry, .. } => {
                let observed = self.observed.service.as_mut().unwrap();
                observed.network = network.clone();
                observed.deployment = *deployment;
                observed.options = options.clone();
                if let Some(arn) = registry.known() {
                    observed.registry = Some(arn.to_owned());
                }
            }
            Change::SetCount { to, .. } => {
                assert!(self.observed.scaling.is_none(), "the desired count was written although scaling owns it");
                self.observed.service.as_mut().unwrap().desired_count = *to;
            }
            Change::RememberFailed { revision, .. } => {
                let observed = self.observed.service.as_mut().unwrap();
                observed.tags.insert(tags::FAILED_REVISION.to_owned(), revision.to_string());
            }
            Change::Tag { tags, .. } => tags.apply(&mut self.observed.service.as_mut().unwrap().tags),
            Change::Delete { .. } => {
                assert!(self.entry.is_none(), "a service was deleted before its workspace entry");
                self.observed.service.as_mut().unwrap().status = Status::Draining;
            }
        }
    }

    fn apply_scaling(&mut self, change: &scaling::Change) {
        use scaling::Change;
        match change {
            Change::Register { desired, .. } => {
                let service = self.observed.service.as_mut().expect("scaling needs its service");
                service.desired_count = service.desired_count.clamp(desired.min, desired.max);
                let policies =
                    self.observed.scaling.take().map(|observed| observed.policies.clone()).unwrap_or_default();
                let resource_id = desired.resource_id.clone();
                let (min, max) = (desired.min, desired.max);
                self.observed.scaling =
                    Some(scaling::Observed { resource_id, min, max, suspended: vec![], policies }.into());
            }
            Change::PutPolicy { name, policy, .. } => {
                self.observed.scaling.as_mut().unwrap().policies.insert(name.clone(), policy.clone());
            }
            Change::DeletePolicy { name, .. } => {
                self.observed.scaling.as_mut().unwrap().policies.remove(name);
            }
            Change::Deregister { .. } => self.observed.scaling = None,
        }
    }

    fn apply_workspace(&mut self, change: &workspace::Change) {
        use workspace::Change;
        match change {
            Change::Publish { host, port, .. } => {
                assert!(self.serving_id().is_some(), "published before it was loaded");
                self.entry = Some(Entry { host: host.clone(), port: *port });
                self.shown = self.serving_id();
            }
            Change::Remove { .. } | Change::Withdraw { .. } => (self.entry, self.shown) = (None, None),
            Change::ReloadWorkspace { .. } | Change::Reload { .. } => self.shown = self.serving_id(),
        }
    }

    /// Lets time pass: rollouts complete or ECS rolls them back, and draining services stop.
    pub(in crate::planner) fn settle(&mut self) {
        self.now_ms += 1000;
        let Some(service) = self.observed.service.as_mut() else { return };
        if service.status == Status::Draining {
            service.status = Status::Inactive;
            service.deployments.clear();
            return;
        }
        let Some(primary) = service.deployments.first().cloned() else { return };
        if primary.rollout != Rollout::InProgress {
            return;
        }
        let definition = self.observed.task_definitions.iter().find(|observed| observed.arn == primary.task_definition);
        let image = definition
            .and_then(|observed| observed.content.as_ref())
            .map(|content| content.image.clone())
            .unwrap_or_default();
        if !self.broken.contains(&image) {
            service.deployments.truncate(1);
            service.deployments[0].rollout = Rollout::Completed;
            service.running = service.desired_count;
            return;
        }
        match service.deployments.iter().find(|deployment| deployment.rollout == Rollout::Completed).cloned() {
            Some(good) => {
                self.deployments += 1;
                let id = format!("ecs-svc/{}", self.deployments);
                service.task_definition.clone_from(&good.task_definition);
                service.deployments = vec![ServiceDeployment { id, started_ms: self.now_ms, ..good }];
            }
            None => service.deployments[0].rollout = Rollout::Failed,
        }
    }

    /// Plans and applies until no step is left, as the reconciler does. Returns the last plan.
    pub(in crate::planner) fn converge(&mut self, desire: &Desire) -> Plan {
        let mut applied: Vec<Step> = vec![];
        for _ in 0..20 {
            let plan = self.plan(desire);
            let repeated = plan.steps.iter().find(|step| applied.iter().any(|earlier| step.repeats(earlier)));
            assert_eq!(repeated, None, "the plan repeats a step that was just applied");
            if plan.steps.is_empty() {
                let before = self.observed.clone();
                self.settle();
                if before == self.observed {
                    return plan;
                }
            }
            for step in &plan.steps {
                self.apply(step);
            }
            applied = plan.steps;
        }
        panic!("no fixpoint: {:#?}", self.plan(desire).steps);
    }
}

/// `used`: whether tasks may start with the role.
fn apply_role(change: &role::Change, role: &mut Option<Shared<role::Observed>>, used: bool) {
    if let role::Change::Create(desired) = change {
        *role = Some(
            role::Observed {
                arn: desired.arn(&deployment()),
                name: desired.name.clone(),
                path: desired.path.clone(),
                trust: (&desired.trust).into(),
                policies: [].into(),
                attached: vec![],
                permissions_boundary: desired.permissions_boundary.clone(),
                tags: desired.tags.clone().into(),
            }
            .into(),
        );
        return;
    }
    if let role::Change::Delete { .. } = change {
        assert!(!used, "a role in use was deleted");
        *role = None;
        return;
    }
    let observed = role.as_mut().expect("a role that is changed exists");
    match change {
        role::Change::SetTrust { trust, .. } => observed.trust = trust.into(),
        role::Change::SetBoundary { to, .. } => observed.permissions_boundary.clone_from(to),
        role::Change::PutPolicy { policy, .. } => {
            observed.policies.insert(role::POLICY_NAME.to_owned(), policy.into());
        }
        role::Change::RemovePolicy { policy, .. } => {
            observed.policies.remove(policy);
        }
        role::Change::Detach { policy_arn, .. } => observed.attached.retain(|one| one != policy_arn),
        role::Change::Tag { tags, .. } => tags.apply(&mut observed.tags),
        role::Change::Create(_) | role::Change::Delete { .. } => {}
        role::Change::Immutable { .. } => panic!("a report-only step was executed"),
    }
}

/// The tags of every resource of a kind.
pub(in crate::planner) fn tags_of(observed: &mut ObservedResources, kind: Kind) -> Vec<&mut tags::Tags> {
    match kind {
        Kind::LogGroup => observed.log_group.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::ImageRepository => observed.image_repository.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::Role => observed.role.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::ExecutionRole => observed.execution_role.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::TaskDefinition => observed.task_definitions.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::Discovery => observed.discovery.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::Service => observed.service.iter_mut().map(|one| &mut *one.tags).collect(),
        Kind::RunDefinition => observed.run_definitions.iter_mut().map(|one| &mut *one.tags).collect(),
        // codeloc does not read the tags of a scalable target, and an entry in a file has none.
        Kind::Scaling | Kind::Workspace => vec![],
    }
}

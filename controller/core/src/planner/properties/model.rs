//! AWS and Dagster as one location sees them: as pure as the planner, and refusing what AWS would refuse.

use std::net::SocketAddr;
use std::time::Duration;

use codeloc_crds::{
    Architecture, CodePointer, GitReference, Health as HealthLimits, Repository, RepositoryName, Resources, Scaling,
};
use proptest::prelude::*;

use super::{Answered, Desired, ImageState, Input, Plan, WebserverState, lint, plan};
use crate::dagster::Entry;
use crate::dagster::{Answer, WebLocation};
use crate::image::{Image, Load, LoadTarget};
use crate::place::{Address, Place};
use crate::resources::service::{Deployment, Rollout, Status};
use crate::resources::{
    Live, Step, discovery, image_repository, log_group, role, run_definition, scaling, service, task_definition,
    workspace,
};
use crate::shared::Shared;
use crate::tags;

pub(in crate::planner) const NAME: &str = "orders";

pub(in crate::planner) fn place() -> Place {
    Place {
        deployment: "codeloc".to_owned(),
        partition: "aws".to_owned(),
        account: "123456789012".to_owned(),
        region: "eu-central-1".to_owned(),
        cluster: "dagster".to_owned(),
        namespace_id: "ns-1".to_owned(),
        namespace: "dagster.internal".to_owned(),
        bucket: "platform".to_owned(),
        subnets: vec!["subnet-a".to_owned()],
        security_groups: vec!["sg-a".to_owned()],
        assign_public_ip: false,
        execution_role_arn: "arn:aws:iam::123456789012:role/execution".to_owned(),
        permissions_boundary: None,
        log_retention_days: 30,
        image_grace_days: 7,
        port: 4000,
        address: Address::Dns { template: "{service}.{namespace}".to_owned() },
        environment: [].into(),
        secrets: [].into(),
        host_platform: false,
    }
}

pub(in crate::planner) fn repository(memory: u32, max_capacity: u32, tag: Option<String>) -> Repository {
    Repository {
        name: RepositoryName::new(NAME).unwrap(),
        git_url: "https://github.com/acme/orders.git".to_owned(),
        reference: GitReference::Branch("main".to_owned()),
        subdirectory: None,
        code: CodePointer::Module("orders.definitions".to_owned()),
        attribute: None,
        python_version: None,
        image: None,
        image_policy: codeloc_crds::ImagePolicy::Pinned,
        dependencies: None,
        dockerfile: None,
        resources: Resources { cpu: 256, memory, architecture: Architecture::Arm64 },
        run_resources: None,
        s3_prefix: "repos/orders".to_owned(),
        secrets: [].into(),
        access: codeloc_crds::Access::default(),
        environment: [("LEVEL".to_owned(), "1".to_owned())].into(),
        scaling: Scaling { min_capacity: 1, max_capacity, cpu_threshold: 70, memory_threshold: 80 },
        health: HealthLimits { start_seconds: 120, load_seconds: 120 },
        tags: tag.map(|tag| ("team".to_owned(), tag)).into_iter().collect(),
        adopt: false,
        mode: codeloc_crds::Mode::Enforce,
        protect: false,
    }
}

pub(in crate::planner) fn image(version: u8) -> Image {
    Image {
        reference: format!("registry/codeloc/orders@sha256:{version:064x}"),
        commit: Some(format!("{version:040x}")),
        load: Load {
            target: LoadTarget::Module("orders.definitions".to_owned()),
            working_directory: "/opt/codeloc/code".to_owned(),
        },
    }
}

/// What a config and its commit come to at one moment.
#[derive(Clone, Debug)]
pub(in crate::planner) enum Desire {
    Present(Box<Repository>, Image),
    Absent,
}

pub(in crate::planner) fn desire() -> impl Strategy<Value = Desire> {
    let present = (prop::sample::select(vec![512, 1024, 2048]), 1_u32..=3, prop::option::of("[a-z]{1,4}"), 0_u8..4)
        .prop_map(|(memory, max, tag, version)| {
            Desire::Present(Box::new(repository(memory, max, tag)), image(version))
        });
    prop_oneof![6 => present, 1 => Just(Desire::Absent)]
}

/// AWS and Dagster as one location sees them.
#[derive(Clone, Debug, Default)]
pub(in crate::planner) struct Model {
    pub(in crate::planner) live: Live,
    pub(in crate::planner) entry: Option<Entry>,
    /// What the webserver has loaded.
    pub(in crate::planner) shown: Option<String>,
    pub(in crate::planner) revisions: i32,
    pub(in crate::planner) deployments: u32,
    /// Images of which the code does not import.
    pub(in crate::planner) broken: Vec<String>,
    pub(in crate::planner) now_ms: i64,
}

impl Model {
    pub(in crate::planner) fn serving_id(&self) -> Option<String> {
        let service =
            self.live.service.as_ref().filter(|service| service.status == Status::Active && service.running > 0)?;
        // While a new deployment rolls, the old one's tasks answer.
        let serving = service.deployments.iter().find(|deployment| deployment.rollout == Rollout::Completed)?;
        let definition =
            self.live.task_definitions.iter().find(|definition| definition.arn == serving.task_definition)?;
        definition.revision().map(str::to_owned)
    }

    fn answers(&self) -> Vec<Answered> {
        let address: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let answer = |server_id| Answered { address, answer: Answer::Loaded { server_id, repositories: vec![] } };
        self.serving_id().map(answer).into_iter().collect()
    }

    pub(in crate::planner) fn plan(&mut self, desire: &Desire) -> Plan {
        self.now_ms += 1000;
        let place = place();
        let answers = self.answers();
        let live = workspace::Live {
            entry: self.entry.clone(),
            web: self.shown.clone().map(|id| WebLocation::Loaded { server_id: Some(id) }),
        };
        let input = Input {
            name: NAME,
            desired: match desire {
                Desire::Present(repository, image) => Desired::Present { repository, image: ImageState::Ready(image) },
                Desire::Absent => Desired::Absent,
            },
            place: &place,
            live: &self.live,
            workspace: &live,
            webserver: WebserverState::Answers,
            answers: &answers,
            last_words: None,
            steady_for: Duration::ZERO,
            now_ms: self.now_ms,
            hold: None,
            may_protect: false,
        };
        let plan = plan(input);
        assert_eq!(lint(&input, &plan), Ok(()));
        plan
    }

    /// Applies one step as AWS would, and refuses what AWS would refuse.
    pub(in crate::planner) fn apply(&mut self, step: &Step) {
        match step {
            Step::LogGroup(change) => self.apply_log_group(change),
            Step::ImageRepository(change) => self.apply_image_repository(change),
            Step::Role(change) => {
                let used = self.live.service.as_deref().is_some_and(service::Live::exists);
                apply_role(change, &mut self.live.role, used);
            }
            Step::ExecutionRole(change) => {
                let arn = self.live.execution_role.as_ref().map(|role| role.arn.clone());
                let mut definitions = self.live.task_definitions.iter().chain(&self.live.run_definitions);
                let used = definitions
                    .any(|one| one.content.as_ref().map(|content| &content.execution_role_arn) == arn.as_ref());
                apply_role(change, &mut self.live.execution_role, used);
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
            log_group::Change::Create(want) => {
                let arn = format!("arn:logs:{}", want.name);
                let retention_days = Some(want.retention_days);
                self.live.log_group = Some(
                    log_group::Live { arn, name: want.name.clone(), retention_days, tags: want.tags.clone().into() }
                        .into(),
                );
            }
            log_group::Change::SetRetention { to, .. } => {
                self.live.log_group.as_mut().unwrap().retention_days = Some(*to);
            }
            log_group::Change::Tag { tags, .. } => self.live.log_group.as_mut().unwrap().tags.extend(tags.clone()),
            log_group::Change::Delete { .. } => self.live.log_group = None,
        }
    }

    fn apply_image_repository(&mut self, change: &image_repository::Change) {
        use image_repository::Change;
        match change {
            Change::Create(want) => {
                self.live.image_repository = Some(
                    image_repository::Live {
                        arn: format!("arn:ecr:{}", want.name),
                        name: want.name.clone(),
                        uri: format!("registry/{}", want.name),
                        immutable_tags: want.immutable_tags,
                        scan_on_push: want.scan_on_push,
                        tags: want.tags.clone().into(),
                    }
                    .into(),
                );
            }
            Change::SetImmutableTags { to, .. } => self.live.image_repository.as_mut().unwrap().immutable_tags = *to,
            Change::SetScanOnPush { to, .. } => self.live.image_repository.as_mut().unwrap().scan_on_push = *to,
            Change::Tag { tags, .. } => self.live.image_repository.as_mut().unwrap().tags.extend(tags.clone()),
            Change::DeleteImages { digests, .. } => {
                self.live.images.as_mut().unwrap().retain(|image| !digests.contains(&image.digest));
            }
            Change::Delete { .. } => self.live.image_repository = None,
        }
    }

    fn apply_run_definition(&mut self, change: &run_definition::Change) {
        use run_definition::Change;
        match change {
            Change::Register { want, .. } => {
                assert!(self.live.role.is_some() && self.live.log_group.is_some(), "registered before its needs");
                let family = self.live.run_definitions.iter().filter(|live| live.family() == want.family);
                let number = 1 + family.map(|live| live.number).max().unwrap_or_default();
                let arn = format!("arn:task-definition/{}:{number}", want.family);
                let (content, tags) = (Some(want.content.clone()), want.tags.clone());
                let live = task_definition::Live { arn, number, content, foreign: vec![], tags: tags.into() };
                self.live.run_definitions.insert(0, live.into());
            }
            Change::Tag { arn, tags } => {
                let live = self.live.run_definitions.iter_mut().find(|live| live.arn == *arn).unwrap();
                live.tags.extend(tags.clone());
            }
            Change::Deregister { arn } => self.live.run_definitions.retain(|live| live.arn != *arn),
        }
    }

    fn apply_task_definition(&mut self, change: &task_definition::Change) {
        use task_definition::Change;
        match change {
            Change::Register { want, attempt, .. } => {
                assert!(self.live.role.is_some() && self.live.log_group.is_some(), "registered before its needs");
                let equal = self.live.task_definitions.iter().any(|live| live.content == want.content);
                assert!(!equal, "an equal task definition was registered twice");
                self.revisions += 1;
                let mut tags = want.tags.clone();
                tags.extend(attempt.tags());
                let arn = format!("arn:task-definition/{}:{}", want.family, self.revisions);
                let (number, content) = (self.revisions, want.content.clone());
                let live = task_definition::Live { arn, number, content, foreign: vec![], tags: tags.into() };
                self.live.task_definitions.insert(0, live.into());
            }
            Change::Attempt { arn, attempt, .. } => {
                let live = self.live.task_definitions.iter_mut().find(|live| live.arn == *arn).unwrap();
                live.tags.extend(attempt.tags());
            }
            Change::Tag { arn, tags } => {
                let live = self.live.task_definitions.iter_mut().find(|live| live.arn == *arn).unwrap();
                live.tags.extend(tags.clone());
            }
            Change::Deregister { arn } => self.live.task_definitions.retain(|live| live.arn != *arn),
        }
    }

    fn apply_discovery(&mut self, change: &discovery::Change) {
        use discovery::Change;
        match change {
            Change::Create(want) => {
                let (id, name) = ("srv-1".to_owned(), want.name.clone());
                self.live.discovery = Some(
                    discovery::Live {
                        arn: format!("arn:{id}"),
                        id,
                        name,
                        records: vec![("A".to_owned(), want.ttl)],
                        multivalue: true,
                        health_check: true,
                        instances: None,
                        tags: want.tags.clone().into(),
                    }
                    .into(),
                );
            }
            Change::SetRecord { ttl, .. } => {
                self.live.discovery.as_mut().unwrap().records = vec![("A".to_owned(), *ttl)];
            }
            Change::Immutable { .. } => panic!("what cannot be changed is told and never executed"),
            Change::Tag { tags, .. } => self.live.discovery.as_mut().unwrap().tags.extend(tags.clone()),
            Change::Delete { .. } => {
                assert!(
                    self.live.service.as_ref().is_none_or(|service| !service.exists()),
                    "a registry in use was deleted"
                );
                self.live.discovery = None;
            }
        }
    }

    fn begin(&mut self) -> Deployment {
        self.deployments += 1;
        let newest =
            self.live.task_definitions.iter().max_by_key(|live| live.number).expect("a task definition to run");
        Deployment {
            id: format!("ecs-svc/{}", self.deployments),
            begun_ms: self.now_ms,
            task_definition: newest.arn.clone(),
            rollout: Rollout::InProgress,
            reason: String::new(),
            desired: 1,
            running: 0,
            failed: 0,
        }
    }

    fn apply_service(&mut self, change: &service::Change) {
        use service::Change;
        match change {
            Change::Create { want, task_definition, registry, .. } => {
                assert!(self.live.service.as_ref().is_none_or(|service| !service.exists()), "a service was made twice");
                let discovery = self.live.discovery.as_ref().expect("a service needs its registry");
                assert!(registry.known().is_none_or(|arn| arn == discovery.arn));
                let (arn, registry) = (format!("arn:{}", want.name), Some(discovery.arn.clone()));
                let mut first = self.begin();
                if let Some(arn) = task_definition.known() {
                    arn.clone_into(&mut first.task_definition);
                }
                self.live.service = Some(
                    service::Live {
                        arn,
                        name: want.name.clone(),
                        status: Status::Active,
                        task_definition: first.task_definition.clone(),
                        desired: want.count,
                        running: 0,
                        deployments: vec![first],
                        network: want.network.clone(),
                        deployment: want.deployment,
                        manner: want.manner.clone(),
                        registry,
                        tags: want.tags.clone().into(),
                    }
                    .into(),
                );
            }
            Change::Deploy { task_definition, .. } => {
                let mut next = self.begin();
                if let Some(arn) = task_definition.known() {
                    arn.clone_into(&mut next.task_definition);
                }
                let live = self.live.service.as_mut().unwrap();
                live.task_definition.clone_from(&next.task_definition);
                live.deployments.insert(0, next);
            }
            Change::Redeploy { task_definition, .. } => {
                let mut next = self.begin();
                task_definition.clone_into(&mut next.task_definition);
                let live = self.live.service.as_mut().unwrap();
                live.task_definition.clone_from(task_definition);
                live.deployments.insert(0, next);
            }
            Change::Configure { network, deployment, manner, registry, .. } => {
                let live = self.live.service.as_mut().unwrap();
                live.network = network.clone();
                live.deployment = *deployment;
                live.manner = manner.clone();
                if let Some(arn) = registry.known() {
                    live.registry = Some(arn.to_owned());
                }
            }
            Change::SetCount { to, .. } => {
                assert!(self.live.scaling.is_none(), "the desired count was written although scaling owns it");
                self.live.service.as_mut().unwrap().desired = *to;
            }
            Change::RememberFailed { revision, .. } => {
                let live = self.live.service.as_mut().unwrap();
                live.tags.insert(tags::FAILED_REVISION.to_owned(), revision.clone());
            }
            Change::Tag { tags, .. } => self.live.service.as_mut().unwrap().tags.extend(tags.clone()),
            Change::Delete { .. } => {
                assert!(self.entry.is_none(), "a service was deleted while Dagster still looks for it");
                self.live.service.as_mut().unwrap().status = Status::Draining;
            }
        }
    }

    fn apply_scaling(&mut self, change: &scaling::Change) {
        use scaling::Change;
        match change {
            Change::Register { want, .. } => {
                let service = self.live.service.as_mut().expect("scaling needs its service");
                service.desired = service.desired.clamp(want.min, want.max);
                let policies = self.live.scaling.take().map(|live| live.policies.clone()).unwrap_or_default();
                let resource_id = want.resource_id.clone();
                let (min, max) = (want.min, want.max);
                self.live.scaling = Some(scaling::Live { resource_id, min, max, suspended: vec![], policies }.into());
            }
            Change::PutPolicy { name, policy, .. } => {
                self.live.scaling.as_mut().unwrap().policies.insert(name.clone(), policy.clone());
            }
            Change::DeletePolicy { name, .. } => {
                self.live.scaling.as_mut().unwrap().policies.remove(name);
            }
            Change::Deregister { .. } => self.live.scaling = None,
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

    /// Time passes: rollouts end well, or are rolled back; what drains is gone.
    pub(in crate::planner) fn settle(&mut self) {
        self.now_ms += 1000;
        let Some(service) = self.live.service.as_mut() else { return };
        if service.status == Status::Draining {
            service.status = Status::Inactive;
            service.deployments.clear();
            return;
        }
        let Some(primary) = service.deployments.first().cloned() else { return };
        if primary.rollout != Rollout::InProgress {
            return;
        }
        let definition = self.live.task_definitions.iter().find(|live| live.arn == primary.task_definition);
        let image =
            definition.and_then(|live| live.content.as_ref()).map(|content| content.image.clone()).unwrap_or_default();
        if !self.broken.contains(&image) {
            service.deployments.truncate(1);
            service.deployments[0].rollout = Rollout::Completed;
            service.running = service.desired;
            return;
        }
        match service.deployments.iter().find(|deployment| deployment.rollout == Rollout::Completed).cloned() {
            Some(good) => {
                self.deployments += 1;
                let id = format!("ecs-svc/{}", self.deployments);
                service.task_definition.clone_from(&good.task_definition);
                service.deployments = vec![Deployment { id, begun_ms: self.now_ms, ..good }];
            }
            None => service.deployments[0].rollout = Rollout::Failed,
        }
    }

    /// Plans and applies until nothing is left to do, as the reconciler does. Returns the last plan.
    pub(in crate::planner) fn converge(&mut self, desire: &Desire) -> Plan {
        let mut applied: Vec<Step> = vec![];
        for _ in 0..20 {
            let plan = self.plan(desire);
            let repeated = plan.steps.iter().find(|step| applied.iter().any(|earlier| step.repeats(earlier)));
            assert_eq!(repeated, None, "what was applied a moment ago is planned again");
            if plan.steps.is_empty() {
                let before = self.live.clone();
                self.settle();
                if before == self.live {
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

/// `used` is whether tasks may start with it.
fn apply_role(change: &role::Change, role: &mut Option<Shared<role::Live>>, used: bool) {
    if let role::Change::Create(want) = change {
        *role = Some(
            role::Live {
                arn: want.arn(&place()),
                name: want.name.clone(),
                path: want.path.clone(),
                trust: (&want.trust).into(),
                policies: [].into(),
                attached: vec![],
                permissions_boundary: want.permissions_boundary.clone(),
                tags: want.tags.clone().into(),
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
    let live = role.as_mut().expect("a role that is changed exists");
    match change {
        role::Change::SetTrust { trust, .. } => live.trust = trust.into(),
        role::Change::SetBoundary { to, .. } => live.permissions_boundary.clone_from(to),
        role::Change::PutPolicy { policy, .. } => {
            live.policies.insert(role::POLICY_NAME.to_owned(), policy.into());
        }
        role::Change::RemovePolicy { policy, .. } => {
            live.policies.remove(policy);
        }
        role::Change::Detach { policy_arn, .. } => live.attached.retain(|one| one != policy_arn),
        role::Change::Tag { tags, .. } => live.tags.extend(tags.clone()),
        role::Change::Create(_) | role::Change::Delete { .. } => {}
        role::Change::Immutable { .. } => panic!("what cannot be changed is told and never executed"),
    }
}

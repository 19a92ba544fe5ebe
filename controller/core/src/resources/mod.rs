//! The kinds of AWS resources that a location consists of. Each kind has a module with `Desired` (from the config), `Observed` (from AWS),
//! `Change` (a printable step), `desired()` and `diff()`, all of them pure.
//!
//! A new kind is a module here plus its variants in [`Kind`], [`DesiredResources`], [`ObservedResources`] and [`Step`]. The exhaustive matches
//! do not compile until it is complete.

pub mod change;
pub mod discovery;
pub mod image_repository;
pub mod log_group;
pub mod role;
pub mod run_definition;
pub mod scaling;
pub mod service;
pub mod task_definition;
pub mod task_form;
pub mod task_spec;
pub mod tracked_fields;
pub mod workspace;

use codeloc_crds::{Location, LocationName};
use serde::{Deserialize, Serialize};

use crate::deployment::Deployment;
use crate::ids::{Arn, Commit};
use crate::image::Image;
use crate::shared::Shared;
use crate::tags;

use task_form::{FORMS, Form, NEWEST};

pub use change::{Action, Deferred, Description, Effect, Field};

/// In the order of creation. Deletion runs in the reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    LogGroup,
    ImageRepository,
    Role,
    ExecutionRole,
    TaskDefinition,
    Discovery,
    Service,
    RunDefinition,
    Scaling,
    Workspace,
}

/// A new kind before the last one does not compile until it is in [`Kind::ALL`]; a test finds one after it.
const _: () = assert!(Kind::ALL.len() == Kind::Workspace as usize + 1);

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::LogGroup,
        Self::ImageRepository,
        Self::Role,
        Self::ExecutionRole,
        Self::TaskDefinition,
        Self::Discovery,
        Self::Service,
        Self::RunDefinition,
        Self::Scaling,
        Self::Workspace,
    ];

    /// The name in messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::LogGroup => "log group",
            Self::ImageRepository => "image repository",
            Self::Role => "role",
            Self::ExecutionRole => "execution role",
            Self::RunDefinition => "run task definition",
            Self::TaskDefinition => "task definition",
            Self::Discovery => "Cloud Map service",
            Self::Service => "ECS service",
            Self::Scaling => "scaling",
            Self::Workspace => "workspace entry",
        }
    }

    /// The fields that a sweep compares.
    pub fn tracked_fields(self) -> &'static [tracked_fields::TrackedField] {
        match self {
            Self::LogGroup => log_group::TRACKED_FIELDS,
            Self::ImageRepository => image_repository::TRACKED_FIELDS,
            Self::Role | Self::ExecutionRole => role::TRACKED_FIELDS,
            Self::RunDefinition => run_definition::TRACKED_FIELDS,
            Self::TaskDefinition => task_definition::TRACKED_FIELDS,
            Self::Discovery => discovery::TRACKED_FIELDS,
            Self::Service => service::TRACKED_FIELDS,
            Self::Scaling => scaling::TRACKED_FIELDS,
            Self::Workspace => workspace::TRACKED_FIELDS,
        }
    }
}

/// Everything that a location consists of, from its config, its image and the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredResources {
    pub log_group: log_group::Desired,
    /// Absent if the config names an image.
    pub image_repository: Option<image_repository::Desired>,
    pub role: role::Desired,
    /// Absent if the location has no secrets: then the deployment's execution role is enough.
    pub execution_role: Option<role::Desired>,
    /// Absent while the image is unknown.
    pub run_definition: Option<run_definition::Desired>,
    pub task_definition: task_definition::Desired,
    pub discovery: discovery::Desired,
    pub service: service::Desired,
    /// Absent if minimum and maximum capacity are equal.
    pub scaling: Option<scaling::Desired>,
}

impl DesiredResources {
    /// In the newest form, or in an older one if a definition in it is registered: then an upgrade of codeloc rolls out nothing. Without an
    /// image, values that depend on it are `(known after apply)`.
    pub fn matching(
        location: &Location,
        image: Option<&Image>,
        kept: &role::Kept,
        deployment: &Deployment,
        observed: &ObservedResources,
    ) -> Self {
        let in_form = |form| Self::in_form(location, image, kept, deployment, form);
        let is_registered = |desired: &Self| {
            task_definition::equal(&desired.task_definition, &observed.task_definitions, None).is_some()
        };
        let newest = in_form(NEWEST);
        if image.is_none() || FORMS.len() == 1 || is_registered(&newest) {
            return newest;
        }
        FORMS.iter().skip(1).map(in_form).find(is_registered).unwrap_or(newest)
    }

    fn in_form(
        location: &Location,
        image: Option<&Image>,
        kept: &role::Kept,
        deployment: &Deployment,
        form: &Form,
    ) -> Self {
        let run_definition = image.map(|image| run_definition::desired(location, &image.reference, deployment, form));
        Self {
            log_group: log_group::desired(location, deployment),
            image_repository: location.image.is_none().then(|| image_repository::desired(location, deployment)),
            role: role::desired(location, kept, deployment),
            execution_role: (!location.secrets.is_empty()).then(|| role::desired_execution(location, kept, deployment)),
            task_definition: task_definition::desired(location, image.zip(run_definition.as_ref()), deployment, form),
            run_definition,
            discovery: discovery::desired(location, deployment),
            service: service::desired(location, deployment),
            scaling: scaling::desired(location, deployment),
        }
    }
}

/// Everything that AWS has for one location.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ObservedResources {
    pub log_group: Option<Shared<log_group::Observed>>,
    pub image_repository: Option<Shared<image_repository::Observed>>,
    /// Read only if the planner may collect some of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<image_repository::garbage::Image>>,
    pub role: Option<Shared<role::Observed>>,
    pub execution_role: Option<Shared<role::Observed>>,
    /// Active ones of all families.
    pub run_definitions: Vec<Shared<task_definition::Observed>>,
    /// The family's active revisions, newest first.
    pub task_definitions: Vec<Shared<task_definition::Observed>>,
    pub discovery: Option<Shared<discovery::Observed>>,
    pub service: Option<Shared<service::Observed>>,
    pub scaling: Option<Shared<scaling::Observed>>,
}

impl ObservedResources {
    /// The task definition that the service runs.
    pub fn runs(&self) -> Option<&task_definition::Observed> {
        let service = self.service.as_ref().filter(|service| service.exists())?;
        self.task_definitions
            .iter()
            .find(|observed| observed.arn == service.task_definition)
            .map(|observed| &**observed)
    }

    /// The task definition of the last complete rollout, which serves. Before there is one: see [`Self::repairable`].
    pub fn serving(&self) -> Option<&task_definition::Observed> {
        let service = self.service.as_ref().filter(|service| service.exists());
        let rolled_out = service.and_then(|service| service::rolled_out(service, &self.task_definitions));
        rolled_out.or_else(|| self.repairable())
    }

    /// The task definition that the service runs; the one that served before if that one failed and nothing serves; without a service, the
    /// one that it ran last.
    pub fn repairable(&self) -> Option<&task_definition::Observed> {
        let newest = |commit: Option<&Commit>| {
            let attempted = self.task_definitions.iter().filter_map(|one| Some((one.attempt()?.at, &**one)));
            let fits =
                |one: &task_definition::Observed| commit.is_none_or(|commit| one.commit().as_ref() == Some(commit));
            attempted.filter(|(_, one)| fits(one)).max_by_key(|(at, _)| *at).map(|(_, one)| one)
        };
        let Some(service) = self.service.as_ref().filter(|service| service.exists()) else {
            return newest(None);
        };
        let runs = self.runs()?;
        let before = service.has_failed_for_good(runs, &self.task_definitions).then(|| runs.served_before()).flatten();
        before.and_then(|before| newest(Some(&before))).or(Some(runs))
    }

    /// Whether it is the server id of a registered revision.
    pub fn has_revision(&self, id: &str) -> bool {
        let id = Some(id);
        self.task_definitions.iter().any(|observed| observed.revision_tag() == id || observed.server_id() == id)
    }

    /// Whether the server id of every definition that the service may run is known.
    pub fn knows_its_revisions(&self) -> bool {
        let known = |arn: &Arn| {
            let observed = self.task_definitions.iter().find(|observed| observed.arn == *arn);
            observed.is_some_and(|observed| observed.server_id().is_some())
        };
        let service = self.service.iter().filter(|service| service.exists());
        service
            .flat_map(|service| {
                service.deployments.iter().map(|one| &one.task_definition).chain([&service.task_definition])
            })
            .all(known)
    }

    /// The S3 prefix of the location that the running code server has.
    pub fn runs_with_prefix(&self) -> Option<&str> {
        self.runs()?.own_prefix()
    }

    /// See [`service::served_before`].
    pub fn served_before(&self, current: Option<&Commit>) -> Option<Commit> {
        service::served_before(self.service.as_deref()?, &self.task_definitions, current)
    }

    /// Whether this deployment owns any resource of the location that carries the tag of `deletion.protect`.
    pub fn is_protected(&self, name: &LocationName, deployment: &str) -> bool {
        let own = |tags: &tags::Tags| tags::owner(tags, deployment) == tags::Owner::Location(name);
        self.owned().any(|(.., tags)| own(tags) && tags.get(tags::PROTECT).is_some_and(|value| value == "true"))
    }

    /// Whether codeloc has started to delete the location, and waits for its runs.
    pub fn waits_for_runs(&self, name: &LocationName, deployment: &str) -> bool {
        let own = |tags: &tags::Tags| tags::owner(tags, deployment) == tags::Owner::Location(name);
        self.role.as_deref().is_some_and(|role| own(&role.tags) && role.tags.contains_key(tags::REMOVED_AT))
    }

    /// Whether any resource of the kind exists. The workspace entry is not part of AWS.
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::LogGroup => self.log_group.is_some(),
            Kind::ImageRepository => self.image_repository.is_some(),
            Kind::Role => self.role.is_some(),
            Kind::ExecutionRole => self.execution_role.is_some(),
            Kind::RunDefinition => !self.run_definitions.is_empty(),
            Kind::TaskDefinition => !self.task_definitions.is_empty(),
            Kind::Discovery => self.discovery.is_some(),
            Kind::Service => self.service.is_some(),
            Kind::Scaling => self.scaling.is_some(),
            Kind::Workspace => false,
        }
    }

    /// Every resource whose tags codeloc reads: its kind, its name (the ARN of a definition) and its tags.
    ///
    /// This destructures without `..`: a new kind does not compile until it is listed here.
    pub fn owned(&self) -> impl Iterator<Item = (Kind, &str, &tags::Tags)> {
        let Self {
            log_group,
            image_repository,
            // They have no tags in this sense; their repository has.
            images: _,
            role,
            execution_role,
            run_definitions,
            task_definitions,
            discovery,
            service,
            // It belongs to the location by the name of its service; codeloc does not read its tags.
            scaling: _,
        } = self;
        let log_group = log_group.iter().map(|one| (Kind::LogGroup, one.name.as_str(), &*one.tags));
        let image_repository =
            image_repository.iter().map(|one| (Kind::ImageRepository, one.name.as_str(), &*one.tags));
        let role = role.iter().map(|one| (Kind::Role, one.name.as_str(), &*one.tags));
        let execution_role = execution_role.iter().map(|one| (Kind::ExecutionRole, one.name.as_str(), &*one.tags));
        let task_definitions = task_definitions.iter().map(|one| (Kind::TaskDefinition, one.arn.as_str(), &*one.tags));
        let discovery = discovery.iter().map(|one| (Kind::Discovery, one.name.as_str(), &*one.tags));
        // AWS still describes a deleted service for a while.
        let service = service.iter().filter(|one| one.exists());
        let service = service.map(|one| (Kind::Service, one.name.as_str(), &*one.tags));
        let run_definitions = run_definitions.iter().map(|one| (Kind::RunDefinition, one.arn.as_str(), &*one.tags));
        log_group
            .chain(image_repository)
            .chain(role)
            .chain(execution_role)
            .chain(task_definitions)
            .chain(discovery)
            .chain(service)
            .chain(run_definitions)
    }

    /// Whether this deployment owns any resource of the location. If its config is gone, codeloc then plans its deletion.
    pub fn any_owned(&self, name: &LocationName, deployment: &str) -> bool {
        self.owned().any(|(.., tags)| tags::owner(tags, deployment) == tags::Owner::Location(name))
    }
}

/// One change of one resource, as a value that codeloc can print, compare and execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "change", rename_all = "snake_case")]
pub enum Step {
    LogGroup(log_group::Change),
    ImageRepository(image_repository::Change),
    Role(role::Change),
    ExecutionRole(role::Change),
    RunDefinition(run_definition::Change),
    TaskDefinition(task_definition::Change),
    Discovery(discovery::Change),
    Service(service::Change),
    Scaling(scaling::Change),
    Workspace(workspace::Change),
}

impl Step {
    pub fn kind(&self) -> Kind {
        match self {
            Self::LogGroup(_) => Kind::LogGroup,
            Self::ImageRepository(_) => Kind::ImageRepository,
            Self::Role(_) => Kind::Role,
            Self::ExecutionRole(_) => Kind::ExecutionRole,
            Self::RunDefinition(_) => Kind::RunDefinition,
            Self::TaskDefinition(_) => Kind::TaskDefinition,
            Self::Discovery(_) => Kind::Discovery,
            Self::Service(_) => Kind::Service,
            Self::Scaling(_) => Kind::Scaling,
            Self::Workspace(_) => Kind::Workspace,
        }
    }

    /// What happens when codeloc executes it.
    pub fn effect(&self) -> Effect {
        match self {
            Self::LogGroup(change) => change.effect(),
            Self::ImageRepository(change) => change.effect(),
            Self::Role(change) | Self::ExecutionRole(change) => change.effect(),
            Self::RunDefinition(change) => change.effect(),
            Self::TaskDefinition(change) => change.effect(),
            Self::Discovery(change) => change.effect(),
            Self::Service(change) => change.effect(),
            Self::Scaling(change) => change.effect(),
            Self::Workspace(change) => change.effect(),
        }
    }

    /// Whether it creates something, and the answer of AWS contains its whole state.
    pub fn makes(&self) -> bool {
        match self.effect() {
            Effect::Creates | Effect::CreatesAndRollsOut => true,
            Effect::RollsOut | Effect::Modifies | Effect::Reports => false,
        }
    }

    /// Whether ECS starts a rollout.
    pub fn rolls_out(&self) -> bool {
        match self.effect() {
            Effect::RollsOut | Effect::CreatesAndRollsOut => true,
            Effect::Creates | Effect::Modifies | Effect::Reports => false,
        }
    }

    /// Whether it only reports a difference, because AWS has no call that removes it.
    pub fn is_report_only(&self) -> bool {
        match self.effect() {
            Effect::Reports => true,
            Effect::Creates | Effect::CreatesAndRollsOut | Effect::RollsOut | Effect::Modifies => false,
        }
    }

    /// Whether it makes the same change as `earlier`. The observed values and the time do not count: they differ even if `earlier` had no
    /// effect.
    pub fn repeats(&self, earlier: &Self) -> bool {
        let target = |step: &Self| {
            let Description { action, name, fields, .. } = step.describe();
            (step.kind(), action, name, fields.into_iter().map(|field| (field.name, field.to)).collect::<Vec<_>>())
        };
        target(self) == target(earlier)
    }

    pub fn describe(&self) -> Description {
        match self {
            Self::LogGroup(change) => change.describe(),
            Self::ImageRepository(change) => change.describe(),
            Self::Role(change) | Self::ExecutionRole(change) => change.describe(),
            Self::RunDefinition(change) => change.describe(),
            Self::TaskDefinition(change) => change.describe(),
            Self::Discovery(change) => change.describe(),
            Self::Service(change) => change.describe(),
            Self::Scaling(change) => change.describe(),
            Self::Workspace(change) => change.describe(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::NAME;
    use crate::tags::{LOCATION, MANAGED_BY, Tags};

    fn log_group(owner: &str) -> ObservedResources {
        let tags = Tags::from([(MANAGED_BY.to_owned(), owner.to_owned()), (LOCATION.to_owned(), "orders".to_owned())]);
        let observed = log_group::Observed {
            arn: "arn".into(),
            name: "/orders".to_owned(),
            retention_days: None,
            tags: tags.into(),
        };
        ObservedResources { log_group: Some(observed.into()), ..ObservedResources::default() }
    }

    #[test]
    fn only_resources_with_both_tags_of_the_deployment_are_owned() {
        assert!(log_group("codeloc").any_owned(&NAME, "codeloc"));
        assert!(!log_group("codeloc").any_owned(&LocationName::new("stock").unwrap(), "codeloc"));
        assert!(!log_group("other").any_owned(&NAME, "codeloc"));
        assert!(!ObservedResources::default().any_owned(&NAME, "codeloc"));
    }

    #[test]
    fn a_step_repeats_another_with_the_same_target() {
        let set = |from, to| {
            Step::LogGroup(log_group::Change::SetRetention { name: "/orders".to_owned(), from: Some(from), to })
        };
        assert!(set(7, 30).repeats(&set(14, 30)));
        assert!(!set(7, 30).repeats(&set(7, 60)));
    }

    #[test]
    fn all_kinds_are_listed_in_order() {
        assert!(Kind::ALL.is_sorted());
        // The error of serde names every variant, and the unknown one.
        let error = serde_json::from_str::<Kind>("\"none\"").unwrap_err().to_string();
        assert_eq!(error.matches('`').count() / 2, Kind::ALL.len() + 1, "{error}");
    }

    #[test]
    fn every_kind_has_a_title_and_tracked_fields_of_its_own() {
        for kind in Kind::ALL {
            assert!(!kind.title().is_empty() && !kind.tracked_fields().is_empty(), "{kind:?}");
        }
    }
}

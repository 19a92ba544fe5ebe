//! Executing a plan: one attempt per step, in the order of the plan, until one fails.

use std::sync::Arc;
use std::time::Duration;

use codeloc_aws::{CallError, Class, Session, StepTarget};
use codeloc_core::priority::Priority;
use codeloc_core::resources::{Action, ObservedResources, Step, workspace};
use codeloc_crds::LocationName;
use codeloc_dagster::Webserver;

use super::aws::{Aws, Memory};
use super::publisher::{PublishError, WorkspacePublisher};

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl StepError {
    /// The error without the parts that differ each time.
    pub fn topic(&self) -> String {
        match self {
            Self::Publish(PublishError::Web(error)) => error.topic(),
            Self::Call(_) | Self::Publish(PublishError::File(_)) => self.to_string(),
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Self::Call(error) => error.class,
            Self::Publish(_) => Class::Transient,
        }
    }
}

/// The result of executing the steps of a plan.
#[derive(Debug)]
pub struct Execution {
    pub error: Option<StepError>,
    /// The resources after the steps, if AWS's answers tell all of them: then codeloc need not read them again.
    pub predicted: Option<ObservedResources>,
}

pub struct Executor<W> {
    aws: Arc<Aws>,
    publisher: Arc<WorkspacePublisher<W>>,
}

impl<W: Webserver> Executor<W> {
    pub fn new(aws: Arc<Aws>, publisher: Arc<WorkspacePublisher<W>>) -> Self {
        Self { aws, publisher }
    }

    /// Executes the steps, unless this process lost the lease since `memory` began. Calls `applied` with the summary of each one that succeeds.
    pub async fn execute(
        &self,
        memory: &Memory,
        steps: &[Step],
        mut resources: ObservedResources,
        priority: Priority,
        mut applied: impl FnMut(&Step, &str),
    ) -> Execution {
        let session = self.aws.session(memory, priority);
        let mut known = true;
        for step in steps {
            let summary = summary(step);
            let result = self.apply(session, step, &mut resources).await;
            known &= is_predictable(step, &result, &resources);
            match result {
                Ok(()) => applied(step, &summary),
                Err(error) => return Execution { error: Some(error), predicted: known.then_some(resources) },
            }
        }
        Execution { error: None, predicted: known.then_some(resources) }
    }

    async fn apply(
        &self,
        session: Session<'_>,
        step: &Step,
        observed: &mut ObservedResources,
    ) -> Result<(), StepError> {
        match StepTarget::from(step) {
            StepTarget::Aws(step) => codeloc_aws::apply(session, step, observed).await?,
            StepTarget::Workspace(change) => {
                session.check_fence("workspace.yaml")?;
                self.publisher.apply(change).await?;
            }
        }
        Ok(())
    }

    /// The time until codeloc asks the webserver again to load a location that it could not load.
    pub fn reload_pause(&self, steps: &[Step]) -> Option<Duration> {
        steps.iter().find_map(|step| match step {
            Step::Workspace(workspace::Change::Reload { name, expected, .. }) => {
                self.publisher.reload_pauses.remaining(name, expected)
            }
            _ => None,
        })
    }

    /// The garbage that no queued or running run can still need: such a run starts from the definition of the moment it was created.
    pub async fn unused(&self, name: &LocationName, mut garbage: Vec<Step>) -> Vec<Step> {
        let of_runs = |step: &Step| matches!(step, Step::RunDefinition(_));
        // Without an answer, there may be one.
        if garbage.iter().any(of_runs) && !matches!(self.publisher.has_unfinished_runs(name).await, Some(Ok(false))) {
            garbage.retain(|step| !of_runs(step));
        }
        garbage
    }
}

/// Whether the resources are known after this step without reading them.
fn is_predictable(step: &Step, result: &Result<(), StepError>, resources: &ObservedResources) -> bool {
    match result {
        Ok(()) => matches!(step, Step::Workspace(_)) || (step.makes() && resources.has(step.kind())),
        Err(StepError::Call(error)) => error.changed_nothing(),
        Err(StepError::Publish(_)) => true,
    }
}

/// A step on one line, for the log, events and alarms.
pub fn summary(step: &Step) -> String {
    let description = step.describe();
    let verb = match description.action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
    };
    let fields: Vec<&str> = description.fields.iter().map(|field| field.name).collect();
    let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
    format!("{verb} {} {}{fields}: {}", step.kind().title(), description.name, description.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    fn failed(class: Class, code: &str) -> Result<(), StepError> {
        let (operation, message) = ("ecs:UpdateService", "no".to_owned());
        Err(StepError::Call(CallError { operation, class, code: code.to_owned(), message }))
    }

    #[test]
    fn an_unanswered_call_leaves_the_resources_unknown() {
        let (step, resources) = (Step::Workspace(remove()), ObservedResources::default());
        assert!(!is_predictable(&step, &failed(Class::Transient, ""), &resources));
        assert!(!is_predictable(&step, &failed(Class::Terminal, "ResourceNotFoundException"), &resources));
    }

    #[test]
    fn a_call_that_aws_refused_changes_nothing() {
        let (step, resources) = (Step::Workspace(remove()), ObservedResources::default());
        assert!(is_predictable(&step, &failed(Class::Throttled, "ThrottlingException"), &resources));
        assert!(is_predictable(&step, &failed(Class::Terminal, "AccessDenied"), &resources));
    }

    #[test]
    fn a_workspace_entry_is_no_resource_of_aws() {
        assert!(is_predictable(&Step::Workspace(remove()), &Ok(()), &ObservedResources::default()));
    }

    fn remove() -> workspace::Change {
        workspace::Change::Remove { name: location_name("orders") }
    }
}

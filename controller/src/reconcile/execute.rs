//! Executing is dumb: one step, one attempt, in the order of the plan.

use crate::dagster::Webserver;
use crate::kinds::aws::{CallError, Class, Session};
use crate::kinds::service::aws::Learned;
use crate::kinds::{
    Live, Step, discovery, image_repository, log_group, role, run_definition, scaling, service, task_definition,
};

use super::workspace::{PublishError, Workspace};

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl StepError {
    /// The error without what may be different each time.
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

/// Applies one step to what is `live`. Of what was made that tells all there is, from AWS's own answers: the steps after it, and the
/// next pass, need not read it.
pub async fn execute<W: Webserver>(
    session: Session<'_>,
    workspace: &Workspace<W>,
    step: &Step,
    live: &mut Live,
) -> Result<(), StepError> {
    match step {
        Step::LogGroup(change) => log_group::aws::apply(session, change, &mut live.log_group).await?,
        Step::ImageRepository(change) => {
            image_repository::aws::apply(session, change, &mut live.image_repository).await?;
        }
        Step::Role(change) => role::aws::apply(session, change, &mut live.role).await?,
        Step::ExecutionRole(change) => role::aws::apply(session, change, &mut live.execution_role).await?,
        Step::RunDefinition(change) => {
            run_definition::aws::apply(session, change, &mut live.run_definitions).await?;
        }
        Step::TaskDefinition(change) => {
            task_definition::aws::apply(session, change, &mut live.task_definitions).await?;
        }
        Step::Discovery(change) => discovery::aws::apply(session, change, &mut live.discovery).await?,
        Step::Service(change) => {
            let learned = Learned {
                task_definition: live.task_definitions.first().map(|live| live.arn.as_str()),
                registry: live.discovery.as_ref().map(|live| live.arn.as_str()),
            };
            service::aws::apply(session, change, learned, &mut live.service).await?;
        }
        Step::Scaling(change) => scaling::aws::apply(session, change, &mut live.scaling).await?,
        Step::Workspace(change) => {
            session.check_fence("workspace.yaml")?;
            workspace.apply(change).await?;
        }
    }
    Ok(())
}

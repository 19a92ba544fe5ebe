//! Executing is dumb: one step, one attempt, in the order of the plan.

use codeloc_aws::resources as aws;
use codeloc_aws::resources::service::Learned;
use codeloc_aws::{CallError, Class, Session};
use codeloc_core::resources::{ObservedResources, Step};
use codeloc_dagster::Webserver;

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
    observed: &mut ObservedResources,
) -> Result<(), StepError> {
    match step {
        Step::LogGroup(change) => aws::log_group::apply(session, change, &mut observed.log_group).await?,
        Step::ImageRepository(change) => {
            aws::image_repository::apply(session, change, &mut observed.image_repository).await?;
        }
        Step::Role(change) => aws::role::apply(session, change, &mut observed.role).await?,
        Step::ExecutionRole(change) => aws::role::apply(session, change, &mut observed.execution_role).await?,
        Step::RunDefinition(change) => {
            aws::run_definition::apply(session, change, &mut observed.run_definitions).await?;
        }
        Step::TaskDefinition(change) => {
            aws::task_definition::apply(session, change, &mut observed.task_definitions).await?;
        }
        Step::Discovery(change) => aws::discovery::apply(session, change, &mut observed.discovery).await?,
        Step::Service(change) => {
            let learned = Learned {
                task_definition: observed.task_definitions.first().map(|observed| observed.arn.as_str()),
                registry: observed.discovery.as_ref().map(|observed| observed.arn.as_str()),
            };
            aws::service::apply(session, change, learned, &mut observed.service).await?;
        }
        Step::Scaling(change) => aws::scaling::apply(session, change, &mut observed.scaling).await?,
        Step::Workspace(change) => {
            session.check_fence("workspace.yaml")?;
            workspace.apply(change).await?;
        }
    }
    Ok(())
}

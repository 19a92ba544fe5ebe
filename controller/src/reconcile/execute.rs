//! Executing is dumb: one step, one attempt, in the order of the plan.

use crate::dagster::Webserver;
use crate::kinds::aws::{CallError, Class, Session};
use crate::kinds::service::aws::Learned;
use crate::kinds::{Step, discovery, image_repository, log_group, role, scaling, service, task_definition};

use super::workspace::{PublishError, Workspace};

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl StepError {
    pub fn class(&self) -> Class {
        match self {
            Self::Call(error) => error.class,
            Self::Publish(_) => Class::Transient,
        }
    }
}

/// What steps of this plan made, for those that come after and need its ARN.
#[derive(Debug, Default)]
pub struct Made {
    task_definition: Option<String>,
    registry: Option<String>,
}

pub async fn execute<W: Webserver>(
    session: Session<'_>,
    workspace: &Workspace<W>,
    step: &Step,
    made: &mut Made,
) -> Result<(), StepError> {
    match step {
        Step::LogGroup(change) => log_group::aws::apply(session, change).await?,
        Step::ImageRepository(change) => image_repository::aws::apply(session, change).await?,
        Step::Role(change) => role::aws::apply(session, change).await?,
        Step::TaskDefinition(change) => {
            if let Some(live) = task_definition::aws::apply(session, change).await? {
                made.task_definition = Some(live.arn);
            }
        }
        Step::Discovery(change) => {
            if let Some(live) = discovery::aws::apply(session, change).await? {
                made.registry = Some(live.arn);
            }
        }
        Step::Service(change) => {
            let learned =
                Learned { task_definition: made.task_definition.as_deref(), registry: made.registry.as_deref() };
            service::aws::apply(session, change, learned).await?;
        }
        Step::Scaling(change) => scaling::aws::apply(session, change).await?,
        Step::Workspace(change) => {
            session.check_fence("workspace.yaml")?;
            workspace.apply(change).await?;
        }
    }
    Ok(())
}

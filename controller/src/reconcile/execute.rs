//! Executing is dumb: one step, one attempt, in the order of the plan.

use codeloc_aws::{CallError, Class, Session, StepTarget};
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
    match StepTarget::from(step) {
        StepTarget::Aws(step) => codeloc_aws::apply(session, step, observed).await?,
        StepTarget::Workspace(change) => {
            session.check_fence("workspace.yaml")?;
            workspace.apply(change).await?;
        }
    }
    Ok(())
}

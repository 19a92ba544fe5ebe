//! Observed together with the code servers' definitions, because AWS lists them together: see [`task_definition::observe`].

use codeloc_core::resources::run_definition::Change;
use codeloc_core::resources::task_definition::Observed;
use codeloc_core::shared::Shared;

use super::task_definition;
use crate::error::CallError;
use crate::session::Session;

/// A registration also sets `observed`, the new revision first.
pub async fn apply(
    session: Session<'_>,
    change: &Change,
    observed: &mut Vec<Shared<Observed>>,
) -> Result<(), CallError> {
    match change {
        Change::Register { desired, .. } => {
            let registered =
                task_definition::register(session, &desired.family, &desired.content, desired.tags.clone()).await?;
            observed.insert(0, registered);
            Ok(())
        }
        Change::Tag { arn, tags } => task_definition::tag(session, arn, tags).await,
        Change::Deregister { arn } => task_definition::deregister(session, arn).await,
    }
}

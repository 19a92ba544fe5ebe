//! Observed together with the code servers' definitions, for AWS lists them together: see [`task_definition::aws::observe`].

use super::Change;
use crate::kinds::Shared;
use crate::kinds::aws::{CallError, Session};
use crate::kinds::task_definition::{self, Live};

/// A registration also tells what is `live` then.
pub async fn apply(session: Session<'_>, change: &Change, live: &mut Vec<Shared<Live>>) -> Result<(), CallError> {
    match change {
        Change::Register { want, .. } => {
            let registered =
                task_definition::aws::register(session, &want.family, &want.content, want.tags.clone()).await?;
            live.insert(0, registered);
            Ok(())
        }
        Change::Tag { arn, tags } => task_definition::aws::tag(session, arn, tags).await,
        Change::Deregister { arn } => task_definition::aws::deregister(session, arn).await,
    }
}

//! Observed together with the code servers' definitions, because AWS lists them together: see [`task_definition::observe`].

use std::collections::BTreeSet;

use aws_sdk_ecs::types::DesiredStatus;
use codeloc_core::resources::run_definition::Change;
use codeloc_core::resources::task_definition::Observed;
use codeloc_core::shared::Shared;

use super::task_definition;
use crate::error::CallError;
use crate::session::Session;

/// The most tasks that `DescribeTasks` accepts.
const DESCRIBED: usize = 100;

/// The number of tasks of these families that have not stopped. A task that is stopping still writes its log.
pub async fn unfinished(session: Session<'_>, families: &BTreeSet<&str>) -> Result<usize, CallError> {
    let mut unfinished = 0;
    for family in families {
        unfinished += list(session, family, DesiredStatus::Running).await?.len();
        for stopping in list(session, family, DesiredStatus::Stopped).await?.chunks(DESCRIBED) {
            let request = session.clients.ecs.describe_tasks().cluster(&session.deployment.cluster);
            let answer = session.call("ecs:DescribeTasks", request.set_tasks(Some(stopping.to_vec())).send()).await?;
            unfinished += answer.tasks().iter().filter(|task| task.last_status() != Some("STOPPED")).count();
        }
    }
    Ok(unfinished)
}

async fn list(session: Session<'_>, family: &str, status: DesiredStatus) -> Result<Vec<String>, CallError> {
    let (mut tasks, mut token) = (Vec::new(), None);
    loop {
        let request = session.clients.ecs.list_tasks().cluster(&session.deployment.cluster).family(family);
        let request = request.desired_status(status.clone()).set_next_token(token);
        let answer = session.call("ecs:ListTasks", request.send()).await?;
        tasks.extend(answer.task_arns.unwrap_or_default());
        token = answer.next_token;
        if token.is_none() {
            return Ok(tasks);
        }
    }
}

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

//! Applies one step of a plan to AWS.

use codeloc_core::resources::{
    ObservedResources, Step, discovery, image_repository, log_group, role, run_definition, scaling, service,
    task_definition, workspace,
};

use crate::error::CallError;
use crate::resources as kinds;
use crate::session::Session;

/// Who applies a step. A new kind does not compile until it is listed here.
#[derive(Clone, Copy, Debug)]
pub enum StepTarget<'a> {
    Aws(AwsStep<'a>),
    /// `workspace.yaml`, which is not in AWS.
    Workspace(&'a workspace::Change),
}

/// A step that changes AWS.
#[derive(Clone, Copy, Debug)]
pub enum AwsStep<'a> {
    LogGroup(&'a log_group::Change),
    ImageRepository(&'a image_repository::Change),
    Role(&'a role::Change),
    ExecutionRole(&'a role::Change),
    RunDefinition(&'a run_definition::Change),
    TaskDefinition(&'a task_definition::Change),
    Discovery(&'a discovery::Change),
    Service(&'a service::Change),
    Scaling(&'a scaling::Change),
}

impl<'a> From<&'a Step> for StepTarget<'a> {
    fn from(step: &'a Step) -> Self {
        Self::Aws(match step {
            Step::LogGroup(change) => AwsStep::LogGroup(change),
            Step::ImageRepository(change) => AwsStep::ImageRepository(change),
            Step::Role(change) => AwsStep::Role(change),
            Step::ExecutionRole(change) => AwsStep::ExecutionRole(change),
            Step::RunDefinition(change) => AwsStep::RunDefinition(change),
            Step::TaskDefinition(change) => AwsStep::TaskDefinition(change),
            Step::Discovery(change) => AwsStep::Discovery(change),
            Step::Service(change) => AwsStep::Service(change),
            Step::Scaling(change) => AwsStep::Scaling(change),
            Step::Workspace(change) => return Self::Workspace(change),
        })
    }
}

/// Makes the calls of one step. A step that creates a resource also sets it in `observed`, from AWS's own answer: later steps and
/// the next reconciliation need not read it.
pub async fn apply(session: Session<'_>, step: AwsStep<'_>, observed: &mut ObservedResources) -> Result<(), CallError> {
    match step {
        AwsStep::LogGroup(change) => kinds::log_group::apply(session, change, &mut observed.log_group).await,
        AwsStep::ImageRepository(change) => {
            kinds::image_repository::apply(session, change, &mut observed.image_repository).await
        }
        AwsStep::Role(change) => kinds::role::apply(session, change, &mut observed.role).await,
        AwsStep::ExecutionRole(change) => kinds::role::apply(session, change, &mut observed.execution_role).await,
        AwsStep::RunDefinition(change) => {
            kinds::run_definition::apply(session, change, &mut observed.run_definitions).await
        }
        AwsStep::TaskDefinition(change) => {
            kinds::task_definition::apply(session, change, &mut observed.task_definitions).await
        }
        AwsStep::Discovery(change) => kinds::discovery::apply(session, change, &mut observed.discovery).await,
        AwsStep::Service(change) => {
            let created = kinds::service::Created {
                task_definition: observed.task_definitions.first().map(|observed| &observed.arn),
                registry: observed.discovery.as_ref().map(|observed| &observed.arn),
            };
            kinds::service::apply(session, change, created, &mut observed.service).await
        }
        AwsStep::Scaling(change) => kinds::scaling::apply(session, change, &mut observed.scaling).await,
    }
}

#[cfg(test)]
mod tests {
    use codeloc_crds::LocationName;

    use super::*;

    #[test]
    fn a_log_group_step_is_for_aws() {
        let step = Step::LogGroup(log_group::Change::Delete { arn: "arn".into(), name: "/codeloc/orders".to_owned() });
        let target = StepTarget::from(&step);
        assert!(matches!(target, StepTarget::Aws(AwsStep::LogGroup(log_group::Change::Delete { .. }))), "{target:?}");
    }

    #[test]
    fn a_workspace_step_is_not_for_aws() {
        let step = Step::Workspace(workspace::Change::Remove { name: LocationName::new("orders").unwrap() });
        assert!(matches!(StepTarget::from(&step), StepTarget::Workspace(workspace::Change::Remove { .. })));
    }
}

//! ARNs of resources whose names codeloc chooses. They are known before the resource exists.

use codeloc_crds::Location;

use crate::deployment::Deployment;
use crate::ids::Arn;
use crate::names;

/// The role of a location's code.
pub fn role(location: &Location, deployment: &Deployment) -> Arn {
    role_named(&names::role(&deployment.id, &location.name), deployment)
}

/// The role with which ECS starts a location's tasks: its own if it has secrets, else the deployment's.
pub fn execution_role(location: &Location, deployment: &Deployment) -> Arn {
    if location.secrets.is_empty() {
        deployment.execution_role_arn.clone()
    } else {
        role_named(&names::execution_role(&deployment.id, &location.name), deployment)
    }
}

/// A role of the deployment, by its name.
pub fn role_named(name: &str, deployment: &Deployment) -> Arn {
    let Deployment { partition, account, id, .. } = deployment;
    format!("arn:{partition}:iam::{account}:role{}{name}", names::role_path(id)).into()
}

pub fn log_group(name: &str, deployment: &Deployment) -> Arn {
    let Deployment { partition, region, account, .. } = deployment;
    format!("arn:{partition}:logs:{region}:{account}:log-group:{name}").into()
}

/// The image repository of a location.
pub fn image_repository(location: &Location, deployment: &Deployment) -> Arn {
    let name = names::image_repository(&deployment.id, &location.name);
    image_repository_in(&deployment.region, &deployment.account, &name, deployment)
}

/// An image repository of any account and region of the partition.
pub fn image_repository_in(region: &str, account: &str, name: &str, deployment: &Deployment) -> Arn {
    format!("arn:{}:ecr:{region}:{account}:repository/{name}", deployment.partition).into()
}

pub fn bucket(deployment: &Deployment) -> Arn {
    format!("arn:{}:s3:::{}", deployment.partition, deployment.bucket).into()
}

/// Everything of ECS in the deployment's account and region.
pub fn all_of_ecs(deployment: &Deployment) -> Arn {
    let Deployment { partition, region, account, .. } = deployment;
    format!("arn:{partition}:ecs:{region}:{account}:*").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{deployment, location};

    #[test]
    fn only_a_location_with_secrets_has_its_own_execution_role() {
        let (mut location, deployment) = (location(512, 1, None), deployment());
        assert_eq!(execution_role(&location, &deployment), deployment.execution_role_arn);
        location.secrets = [("TOKEN".to_owned(), "arn".to_owned())].into();
        let own = "arn:aws:iam::123456789012:role/codeloc/codeloc-orders_x";
        assert_eq!(execution_role(&location, &deployment), own);
    }

    #[test]
    fn every_arn_has_the_partition_of_the_deployment() {
        let (location, mut deployment) = (location(512, 1, None), deployment());
        deployment.partition = "aws-cn".to_owned();
        let arns = [
            role(&location, &deployment),
            log_group("/orders", &deployment),
            image_repository(&location, &deployment),
            bucket(&deployment),
            all_of_ecs(&deployment),
        ];
        assert!(arns.iter().all(|arn| arn.starts_with("arn:aws-cn:")), "{arns:?}");
        assert_eq!(arns[2], "arn:aws-cn:ecr:eu-central-1:123456789012:repository/codeloc/orders");
    }
}

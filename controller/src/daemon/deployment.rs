//! The deployment: the settings, completed with what AWS knows.

use codeloc_aws::Clients;
use codeloc_aws::deployment::{self, DeploymentError, Found};
use codeloc_core::deployment::{Address, Deployment};
use codeloc_core::ids::Arn;

use crate::settings::{AddressMode, Platform, Settings};

/// Three reads. An error names the setting that refers to a missing thing.
pub async fn find(settings: &Settings, clients: &Clients, region: Option<&str>) -> Result<Deployment, DeploymentError> {
    let aws = &settings.aws;
    let Found { partition, account, region, namespace_id } =
        deployment::find(clients, region, &aws.cluster, &aws.namespace).await?;
    Ok(Deployment {
        id: settings.deployment.clone(),
        partition,
        account,
        region,
        cluster: aws.cluster.clone(),
        namespace_id,
        namespace: aws.namespace.clone(),
        bucket: aws.bucket.clone(),
        subnets: aws.subnets.clone(),
        security_groups: aws.security_groups.clone(),
        assign_public_ip: aws.assign_public_ip,
        execution_role_arn: aws.execution_role_arn.as_str().into(),
        permissions_boundary: aws.permissions_boundary.as_deref().map(Arn::from),
        log_retention_days: aws.log_retention_days,
        image_grace_days: settings.build.image_grace_days,
        run_wait_hours: settings.reconcile.run_wait_hours,
        port: settings.dagster.port,
        address: match settings.dagster.address {
            AddressMode::Dns => Address::Dns { template: settings.dagster.host.clone() },
            AddressMode::Discovered => Address::Discovered,
        },
        environment: settings.dagster.environment.clone(),
        secrets: settings.dagster.secrets.clone(),
        host_platform: settings.build.platform == Platform::Host,
    })
}

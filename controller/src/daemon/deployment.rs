//! Finds out where this deployment lives: what the settings name, as AWS has it.

use codeloc_aws::{CallError, Clients, call};
use codeloc_core::deployment::{Address, Deployment};

use crate::settings::{AddressMode, Platform, Settings};

#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("no region is set; give aws.region, or AWS_REGION")]
    NoRegion,
    #[error("there is no Cloud Map namespace {0} in this account and region; aws.namespace must name one that exists")]
    NoNamespace(String),
    #[error("there is no ECS cluster {0} in this account and region; aws.cluster must name one that exists")]
    NoCluster(String),
}

/// Three reads. Errors say which setting names something that is not there.
pub async fn find(settings: &Settings, clients: &Clients, region: Option<&str>) -> Result<Deployment, DeploymentError> {
    let region = region.ok_or(DeploymentError::NoRegion)?.to_owned();
    let identity = call("sts:GetCallerIdentity", clients.sts.get_caller_identity().send()).await?;
    let account =
        identity.account().ok_or_else(|| CallError::malformed("sts:GetCallerIdentity", "account"))?.to_owned();
    let partition = identity.arn().and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws").to_owned();
    let aws = &settings.aws;

    let cluster = call("ecs:DescribeClusters", clients.ecs.describe_clusters().clusters(&aws.cluster).send()).await?;
    if !cluster.clusters().iter().any(|cluster| cluster.status() == Some("ACTIVE")) {
        return Err(DeploymentError::NoCluster(aws.cluster.clone()));
    }
    Ok(Deployment {
        id: settings.deployment.clone(),
        partition,
        account,
        region,
        cluster: aws.cluster.clone(),
        namespace_id: namespace_id(clients, &aws.namespace).await?,
        namespace: aws.namespace.clone(),
        bucket: aws.bucket.clone(),
        subnets: aws.subnets.clone(),
        security_groups: aws.security_groups.clone(),
        assign_public_ip: aws.assign_public_ip,
        execution_role_arn: aws.execution_role_arn.clone(),
        permissions_boundary: aws.permissions_boundary.clone(),
        log_retention_days: aws.log_retention_days,
        image_grace_days: settings.build.image_grace_days,
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

async fn namespace_id(clients: &Clients, name: &str) -> Result<String, DeploymentError> {
    let mut token = None;
    loop {
        let request = clients.discovery.list_namespaces().max_results(100).set_next_token(token);
        let answer = call("servicediscovery:ListNamespaces", request.send()).await?;
        let found = answer.namespaces().iter().find(|namespace| namespace.name() == Some(name));
        if let Some(id) = found.and_then(|namespace| namespace.id()) {
            return Ok(id.to_owned());
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Err(DeploymentError::NoNamespace(name.to_owned()));
        }
    }
}

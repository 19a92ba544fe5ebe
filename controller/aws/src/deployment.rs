//! Finds the deployment in AWS: account, region, cluster and namespace.

use crate::clients::Clients;
use crate::error::CallError;
use crate::lookup;

#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("no AWS region is set; set aws.region or AWS_REGION")]
    NoRegion,
    #[error("there is no Cloud Map namespace {0} in this account and region; create it, or correct aws.namespace")]
    NoNamespace(String),
    #[error("there is no ECS cluster {0} in this account and region; create it, or correct aws.cluster")]
    NoCluster(String),
}

/// What AWS adds to the settings of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub partition: String,
    pub account: String,
    pub region: String,
    pub namespace_id: String,
}

/// Three reads. An error names the setting that refers to a missing thing.
pub async fn find(
    clients: &Clients,
    region: Option<&str>,
    cluster: &str,
    namespace: &str,
) -> Result<Found, DeploymentError> {
    let region = region.ok_or(DeploymentError::NoRegion)?.to_owned();
    let identity = lookup::identity(clients).await?;
    let partition = identity.partition().to_owned();
    let account = identity.account.ok_or_else(|| CallError::malformed("sts:GetCallerIdentity", "account"))?;
    if lookup::active_cluster(clients, cluster).await?.is_none() {
        return Err(DeploymentError::NoCluster(cluster.to_owned()));
    }
    let namespace_id = match lookup::namespace(clients, namespace).await? {
        Some(found) => found.id,
        None => return Err(DeploymentError::NoNamespace(namespace.to_owned())),
    };
    Ok(Found { partition, account, region, namespace_id })
}

//! Single reads of the things that the settings name, for starting up and for `codeloc doctor`.
//!
//! They bypass the rate limiter and the fence: there is no session yet, and they are few.

use codeloc_core::ids::Arn;

use crate::clients::Clients;
use crate::error::CallError;
use crate::session::call;

/// The principal whose credentials this process uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub arn: Arn,
    pub account: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub services: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub id: String,
    /// As AWS writes it, for example `DNS_PRIVATE`.
    pub kind: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    pub arn: Arn,
    /// The trust policy as JSON.
    pub trust: String,
}

impl Identity {
    /// The partition of the ARN, such as `aws` or `aws-cn`.
    pub fn partition(&self) -> &str {
        self.arn.split(':').nth(1).unwrap_or("aws")
    }
}

pub async fn identity(clients: &Clients) -> Result<Identity, CallError> {
    let answer = call("sts:GetCallerIdentity", clients.sts.get_caller_identity().send()).await?;
    Ok(Identity { arn: answer.arn().unwrap_or_default().into(), account: answer.account().map(str::to_owned) })
}

pub async fn active_cluster(clients: &Clients, name: &str) -> Result<Option<Cluster>, CallError> {
    let answer = call("ecs:DescribeClusters", clients.ecs.describe_clusters().clusters(name).send()).await?;
    let active = answer.clusters().iter().find(|cluster| cluster.status() == Some("ACTIVE"));
    Ok(active.map(|cluster| Cluster { services: cluster.active_services_count() }))
}

pub async fn codebuild_project_exists(clients: &Clients, name: &str) -> Result<bool, CallError> {
    let request = clients.codebuild.batch_get_projects().names(name);
    let answer = call("codebuild:BatchGetProjects", request.send()).await?;
    Ok(answer.projects().iter().any(|project| project.name() == Some(name)))
}

pub async fn namespace(clients: &Clients, name: &str) -> Result<Option<Namespace>, CallError> {
    const OPERATION: &str = "servicediscovery:ListNamespaces";
    let mut token = None;
    loop {
        let request = clients.discovery.list_namespaces().max_results(100).set_next_token(token);
        let answer = call(OPERATION, request.send()).await?;
        if let Some(found) = answer.namespaces().iter().find(|namespace| namespace.name() == Some(name)) {
            let id = found.id().ok_or_else(|| CallError::malformed(OPERATION, "namespace id"))?.to_owned();
            return Ok(Some(Namespace { id, kind: found.r#type().map(|kind| kind.as_str().to_owned()) }));
        }
        token = answer.next_token().map(str::to_owned);
        if token.is_none() {
            return Ok(None);
        }
    }
}

pub async fn role(clients: &Clients, name: &str) -> Result<Option<Role>, CallError> {
    match call("iam:GetRole", clients.iam.get_role().role_name(name).send()).await {
        Ok(answer) => Ok(answer.role().map(|role| Role {
            arn: role.arn().into(),
            // IAM sends policy documents percent-encoded.
            trust: percent_encoding::percent_decode_str(role.assume_role_policy_document().unwrap_or_default())
                .decode_utf8_lossy()
                .into_owned(),
        })),
        Err(error) if error.is(&["NoSuchEntity"]) => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn policy_exists(clients: &Clients, arn: &Arn) -> Result<bool, CallError> {
    match call("iam:GetPolicy", clients.iam.get_policy().policy_arn(arn).send()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(&["NoSuchEntity"]) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an object exists. A missing bucket is an error with the code `NoSuchBucket`.
pub async fn object_exists(clients: &Clients, bucket: &str, key: &str) -> Result<bool, CallError> {
    match call("s3:GetObject", clients.s3.get_object().bucket(bucket).key(key).send()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(&["NoSuchKey", "NotFound"]) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_the_second_part_of_an_arn() {
        let identity = |arn: &str| Identity { arn: arn.into(), account: None };
        assert_eq!(identity("arn:aws-cn:sts::1:assumed-role/a/b").partition(), "aws-cn");
        assert_eq!(identity("").partition(), "aws");
    }
}

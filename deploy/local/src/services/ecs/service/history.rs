//! `ListServiceDeployments` and `DescribeServiceRevisions`: how the rollouts of a service ended.

use serde_json::{Value, json};

use crate::model::Cloud;
use crate::model::ecs::rollout::{Record, RecordStatus};
use crate::model::ecs::service::Service;
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::arn::tail;
use crate::protocol::fields::Fields;
use crate::protocol::paging::Limits;
use crate::services::ecs::common::{arns, cluster};

/// Newest first. localcloud ignores the filter by status.
pub fn list_deployments(cloud: &mut Cloud, input: &Value) -> Reply {
    let cluster = cluster(cloud, input)?;
    let missing = || ApiError::new("ServiceNotFoundException", "Service not found.");
    let service = cluster.services.get(tail(input.need("service")?)).ok_or_else(missing)?;
    let after = input.get("createdAt").and_then(|created| created.get("after")).and_then(Value::as_f64);
    let fits = |record: &&Record| after.is_none_or(|after| record.created_at.epoch_seconds() > after);
    let listed = service.rollout.records.iter().filter(fits).map(|record| {
        let shown = json!({
            "serviceDeploymentArn": arn(cloud, "service-deployment", &cluster.name, service, record),
            "serviceArn": service.arn,
            "clusterArn": service.cluster_arn,
            "createdAt": record.created_at.epoch_seconds(),
            "startedAt": record.created_at.epoch_seconds(),
            "targetServiceRevisionArn": arn(cloud, "service-revision", &cluster.name, service, record),
            "status": name(record.status),
        });
        (format!("{:020.3} {}", record.created_at.epoch_seconds(), record.id), shown)
    });
    arns(input, "serviceDeployments", listed.collect(), Limits { default: 20, max: 100 })
}

pub fn describe_revisions(cloud: &mut Cloud, input: &Value) -> Reply {
    let named = input.texts("serviceRevisionArns");
    if named.is_empty() || named.len() > 20 {
        return Err(ApiError::invalid("serviceRevisionArns must have between 1 and 20 elements."));
    }
    let (mut revisions, mut failures) = (Vec::new(), Vec::new());
    for wanted in named {
        let services = cloud
            .ecs
            .clusters
            .values()
            .flat_map(|cluster| cluster.services.values().map(|service| (cluster.name.as_str(), service)));
        let mut records = services.flat_map(|(cluster, service)| {
            service.rollout.records.iter().map(move |record| (cluster, service, record))
        });
        let found = records
            .find(|(cluster, service, record)| arn(cloud, "service-revision", cluster, service, record) == wanted);
        match found {
            Some((_, service, record)) => revisions.push(json!({
                "serviceRevisionArn": wanted,
                "serviceArn": service.arn,
                "clusterArn": service.cluster_arn,
                "taskDefinition": record.task_definition,
                "createdAt": record.created_at.epoch_seconds(),
            })),
            None => failures.push(json!({"arn": wanted, "reason": "MISSING"})),
        }
    }
    Ok(json!({"serviceRevisions": revisions, "failures": failures}))
}

/// AWS numbers deployments and revisions separately; in localcloud, each deployment has one revision with the same number.
fn arn(cloud: &Cloud, kind: &str, cluster: &str, service: &Service, record: &Record) -> String {
    cloud.arn("ecs", &format!("{kind}/{cluster}/{}/{}", service.name, tail(&record.id)))
}

fn name(status: RecordStatus) -> &'static str {
    match status {
        RecordStatus::InProgress => "IN_PROGRESS",
        RecordStatus::Successful => "SUCCESSFUL",
        RecordStatus::Stopped => "STOPPED",
        RecordStatus::RollbackInProgress => "ROLLBACK_IN_PROGRESS",
        RecordStatus::RollbackSuccessful => "ROLLBACK_SUCCESSFUL",
        RecordStatus::RollbackFailed => "ROLLBACK_FAILED",
    }
}

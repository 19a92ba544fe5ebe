//! Resources of other owners, which codeloc must not change.

use codeloc_core::tags;
use localcloud::model::Cloud;

use crate::TestDeployment;

/// Resources with names like those of codeloc that belong to other owners.
pub async fn create_foreign_resources(deployment: &TestDeployment) {
    let clients = deployment.clients();
    let logs = clients.logs.create_log_group().log_group_name("/codeloc/locations/orders2");
    logs.send().await.expect("create a log group");
    let logs = clients.logs.create_log_group().log_group_name("/codeloc/locations/finance");
    let logs = logs.tags(tags::MANAGED_BY, "another").tags(tags::LOCATION, "finance");
    logs.send().await.expect("create a log group of another deployment");
    let role = clients.iam.create_role().role_name("codeloc-finance");
    role.assume_role_policy_document(r#"{"Version":"2012-10-17","Statement":[]}"#).send().await.expect("create a role");
    clients.ecr.create_repository().repository_name("codeloc/base").send().await.expect("create an image repository");
}

/// The current content of these resources.
pub fn foreign_resources(cloud: &Cloud) -> String {
    let names = ["/codeloc/locations/orders2", "/codeloc/locations/finance"];
    let groups: Vec<String> =
        names.iter().map(|name| serde_json::to_string(&cloud.logs.groups.get(*name)).expect("plain data")).collect();
    let role = serde_json::to_string(&cloud.iam.roles.get("codeloc-finance")).expect("plain data");
    let images = serde_json::to_string(&cloud.ecr.repositories.get("codeloc/base")).expect("plain data");
    format!("{}\n{role}\n{images}", groups.join("\n"))
}

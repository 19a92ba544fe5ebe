//! A removed location keeps everything that its unfinished runs use.

use std::time::Duration;

use codeloc_aws::Clients;
use codeloc_core::status::Reason;
use codeloc_core::tags::MANAGED_BY;
use codeloc_tests::{TestDeployment, config};
use localcloud::fault_injection::{Fault, Rule};

/// Operations that take something away from a run.
const HARMFUL: [&str; 5] =
    ["DeleteRole", "DeleteRolePolicy", "DeleteRepository", "DeleteLogGroup", "DeregisterTaskDefinition"];

const RUN_WAIT: Duration = Duration::from_hours(24);

async fn converged() -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.settings.allow_prune = 1;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders"]).await;
    deployment.idle().await;
    deployment.cloud.reset_calls();
    deployment
}

fn harmful(deployment: &TestDeployment) -> Vec<String> {
    deployment.mutating_operations().into_iter().filter(|one| HARMFUL.contains(&one.as_str())).collect()
}

fn waits_for_runs(deployment: &TestDeployment) -> bool {
    deployment
        .status("orders")
        .is_some_and(|status| status.conditions.iter().any(|dated| dated.condition.reason == Reason::WaitingForRuns))
}

/// Starts a run as Dagster's launcher does. Returns the ARN of its task.
async fn start_run(clients: &Clients) -> String {
    let listed = clients.ecs.list_task_definitions().send().await.expect("ECS answers");
    let definition =
        listed.task_definition_arns().iter().find(|arn| arn.contains("orders_run_")).expect("ECS answers").clone();
    let network = aws_sdk_ecs::types::AwsVpcConfiguration::builder().subnets("subnet-1").build().expect("ECS answers");
    let network = aws_sdk_ecs::types::NetworkConfiguration::builder().awsvpc_configuration(network).build();
    let request = clients.ecs.run_task().cluster("dagster").task_definition(definition);
    let started = request.network_configuration(network).send().await.expect("ECS answers");
    started.tasks()[0].task_arn().expect("ECS answers").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_runs_that_dagster_reports() {
    let mut deployment = converged().await;
    deployment.webserver.run(true);
    deployment.remove("orders");
    deployment.wait_until("the removal waits", waits_for_runs).await;
    tokio::time::sleep(Duration::from_hours(5)).await;
    assert_eq!(harmful(&deployment), Vec::<String>::new());
    let message = deployment.status("orders").unwrap().message;
    assert!(message.starts_with("deleting: waiting for the runs that Dagster reports as unfinished"), "{message}");

    deployment.webserver.run(false);
    deployment.wait_until("the location is gone", |this| this.status("orders").is_none()).await;
    assert!(deployment.observed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_the_tasks_of_runs() {
    let mut deployment = converged().await;
    let run = start_run(&deployment.clients()).await;
    deployment.remove("orders");
    deployment.wait_until("the removal waits", waits_for_runs).await;
    tokio::time::sleep(Duration::from_hours(5)).await;
    assert_eq!(harmful(&deployment), Vec::<String>::new());
    let message = deployment.status("orders").unwrap().message;
    assert!(message.starts_with("deleting: waiting for 1 run to end"), "{message}");

    deployment.clients().ecs.stop_task().cluster("dagster").task(run).send().await.unwrap();
    deployment.wait_until("the location is gone", |this| this.status("orders").is_none()).await;
    assert!(deployment.observed().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_begin_the_wait_again() {
    let mut deployment = converged().await;
    deployment.webserver.run(true);
    deployment.remove("orders");
    deployment.wait_until("the removal waits", waits_for_runs).await;
    tokio::time::sleep(RUN_WAIT.checked_sub(Duration::from_hours(1)).unwrap()).await;
    deployment.kill().await;
    deployment.start().await;
    deployment.wait_until("the removal waits again", waits_for_runs).await;
    assert_eq!(harmful(&deployment), Vec::<String>::new());
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert!(deployment.observed().await.is_empty(), "a run that hangs keeps nothing longer than a day");
}

#[tokio::test(start_paused = true)]
async fn a_config_that_returns_ends_the_wait() {
    let mut deployment = converged().await;
    deployment.webserver.run(true);
    deployment.remove("orders");
    deployment.wait_until("the removal waits", waits_for_runs).await;
    deployment.commit("orders", config("orders"));
    deployment.wait_until_healthy(&["orders"]).await;
    tokio::time::sleep(RUN_WAIT).await;
    deployment.remove("orders");
    deployment.wait_until("the second removal waits", waits_for_runs).await;
    tokio::time::sleep(RUN_WAIT.checked_sub(Duration::from_hours(1)).unwrap()).await;
    assert_eq!(harmful(&deployment), Vec::<String>::new());
}

/// Removes the tag of codeloc from the log group and the image repository, as a person does who wants to keep them.
async fn untag_data(clients: &Clients) {
    let groups =
        clients.logs.describe_log_groups().log_group_name_prefix("/codeloc").send().await.expect("AWS answers");
    let group = groups.log_groups()[0].arn().expect("an ARN").trim_end_matches(":*");
    clients.logs.untag_resource().resource_arn(group).tag_keys(MANAGED_BY).send().await.expect("AWS answers");
    let repositories = clients.ecr.describe_repositories().send().await.expect("AWS answers");
    let repository = repositories.repositories()[0].repository_arn().expect("an ARN");
    clients.ecr.untag_resource().resource_arn(repository).tag_keys(MANAGED_BY).send().await.expect("AWS answers");
}

/// Waits until the location is gone, and asserts that the log group and the image repository are left.
async fn assert_data_is_left(deployment: &TestDeployment, clients: &Clients) {
    deployment.wait_until("the location is gone", |this| this.status("orders").is_none()).await;
    let groups =
        clients.logs.describe_log_groups().log_group_name_prefix("/codeloc").send().await.expect("AWS answers");
    assert_eq!(groups.log_groups().len(), 1);
    let repositories = clients.ecr.describe_repositories().send().await.expect("AWS answers");
    assert_eq!(repositories.repositories().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn data_without_the_tags_of_codeloc_survives_a_removal() {
    let mut deployment = converged().await;
    let clients = deployment.clients();
    untag_data(&clients).await;
    deployment.remove("orders");
    assert_data_is_left(&deployment, &clients).await;
}

#[tokio::test(start_paused = true)]
async fn data_that_just_lost_its_tags_survives_a_removal() {
    let mut deployment = converged().await;
    let clients = deployment.clients();
    // The tags go after codeloc has planned the deletion of both, and before it deletes them.
    deployment.cloud.set_faults(Rule::at(1, Fault::Delay(Duration::from_secs(5))).on(&["DeleteRole"]));
    deployment.remove("orders");
    deployment.wait_until("its policy is deleted", |this| harmful(this).contains(&"DeleteRolePolicy".to_owned())).await;
    untag_data(&clients).await;
    assert_data_is_left(&deployment, &clients).await;
}

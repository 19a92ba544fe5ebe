//! Addresses of tasks, and their registration in Cloud Map.

use std::net::IpAddr;
use std::time::Duration;

use codeloc::settings::AddressMode;
use codeloc_tests::{TestDeployment, config};
use localcloud::driver::simulated::Script;

use super::revision;

/// The address of the only task of a location.
fn address(deployment: &TestDeployment, name: &str) -> IpAddr {
    let family = format!("codeloc-{name}");
    let found = deployment.cloud.with_cloud(|cloud| {
        let mut tasks = cloud.ecs.tasks.values().filter(|task| task.family == family && task.last_status == "RUNNING");
        tasks.find_map(|task| task.address)
    });
    IpAddr::V4(found.expect("a task runs"))
}

#[tokio::test(start_paused = true)]
async fn an_address_where_another_location_answers_is_unpublished() {
    for mode in [AddressMode::Dns, AddressMode::Discovered] {
        let mut deployment = TestDeployment::new().await;
        deployment.settings.dagster.address = mode;
        deployment.commit("orders", config("orders"));
        deployment.commit("billing", config("billing"));
        deployment.start().await;
        deployment.wait_until_healthy(&["orders", "billing"]).await;
        let foreign = revision(&deployment, "billing");
        deployment.code_server.override_address(address(&deployment, "orders"), &foreign);
        deployment.wait_until("unpublished", |this| !this.workspace().contains("\"orders\"")).await;
        let reported = |this: &TestDeployment| this.status("orders").unwrap().message.contains(foreign.as_str());
        deployment.wait_until("reported", reported).await;
        deployment.idle().await;
        assert!(!deployment.workspace().contains("\"orders\"") && !deployment.healthy("orders"));
        assert!(deployment.healthy("billing"));
        deployment.code_server.restore_addresses();
        deployment.wait_until_healthy(&["orders"]).await;
        assert!(deployment.workspace().contains("\"orders\""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_freed_address_of_another_task_is_unpublished() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.dagster.address = AddressMode::Discovered;
    deployment.commit("orders", config("orders"));
    deployment.commit("billing", config("billing"));
    deployment.start().await;
    deployment.wait_until_healthy(&["orders", "billing"]).await;
    let (freed, foreign) = (address(&deployment, "orders"), revision(&deployment, "billing"));
    // The task stops, the next one starts slowly, and Cloud Map lists neither.
    deployment.cloud.simulated().script_default(Script { boot: Duration::from_secs(1800), ..Script::default() });
    let task = deployment.cloud.with_cloud(|cloud| {
        cloud.ecs.tasks.values().find(|task| task.family == "codeloc-orders").map(|task| task.arn.clone())
    });
    let stop = deployment.clients().ecs.stop_task().cluster("dagster").task(task.expect("a task runs"));
    stop.send().await.expect("stop the task");
    deployment.code_server.override_address(freed, &foreign);
    deployment.wait_until("unpublished", |this| !this.workspace().contains("\"orders\"")).await;
    deployment.wait_until_healthy(&["orders"]).await;
    assert!(!deployment.workspace().contains(&format!("\"{freed}\"")), "{}", deployment.workspace());
}

/// Deregisters every task from the only Cloud Map service. Returns its id.
async fn empty_registry(deployment: &TestDeployment) -> String {
    let discovery = deployment.clients().discovery;
    let services = discovery.list_services().send().await.expect("services");
    let id = services.services()[0].id().expect("a service has an id").to_owned();
    let instances = discovery.list_instances().service_id(&id).send().await.expect("instances");
    for instance in instances.instances() {
        let instance = instance.id().expect("an instance has an id");
        let request = discovery.deregister_instance().service_id(&id).instance_id(instance);
        request.send().await.expect("deregister an instance");
    }
    id
}

#[tokio::test(start_paused = true)]
async fn a_deleted_cloud_map_service_returns_with_its_tasks() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let id = empty_registry(&deployment).await;
    let discovery = deployment.clients().discovery;
    // Deregistration is asynchronous.
    while !discovery.list_instances().service_id(&id).send().await.unwrap().instances().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    discovery.delete_service().id(&id).send().await.unwrap();

    deployment.wait_until("noticed", |this| !this.healthy("orders")).await;
    deployment.wait_until_healthy(&["orders"]).await;
    let services = discovery.list_services().send().await.unwrap();
    let id = services.services()[0].id().unwrap().to_owned();
    let instances = discovery.list_instances().service_id(id).send().await.unwrap();
    assert_eq!(instances.instances().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tasks_missing_in_cloud_map_are_restarted() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let id = empty_registry(&deployment).await;
    let discovery = deployment.clients().discovery;
    deployment.wait_until("noticed", |this| !this.healthy("orders")).await;
    deployment.wait_until_healthy(&["orders"]).await;
    let instances = discovery.list_instances().service_id(&id).send().await.unwrap();
    assert_eq!(instances.instances().len(), 1);
}

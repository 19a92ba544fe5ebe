//! Convergence as a user sees it, in virtual time: the real controller and SDK against localcloud in process.

use std::net::IpAddr;
use std::time::Duration;

use codeloc::settings::AddressMode;
use codeloc_core::status::{ConditionKind, Health, Reason, Sync};
use codeloc_tests::{TestDeployment, config, shape};
use localcloud::driver::simulated::Script;

fn operations(deployment: &TestDeployment) -> Vec<String> {
    deployment.mutating_calls().into_iter().map(|call| call.operation).collect()
}

fn revision(deployment: &TestDeployment, name: &str) -> String {
    deployment.status(name).and_then(|status| status.serving).expect("it serves")
}

#[tokio::test(start_paused = true)]
async fn a_committed_config_becomes_a_published_location() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    assert!(deployment.workspace().contains("\"orders-service.dagster.internal\""), "{}", deployment.workspace());
    assert_eq!(
        operations(&deployment),
        [
            "CreateLogGroup",
            "PutRetentionPolicy",
            "CreateRepository",
            "CreateRole",
            "PutRolePolicy",
            "RegisterTaskDefinition",
            "CreateService",
            "CreateService",
            "RegisterTaskDefinition",
            "RegisterScalableTarget",
            "PutScalingPolicy",
            "PutScalingPolicy",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_again_changes_nothing() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    let before = (deployment.observed().await, deployment.workspace());
    deployment.kill().await;
    deployment.cloud.reset_calls();
    deployment.start().await;
    deployment.until_healthy(&["orders", "billing"]).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), Vec::<String>::new());
    assert_eq!((deployment.observed().await, deployment.workspace()), before);
}

#[tokio::test(start_paused = true)]
async fn more_memory_rolls_out_one_location_and_leaves_the_rest_and_the_workspace_alone() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    let (before, file) = (revision(&deployment, "orders"), deployment.workspace_file());
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    deployment.cloud.reset_calls();
    deployment.commit("orders", format!("{}resources: {{cpu: 256, memory: 1024}}\n", config("orders")));
    deployment
        .until("rolled out", |this| {
            this.healthy("orders") && this.status("orders").unwrap().serving.as_ref() != Some(&before)
        })
        .await;
    // One commit costs two mutating calls, and one for its runs.
    assert_eq!(operations(&deployment), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
    let status = deployment.status("orders").unwrap();
    assert_eq!(status.serving, status.revision);
}

#[tokio::test(start_paused = true)]
async fn code_that_fails_to_import_is_held_and_explained_while_the_old_one_serves() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let good = revision(&deployment, "orders");
    let (workspace, image) = (deployment.workspace(), deployment.status("orders").unwrap().image.unwrap());
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 2);
    let mut script = Script::exits(1);
    script.log = vec!["dagster._core.errors.DagsterImportError: No module named 'pandas'".to_owned()];
    deployment.cloud.simulated().script(&broken, script);

    deployment.branches.push("orders", 2);
    deployment.until("degraded", |this| this.status("orders").unwrap().health == Health::Degraded).await;
    deployment.idle().await;
    let status = deployment.status("orders").unwrap();
    let deployed = status.conditions.iter().find(|dated| dated.condition.kind == ConditionKind::Deployed).unwrap();
    assert_eq!(deployed.condition.reason, Reason::RolloutFailed);
    assert!(status.message.contains("No module named 'pandas'"), "{}", status.message);
    assert_eq!(status.serving.as_ref(), Some(&good));
    assert_eq!(deployment.workspace(), workspace);

    // Neither time nor a restart makes it try that revision again.
    let launched = deployment.cloud.simulated().launched();
    deployment.kill().await;
    deployment.start().await;
    deployment
        .until("degraded", |this| this.status("orders").is_some_and(|status| status.health == Health::Degraded))
        .await;
    deployment.idle().await;
    assert_eq!(deployment.cloud.simulated().launched(), launched);
    assert!(deployment.status("orders").unwrap().message.contains("No module named 'pandas'"));

    deployment.branches.push("orders", 3);
    deployment.until_healthy(&["orders"]).await;
    assert_ne!(revision(&deployment, "orders"), good);
}

#[tokio::test(start_paused = true)]
async fn a_first_rollout_that_fails_says_that_nothing_serves_and_why() {
    let mut exits = Script::exits(1);
    exits.log = vec!["RuntimeError: cannot reach the warehouse".to_owned()];
    for (script, cause) in [(exits, "cannot reach the warehouse"), (Script::never_healthy(), "health checks")] {
        let mut deployment = TestDeployment::new().await;
        deployment.cloud.simulated().script_default(script);
        deployment.commit("orders", config("orders"));
        deployment.start().await;
        let degraded = |this: &TestDeployment| this.status("orders").is_some_and(|one| one.health == Health::Degraded);
        for _ in 0..2 {
            deployment.until("degraded", degraded).await;
            deployment.idle().await;
            let status = deployment.status("orders").unwrap();
            assert_eq!((status.serving, status.running), (None, 0));
            let deployed = status.conditions.iter().find(|one| one.condition.kind == ConditionKind::Deployed).unwrap();
            assert_eq!(
                (deployed.condition.reason, &deployed.condition.message),
                (Reason::RolloutFailed, &status.message)
            );
            let message = status.message;
            assert!(message.contains(cause) && message.contains("no revision serves"), "{message}");
            assert!(!message.contains("still serves"), "{message}");
            deployment.kill().await;
            deployment.start().await;
        }
        deployment.cloud.simulated().script_default(Script::default());
        deployment.branches.push("orders", 2);
        deployment.until_healthy(&["orders"]).await;
        assert_eq!(deployment.status("orders").unwrap().serving, deployment.status("orders").unwrap().revision);
    }
}

/// Where the one task of a location runs.
fn address(deployment: &TestDeployment, name: &str) -> IpAddr {
    let family = format!("codeloc-{name}");
    let found = deployment.cloud.with_cloud(|cloud| {
        let mut tasks = cloud.ecs.tasks.values().filter(|task| task.family == family && task.last_status == "RUNNING");
        tasks.find_map(|task| task.address)
    });
    IpAddr::V4(found.expect("a task runs"))
}

#[tokio::test(start_paused = true)]
async fn an_address_where_another_location_answers_is_taken_out_until_its_own_task_does() {
    for mode in [AddressMode::Dns, AddressMode::Discovered] {
        let mut deployment = TestDeployment::new().await;
        deployment.settings.dagster.address = mode;
        deployment.commit("orders", config("orders"));
        deployment.commit("billing", config("billing"));
        deployment.start().await;
        deployment.until_healthy(&["orders", "billing"]).await;
        let foreign = revision(&deployment, "billing");
        deployment.code_server.give_away(address(&deployment, "orders"), &foreign);
        deployment.until("taken out", |this| !this.workspace().contains("\"orders\"")).await;
        let told = |this: &TestDeployment| this.status("orders").unwrap().message.contains(&foreign);
        deployment.until("told", told).await;
        deployment.idle().await;
        assert!(!deployment.workspace().contains("\"orders\"") && !deployment.healthy("orders"));
        assert!(deployment.healthy("billing"));
        deployment.code_server.take_back();
        deployment.until_healthy(&["orders"]).await;
        assert!(deployment.workspace().contains("\"orders\""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_freed_address_that_another_task_took_is_taken_out() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.dagster.address = AddressMode::Discovered;
    deployment.commit("orders", config("orders"));
    deployment.commit("billing", config("billing"));
    deployment.start().await;
    deployment.until_healthy(&["orders", "billing"]).await;
    let (freed, foreign) = (address(&deployment, "orders"), revision(&deployment, "billing"));
    // The task ends, its successor takes long to start, and Cloud Map lists neither.
    deployment.cloud.simulated().script_default(Script { boot: Duration::from_secs(1800), ..Script::default() });
    let task = deployment.cloud.with_cloud(|cloud| {
        cloud.ecs.tasks.values().find(|task| task.family == "codeloc-orders").map(|task| task.arn.clone())
    });
    let stop = deployment.clients().ecs.stop_task().cluster("dagster").task(task.expect("a task runs"));
    stop.send().await.expect("it is stopped");
    deployment.code_server.give_away(freed, &foreign);
    deployment.until("taken out", |this| !this.workspace().contains("\"orders\"")).await;
    deployment.until_healthy(&["orders"]).await;
    assert!(!deployment.workspace().contains(&format!("\"{freed}\"")), "{}", deployment.workspace());
}

#[tokio::test(start_paused = true)]
async fn what_the_webserver_cannot_load_is_told_in_its_own_words() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.webserver.fail("orders", Some("orders-service.dagster.internal cannot be resolved"));
    let told = |this: &TestDeployment| this.status("orders").unwrap().message.contains("cannot be resolved");
    deployment.until("told", told).await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(told(&deployment), "{:?}", deployment.status("orders"));
        assert_eq!(deployment.alarm(), None);
    }
    assert_eq!(deployment.status("orders").unwrap().health, Health::Degraded);
    deployment.webserver.fail("orders", None);
    deployment.until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_while_the_daemon_is_away_is_known_when_it_comes_back() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let image = deployment.status("orders").unwrap().image.unwrap();
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 2);
    deployment.cloud.simulated().script(&broken, Script::exits(1));
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 2);
    deployment.until("updating", |this| operations(this).contains(&"UpdateService".to_owned())).await;
    deployment.kill().await;
    deployment.idle().await;
    deployment.idle().await;
    let launched = deployment.cloud.simulated().launched();
    deployment.start().await;
    deployment
        .until("degraded", |this| this.status("orders").is_some_and(|status| status.health == Health::Degraded))
        .await;
    deployment.idle().await;
    assert_eq!(deployment.cloud.simulated().launched(), launched);
}

#[tokio::test(start_paused = true)]
async fn where_a_rollback_goes_is_known_to_a_daemon_that_saw_nothing_of_it() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let previous = |this: &TestDeployment| this.status("orders").and_then(|status| status.previous_commit);
    assert_eq!(previous(&deployment), None);
    deployment.branches.push("orders", 2);
    deployment.until("on its second commit", |this| this.healthy("orders") && previous(this).is_some()).await;
    // Another size of the same commit is no other commit.
    deployment.commit("orders", format!("{}resources: {{cpu: 256, memory: 1024}}\n", config("orders")));
    deployment.idle().await;
    deployment.kill().await;
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    assert_eq!(previous(&deployment), Some(format!("{:040x}", 1)));

    let image = deployment.status("orders").unwrap().image.unwrap();
    let broken = format!("{}@sha256:{:064x}", image.split('@').next().unwrap(), 3);
    deployment.cloud.simulated().script(&broken, Script::exits(1));
    deployment.branches.push("orders", 3);
    deployment
        .until("degraded", |this| this.status("orders").is_some_and(|status| status.health == Health::Degraded))
        .await;
    deployment.kill().await;
    deployment.start().await;
    deployment.until("looked at", |this| this.status("orders").is_some()).await;
    assert_eq!(previous(&deployment), Some(format!("{:040x}", 2)));
}

#[tokio::test(start_paused = true)]
async fn a_removed_config_takes_everything_with_it_workspace_entry_first() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    deployment.cloud.reset_calls();
    deployment.remove("orders");
    deployment.until("unpublished", |this| !this.workspace().contains("orders")).await;
    assert!(!operations(&deployment).contains(&"DeleteService".to_owned()), "the workspace entry goes first");
    deployment.until("gone", |this| this.status("orders").is_none()).await;
    let deletions: Vec<String> = operations(&deployment);
    assert_eq!(
        deletions,
        [
            "DeregisterScalableTarget",
            "DeleteService",
            "DeleteService",
            "DeregisterTaskDefinition",
            "DeregisterTaskDefinition",
            "DeleteRolePolicy",
            "DeleteRole",
            "DeleteRepository",
            "DeleteLogGroup",
        ]
    );
    let observed = deployment.observed().await;
    assert!(!observed.get("orders").is_some_and(|observed| observed.any_owned("orders", "codeloc")), "{observed:#?}");
    assert!(deployment.healthy("billing"));
}

#[tokio::test(start_paused = true)]
async fn a_config_that_no_longer_parses_freezes_its_own_location_only() {
    let mut deployment = TestDeployment::converged(&["orders", "billing"]).await;
    let before = (deployment.observed().await, deployment.workspace());
    deployment.cloud.reset_calls();
    deployment.commit("orders", "name: orders\n  git_url: [\n");
    deployment.until("frozen", |this| this.status("orders").unwrap().sync == Sync::Unknown).await;
    deployment.branches.push("orders", 2);
    deployment.idle().await;
    assert_eq!(operations(&deployment), Vec::<String>::new());
    assert_eq!((deployment.observed().await, deployment.workspace()), before);
    assert!(deployment.healthy("billing"));
    assert!(deployment.status("orders").unwrap().message.contains("repos/orders/config.yml"));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_killed_at_any_moment_of_a_first_converge_is_taken_up_by_the_next() {
    let undisturbed = {
        let deployment = TestDeployment::converged(&["orders"]).await;
        (shape(&deployment.observed().await), deployment.workspace())
    };
    for calls in 1..=12 {
        let mut deployment = TestDeployment::new().await;
        deployment.commit("orders", config("orders"));
        deployment.start().await;
        deployment.until("that far", |this| this.mutating_calls().len() >= calls || this.healthy("orders")).await;
        deployment.kill().await;
        deployment.start().await;
        deployment.until_healthy(&["orders"]).await;
        let reached = (shape(&deployment.observed().await), deployment.workspace());
        assert_eq!(reached, undisturbed, "killed after {calls} mutating calls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_began_before_a_change_is_not_acted_upon_after_it() {
    let mut deployment = TestDeployment::new().await;
    // Sweeps all the time: some of them begin before a pass changes something, and end after it.
    deployment.settings.reconcile.resync_seconds = 0;
    for name in ["orders", "billing", "stock"] {
        deployment.commit(name, config(name));
    }
    deployment.start().await;
    deployment.until_healthy(&["orders", "billing", "stock"]).await;
    let operations = operations(&deployment);
    for (operation, times) in [
        ("CreateLogGroup", 1),
        ("CreateRole", 1),
        ("RegisterTaskDefinition", 2),
        ("RegisterScalableTarget", 1),
        ("PutRolePolicy", 1),
    ] {
        let count = operations.iter().filter(|one| *one == operation).count();
        assert_eq!(count, 3 * times, "{operation} {times} times for each location: {operations:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_rollout_costs_one_read_at_a_time() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    deployment.cloud.simulated().script_default(Script { boot: Duration::from_secs(600), ..Script::default() });
    deployment.cloud.reset_calls();
    deployment.branches.push("orders", 2);
    deployment.until("rolling", |this| !this.healthy("orders")).await;
    deployment.until_healthy(&["orders"]).await;
    let calls = deployment.cloud.calls();
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    assert!(count("DescribeServices") > 100, "it looks every few seconds");
    // Whole observations: when the commit comes, before and after each plan that is applied, and to confirm the end.
    assert!(count("GetRole") <= 8, "{} whole observations", count("GetRole"));
}

/// Takes every task out of the one Cloud Map service by hand. Returns its id.
async fn empty_registry(deployment: &TestDeployment) -> String {
    let discovery = deployment.clients().discovery;
    let services = discovery.list_services().send().await.expect("services");
    let id = services.services()[0].id().expect("a service has an id").to_owned();
    let instances = discovery.list_instances().service_id(&id).send().await.expect("instances");
    for instance in instances.instances() {
        let instance = instance.id().expect("an instance has an id");
        let request = discovery.deregister_instance().service_id(&id).instance_id(instance);
        request.send().await.expect("it is deregistered");
    }
    id
}

#[tokio::test(start_paused = true)]
async fn a_registry_deleted_by_hand_comes_back_with_every_task_in_it() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let id = empty_registry(&deployment).await;
    let discovery = deployment.clients().discovery;
    // Deregistering is an operation that takes its time.
    while !discovery.list_instances().service_id(&id).send().await.unwrap().instances().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    discovery.delete_service().id(&id).send().await.unwrap();

    deployment.until("noticed", |this| !this.healthy("orders")).await;
    deployment.until_healthy(&["orders"]).await;
    let services = discovery.list_services().send().await.unwrap();
    let id = services.services()[0].id().unwrap().to_owned();
    let instances = discovery.list_instances().service_id(id).send().await.unwrap();
    assert_eq!(instances.instances().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_cloud_map_lost_are_started_anew() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let id = empty_registry(&deployment).await;
    let discovery = deployment.clients().discovery;
    deployment.until("noticed", |this| !this.healthy("orders")).await;
    deployment.until_healthy(&["orders"]).await;
    let instances = discovery.list_instances().service_id(&id).send().await.unwrap();
    assert_eq!(instances.instances().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_failed_for_want_of_its_log_group_is_tried_again() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    let made = |this: &TestDeployment| this.mutating_calls().iter().any(|call| call.operation == "CreateLogGroup");
    deployment.until("the log group is there", made).await;
    let logs = deployment.clients().logs;
    logs.delete_log_group().log_group_name("/codeloc/locations/orders").send().await.unwrap();
    let failed = |this: &TestDeployment| this.status("orders").is_some_and(|status| status.health == Health::Degraded);
    deployment.until("the rollout fails", failed).await;
    deployment.until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_by_hand_is_put_right_by_the_next_sweep() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    let before = deployment.observed().await;
    let clients = deployment.clients();
    clients.logs.delete_retention_policy().log_group_name("/codeloc/locations/orders").send().await.unwrap();
    clients.iam.delete_role_policy().role_name("codeloc-orders").policy_name("codeloc").send().await.unwrap();
    let wider = clients.iam.put_role_policy().role_name("codeloc-orders").policy_name("by-hand");
    let everything = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;
    wider.policy_document(everything).send().await.unwrap();
    deployment.cloud.reset_calls();
    deployment
        .until("put right", |this| this.mutating_calls().iter().filter(|call| call.outcome == "OK").count() >= 3)
        .await;
    deployment.idle().await;
    assert_eq!(operations(&deployment), ["PutRetentionPolicy", "PutRolePolicy", "DeleteRolePolicy"]);
    assert_eq!(deployment.observed().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_no_name_is_shown_until_it_goes_and_touches_nothing() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    deployment.commit("my.pipeline", config("mypipeline"));
    let path = "my.pipeline/config.yml";
    deployment.until("shown", |this| this.status(path).is_some_and(|status| status.sync == Sync::Unknown)).await;
    deployment.idle().await;
    assert!(deployment.status(path).unwrap().message.contains("my.pipeline"));
    deployment.remove("my.pipeline");
    deployment.until("forgotten", |this| this.status(path).is_none()).await;
    assert_eq!(operations(&deployment), Vec::<String>::new());
    assert!(deployment.healthy("orders"));
}

#[tokio::test(start_paused = true)]
async fn the_longest_names_of_deployment_and_location_are_served() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.deployment = "d".repeat(20);
    let name = "r".repeat(40);
    deployment.commit(&name, config(&name));
    deployment.start().await;
    // The simulated webserver knows no other deployment than `codeloc`.
    let serves = |this: &TestDeployment| {
        this.status(&name).is_some_and(|status| status.serving.is_some() && status.serving == status.revision)
    };
    deployment.until("served", serves).await;
}

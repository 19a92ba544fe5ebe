//! Recreated Cloud Map services.

use std::time::Duration;

use localcloud::Rules;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::Harness;

#[tokio::test(start_paused = true)]
async fn a_recreated_service_has_its_old_id_without_running_tasks() {
    let harness = Harness::new(Rules { returning_ids: 100, ..Rules::default() });
    harness.prepare("app:1");
    let namespace = harness.namespace().await;
    let first = harness.registry(&namespace, "app");
    harness.create_service("app", json!({"serviceRegistries": [{"registryArn": first["Arn"]}]})).unwrap();
    sleep(Duration::from_secs(20)).await;
    let running = harness.instances(&first);
    assert_eq!(running.len(), 1);
    harness.deregister(&first, &running[0]);
    sleep(Duration::from_secs(1)).await;
    harness.discovery("DeleteService", json!({"Id": first["Id"]})).unwrap();

    let second = harness.registry(&namespace, "app");
    assert_eq!(second["Id"], first["Id"]);
    assert_ne!(harness.registry(&namespace, "other")["Id"], first["Id"]);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(harness.instances(&second), Vec::<String>::new(), "ECS does not register running tasks again");
    harness.ecs("UpdateService", json!({"cluster": "main", "service": "app", "forceNewDeployment": true})).unwrap();
    sleep(Duration::from_secs(20)).await;
    let fresh = harness.instances(&second);
    assert!(fresh.len() == 1 && fresh != running, "a task that starts is registered: {fresh:?}");
}

#[tokio::test(start_paused = true)]
async fn a_recreated_service_has_a_new_id_if_ids_do_not_return() {
    let harness = Harness::new(Rules { returning_ids: 0, ..Rules::default() });
    let namespace = harness.namespace().await;
    let first = harness.registry(&namespace, "app");
    harness.discovery("DeleteService", json!({"Id": first["Id"]})).unwrap();
    assert_ne!(harness.registry(&namespace, "app")["Id"], first["Id"]);
}

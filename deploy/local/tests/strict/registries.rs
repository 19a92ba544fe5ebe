//! Cloud Map services that are made anew.

use std::time::Duration;

use localcloud::Rules;
use serde_json::json;
use tokio::time::sleep;

use crate::world::World;

#[tokio::test(start_paused = true)]
async fn a_service_made_anew_in_cloud_map_has_its_old_id_and_none_of_the_tasks_that_run() {
    let world = World::new(Rules { returning_ids: 100, ..Rules::default() });
    world.prepare("app:1");
    let namespace = world.namespace().await;
    let first = world.registry(&namespace, "app");
    world.create_service("app", json!({"serviceRegistries": [{"registryArn": first["Arn"]}]})).unwrap();
    sleep(Duration::from_secs(20)).await;
    let running = world.instances(&first);
    assert_eq!(running.len(), 1);
    world.deregister(&first, &running[0]);
    sleep(Duration::from_secs(1)).await;
    world.discovery("DeleteService", json!({"Id": first["Id"]})).unwrap();

    let second = world.registry(&namespace, "app");
    assert_eq!(second["Id"], first["Id"]);
    assert_ne!(world.registry(&namespace, "other")["Id"], first["Id"]);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.instances(&second), Vec::<String>::new(), "to ECS nothing has changed");
    world.ecs("UpdateService", json!({"cluster": "main", "service": "app", "forceNewDeployment": true})).unwrap();
    sleep(Duration::from_secs(20)).await;
    let fresh = world.instances(&second);
    assert!(fresh.len() == 1 && fresh != running, "a task that starts is registered: {fresh:?}");
}

#[tokio::test(start_paused = true)]
async fn where_ids_do_not_return_a_service_made_anew_has_another() {
    let world = World::new(Rules { returning_ids: 0, ..Rules::default() });
    let namespace = world.namespace().await;
    let first = world.registry(&namespace, "app");
    world.discovery("DeleteService", json!({"Id": first["Id"]})).unwrap();
    assert_ne!(world.registry(&namespace, "app")["Id"], first["Id"]);
}

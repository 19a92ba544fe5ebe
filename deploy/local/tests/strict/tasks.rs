//! Tasks that never run.

use std::sync::Arc;
use std::time::Duration;

use localcloud::registry::Registry;
use localcloud::{LocalCloud, Settings};
use serde_json::json;
use tokio::time::sleep;

use crate::world::World;

#[tokio::test(start_paused = true)]
async fn a_task_whose_image_was_never_pushed_cannot_pull_it() {
    let folder = tempfile::tempdir().unwrap();
    let images = Registry::new(folder.path().to_owned()).unwrap();
    let settings = Settings { images: Arc::clone(&images) as _, ..Settings::default() };
    let host = settings.rules.registry.clone();
    let world = World { cloud: LocalCloud::start(settings) };
    let digest = "0".repeat(64);
    world.ecr("CreateRepository", json!({"repositoryName": "team/app"})).unwrap();
    for image in [format!("{host}/team/app@sha256:{digest}"), format!("{host}/team/none:v1")] {
        world.prepare(&image);
        let run = world.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
        let described = world.ecs("DescribeTasks", json!({"cluster": "main", "tasks": [run["tasks"][0]["taskArn"]]}));
        let task = described.unwrap()["tasks"][0].clone();
        assert_eq!((&task["lastStatus"], &task["stopCode"]), (&json!("STOPPED"), &json!("TaskFailedToStart")));
        let expected = format!(
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {image}: \
             {image}: not found"
        );
        assert_eq!(task["stoppedReason"], expected);
    }
    world.prepare("docker.io/library/python:3.12");
    world.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.tasks("RUNNING").len(), 1, "what other registries have is not known here");
}

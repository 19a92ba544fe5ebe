//! The number of tasks of a service, and where they run.

use std::time::Duration;

use localcloud::{Rules, driver::simulated::Script};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Harness, capacity, policy, refused};

impl Harness {
    fn update(&self, more: Value) -> Result<Value, String> {
        let mut input = json!({"cluster": "main", "service": "app"});
        for (field, value) in more.as_object().unwrap() {
            input[field] = value.clone();
        }
        self.ecs("UpdateService", input)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_scales_out_a_service_that_was_set_to_zero() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    harness.create_service("app", json!({})).unwrap();
    harness.scaling("RegisterScalableTarget", "app", capacity()).unwrap();
    harness.scaling("PutScalingPolicy", "app", policy("cpu", "CPU")).unwrap();
    sleep(Duration::from_mins(1)).await;
    harness.update(json!({"desiredCount": 0})).unwrap();
    sleep(Duration::from_hours(24)).await;
    let counts = |service: Value| (service["desiredCount"].clone(), service["runningCount"].clone());
    assert_eq!(counts(harness.service("app")), (json!(0), json!(0)));
    harness.scaling("PutScalingPolicy", "app", policy("cpu", "CPU")).unwrap();
    assert_eq!(harness.service("app")["desiredCount"], 0, "a policy changes no count");
    harness.scaling("RegisterScalableTarget", "app", json!({})).unwrap();
    sleep(Duration::from_mins(1)).await;
    assert_eq!(counts(harness.service("app")), (json!(1), json!(1)));
}

#[tokio::test(start_paused = true)]
async fn another_capacity_provider_needs_a_forced_deployment() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    harness.create_service("app", json!({})).unwrap();
    let strategy = |provider: &str| json!([{"capacityProvider": provider, "weight": 1}]);
    let parameter = refused("InvalidParameterException");
    harness.update(json!({"capacityProviderStrategy": []})).expect("it has none");
    for (next, other) in [(strategy("FARGATE_SPOT"), strategy("FARGATE")), (strategy("FARGATE"), json!([]))] {
        let before = harness.service("app");
        assert_eq!(harness.update(json!({"capacityProviderStrategy": next, "desiredCount": 2})), parameter);
        assert_eq!(harness.service("app"), before, "a refused call changes nothing");
        harness.update(json!({"capacityProviderStrategy": next, "forceNewDeployment": true})).unwrap();
        assert_eq!(harness.service("app")["capacityProviderStrategy"], next);
        harness.update(json!({"capacityProviderStrategy": next})).expect("the same strategy");
        assert_eq!(harness.update(json!({"capacityProviderStrategy": other})), parameter);
    }
    harness.update(json!({"capacityProviderStrategy": [], "forceNewDeployment": true})).unwrap();
    assert_eq!(harness.service("app")["launchType"], "FARGATE");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_has_logged_its_lines() {
    use localcloud::model::launch::TransientStop;

    let container = json!({
        "name": "server",
        "image": "app:1",
        "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/app", "awslogs-stream-prefix": "s"}},
    });
    for (script, lines) in [
        (Script::exits(1), vec!["started"]),
        (Script::stops_for(TransientStop::ServiceDiscovery), vec!["started"]),
        (Script::stops_for(TransientStop::NetworkInterface), vec![]),
        (Script::image_missing(), vec![]),
    ] {
        let harness = Harness::new(Rules::default());
        harness.prepare("app:1");
        harness.logs("CreateLogGroup", json!({"logGroupName": "/app"})).unwrap();
        harness.ecs("RegisterTaskDefinition", json!({"family": "logs", "containerDefinitions": [container]})).unwrap();
        harness.cloud.simulated().script_default(script.clone().logging(&["started"]));
        harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "logs"})).unwrap();
        sleep(Duration::from_mins(10)).await;
        assert_eq!(harness.tasks("STOPPED").len(), 1);
        let events = harness.logs("FilterLogEvents", json!({"logGroupName": "/app"})).unwrap();
        let logged: Vec<&str> =
            events["events"].as_array().unwrap().iter().map(|event| event["message"].as_str().unwrap()).collect();
        assert_eq!(logged, lines, "{script:?}");
    }
}

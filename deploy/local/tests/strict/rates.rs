//! Calls that are too many or too early.

use std::time::Duration;

use localcloud::{Rules, Throttling};
use serde_json::json;
use tokio::time::sleep;

use crate::harness::{Harness, capacity, policy, refused};

#[tokio::test(start_paused = true)]
async fn concurrent_changes_of_a_scalable_target_are_refused() {
    let harness = Harness::new(Rules { scaling_conflicts: Duration::from_secs(2), ..Rules::default() });
    harness.prepare("app:1");
    for name in ["one", "two"] {
        harness.create_service(name, json!({})).unwrap();
    }
    let conflict = refused("ConcurrentUpdateException");
    harness.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    assert_eq!(harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")), conflict);
    assert_eq!(harness.scaling_as("other", "RegisterScalableTarget", "one", capacity()), conflict);
    assert_eq!(harness.scaling("DeregisterScalableTarget", "one", json!({})), conflict);
    harness.scaling("RegisterScalableTarget", "two", capacity()).expect("other targets are not affected");
    let known = harness.scaling("DescribeScalableTargets", "one", json!({})).expect("reads are not refused");
    assert_eq!(known["ScalableTargets"].as_array().unwrap().len(), 2);

    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")), conflict);
    sleep(Duration::from_millis(500)).await;
    harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).expect("a refused call is not pending");
    assert_eq!(harness.scaling("PutScalingPolicy", "one", policy("memory", "Memory")), conflict);
    assert_eq!(harness.scaling("DeleteScalingPolicy", "one", json!({"PolicyName": "cpu"})), conflict);
    sleep(Duration::from_secs(2)).await;
    harness.scaling("DeregisterScalableTarget", "one", json!({})).unwrap();
    assert_eq!(harness.scaling("RegisterScalableTarget", "one", capacity()), conflict);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_scalable_target_succeed_by_default() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    harness.create_service("one", json!({})).unwrap();
    harness.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    harness.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).unwrap();
    harness.scaling("PutScalingPolicy", "one", policy("memory", "Memory")).unwrap();
    harness.scaling("DeregisterScalableTarget", "one", json!({})).unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_above_the_rate_are_throttled() {
    let harness = Harness::new(Rules::default());
    let register = || {
        let container = json!({"name": "server", "image": "app:1"});
        harness.ecs("RegisterTaskDefinition", json!({"family": "app", "containerDefinitions": [container]}))
    };
    assert!((0..100).all(|_| register().is_ok()));
    harness.cloud.throttle(Throttling::Percent(50));
    let admitted = (0..100).filter(|_| register().is_ok()).count();
    assert_eq!(admitted, 10, "half of AWS's burst of 20");
    assert_eq!(register(), refused("ThrottlingException"));
    sleep(Duration::from_secs(2)).await;
    register().expect("the rate is half a call per second");
}

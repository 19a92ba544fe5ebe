//! Calls that come too many or too soon.

use std::time::Duration;

use localcloud::{Rules, Throttling};
use serde_json::json;
use tokio::time::sleep;

use crate::world::{World, capacity, policy, refused};

#[tokio::test(start_paused = true)]
async fn a_change_of_a_scalable_target_is_refused_while_the_last_one_is_pending() {
    let world = World::new(Rules { scaling_conflicts: Duration::from_secs(2), ..Rules::default() });
    world.prepare("app:1");
    for name in ["one", "two"] {
        world.create_service(name, json!({})).unwrap();
    }
    let conflict = refused("ConcurrentUpdateException");
    world.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    assert_eq!(world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")), conflict);
    assert_eq!(world.scaling_as("other", "RegisterScalableTarget", "one", capacity()), conflict);
    assert_eq!(world.scaling("DeregisterScalableTarget", "one", json!({})), conflict);
    world.scaling("RegisterScalableTarget", "two", capacity()).expect("another target is another matter");
    let known = world.scaling("DescribeScalableTargets", "one", json!({})).expect("reading changes nothing");
    assert_eq!(known["ScalableTargets"].as_array().unwrap().len(), 2);

    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")), conflict);
    sleep(Duration::from_millis(500)).await;
    world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).expect("what was refused leaves nothing pending");
    assert_eq!(world.scaling("PutScalingPolicy", "one", policy("memory", "Memory")), conflict);
    assert_eq!(world.scaling("DeleteScalingPolicy", "one", json!({"PolicyName": "cpu"})), conflict);
    sleep(Duration::from_secs(2)).await;
    world.scaling("DeregisterScalableTarget", "one", json!({})).unwrap();
    assert_eq!(world.scaling("RegisterScalableTarget", "one", capacity()), conflict);
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_scalable_target_follow_each_other_at_once_unless_the_rules_say_otherwise() {
    let world = World::new(Rules::default());
    world.prepare("app:1");
    world.create_service("one", json!({})).unwrap();
    world.scaling("RegisterScalableTarget", "one", capacity()).unwrap();
    world.scaling("PutScalingPolicy", "one", policy("cpu", "CPU")).unwrap();
    world.scaling("PutScalingPolicy", "one", policy("memory", "Memory")).unwrap();
    world.scaling("DeregisterScalableTarget", "one", json!({})).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cloud_that_is_told_to_throttle_refuses_calls_beyond_the_rate() {
    let world = World::new(Rules::default());
    let register = || {
        let container = json!({"name": "server", "image": "app:1"});
        world.ecs("RegisterTaskDefinition", json!({"family": "app", "containerDefinitions": [container]}))
    };
    assert!((0..100).all(|_| register().is_ok()));
    world.cloud.throttle(Throttling::Percent(50));
    let admitted = (0..100).filter(|_| register().is_ok()).count();
    assert_eq!(admitted, 10, "half of AWS's burst of 20");
    assert_eq!(register(), refused("ThrottlingException"));
    sleep(Duration::from_secs(2)).await;
    register().expect("half a call a second");
}

//! Tasks that stop before they run, and addresses of tasks.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use localcloud::Quotas;
use localcloud::driver::simulated::Script;
use localcloud::model::launch::TransientStop;
use localcloud::registry::Registry;
use localcloud::{LocalCloud, Rules, Settings};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Harness, text};

#[tokio::test(start_paused = true)]
async fn a_transient_stop_counts_as_failure_and_is_retried() {
    for reason in TransientStop::ALL {
        let harness = Harness::new(Rules::default());
        harness.prepare("registry.test/app:1");
        harness.cloud.simulated().script_default(Script::stops_for(reason));
        harness.create_service("app", json!({})).unwrap();
        while harness.service("app")["deployments"][0]["failedTasks"] == 0 {
            sleep(Duration::from_secs(1)).await;
        }
        let task = &harness.tasks("STOPPED")[0];
        assert_eq!(task["stopCode"], "TaskFailedToStart");
        let told = text(&task["stoppedReason"]);
        let words = match reason {
            TransientStop::NetworkInterface => "Timeout waiting for network interface provisioning to complete",
            TransientStop::EphemeralStorage => "Timeout waiting for EphemeralStorage provisioning to complete",
            TransientStop::PullTimeout => "i/o timeout",
            TransientStop::ServiceDiscovery => "service discovery registration failed",
            TransientStop::FreeAddresses => "insufficient free addresses",
        };
        assert!(told.contains(words), "{told}");
        assert_eq!(told.starts_with("CannotPullContainerError"), reason == TransientStop::PullTimeout, "{told}");
        assert_eq!(task["startedAt"], Value::Null, "the task did not run");

        harness.cloud.simulated().script_default(Script::default());
        while harness.service("app")["deployments"][0]["rolloutState"] != "COMPLETED" {
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(harness.service("app")["runningCount"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_without_its_image_in_ecr_does_not_start() {
    let harness = Harness::new(Rules::default());
    let image = format!("{}/team/app@sha256:{}", Rules::default().registry, "a".repeat(64));
    harness.prepare(&image);
    harness.ecr("CreateRepository", json!({"repositoryName": "team/app"})).unwrap();
    harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
    sleep(Duration::from_secs(60)).await;
    let reason = text(&harness.tasks("STOPPED")[0]["stoppedReason"]);
    assert!(reason.starts_with("CannotPullContainerError") && reason.ends_with("not found"), "{reason}");
    assert_eq!(harness.cloud.simulated().launched(), 0);
}

/// The stop reasons of 100 tasks.
async fn stops(percent: u32, seed: u8) -> Vec<String> {
    let harness = Harness::new(Rules { transient_stops: percent, seed: [seed; 32], ..Rules::default() });
    harness.prepare("registry.test/app:1");
    for _ in 0..10 {
        harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app", "count": 10})).unwrap();
    }
    sleep(Duration::from_secs(200)).await;
    harness.tasks("STOPPED").iter().map(|task| text(&task["stoppedReason"])).collect()
}

#[tokio::test(start_paused = true)]
async fn transient_stops_follow_the_rate_and_the_seed() {
    assert_eq!(stops(0, 1).await, Vec::<String>::new());
    assert_eq!(stops(100, 1).await.len(), 100);
    let some = stops(30, 1).await;
    assert!((15..45).contains(&some.len()), "{} of 100", some.len());
    assert_eq!(some.iter().collect::<BTreeSet<_>>().len(), TransientStop::ALL.len(), "every reason occurs");
    assert_eq!(some, stops(30, 1).await);
    assert_ne!(some, stops(30, 2).await);
}

#[tokio::test(start_paused = true)]
async fn the_breaker_fails_a_deployment_of_transient_stops() {
    let harness = Harness::new(Rules { transient_stops: 100, ..Rules::default() });
    harness.prepare("app:1");
    harness.create_service("app", json!({})).unwrap();
    sleep(Duration::from_hours(1)).await;
    let deployment = &harness.service("app")["deployments"][0];
    assert_eq!((&deployment["rolloutState"], &deployment["failedTasks"]), (&json!("FAILED"), &json!(3)));
}

#[tokio::test(start_paused = true)]
async fn a_task_cannot_pull_a_missing_image() {
    let folder = tempfile::tempdir().unwrap();
    let images = Registry::new(folder.path().to_owned()).unwrap();
    let settings = Settings { images: Arc::clone(&images) as _, ..Settings::default() };
    let host = settings.rules.registry.clone();
    let harness = Harness { cloud: LocalCloud::start(settings) };
    let digest = "0".repeat(64);
    harness.ecr("CreateRepository", json!({"repositoryName": "team/app"})).unwrap();
    for image in [format!("{host}/team/app@sha256:{digest}"), format!("{host}/team/none:v1")] {
        harness.prepare(&image);
        let run = harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
        let described = harness.ecs("DescribeTasks", json!({"cluster": "main", "tasks": [run["tasks"][0]["taskArn"]]}));
        let task = described.unwrap()["tasks"][0].clone();
        assert_eq!((&task["lastStatus"], &task["stopCode"]), (&json!("STOPPED"), &json!("TaskFailedToStart")));
        let expected = format!(
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {image}: \
             {image}: not found"
        );
        assert_eq!(task["stoppedReason"], expected);
    }
    harness.prepare("docker.io/library/python:3.12");
    harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(harness.tasks("RUNNING").len(), 1, "images of other registries are not checked");
}

impl Harness {
    /// Starts a task, waits until it runs, and returns its ARN and address.
    async fn start_task(&self) -> (String, Ipv4Addr) {
        let run = self.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
        let arn = text(&run["tasks"][0]["taskArn"]);
        sleep(Duration::from_secs(10)).await;
        let task = self.task(&arn);
        let interface = &task["containers"][0]["networkInterfaces"][0];
        (arn, text(&interface["privateIpv4Address"]).parse().unwrap())
    }

    fn task(&self, arn: &str) -> Value {
        self.ecs("DescribeTasks", json!({"cluster": "main", "tasks": [arn]})).unwrap()["tasks"][0].clone()
    }

    async fn stop_task(&self, arn: &str) {
        self.ecs("StopTask", json!({"cluster": "main", "task": arn})).unwrap();
        sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn task_addresses_are_loopback_and_not_reused_soon() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let (arn, address) = harness.start_task().await;
        assert!(address.is_loopback() && address > Ipv4Addr::new(127, 64, 0, 0), "{address}");
        assert!(seen.insert(address), "{address} was another task's a moment ago");
        harness.stop_task(&arn).await;
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_are_not_reused_soon_after_a_restart() {
    let harness = Harness::new(Rules::default());
    harness.prepare("app:1");
    let before = harness.start_task().await.1;
    let saved = harness.cloud.with_cloud(|cloud| serde_json::to_vec(cloud).unwrap());
    let saved = serde_json::from_slice(&saved).unwrap();
    let harness = Harness { cloud: LocalCloud::start_from(Settings::default(), Some(saved)) };
    assert_ne!(harness.start_task().await.1, before);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_free_address_stops() {
    let quotas = Quotas { addresses: 1, ..Quotas::aws() };
    let harness = Harness::new(Rules { quotas, ..Rules::default() });
    harness.prepare("app:1");
    let (first, address) = harness.start_task().await;
    let run = harness.ecs("RunTask", json!({"cluster": "main", "taskDefinition": "app"})).unwrap();
    sleep(Duration::from_secs(10)).await;
    let task = harness.task(&text(&run["tasks"][0]["taskArn"]));
    assert_eq!(task["stopCode"], "TaskFailedToStart");
    let told = text(&task["stoppedReason"]);
    assert!(told.contains("InsufficientFreeAddressesInSubnet"), "{told}");
    harness.stop_task(&first).await;
    assert_ne!(harness.start_task().await.1, address, "a free address is used before a released one");
}

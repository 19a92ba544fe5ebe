//! A crash at every mutating call, before or after AWS applied it. The next daemon reaches the same state without duplicates.

use std::time::Duration;

use codeloc_tests::simulation::revisions;
use codeloc_tests::{TestDeployment, commit_id, config, normalized};
use localcloud::fault_injection::{Fault, Faults, Rule};

const CALLER: &str = "codeloc";
/// A sweep and the changes after it.
const SETTLE_TIME: Duration = Duration::from_secs(70);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// A first converge.
    Cold,
    /// A commit together with a change of resources and scaling.
    Change,
    /// A confirmed removal of one of two locations.
    Delete,
}

/// The final state of a run.
#[derive(Debug, PartialEq, Eq)]
struct End {
    observed: String,
    workspace: String,
}

fn changed() -> String {
    format!(
        "{}resources: {{cpu: 512, memory: 2048}}\nscaling: {{min_capacity: 2, max_capacity: 3, cpu_threshold: 40}}\n",
        config("orders")
    )
}

impl Scenario {
    /// The state before the first counted call.
    async fn begin(self) -> TestDeployment {
        let mut deployment = TestDeployment::new().await;
        match self {
            Self::Cold => deployment.commit("orders", config("orders")),
            Self::Change | Self::Delete => {
                for name in ["orders", "billing"] {
                    deployment.commit(name, config(name));
                }
                deployment.start_as(CALLER).await;
                deployment.wait_until_healthy(&["orders", "billing"]).await;
                tokio::time::sleep(SETTLE_TIME).await;
            }
        }
        deployment.cloud.reset_calls();
        deployment
    }

    async fn apply(self, deployment: &mut TestDeployment) {
        match self {
            Self::Cold => deployment.start_as(CALLER).await,
            Self::Change => {
                deployment.branches.push("orders", 2);
                deployment.commit("orders", changed());
            }
            Self::Delete => {
                deployment.confirm(&["orders"]);
                deployment.remove("orders");
            }
        }
    }

    /// Locations that serve throughout.
    fn serving(self) -> &'static [&'static str] {
        match self {
            Self::Cold => &[],
            Self::Change => &["orders", "billing"],
            Self::Delete => &["billing"],
        }
    }

    fn reached(self, deployment: &TestDeployment) -> bool {
        match self {
            Self::Cold => deployment.healthy("orders"),
            Self::Change => {
                let commit = deployment.status("orders").and_then(|status| status.commit);
                deployment.healthy("orders") && deployment.healthy("billing") && commit == Some(commit_id(2))
            }
            Self::Delete => deployment.healthy("billing") && deployment.status("orders").is_none(),
        }
    }
}

/// Lets time pass until `done`, and asserts that these locations serve throughout.
async fn watch(deployment: &TestDeployment, scenario: Scenario, what: &str, done: impl Fn(&TestDeployment) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2 * 60 * 60);
    while !done(deployment) {
        for name in scenario.serving() {
            assert!(deployment.serves(name), "{what}: {name} stopped serving");
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: no final state: {:#?}", deployment.statuses());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for the final state, and asserts that later sweeps change nothing.
async fn end(deployment: &TestDeployment, scenario: Scenario, what: &str) -> End {
    watch(deployment, scenario, what, |this| scenario.reached(this)).await;
    // Old tasks drain and stop.
    tokio::time::sleep(SETTLE_TIME).await;
    let calls = deployment.mutating_calls().len();
    tokio::time::sleep(SETTLE_TIME).await;
    let more = deployment.mutating_calls().split_off(calls);
    assert!(more.is_empty(), "{what}: final state, but still changing: {more:#?}");
    assert!(scenario.reached(deployment), "{what}: left its final state: {:#?}", deployment.statuses());
    let observed = deployment.observed().await;
    for (name, observed) in &observed {
        let owned = observed.any_owned(name, "codeloc");
        assert_eq!(
            owned,
            deployment.configs.contains_key(name.as_str()),
            "{what}: {name} is live without a config: {observed:#?}"
        );
    }
    let registered = deployment.cloud.with_cloud(|cloud| revisions(cloud));
    assert!(registered.values().all(|count| *count == 1), "{what}: duplicate task definitions: {registered:?}");
    End { observed: normalized(&observed), workspace: deployment.workspace() }
}

/// Crashes at each call in turn. `most` is the number of calls that a run with a crash makes more than an undisturbed run: at
/// most the lost call.
async fn crash_at_every_call(scenario: Scenario, applied: bool, most: usize) {
    let mut undisturbed = scenario.begin().await;
    scenario.apply(&mut undisturbed).await;
    let expected = end(&undisturbed, scenario, "undisturbed").await;
    let calls: Vec<String> = undisturbed.mutating_calls().into_iter().map(|call| call.operation).collect();
    assert!(!calls.is_empty(), "{scenario:?} changes something");

    let mut largest = 0;
    for (number, operation) in (1_u64..).zip(&calls) {
        let what = format!("{scenario:?}, killed at call {number}, {operation}, applied: {applied}");
        let mut deployment = scenario.begin().await;
        let hang = Rule::at(number, Fault::Hang { applied }).of(CALLER).mutating_only().but(&["s3"]);
        deployment.cloud.set_faults(hang);
        scenario.apply(&mut deployment).await;
        tokio::time::timeout(Duration::from_secs(60 * 60), deployment.cloud.hung(1)).await.expect(&what);
        deployment.kill_one(CALLER).await;
        deployment.cloud.set_faults(Faults::none());
        let last = deployment.mutating_calls().pop().map(|call| call.operation);
        assert_eq!(last.as_ref(), Some(operation), "{what}: not the call of the undisturbed run");
        deployment.start_as(CALLER).await;
        let reached = end(&deployment, scenario, &what).await;
        assert_eq!(reached, expected, "{what}");
        let count = deployment.mutating_calls().len();
        println!("{what}: {count} calls, {} undisturbed", calls.len());
        largest = largest.max(count.saturating_sub(calls.len()));
    }
    assert_eq!(largest, most, "{scenario:?}: calls beyond those of the undisturbed run");
}

#[tokio::test(start_paused = true)]
async fn a_first_converge_survives_a_crash_before_each_call() {
    crash_at_every_call(Scenario::Cold, false, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_first_converge_survives_a_crash_after_each_call() {
    crash_at_every_call(Scenario::Cold, true, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_keeps_serving_after_a_crash_before_each_call() {
    crash_at_every_call(Scenario::Change, false, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_keeps_serving_after_a_crash_after_each_call() {
    crash_at_every_call(Scenario::Change, true, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_survives_a_crash_before_each_call() {
    crash_at_every_call(Scenario::Delete, false, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_survives_a_crash_after_each_call() {
    crash_at_every_call(Scenario::Delete, true, 0).await;
}

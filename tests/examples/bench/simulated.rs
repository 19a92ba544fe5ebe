//! Virtual time, with the rates of localcloud's `buckets.json`. Each call takes 20 ms.

use std::time::Duration;

use codeloc_tests::{SWEEP_CALL, TestDeployment, names, role_pages};
use localcloud::Quotas;
use localcloud::Rules;
use localcloud::Throttling;
use localcloud::calls::Call;
use localcloud::control_plane::throttling::families;

use crate::figures::{Table, number};

/// The calls that create one location: log group and its retention, image repository, role and its policy, task definition,
/// Cloud Map service, service, scalable target and two policies.
const CALLS_TO_CREATE_ONE: usize = 12;
/// The time in which the controller learns the rates, in seconds.
const FIRST_SECONDS: f64 = 10.0;

/// The minimum number of calls that read `n` locations with every policy, by the documented page sizes of AWS.
pub fn calls_to_read(n: usize) -> usize {
    let pages = |size: usize| n.div_ceil(size);
    let services = pages(100) + pages(10);
    let policies = (2 * n).div_ceil(10);
    let (registries, roles, targets, log_groups, image_repositories) =
        (pages(100), pages(1000), pages(50), pages(50), pages(1000));
    // One page of task definitions.
    services + policies + registries + roles + targets + log_groups + image_repositories + 1
}

/// Runs one measurement under virtual time.
fn virtually(measure: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(measure);
}

/// An account with raised quotas, for fleets of thousands.
pub fn rules() -> Rules {
    Rules { quotas: Quotas::lifted(), ..Rules::default() }
}

async fn deployment(throttling: Throttling, names: &[String]) -> TestDeployment {
    let mut deployment = TestDeployment::with(Rules { throttling, ..rules() }).await;
    deployment.settings.reconcile.resync_seconds = 300;
    deployment.commit_all(names);
    deployment
}

async fn wait_until_all_healthy(deployment: &TestDeployment, names: &[String]) {
    let start = tokio::time::Instant::now();
    while !names.iter().all(|name| deployment.healthy(name)) {
        assert!(start.elapsed() < Duration::from_secs(6 * 60 * 60), "{:#?}", deployment.statuses().first());
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// The calls of the controller, except calls for the lease.
fn calls(deployment: &TestDeployment) -> Vec<Call> {
    deployment.cloud.calls().into_iter().filter(|call| call.service != "s3" && call.caller == "codeloc").collect()
}

/// The time that the slowest rate limit needs for the calls of `n` locations, in seconds.
fn bound(n: usize) -> f64 {
    let create_calls = [
        ("ecs.RegisterTaskDefinition", 2.0),
        ("ecs.CreateService", 1.0),
        ("servicediscovery.CreateService", 1.0),
        ("logs.CreateLogGroup", 1.0),
        ("logs.PutRetentionPolicy", 1.0),
        ("ecr.CreateRepository", 1.0),
        ("iam.CreateRole", 2.0),
        ("application-autoscaling.PutScalingPolicy", 3.0),
    ];
    let seconds = create_calls.iter().map(|(operation, times)| {
        let family = families().iter().find(|family| family.operations.iter().any(|one| one == operation));
        let family = family.expect("the operation is in buckets.json");
        (times * number(n) - family.burst) / family.rate
    });
    seconds.fold(0.0, f64::max)
}

pub fn cold(table: &mut Table, n: usize) {
    virtually(async {
        let names = names(n);
        let mut deployment = deployment(Throttling::Percent(100), &names).await;
        deployment.cloud.reset_calls();
        let start = deployment.cloud.now().millis();
        deployment.start().await;
        wait_until_all_healthy(&deployment, &names).await;
        let calls = calls(&deployment);
        let mutating: Vec<&Call> = calls.iter().filter(|call| call.mutating).collect();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in an f64")]
        let start = start as f64 / 1000.0;
        let last = mutating.iter().filter(|call| call.applied).map(|call| call.time).fold(0.0, f64::max);
        table.add("cold: until the last change was accepted", n, last - start, Some(bound(n)), "s");
        let late = |call: &&Call| call.time > start + FIRST_SECONDS;
        let throttled = |call: &&Call| call.status == 429 || call.outcome.contains("Throttl");
        let (all, refused) = (calls.iter().filter(late).count(), calls.iter().filter(late).filter(throttled).count());
        table.add("cold: refused after the first 10 s", n, 100.0 * number(refused) / number(all), Some(1.0), "%");
        let applied = mutating.iter().filter(|call| call.applied).count();
        table.add("cold: changes", n, number(applied), Some(number(CALLS_TO_CREATE_ONE * n)), "calls");
        let reads = calls.iter().filter(|call| !call.mutating && call.time <= last).count();
        let sweeps = calls
            .iter()
            .filter(|call| call.operation == SWEEP_CALL && call.time <= last)
            .count()
            .div_ceil(role_pages(n));
        let budget = number(sweeps * calls_to_read(n));
        table.add(
            &format!("cold: reads until then, {sweeps} full sweeps included"),
            n,
            number(reads),
            Some(budget),
            "calls",
        );
    });
}

pub fn sweep(table: &mut Table, n: usize) {
    virtually(async {
        let names = names(n);
        let mut deployment = deployment(Throttling::Off, &names).await;
        deployment.start().await;
        wait_until_all_healthy(&deployment, &names).await;
        tokio::time::sleep(Duration::from_secs(700)).await;
        deployment.cloud.reset_calls();
        tokio::time::sleep(Duration::from_secs(300)).await;
        let calls = calls(&deployment);
        table.add("no changes: one sweep", n, number(calls.len()), Some(number(calls_to_read(n))), "calls");
    });
}

/// Pushes a commit; returns the seconds until ECS accepted the new revision, and the calls until then.
async fn commit(deployment: &TestDeployment, name: &str, number: u32) -> (f64, Vec<Call>) {
    let before = deployment.cloud.calls().last().map_or(0, |call| call.sequence);
    let start = tokio::time::Instant::now();
    deployment.branches.push(name, number);
    let is_accepted = |call: &Call| {
        call.operation == "UpdateService"
            && call.applied
            && call.resource.as_deref().is_some_and(|resource| resource.contains(name))
    };
    loop {
        let since = deployment.cloud.calls_since(before);
        if since.iter().any(is_accepted) {
            let is_own = |call: &Call| call.service != "s3" && call.caller == "codeloc";
            return (start.elapsed().as_secs_f64(), since.into_iter().filter(is_own).collect());
        }
        assert!(start.elapsed() < Duration::from_secs(3600), "{name} is never updated: {:?}", deployment.status(name));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn one_commit(table: &mut Table, n: usize) {
    virtually(async {
        let names = names(n);
        let mut deployment = deployment(Throttling::Off, &names).await;
        deployment.start().await;
        wait_until_all_healthy(&deployment, &names).await;
        tokio::time::sleep(Duration::from_secs(400)).await;
        let (seconds, calls) = commit(&deployment, &names[0], 7).await;
        let mutating = calls.iter().filter(|call| call.mutating).count();
        table.add("one commit: changes", n, number(mutating), Some(2.0), "calls");
        table.add("one commit: reads before ECS accepted it", n, number(calls.len() - mutating), Some(1.0), "calls");
        table.add("one commit: until ECS accepted it", n, seconds, Some(0.06), "s");
    });
}

/// Twenty healthy locations with a commit every ten seconds, while codeloc creates `n` others.
pub fn commits_during_a_cold_converge(table: &mut Table, n: usize) {
    virtually(async {
        let live: Vec<String> = (0..20).map(|number| format!("live{number:04}")).collect();
        let mut deployment = deployment(Throttling::Percent(100), &live).await;
        deployment.start().await;
        wait_until_all_healthy(&deployment, &live).await;
        tokio::time::sleep(Duration::from_secs(310)).await;
        deployment.commit_all(&names(n));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let mut waits = Vec::new();
        for number in 0..100_u32 {
            let name = &live[usize::try_from(number).expect("small") % live.len()];
            waits.push(commit(&deployment, name, 100 + number).await.0);
            tokio::time::sleep(Duration::from_secs(9)).await;
        }
        waits.sort_by(f64::total_cmp);
        table.add("commit while N are created: median", n, waits[50], None, "s");
        table.add("commit while N are created: 99th percentile", n, waits[98], Some(2.04), "s");
    });
}

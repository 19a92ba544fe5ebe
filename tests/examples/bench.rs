//! `make bench`: what a fleet costs, in AWS calls and in real time, beside the fewest calls there could be.
//!
//! Calls are exact and the same on every machine; seconds are of this machine and say only how they grow. Time inside is
//! virtual: each call takes 20 ms of it, and nothing is throttled.

use std::collections::BTreeMap;

use codeloc_tests::{Deployment, config};
use localcloud::calls::Call;

/// Calls that make one location: log group and its retention, image repository, role and its policy, task definition,
/// registry, service, scalable target and two policies.
const CALLS_TO_MAKE_ONE: usize = 11;

/// The fewest calls that read `n` locations whole, by the page sizes that AWS documents.
fn calls_to_read(n: usize) -> usize {
    let pages = |size: usize| n.div_ceil(size);
    // Services listed and described, registries, roles, targets, policies (two each), log groups, image repositories, task
    // definitions listed.
    pages(100)
        + pages(10)
        + pages(100)
        + pages(1000)
        + pages(50)
        + (2 * n).div_ceil(10)
        + pages(50)
        + pages(1000)
        + pages(100)
}

fn by_operation(calls: &[Call]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.operation.as_str()).or_insert(0) += 1;
    }
    counts
}

/// A benchmark's clock is the machine's: nothing is decided by it.
#[expect(clippy::disallowed_methods, reason = "real seconds are what is measured, and never asserted")]
fn stopwatch() -> impl Fn() -> f64 {
    let start = std::time::Instant::now();
    move || start.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    tokio::time::pause();
    println!("{:>5}  {:<22} {:>7} {:>7} {:>6} {:>9}", "N", "what", "calls", "bound", "ratio", "real s");
    for n in [5, 20, 80] {
        let names: Vec<String> = (0..n).map(|number| format!("location{number:04}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut deployment = Deployment::new().await;
        deployment.settings.reconcile.resync_seconds = 24 * 60 * 60;
        for name in &names {
            deployment.commit(name, config(name));
        }
        let seconds = stopwatch();
        deployment.start().await;
        deployment.until_healthy(&names).await;
        let mutating = deployment.mutating_calls().len();
        row(n, "cold, mutating", mutating, CALLS_TO_MAKE_ONE * n, seconds());

        deployment.cloud.reset_calls();
        let seconds = stopwatch();
        deployment.commit(names[0], format!("{}resources: {{cpu: 256, memory: 1024}}\n", config(names[0])));
        deployment.until("rolling", |this| !this.healthy(names[0])).await;
        deployment.until_healthy(&names).await;
        row(n, "one commit, mutating", deployment.mutating_calls().len(), 2, seconds());

        deployment.kill().await;
        deployment.settings.reconcile.resync_seconds = 3600;
        deployment.start().await;
        deployment.until_healthy(&names).await;
        deployment.idle().await;
        deployment.cloud.reset_calls();
        let seconds = stopwatch();
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
        let calls = deployment.cloud.calls();
        let counts = by_operation(&calls);
        // Asking every task whether it is still loaded needs its address: one read a location, on top of the sweep.
        let probes = counts.get("ListInstances").copied().unwrap_or_default();
        let fakes = counts.get("DescribeTaskDefinition").copied().unwrap_or_default();
        row(n, "nothing to do, sweep", calls.len() - probes - fakes, calls_to_read(n), seconds());
        row(n, "nothing to do, probes", probes, n, seconds());
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are small")]
fn row(n: usize, what: &str, calls: usize, bound: usize, seconds: f64) {
    println!("{n:>5}  {what:<22} {calls:>7} {bound:>7} {:>6.2} {seconds:>9.2}", calls as f64 / bound as f64);
}

//! An hour of two controllers that lose the lease again and again.

use std::time::Duration;

use codeloc_tests::{TestDeployment, config};
use localcloud::fault_injection::{Chances, Fault, Faults, Rule};

use super::LEASE;
use super::record::facts;

/// An hour of two controllers and changes, drawn from a seed.
struct Hour {
    deployment: TestDeployment,
    rng: fastrand::Rng,
    /// Each process has a different name, also after a restart.
    running: [Option<String>; 2],
    started: usize,
    commit: u32,
    log: Vec<String>,
}

impl Hour {
    async fn pass(&mut self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn note(&mut self, what: impl Into<String>) {
        self.log.push(format!("{:.0} {}", self.deployment.cloud.now().epoch_seconds() % 86_400.0, what.into()));
    }

    async fn start(&mut self, place: usize) {
        self.started += 1;
        let name = format!("{}{}", ["a", "b"][place], self.started);
        self.note(format!("start {name}"));
        self.deployment.start_as(&name).await;
        self.running[place] = Some(name);
    }

    async fn kill(&mut self, place: usize) {
        if let Some(name) = self.running[place].take() {
            self.note(format!("kill {name}"));
            self.deployment.kill_one(&name).await;
        }
    }

    /// A commit, or a change by hand that a sweep repairs.
    async fn work(&mut self) {
        let name = ["orders", "billing"][self.rng.usize(0..2)];
        let clients = self.deployment.clients();
        match self.rng.u8(0..3) {
            0 => {
                self.commit += 1;
                self.note(format!("commit {} of {name}", self.commit));
                self.deployment.branches.push(name, self.commit);
            }
            1 => {
                self.note(format!("no retention for {name}"));
                let group = format!("/codeloc/locations/{name}");
                let _ = clients.logs.delete_retention_policy().log_group_name(group).send().await;
            }
            _ => {
                self.note(format!("no policy for {name}"));
                let role = format!("codeloc-{name}");
                let _ = clients.iam.delete_role_policy().role_name(role).policy_name("codeloc").send().await;
            }
        }
    }

    /// Faults in one process's calls to the lease, and rare faults in its other calls.
    fn inject_faults(&mut self) {
        let Some(name) = self.running[self.rng.usize(0..2)].clone() else { return };
        let on_lease = match self.rng.u8(0..6) {
            0 => Rule::always(Fault::Hang { applied: self.rng.bool() }),
            1 => Rule::always(Fault::ServerError),
            2 => Rule::always(Fault::Throttle),
            3 => Rule::always(Fault::ResetAfter),
            _ => {
                let chances = Chances {
                    throttle: 100,
                    server_error: 100,
                    delay: 200,
                    reset_before: 100,
                    reset_after: 150,
                    hang: 100,
                    ..Chances::default()
                };
                Rule::random(self.rng.u64(..), chances)
            }
        };
        let others = Chances { throttle: 20, delay: 300, reset_before: 30, hang: 60, ..Chances::default() };
        self.note(format!("faults for {name}: {on_lease:?}"));
        let on_lease = on_lease.on(&["PutObject", "GetObject"]).of(&name);
        let others = Rule::random(self.rng.u64(..), others).of(&name).mutating_only().but(&["s3"]);
        self.deployment.cloud.set_faults(Faults::none().and(on_lease).and(others));
    }

    async fn live(seed: u64) -> Self {
        // The SDK draws its retry delays from this thread's generator.
        fastrand::seed(seed);
        let mut deployment = TestDeployment::new().await;
        deployment.settings.reconcile.lease_seconds = LEASE;
        for name in ["orders", "billing"] {
            deployment.commit(name, config(name));
        }
        let rng = fastrand::Rng::with_seed(seed);
        let mut hour = Self { deployment, rng, running: [None, None], started: 0, commit: 1, log: vec![] };
        hour.start(0).await;
        hour.start(1).await;
        let end = tokio::time::Instant::now() + Duration::from_secs(60 * 60);
        while tokio::time::Instant::now() < end {
            let seconds = hour.rng.u64(3..25);
            hour.pass(seconds).await;
            match hour.rng.u8(0..10) {
                0..5 => hour.work().await,
                5..8 => hour.inject_faults(),
                8 => {
                    hour.note("no more faults");
                    hour.deployment.cloud.set_faults(Faults::none());
                }
                _ => {
                    let place = hour.rng.usize(0..2);
                    hour.kill(place).await;
                    // Before or after the lease expires.
                    let seconds = hour.rng.u64(0..2 * LEASE);
                    hour.pass(seconds).await;
                    hour.start(place).await;
                }
            }
        }
        hour
    }
}

async fn an_hour_of_lost_leases(seed: u64) {
    let hour = Hour::live(seed).await;
    let failure = |problem: &str| format!("seed {seed}: {problem}\n{}", hour.log.join("\n"));
    let facts = facts(&hour.deployment.cloud.calls(), LEASE).unwrap_or_else(|problem| panic!("{}", failure(&problem)));
    assert!(!hour.deployment.has_panicked(), "{}", failure("a task of a daemon panicked"));
    // Enough happened in this hour.
    assert!(
        facts.handed_over >= 5 && facts.changed.len() >= 5 && facts.changes >= 40,
        "{}",
        failure(&format!("{facts:?}"))
    );
    println!("seed {seed}: {} calls, {facts:?}", hour.deployment.cloud.calls().len());

    hour.deployment.cloud.set_faults(Faults::none());
    hour.deployment.idle().await;
    hour.deployment.wait_until_healthy(&["orders", "billing"]).await;
    hour.deployment.idle().await;
    let calls = hour.deployment.mutating_calls().len();
    hour.deployment.idle().await;
    assert_eq!(hour.deployment.mutating_calls().len(), calls, "{}", failure("still changing"));
}

#[tokio::test(start_paused = true)]
async fn no_change_starts_without_the_lease_seed_1() {
    an_hour_of_lost_leases(1).await;
}

#[tokio::test(start_paused = true)]
async fn no_change_starts_without_the_lease_seed_2() {
    an_hour_of_lost_leases(2).await;
}

#[tokio::test(start_paused = true)]
async fn no_change_starts_without_the_lease_seed_3() {
    an_hour_of_lost_leases(3).await;
}

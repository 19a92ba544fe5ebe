//! One of several controllers changes things, whatever becomes of the lease. Who held it when is read from the cloud's own
//! record of calls, not from what a controller says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codeloc_core::status::{Health, LocationStatus, Reason, Sync};
use codeloc_tests::{TestDeployment, config};
use localcloud::calls::Call;
use localcloud::fault_injection::{Chances, Fault, Faults, Rule};

/// Dates of calls are seconds as floating point numbers.
const ROUNDING: f64 = 0.001;
/// How often whoever waits for the lease looks at it, and a few calls' time.
const SECONDS_TO_NOTICE: f64 = 3.0;

fn operations(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.operation.as_str()).collect()
}

fn is_held_for(status: Option<LocationStatus>, reason: Reason) -> bool {
    status.is_some_and(|status| status.conditions.iter().any(|dated| dated.condition.reason == reason))
}

/// The writes of the lease that S3 took.
fn lease_writes(calls: &[Call]) -> Vec<&Call> {
    let of_lease = |call: &&Call| call.resource.as_deref() == Some("platform/codeloc/codeloc/lease.json");
    calls.iter().filter(of_lease).filter(|call| call.operation == "PutObject" && call.applied).collect()
}

/// What a record of calls says of the lease.
#[derive(Debug, Default)]
struct Facts {
    /// How often it went from one process to another.
    handed_over: usize,
    /// Processes that changed anything.
    changed: BTreeSet<String>,
    changes: usize,
}

/// Looks at every change that a process called for: it was begun in the first half of a lease of its own, so that the time a
/// call may take ends before the lease does. And no two processes had the lease at once.
fn facts(calls: &[Call], lease_seconds: u64) -> Result<Facts, String> {
    let lease = Duration::from_secs(lease_seconds).as_secs_f64();
    // As `margin` and `call_timeout` in the controller's lease: half of it, and two fifths.
    let (margin, call_timeout) = (lease / 2.0, lease * 2.0 / 5.0);
    assert!(call_timeout < margin);
    let mut facts = Facts::default();
    let writes = lease_writes(calls);
    // Until when each process has the lease by its last write that counted.
    let mut last: Option<&Call> = None;
    for write in &writes {
        if let Some(before) = last.filter(|before| before.caller != write.caller) {
            facts.handed_over += 1;
            if write.time < before.sent_at + lease - ROUNDING {
                return Err(format!(
                    "{} took the lease while {} had it: {write:?} after {before:?}",
                    write.caller, before.caller
                ));
            }
        }
        last = Some(write);
    }
    let mut begun: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for write in &writes {
        begun.entry(&write.caller).or_default().push(write.sent_at);
    }
    for call in calls.iter().filter(|call| call.mutating && call.service != "s3" && call.caller != "by-hand") {
        let writes = begun.get(call.caller.as_str()).map_or(&[][..], Vec::as_slice);
        let Some(write) = writes.iter().copied().filter(|write| *write <= call.sent_at).reduce(f64::max) else {
            return Err(format!("{} never had the lease: {call:?}", call.caller));
        };
        let end = write + lease;
        if call.sent_at > end - margin + ROUNDING {
            return Err(format!("begun {:.3} s before the end of its lease: {call:?}", end - call.sent_at));
        }
        if call.applied && call.time > end {
            return Err(format!("applied {:.3} s after the end of its lease: {call:?}", call.time - end));
        }
        facts.changes += 1;
        facts.changed.insert(call.caller.clone());
    }
    Ok(facts)
}

/// An hour of two controllers with work to do, drawn from a seed.
struct Hour {
    deployment: TestDeployment,
    rng: fastrand::Rng,
    /// Each process has a name of its own, also the one that comes after another.
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

    /// Something to do: a commit, or a change by hand that a sweep puts right.
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

    /// Trouble on one process's way to the lease, and a little on its way to everything else.
    fn trouble(&mut self) {
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
        self.note(format!("trouble for {name}: {on_lease:?}"));
        let on_lease = on_lease.on(&["PutObject", "GetObject"]).of(&name);
        let others = Rule::random(self.rng.u64(..), others).of(&name).mutating_only().but(&["s3"]);
        self.deployment.cloud.set_faults(Faults::none().and(on_lease).and(others));
    }

    async fn live(seed: u64) -> Self {
        // The SDK draws the pauses between its retries from this thread's generator.
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
                5..8 => hour.trouble(),
                8 => {
                    hour.note("no more trouble");
                    hour.deployment.cloud.set_faults(Faults::none());
                }
                _ => {
                    let place = hour.rng.usize(0..2);
                    hour.kill(place).await;
                    // Sometimes at once, sometimes after the lease has run out.
                    let seconds = hour.rng.u64(0..2 * LEASE);
                    hour.pass(seconds).await;
                    hour.start(place).await;
                }
            }
        }
        hour
    }
}

const LEASE: u64 = 30;

async fn an_hour_of_lost_leases(seed: u64) {
    let hour = Hour::live(seed).await;
    let told = |problem: &str| format!("seed {seed}: {problem}\n{}", hour.log.join("\n"));
    let facts = facts(&hour.deployment.cloud.calls(), LEASE).unwrap_or_else(|problem| panic!("{}", told(&problem)));
    assert!(!hour.deployment.has_fallen(), "{}", told("a loop of a daemon ended"));
    // A quiet hour would prove nothing.
    assert!(
        facts.handed_over >= 5 && facts.changed.len() >= 5 && facts.changes >= 40,
        "{}",
        told(&format!("{facts:?}"))
    );
    println!("seed {seed}: {} calls, {facts:?}", hour.deployment.cloud.calls().len());

    hour.deployment.cloud.set_faults(Faults::none());
    hour.deployment.idle().await;
    hour.deployment.until_healthy(&["orders", "billing"]).await;
    hour.deployment.idle().await;
    let calls = hour.deployment.mutating_calls().len();
    hour.deployment.idle().await;
    assert_eq!(hour.deployment.mutating_calls().len(), calls, "{}", told("at rest, and still changing"));
}

#[tokio::test(start_paused = true)]
async fn no_change_is_begun_without_the_lease_however_often_it_is_lost_first_seed() {
    an_hour_of_lost_leases(1).await;
}

#[tokio::test(start_paused = true)]
async fn no_change_is_begun_without_the_lease_however_often_it_is_lost_second_seed() {
    an_hour_of_lost_leases(2).await;
}

#[tokio::test(start_paused = true)]
async fn no_change_is_begun_without_the_lease_however_often_it_is_lost_third_seed() {
    an_hour_of_lost_leases(3).await;
}

/// Two controllers; `a` holds the lease, `b` stands by.
async fn pair() -> TestDeployment {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.start_as("a").await;
    deployment.until_healthy(&["orders"]).await;
    deployment.start_as("b").await;
    deployment.until("standing by", |this| is_held_for(this.status_by("b", "orders"), Reason::Standby)).await;
    deployment.cloud.reset_calls();
    deployment
}

fn rolled_out(deployment: &TestDeployment, caller: &str, commit: u32) -> bool {
    deployment.status_by(caller, "orders").is_some_and(|status| {
        status.commit == Some(format!("{commit:040x}"))
            && status.serving == status.revision
            && (status.sync, status.health) == (Sync::Synced, Health::Healthy)
    })
}

/// Seconds from the last write of `a` to the first one of `b`.
fn handed_over_after(deployment: &TestDeployment) -> f64 {
    let calls = deployment.cloud.calls();
    let writes = lease_writes(&calls);
    let last = writes.iter().rfind(|write| write.caller == "a").expect("a wrote the lease");
    let first = writes.iter().find(|write| write.caller == "b").expect("b wrote the lease");
    first.time - last.sent_at
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_when_the_holder_dies() {
    let mut deployment = pair().await;
    deployment.until("renewed", |this| !lease_writes(&this.cloud.calls()).is_empty()).await;
    deployment.kill_one("a").await;
    deployment.branches.push("orders", 2);
    deployment.until("rolled out by b", |this| rolled_out(this, "b", 2)).await;
    let lease = Duration::from_secs(deployment.settings.reconcile.lease_seconds).as_secs_f64();
    let after = handed_over_after(&deployment);
    assert!(after >= lease, "the holder could have lived: {after}");
    assert!(after <= lease + SECONDS_TO_NOTICE, "it stood by for too long: {after}");
    let calls = deployment.mutating_calls();
    assert_eq!(operations(&calls), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert!(calls.iter().all(|call| call.caller == "b"), "{calls:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_at_once_when_the_holder_stops_in_order() {
    let mut deployment = pair().await;
    deployment.stop_one("a").await;
    deployment.branches.push("orders", 2);
    deployment.until("rolled out by b", |this| rolled_out(this, "b", 2)).await;
    let after = handed_over_after(&deployment);
    assert!(after <= SECONDS_TO_NOTICE, "it stood by for {after} s");
    assert_eq!(
        operations(&deployment.mutating_calls()),
        ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_stops_in_order_ends_what_it_began_before_another_begins() {
    let mut deployment = pair().await;
    let slow = Rule::at(1, Fault::Delay(Duration::from_secs(5))).of("a").on(&["RegisterTaskDefinition"]);
    deployment.cloud.set_faults(slow);
    deployment.branches.push("orders", 2);
    // By now the registration is on its way, and not applied yet.
    tokio::time::sleep(Duration::from_secs(2)).await;
    deployment.stop_one("a").await;
    deployment.until("rolled out by b", |this| rolled_out(this, "b", 2)).await;
    let calls = deployment.mutating_calls();
    let registered = calls.iter().find(|call| call.caller == "a").expect("a had begun");
    assert_eq!((registered.operation.as_str(), registered.applied), ("RegisterTaskDefinition", true));
    let first = calls.iter().find(|call| call.caller == "b").expect("b goes on");
    assert!(first.sent_at >= registered.time, "{first:?} while {registered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_starts_again_waits_for_its_own_former_lease() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.reset_calls();
    deployment.until("renewed", |this| !lease_writes(&this.cloud.calls()).is_empty()).await;
    deployment.kill().await;
    deployment.branches.push("orders", 2);
    deployment.start_as("b").await;
    deployment.until("rolled out", |this| rolled_out(this, "b", 2)).await;
    let calls = deployment.cloud.calls();
    let writes = lease_writes(&calls);
    let former = writes.iter().rfind(|write| write.caller == "codeloc").expect("a lease");
    let first = calls.iter().find(|call| call.mutating && call.service != "s3").expect("a change");
    let lease = Duration::from_secs(deployment.settings.reconcile.lease_seconds).as_secs_f64();
    assert!(first.sent_at >= former.sent_at + lease, "{first:?} after {former:?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_serves_statuses_and_changes_nothing() {
    let deployment = pair().await;
    let status = deployment.status_by("b", "orders").unwrap();
    assert_eq!((status.sync, status.health), (Sync::Synced, Health::Healthy));
    assert_eq!(status.serving, deployment.status_by("a", "orders").unwrap().serving);
    let standby = status.conditions.iter().find(|dated| dated.condition.reason == Reason::Standby).unwrap();
    let message = &standby.condition.message;
    assert!(message.starts_with("standby: a/") && message.ends_with("holds the lease"), "{message}");

    // It sees what the holder does, and leaves it to that.
    deployment.branches.push("orders", 2);
    deployment.until("rolled out by a", |this| rolled_out(this, "a", 2)).await;
    deployment.until("seen by b", |this| rolled_out(this, "b", 2)).await;
    deployment.idle().await;
    let calls = deployment.mutating_calls();
    assert_eq!(operations(&calls), ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"]);
    assert!(calls.iter().all(|call| call.caller == "a"), "{calls:#?}");
    let calls = deployment.cloud.calls();
    assert!(lease_writes(&calls).iter().all(|write| write.caller == "a"));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_lease_stops_changes_and_what_is_deployed_keeps_serving() {
    for trouble in [Fault::ServerError, Fault::Throttle, Fault::ResetBefore, Fault::Hang { applied: false }] {
        let deployment = TestDeployment::converged(&["orders"]).await;
        deployment.idle().await;
        let (before, workspace) = (deployment.status("orders").unwrap().serving, deployment.workspace());
        deployment.cloud.set_faults(Rule::always(trouble).on(&["PutObject", "GetObject"]));
        deployment.until("told", |this| is_held_for(this.status("orders"), Reason::LeaseUnreadable)).await;
        deployment.cloud.reset_calls();
        deployment.branches.push("orders", 2);
        let end = tokio::time::Instant::now() + Duration::from_secs(10 * 60);
        while tokio::time::Instant::now() < end {
            assert!(deployment.serves("orders"), "{trouble:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(operations(&deployment.mutating_calls()), Vec::<&str>::new(), "{trouble:?}");
        assert_eq!(deployment.workspace(), workspace);
        let status = deployment.status("orders").unwrap();
        assert_eq!(status.serving, before);
        assert!(is_held_for(Some(status), Reason::LeaseUnreadable), "{trouble:?}");

        deployment.cloud.set_faults(Faults::none());
        deployment.until("rolled out", |this| rolled_out(this, "codeloc", 2)).await;
        assert_eq!(
            operations(&deployment.mutating_calls()),
            ["RegisterTaskDefinition", "UpdateService", "RegisterTaskDefinition"],
            "{trouble:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_can_never_read_the_lease_says_so_and_changes_nothing() {
    let mut deployment = TestDeployment::new().await;
    deployment.commit("orders", config("orders"));
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["GetObject"]));
    deployment.start().await;
    deployment.until("told", |this| is_held_for(this.status("orders"), Reason::LeaseUnreadable)).await;
    deployment.idle().await;
    assert_eq!(operations(&deployment.mutating_calls()), Vec::<&str>::new());
    deployment.cloud.set_faults(Faults::none());
    deployment.until_healthy(&["orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn calls_on_their_way_are_given_up_in_time_also_while_the_lease_is_looked_at() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.lease_seconds = LEASE;
    deployment.commit("orders", config("orders"));
    deployment.start().await;
    deployment.until_healthy(&["orders"]).await;
    deployment.cloud.reset_calls();
    // A write whose answer is lost makes the next one be refused; then the holder looks, and hears nothing.
    let lost = Rule::at(1, Fault::ResetAfter).on(&["PutObject"]);
    let hangs = Rule::always(Fault::Hang { applied: false }).on(&["GetObject"]);
    // Tried again and again, within one call and by one call after another.
    let fails = Rule::always(Fault::ServerError).on(&["UpdateService"]);
    deployment.cloud.set_faults(Faults::none().and(lost).and(hangs).and(fails));
    deployment.until("renewed", |this| !lease_writes(&this.cloud.calls()).is_empty()).await;
    deployment.branches.push("orders", 2);
    deployment.until("told", |this| is_held_for(this.status("orders"), Reason::LeaseUnreadable)).await;
    let facts = facts(&deployment.cloud.calls(), LEASE).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(facts.changes >= 5, "{facts:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_is_not_called_any_more_once_the_lease_is_lost() {
    let mut deployment = TestDeployment::new().await;
    deployment.settings.reconcile.lease_seconds = LEASE;
    let names: Vec<String> = (0..12).map(|number| format!("location{number}")).collect();
    for name in &names {
        deployment.commit(name, config(name));
    }
    // Refused for its rate again and again: calls wait for their turn, longer and longer.
    let throttled = Rule::always(Fault::Throttle).on(&["CreateLogGroup"]);
    deployment.cloud.set_faults(throttled.clone());
    deployment.start().await;
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    let hangs = Rule::always(Fault::Hang { applied: false }).on(&["PutObject", "GetObject"]);
    deployment.cloud.set_faults(Faults::none().and(throttled).and(hangs));
    tokio::time::sleep(Duration::from_secs(10 * 60)).await;
    let calls = deployment.cloud.calls();
    let facts = facts(&calls, LEASE).unwrap_or_else(|problem| panic!("{problem}"));
    assert!(facts.changes >= 10, "{facts:?}");

    deployment.cloud.set_faults(Faults::none());
    deployment.until_healthy(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_can_write_the_lease_and_not_read_it_goes_on() {
    let deployment = TestDeployment::converged(&["orders"]).await;
    deployment.cloud.set_faults(Rule::always(Fault::ServerError).on(&["GetObject"]));
    deployment.idle().await;
    deployment.branches.push("orders", 2);
    deployment.until("rolled out", |this| rolled_out(this, "codeloc", 2)).await;
    assert!(deployment.healthy("orders"));
}

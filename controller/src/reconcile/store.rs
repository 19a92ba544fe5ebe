//! Observations in memory: results of sweeps and refreshes, and the last known state of each location.
//!
//! Guarantees: an observation that began before a change of its location is never used after it, and nothing that was read in one
//! [`Epoch`] is used in another. Nothing here survives a restart, and nothing has to: the next sweep reads everything again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use codeloc_aws::fence::Epoch;
use codeloc_core::lock::lock;
use codeloc_core::planner::Report;
use codeloc_core::resources::ObservedResources;
use codeloc_core::status::{ConditionKind, ConditionStatus};
use codeloc_crds::LocationName;
use tokio::time::Instant;

use super::prune_guard::Owned;

#[derive(Debug, Default)]
pub struct ObservationStore {
    state: Mutex<State>,
}

/// The resources of one location.
#[derive(Clone, Debug)]
pub struct Observed {
    pub resources: ObservedResources,
    /// When codeloc started to read its service.
    pub at: Instant,
    /// Whether all of it was read. If not, only the service is new; the rest was read earlier, or is known from AWS's answers to changes.
    pub complete: bool,
}

#[derive(Debug, Default)]
struct State {
    /// The epoch of everything below.
    epoch: Epoch,
    /// From the last sweep or refresh; each is used once.
    fresh: HashMap<LocationName, Observed>,
    /// The last state of locations that codeloc has not changed since.
    last: HashMap<LocationName, (ObservedResources, Instant)>,
    /// Absent before the first sweep.
    owned: Option<Arc<Owned>>,
    reported: HashMap<LocationName, Reported>,
    /// Counts changes, because two changes can happen at the same instant of the clock.
    changes: u64,
    /// The number of the last change of each location.
    changed: HashMap<LocationName, u64>,
}

/// Parts of the last report that later decisions need.
#[derive(Clone, Copy, Debug)]
struct Reported {
    steady_since: Option<Instant>,
    /// When Cloud Map last listed a task of the location.
    listed: Option<Instant>,
    serves: bool,
}

/// The start of a sweep or a refresh.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    epoch: Epoch,
    changes: u64,
    at: Instant,
}

impl State {
    /// Whether `epoch` is the current one. A new epoch forgets the state of AWS: another process may have changed everything. It keeps only
    /// which locations serve, which decides nothing but the order of work.
    fn enter(&mut self, epoch: Epoch) -> bool {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.fresh.clear();
            self.last.clear();
            self.owned = None;
            for reported in self.reported.values_mut() {
                reported.steady_since = None;
                reported.listed = None;
            }
        }
        epoch == self.epoch
    }

    fn keep(
        &mut self,
        begun: Begun,
        observed: impl IntoIterator<Item = (LocationName, ObservedResources)>,
        complete: bool,
    ) {
        let changed = &self.changed;
        let unchanged =
            observed.into_iter().filter(|(name, _)| changed.get(name).is_none_or(|at| *at <= begun.changes));
        let found = unchanged.map(|(name, resources)| (name, Observed { resources, at: begun.at, complete }));
        self.fresh.extend(found);
    }
}

impl ObservationStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The state of an epoch, unless it is over.
    fn lock_in(&self, epoch: Epoch) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.enter(epoch).then_some(state)
    }

    /// Call before the first read of a sweep or refresh.
    pub fn begin(&self, epoch: Epoch) -> Begun {
        Begun { epoch, changes: self.lock().changes, at: Instant::now() }
    }

    /// Stores a sweep, except for locations that changed meanwhile. `owned` replaces the inventory of this deployment.
    pub fn put_sweep(&self, begun: Begun, observed: BTreeMap<LocationName, ObservedResources>, owned: Owned) {
        let Some(mut state) = self.lock_in(begun.epoch) else { return };
        state.owned = Some(Arc::new(owned));
        state.fresh.clear();
        state.keep(begun, observed, true);
        // This sweep has seen every earlier change, and no other sweep runs beside it.
        state.changed.retain(|_, at| *at > begun.changes);
    }

    /// Stores the services of some locations, except for those that changed meanwhile.
    pub fn put_refresh(&self, begun: Begun, observed: BTreeMap<LocationName, ObservedResources>) {
        if let Some(mut state) = self.lock_in(begun.epoch) {
            state.keep(begun, observed, false);
        }
    }

    /// Takes the result of the last sweep or refresh, once.
    pub fn take(&self, epoch: Epoch, name: &LocationName) -> Option<Observed> {
        self.lock_in(epoch)?.fresh.remove(name)
    }

    /// Whether [`Self::take`] would return something.
    pub fn has_observation(&self, epoch: Epoch, name: &LocationName) -> bool {
        self.lock_in(epoch).is_some_and(|state| state.fresh.contains_key(name))
    }

    /// The last known state of a location.
    pub fn last(&self, epoch: Epoch, name: &LocationName) -> Option<(ObservedResources, Instant)> {
        self.lock_in(epoch)?.last.get(name).cloned()
    }

    pub fn has_last(&self, epoch: Epoch, name: &LocationName) -> bool {
        self.lock_in(epoch).is_some_and(|state| state.last.contains_key(name))
    }

    pub fn set_last(&self, epoch: Epoch, name: &LocationName, resources: ObservedResources, at: Instant) {
        if let Some(mut state) = self.lock_in(epoch) {
            state.last.insert(name.clone(), (resources, at));
        }
    }

    /// Makes the next observation of this location read everything.
    pub fn discard(&self, name: &LocationName) {
        self.lock().last.remove(name);
    }

    /// Call before and after each change of a location.
    pub fn change(&self, name: &LocationName) {
        let mut state = self.lock();
        state.changes += 1;
        let at = state.changes;
        state.changed.insert(name.clone(), at);
        state.fresh.remove(name);
        state.last.remove(name);
    }

    /// Locations with resources of this deployment; absent before the first sweep.
    pub fn owned(&self, epoch: Epoch) -> Option<Arc<Owned>> {
        self.lock_in(epoch)?.owned.clone()
    }

    pub fn set_owned(&self, epoch: Epoch, name: &LocationName, owned: bool) {
        let Some(mut state) = self.lock_in(epoch) else { return };
        let Some(current) = &mut state.owned else { return };
        if owned == current.names.contains(name) {
            return;
        }
        let Owned { names, protected, leaving } = Arc::make_mut(current);
        if owned {
            names.insert(name.clone());
        } else {
            names.remove(name);
            protected.remove(name);
            leaving.remove(name);
        }
    }

    /// Remembers what the next plan needs from this report.
    pub fn reported(&self, epoch: Epoch, name: &LocationName, report: &Report) {
        let deployed = report.conditions.iter().find(|condition| condition.kind == ConditionKind::Deployed);
        let steady = deployed.is_some_and(|condition| condition.status == ConditionStatus::True);
        let Some(mut state) = self.lock_in(epoch) else { return };
        let before = state.reported.get(name).copied();
        let since = before.and_then(|before| before.steady_since);
        let steady_since = steady.then(|| since.unwrap_or_else(Instant::now));
        let listed = before.and_then(|before| before.listed);
        state.reported.insert(name.clone(), Reported { steady_since, listed, serves: report.serving.is_some() });
    }

    /// How long the desired revision has been deployed without a change.
    pub fn steady_for(&self, epoch: Epoch, name: &LocationName) -> Duration {
        let since = self.lock_in(epoch).and_then(|state| state.reported.get(name)?.steady_since);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How long Cloud Map has listed no task of a steady location. `listed` is what it says now.
    pub fn unlisted_for(&self, epoch: Epoch, name: &LocationName, listed: bool) -> Duration {
        let Some(mut state) = self.lock_in(epoch) else { return Duration::ZERO };
        let Some(reported) = state.reported.get_mut(name) else { return Duration::ZERO };
        if listed {
            reported.listed = Some(Instant::now());
        }
        let since = reported.steady_since.map(|steady| reported.listed.map_or(steady, |listed| listed.max(steady)));
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether a revision of this location served at the last pass.
    pub fn serves(&self, name: &LocationName) -> bool {
        self.lock().reported.get(name).is_some_and(|reported| reported.serves)
    }

    /// The location and all of its resources are gone.
    pub fn forget(&self, name: &LocationName) {
        let mut state = self.lock();
        state.last.remove(name);
        state.reported.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use codeloc_core::status::{Condition, Health, Reason, Sync};

    use codeloc_aws::fence::Fence;

    use super::*;
    use codeloc_core::ids::Revision;

    use crate::fixtures::location_name;

    fn first() -> Epoch {
        Epoch::default()
    }

    fn second() -> Epoch {
        let fence = Fence::open();
        fence.close();
        fence.open_until(Instant::now() + Duration::from_secs(60));
        fence.epoch()
    }

    fn observed() -> BTreeMap<LocationName, ObservedResources> {
        ["orders", "billing"].map(|name| (location_name(name), ObservedResources::default())).into()
    }

    fn sweep(store: &ObservationStore, begun: Begun) {
        store.put_sweep(begun, observed(), Owned::default());
    }

    fn report(deployed: ConditionStatus, serving: Option<&str>) -> Report {
        let (kind, reason, message) = (ConditionKind::Deployed, Reason::UpToDate, String::new());
        Report {
            sync: Sync::Synced,
            health: Health::Healthy,
            message: String::new(),
            conditions: vec![Condition { kind, status: deployed, reason, message }],
            revision: None,
            serving: serving.map(Revision::from),
            address: None,
            look_again: None,
        }
    }

    #[test]
    fn an_observation_is_used_once() {
        let store = ObservationStore::default();
        sweep(&store, store.begin(first()));
        assert!(store.take(first(), &location_name("orders")).is_some());
        assert!(store.take(first(), &location_name("orders")).is_none());
    }

    #[test]
    fn a_change_during_a_sweep_voids_only_that_location() {
        let store = ObservationStore::default();
        let begun = store.begin(first());
        store.change(&location_name("orders"));
        sweep(&store, begun);
        assert!(store.take(first(), &location_name("orders")).is_none());
        assert!(store.take(first(), &location_name("billing")).is_some());
    }

    #[test]
    fn a_change_after_a_sweep_voids_the_observation() {
        let store = ObservationStore::default();
        sweep(&store, store.begin(first()));
        store.set_last(first(), &location_name("orders"), ObservedResources::default(), Instant::now());
        store.change(&location_name("orders"));
        assert!(store.take(first(), &location_name("orders")).is_none());
        assert!(store.last(first(), &location_name("orders")).is_none());
    }

    #[test]
    fn a_sweep_of_an_earlier_epoch_is_void() {
        let store = ObservationStore::default();
        let begun = store.begin(first());
        assert!(store.take(second(), &location_name("orders")).is_none());
        sweep(&store, begun);
        assert!(store.take(second(), &location_name("orders")).is_none());
        assert_eq!(store.owned(second()), None);
        sweep(&store, store.begin(second()));
        assert!(store.take(first(), &location_name("orders")).is_none());
        assert!(store.take(second(), &location_name("orders")).is_some());
    }

    #[test]
    fn a_new_epoch_forgets_what_was_read_before() {
        let store = ObservationStore::default();
        sweep(&store, store.begin(first()));
        let orders = location_name("orders");
        store.set_last(first(), &orders, ObservedResources::default(), Instant::now());
        assert!(store.take(second(), &orders).is_none());
        assert!(store.last(second(), &orders).is_none());
        assert_eq!(store.owned(second()), None);
        // A pass that began in the first epoch adds nothing.
        store.set_last(first(), &orders, ObservedResources::default(), Instant::now());
        assert!(!store.has_last(second(), &orders));
        assert!(store.last(first(), &orders).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_location_is_not_steady_since_an_earlier_epoch() {
        let store = ObservationStore::default();
        let orders = location_name("orders");
        store.reported(first(), &orders, &report(ConditionStatus::True, Some("r1")));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(store.steady_for(second(), &orders), Duration::ZERO);
        assert!(store.serves(&orders));
    }

    #[test]
    fn nothing_is_owned_before_the_first_sweep() {
        let store = ObservationStore::default();
        store.set_owned(first(), &location_name("orders"), true);
        assert_eq!(store.owned(first()), None);
        sweep(&store, store.begin(first()));
        store.set_owned(first(), &location_name("orders"), true);
        assert_eq!(
            store.owned(first()).map(|owned| owned.names.clone()),
            Some(BTreeSet::from([location_name("orders")]))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_location_is_steady_since_it_was_first_reported_deployed() {
        let store = ObservationStore::default();
        store.reported(first(), &location_name("orders"), &report(ConditionStatus::True, Some("r1")));
        tokio::time::advance(Duration::from_secs(60)).await;
        store.reported(first(), &location_name("orders"), &report(ConditionStatus::True, Some("r1")));
        assert_eq!(store.steady_for(first(), &location_name("orders")), Duration::from_secs(60));
        assert!(store.serves(&location_name("orders")));
        store.reported(first(), &location_name("orders"), &report(ConditionStatus::Unknown, None));
        assert_eq!(store.steady_for(first(), &location_name("orders")), Duration::ZERO);
        assert!(!store.serves(&location_name("orders")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_location_is_unlisted_since_its_last_listing() {
        let store = ObservationStore::default();
        let orders = location_name("orders");
        assert_eq!(store.unlisted_for(first(), &orders, false), Duration::ZERO);
        store.reported(first(), &orders, &report(ConditionStatus::True, Some("r1")));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(store.unlisted_for(first(), &orders, false), Duration::from_secs(60));
        assert_eq!(store.unlisted_for(first(), &orders, true), Duration::ZERO);
        store.reported(first(), &orders, &report(ConditionStatus::True, Some("r1")));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(store.unlisted_for(first(), &orders, false), Duration::from_secs(5));
    }
}

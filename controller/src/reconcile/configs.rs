//! The configs in force, and what removed configs said.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use codeloc_core::desired::Invalid;
use codeloc_core::lock::lock;
use codeloc_core::planner::Hold;
use codeloc_core::resources::ObservedResources;
use codeloc_crds::{ImagePolicy, Location, LocationName};
use codeloc_git::refs::RefKey;
use tokio::sync::watch;

use super::last_configs::LastConfigs;
use super::prune_guard::{Inventory, Owned, prune_guard};
use crate::config_source::Snapshot;

#[derive(Debug, Default)]
pub struct Configs {
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    /// Why codeloc cannot read the configs now.
    unread: RwLock<Option<String>>,
    last: LastConfigs,
    /// Removed locations whose runs need not end first.
    abandoned: Mutex<BTreeSet<LocationName>>,
}

/// The config of one location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    Valid(Arc<Location>),
    Invalid(Invalid),
    Absent,
}

impl Configs {
    pub fn set_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.last.learn(&snapshot);
        // A location that comes back and is removed again waits for its runs again.
        lock(&self.abandoned).retain(|name| !snapshot.locations.contains_key(name));
        self.snapshot.send_replace(Some(snapshot));
    }

    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// Returns once the configs have been read.
    pub async fn read(&self) {
        // The sender is in this value, so the wait cannot fail.
        let _ = self.snapshot.subscribe().wait_for(Option::is_some).await;
    }

    /// Why codeloc cannot read the configs now. Until it can, it deletes nothing.
    pub fn set_unread(&self, why: Option<String>) {
        *self.unread.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The names of all locations that have a config, valid or not.
    pub fn names(&self) -> Vec<LocationName> {
        self.snapshot().iter().flat_map(|snapshot| snapshot.locations.keys()).cloned().collect()
    }

    /// The config of a location. If two configs claim the same prefix, the running one keeps it. An invalid config keeps the location
    /// that it names, if this deployment owns any resource of it.
    pub fn config(&self, name: &LocationName, observed: &ObservedResources, deployment: &str) -> Config {
        let Some(snapshot) = self.snapshot() else {
            return Config::Invalid(Invalid::new(name, "codeloc has not read the configs yet"));
        };
        let contested = snapshot.contested.get(name);
        let holder = contested.filter(|location| observed.runs_with_prefix() == Some(location.s3_prefix.as_str()));
        match snapshot.locations.get(name).map(|read| holder.map_or(read.as_ref(), Ok)) {
            Some(Ok(location)) => Config::Valid(location.clone()),
            Some(Err(invalid)) => Config::Invalid(invalid.clone()),
            None => match snapshot.claimed.get(name) {
                Some(invalid) if observed.any_owned(name, deployment) => Config::Invalid(invalid.clone()),
                _ => Config::Absent,
            },
        }
    }

    /// Why a location without a config must not be deleted.
    pub fn removal_hold(&self, name: &LocationName, owned: Option<&Owned>, allowed: usize) -> Option<Hold> {
        self.last.hold(name).or_else(|| self.prune_block(name, owned, allowed).map(Hold::PruneBlocked))
    }

    fn prune_block(&self, name: &LocationName, owned: Option<&Owned>, allowed: usize) -> Option<String> {
        let snapshot = self.snapshot()?;
        let Some(observed) = owned else { return Some("codeloc has not read AWS yet".to_owned()) };
        let unread = self.unread.read().unwrap_or_else(PoisonError::into_inner);
        let desired = snapshot.locations.keys().chain(snapshot.claimed.keys()).cloned().collect();
        let confirmed = &snapshot.prune;
        prune_guard(Inventory { observed, desired: &desired, confirmed, allowed, unread: unread.as_deref() }, name)
    }

    /// Deletes a removed location without waiting for its runs.
    pub fn abandon_runs(&self, name: &LocationName) {
        lock(&self.abandoned).insert(name.clone());
    }

    pub fn abandons_runs(&self, name: &LocationName) -> bool {
        lock(&self.abandoned).contains(name)
    }

    /// The locations that follow a branch.
    pub fn followers(&self, key: &RefKey) -> Vec<LocationName> {
        let snapshot = self.snapshot();
        let locations = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        locations
            .filter(|location| location.git_url == key.git_url && location.reference == key.reference)
            .map(|location| location.name.clone())
            .collect()
    }

    /// The image tags that locations follow.
    pub fn followed_tags(&self) -> BTreeSet<String> {
        let snapshot = self.snapshot();
        let locations = snapshot.iter().flat_map(|snapshot| snapshot.in_force());
        locations
            .filter(|location| location.image_policy == ImagePolicy::Follow)
            .filter_map(|location| location.image_tag().map(str::to_owned))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::location_name;

    fn location(name: &str) -> Location {
        let text = format!("name: {name}\ngit_url: https://git.test/{name}.git\nmodule: {name}.definitions\n");
        codeloc_crds::parse(name, &text).expect("a valid config")
    }

    fn configs(names: &[&str]) -> Configs {
        let configs = Configs::default();
        let locations = names.iter().map(|name| (location_name(name), Ok(location(name).into())));
        configs.set_snapshot(Arc::new(Snapshot { locations: locations.collect(), ..Snapshot::default() }));
        configs
    }

    #[test]
    fn a_location_is_not_absent_before_the_configs_are_read() {
        let config = Configs::default().config(&location_name("orders"), &ObservedResources::default(), "codeloc");
        assert!(matches!(config, Config::Invalid(_)), "{config:?}");
    }

    #[test]
    fn a_removed_config_makes_its_location_absent() {
        let configs = configs(&["orders"]);
        let observed = ObservedResources::default();
        assert_eq!(
            configs.config(&location_name("orders"), &observed, "codeloc"),
            Config::Valid(location("orders").into())
        );
        assert_eq!(configs.config(&location_name("billing"), &observed, "codeloc"), Config::Absent);
    }

    #[test]
    fn nothing_is_deleted_before_the_first_sweep() {
        let hold = configs(&["orders"]).removal_hold(&location_name("billing"), None, 10);
        assert!(matches!(hold, Some(Hold::PruneBlocked(_))), "{hold:?}");
    }

    #[test]
    fn nothing_is_deleted_while_the_configs_cannot_be_read() {
        let configs = configs(&["orders"]);
        let names = BTreeSet::from([location_name("orders"), location_name("billing")]);
        let owned = Owned { names, ..Owned::default() };
        assert_eq!(configs.removal_hold(&location_name("billing"), Some(&owned), 1), None);
        configs.set_unread(Some("the git host does not answer".to_owned()));
        let hold = configs.removal_hold(&location_name("billing"), Some(&owned), 1);
        assert!(matches!(hold, Some(Hold::PruneBlocked(_))), "{hold:?}");
    }
}

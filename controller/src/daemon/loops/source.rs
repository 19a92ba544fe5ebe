//! Takes each new snapshot of the configs, and enqueues the locations that it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use codeloc_core::status::{DatedCondition, Reason};
use codeloc_crds::LocationName;

use crate::config_source::Snapshot;
use crate::daemon::Daemon;
use crate::reconcile::{Ports, key_of};
use crate::status::events::{EventReason, NewEvent};

pub async fn run<P: Ports>(daemon: Arc<Daemon<P>>) {
    let mut source = daemon.source.clone();
    loop {
        let (snapshot, unread) = {
            let state = source.borrow_and_update();
            (state.snapshot.clone(), state.failure.as_ref().map(|failure| failure.message.clone()))
        };
        if let Some(why) = &unread {
            daemon.context.status.recorder.record(NewEvent::of_daemon(EventReason::ConfigsUnreadable, why));
        }
        daemon.context.desired.configs.set_unread(unread);
        if let Some(snapshot) = snapshot {
            take(&daemon, snapshot);
        }
        recheck_blocked(&daemon);
        if source.changed().await.is_err() {
            // The watcher lives until the process ends.
            std::future::pending::<()>().await;
        }
    }
}

fn take<P: Ports>(daemon: &Daemon<P>, snapshot: Arc<Snapshot>) {
    let context = &daemon.context;
    let before = context.desired.configs.snapshot();
    if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &snapshot)) {
        return;
    }
    let nothing = Snapshot::default();
    let old = before.as_deref().unwrap_or(&nothing);
    context.status.invalid_dirs(&old.invalid_dirs, &snapshot.invalid_dirs);
    context.desired.refs.track(snapshot.in_force().filter(|location| location.image.is_none()).map(key_of));
    let changed = changed_names(&old.locations, &snapshot.locations);
    let indirect = [changed_names(&old.claimed, &snapshot.claimed), changed_names(&old.contested, &snapshot.contested)];
    let (total, number) = (snapshot.locations.len(), changed.len());
    let message = format!("loaded {total} configs ({number} changed)");
    let event = NewEvent::of_daemon(EventReason::ConfigsRead, message);
    context.status.recorder.record(event.from_commit(snapshot.commit.clone()));
    tracing::info!(
        commit = snapshot.commit.as_deref().unwrap_or("none"),
        locations = total,
        changed = number,
        "codeloc loaded the configs"
    );
    // The snapshot is in force before its locations are due.
    context.desired.configs.set_snapshot(snapshot);
    // Locations whose own config is the same, while another config names them or claims their prefix.
    let known = |name: &LocationName| context.status.statuses.read(name, |_| ()).is_some();
    for name in changed.into_iter().chain(indirect.into_iter().flatten().filter(known)) {
        daemon.queue.add_now(&name, context.change_reason(&name));
    }
}

/// Enqueues the locations that the prune guard blocks: `prune.txt`, another config or a readable source can release them.
fn recheck_blocked<P: Ports>(daemon: &Daemon<P>) {
    let is_blocked = |dated: &DatedCondition| dated.condition.reason == Reason::PruneBlocked;
    let statuses = daemon.context.status.statuses.all().into_iter();
    let blocked = statuses.filter(|status| status.conditions.iter().any(is_blocked));
    for name in blocked.filter_map(|status| LocationName::new(&status.name).ok()) {
        daemon.queue.add_now(&name, daemon.context.change_reason(&name));
    }
}

/// The keys whose values differ, and those that only one of the two has.
fn changed_names<K: Ord + Clone, V: PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    let names: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_changed_and_removed_configs_are_named() {
        let old = BTreeMap::from([("same", 1), ("changed", 1), ("removed", 1)]);
        let new = BTreeMap::from([("same", 1), ("changed", 2), ("new", 1)]);
        assert_eq!(changed_names(&old, &new), ["changed", "new", "removed"]);
    }
}

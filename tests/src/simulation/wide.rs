//! The events and invariants of a wide history:
//!
//! - No run loses what it needs.
//! - Every definition from which a task can start has its roles, its permissions, its image and its log group.
//! - A location that is Healthy can start a run.
//! - No path deletes a resource of a protected location.
//! - At the end, the service of every location is as configured, although its newest commit is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codeloc_core::tags;
use localcloud::calls::Call;
use localcloud::driver::simulated::Script;
use localcloud::model::Cloud;
use tokio::time::Instant;

use super::configs::{bounds, is_enforced, is_invalid, is_protected, with_mode};
use super::history::{Event, ManualChange, NAMES};
use super::{FIRST, Run, SECOND, invariants};

/// The time for codeloc to find and repair a change by hand, with retries after faults.
const REPAIR_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The time for which the end of a history waits for runs. Then a user cancels the rest.
const RUN_LIMIT: Duration = Duration::from_secs(10 * 60);

#[derive(Default)]
pub struct Wide {
    /// When a person last changed a resource of a location.
    damaged: BTreeMap<String, Instant>,
    /// Locations whose config was removed while codeloc could have been told to keep them.
    kept: BTreeSet<String>,
    /// Locations whose images a person deleted. codeloc builds those again that are desired or serve.
    images_deleted: BTreeSet<String>,
    /// Locations whose service had a protection tag at the last check.
    protected: BTreeSet<&'static str>,
    /// The number of the last checked call.
    checked: u64,
}

impl Wide {
    pub fn may_keep(&self, name: &str) -> bool {
        self.kept.contains(name)
    }
}

impl Run {
    /// The script with lines in the log, in a wide history.
    pub(super) fn script(&self, script: Script) -> Script {
        if self.history.wide { script.logging(&["Started Dagster code server"]) } else { script }
    }

    pub(super) fn note_removal(&mut self, name: &str) {
        let unenforced = self.deployment.configs.get(name).is_some_and(|text| !is_enforced(text));
        // The config may have been protected before it became invalid.
        if unenforced || self.wide.protected.contains(name) {
            self.wide.kept.insert(name.to_owned());
        }
    }

    pub(super) fn note_manual_change(&mut self, name: &'static str, change: ManualChange) {
        self.wide.damaged.insert(name.to_owned(), Instant::now());
        let takes_from_runs = [
            ManualChange::DeleteLogGroup,
            ManualChange::DeleteRolePolicy,
            ManualChange::OpenTrust,
            ManualChange::DeleteRole,
            ManualChange::DeregisterTaskDefinition,
            ManualChange::DeleteImages,
        ];
        if takes_from_runs.contains(&change) {
            self.deployment.runs.cancel(name);
        }
        if change == ManualChange::DeleteImages {
            self.wide.images_deleted.insert(name.to_owned());
        }
    }

    pub(super) async fn apply_wide(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Readd { name, millis } if self.has_config(name) => {
                let text = self.deployment.configs[name].clone();
                self.disturb(name);
                self.note_removal(name);
                self.deployment.confirm(&[name]);
                self.deployment.remove(name);
                self.advance(Duration::from_millis(millis)).await?;
                self.deployment.commit(name, text);
                self.wide.kept.remove(name);
            }
            Event::RenameAndBack { name, to, seconds } if self.has_config(name) && !self.has_config(to) => {
                self.disturb(name);
                self.disturb(to);
                Box::pin(self.apply(&Event::Rename { name, to })).await?;
                self.advance(Duration::from_secs(seconds)).await?;
                Box::pin(self.apply(&Event::Rename { name: to, to: name })).await?;
                self.wide.kept.remove(name);
            }
            Event::RenameFolder { name, to, seconds } if self.has_config(name) && !self.has_config(to) => {
                let text = self.deployment.configs.remove(name).unwrap_or_default();
                self.deployment.commit(to, text.clone());
                self.advance(Duration::from_secs(seconds)).await?;
                self.deployment.configs.remove(to);
                self.deployment.commit(name, text);
            }
            Event::Misname { name, to, seconds } if self.has_config(name) => {
                let text = self.deployment.configs[name].clone();
                let misnamed = text.replace(&format!("name: {name}\n"), &format!("name: {to}\n"));
                self.deployment.commit(name, misnamed);
                self.advance(Duration::from_secs(seconds)).await?;
                self.deployment.commit(name, text);
            }
            Event::Mode { name, mode, protect } if self.has_config(name) => {
                let text = with_mode(&self.deployment.configs[name], mode, protect);
                self.deployment.commit(name, text);
            }
            Event::Run { name, new } if self.deployment.healthy(name) && !self.wide.damaged.contains_key(name) => {
                self.deployment.runs.create(name, new)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn has_config(&self, name: &str) -> bool {
        self.deployment.configs.contains_key(name)
    }

    /// A pass that began before a config was there can still remove its location.
    fn disturb(&mut self, name: &str) {
        self.disturbed.insert(name.to_owned());
        self.wide.damaged.insert(name.to_owned(), Instant::now());
    }

    /// The invariants of a wide history that hold at every moment.
    pub(super) fn check_wide(&mut self) -> Result<(), String> {
        self.deployment.runs.advance()?;
        let calls = self.deployment.cloud.calls_since(self.wide.checked);
        self.wide.checked = calls.last().map_or(self.wide.checked, |call| call.sequence);
        if let Some(deletion) = calls.iter().find_map(|call| self.deleted_protected(call)) {
            return Err(deletion);
        }
        if !calls.iter().any(|call| call.mutating && call.applied && call.service != "s3") {
            return Ok(());
        }
        self.wide.protected = self.deployment.cloud.with_cloud(|cloud| {
            let locations = NAMES.into_iter();
            locations.filter(|name| has_protection_tag(cloud, name)).collect()
        });
        for name in NAMES {
            let violation = self.cannot_work(name);
            match (violation, self.wide.damaged.get(name).copied()) {
                (Some(violation), None) => return Err(format!("{name}: {violation}")),
                (None, Some(since)) if since.elapsed() >= REPAIR_LIMIT => drop(self.wide.damaged.remove(name)),
                _ => {}
            }
        }
        Ok(())
    }

    fn cannot_work(&self, name: &str) -> Option<String> {
        let healthy = self.deployment.healthy(name);
        self.deployment.cloud.with_cloud(|cloud| {
            let lacks = invariants::cannot_start(cloud, name, !self.wide.images_deleted.contains(name));
            let lacks = lacks.map(|lacks| format!("a task could not start: {lacks}"));
            let cannot_run = || healthy.then(|| invariants::cannot_run(cloud, name)).flatten();
            lacks.or_else(|| cannot_run().map(|lacks| format!("it is Healthy, but a run could not start: {lacks}")))
        })
    }

    /// The deletion of a resource of a protected location by codeloc.
    fn deleted_protected(&self, call: &Call) -> Option<String> {
        let deletes = ["DeleteService", "DeleteRole", "DeleteRepository", "DeleteLogGroup"];
        if !call.applied || !deletes.contains(&call.operation.as_str()) || ![FIRST, SECOND].contains(&&*call.caller) {
            return None;
        }
        let resource = call.resource.as_deref()?;
        let owns = |name: &&&str| {
            let config = self.deployment.configs.get(**name);
            config.is_none_or(|text| is_protected(text))
                && [
                    format!("{name}-service"),
                    format!("codeloc-{name}"),
                    format!("codeloc/{name}"),
                    format!("/codeloc/locations/{name}"),
                ]
                .contains(&resource.to_owned())
        };
        let name = self.wide.protected.iter().find(owns)?;
        Some(format!("{} deleted {resource}, although {name} is protected", call.caller))
    }

    /// Before the history settles: every location is enforced again, and no run is left.
    pub(super) async fn finish_wide(&mut self) -> Result<(), String> {
        for text in self.deployment.configs.values_mut() {
            if text.contains("mode: ") {
                *text = with_mode(text, "enforce", is_protected(text));
            }
        }
        self.deployment.publish();
        self.advance(RUN_LIMIT).await?;
        for name in NAMES {
            self.deployment.runs.cancel(name);
        }
        Ok(())
    }

    /// The invariants of a wide history that hold at its end.
    pub(super) fn check_final_wide_state(&self) -> Result<(), String> {
        let configs = self.deployment.configs.iter().filter(|(_, text)| !is_invalid(text));
        for (name, text) in configs {
            if let Some(violation) = self.cannot_work(name) {
                return Err(format!("{name}: {violation}"));
            }
            let unrepaired =
                self.deployment.cloud.with_cloud(|cloud| invariants::unrepaired(cloud, name, bounds(text)));
            // Without any image, codeloc creates no service.
            if let Some(unrepaired) = unrepaired.filter(|_| self.published.contains(name)) {
                return Err(format!("{name}: {unrepaired}"));
            }
        }
        Ok(())
    }
}

fn has_protection_tag(cloud: &Cloud, name: &str) -> bool {
    let service =
        cloud.ecs.clusters.get("dagster").and_then(|cluster| cluster.services.get(&format!("{name}-service")));
    let service = service.filter(|service| service.is_active());
    service.is_some_and(|service| service.tags.get(tags::PROTECT).is_some_and(|value| value == "true"))
}

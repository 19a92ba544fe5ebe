//! Observing all kinds of resources at once.

use std::collections::BTreeMap;

use codeloc_core::resources::ObservedResources;

use crate::error::CallError;
use crate::resources::{discovery, image_repository, log_group, role, scaling, service, task_definition};
use crate::scope::Scope;
use crate::session::Session;

/// The observed state by location name. A location without any resource is absent.
///
/// One failed call fails the whole observation: a partial one would make resources look absent.
pub async fn observe(session: Session<'_>, scope: Scope<'_>) -> Result<BTreeMap<String, ObservedResources>, CallError> {
    let mut all: BTreeMap<String, ObservedResources> = BTreeMap::new();
    if let Scope::All = scope {
        session.cache.begin_sweep();
    }
    let (log_groups, image_repositories, roles, task_definitions, discovery, services, scaling) = futures::try_join!(
        log_group::observe(session, scope),
        image_repository::observe(session, scope),
        role::observe(session, scope),
        task_definition::observe(session, scope),
        discovery::observe(session, scope),
        service::observe(session, scope),
        scaling::observe(session, scope),
    )?;
    for (name, observed) in log_groups {
        all.entry(name).or_default().log_group = Some(observed);
    }
    for (name, observed) in image_repositories {
        all.entry(name).or_default().image_repository = Some(observed);
    }
    for (name, roles) in roles {
        let found = all.entry(name).or_default();
        (found.role, found.execution_role) = (roles.code, roles.execution);
    }
    for (name, observed) in task_definitions {
        let found = all.entry(name).or_default();
        found.task_definitions = observed.servers;
        found.run_definitions = observed.runs;
    }
    for (name, observed) in discovery {
        all.entry(name).or_default().discovery = Some(observed);
    }
    for (name, observed) in services {
        all.entry(name).or_default().service = Some(observed);
    }
    for (name, observed) in scaling {
        all.entry(name).or_default().scaling = Some(observed);
    }
    if let Scope::All = scope {
        session.cache.end_sweep(all.clone());
    }
    Ok(all)
}

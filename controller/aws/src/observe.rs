//! Observing all kinds of resources at once.

use std::collections::{BTreeMap, BTreeSet};

use codeloc_core::resources::ObservedResources;
use codeloc_crds::LocationName;

use crate::error::CallError;
use crate::resources::{discovery, image_repository, log_group, role, scaling, service, task_definition};
use crate::scope::Scope;
use crate::session::Session;

/// The observed state by location name. A location without any resource is absent.
///
/// One failed call fails the whole observation: a partial one would make resources look absent.
pub async fn observe(
    session: Session<'_>,
    scope: Scope<'_>,
) -> Result<BTreeMap<LocationName, ObservedResources>, CallError> {
    if let Scope::All = scope {
        session.cache.begin_sweep();
    }
    let (
        mut log_groups,
        mut image_repositories,
        mut roles,
        mut task_definitions,
        mut discovery,
        mut services,
        mut scaling,
    ) = futures::try_join!(
        log_group::observe(session, scope),
        image_repository::observe(session, scope),
        role::observe(session, scope),
        task_definition::observe(session, scope),
        discovery::observe(session, scope),
        service::observe(session, scope),
        scaling::observe(session, scope),
    )?;
    let names: BTreeSet<LocationName> = log_groups
        .keys()
        .chain(image_repositories.keys())
        .chain(roles.keys())
        .chain(task_definitions.keys())
        .chain(discovery.keys())
        .chain(services.keys())
        .chain(scaling.keys())
        .cloned()
        .collect();
    let observed = names.into_iter().map(|name| {
        let roles = roles.remove(&name).unwrap_or_default();
        let definitions = task_definitions.remove(&name).unwrap_or_default();
        let resources = ObservedResources {
            log_group: log_groups.remove(&name),
            image_repository: image_repositories.remove(&name),
            // Listed only before unused images are deleted.
            images: None,
            role: roles.code,
            execution_role: roles.execution,
            run_definitions: definitions.runs,
            task_definitions: definitions.servers,
            discovery: discovery.remove(&name),
            service: services.remove(&name),
            scaling: scaling.remove(&name),
        };
        (name, resources)
    });
    let all: BTreeMap<LocationName, ObservedResources> = observed.collect();
    if let Scope::All = scope {
        session.cache.end_sweep(all.clone());
    }
    Ok(all)
}

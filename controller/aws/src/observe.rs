//! Observing all kinds of resources at once.

use std::collections::{BTreeMap, BTreeSet};

use codeloc_core::resources::{self as state, ObservedResources};
use codeloc_core::shared::Shared;
use codeloc_crds::LocationName;

use crate::error::CallError;
use crate::resources::{discovery, image_repository, log_group, role, scaling, service, task_definition};
use crate::scope::Scope;
use crate::session::Session;

/// The resources of each kind, by location.
struct Found {
    log_groups: BTreeMap<LocationName, Shared<state::log_group::Observed>>,
    image_repositories: BTreeMap<LocationName, Shared<state::image_repository::Observed>>,
    roles: BTreeMap<LocationName, role::Roles>,
    task_definitions: BTreeMap<LocationName, task_definition::Definitions>,
    discovery: BTreeMap<LocationName, Shared<state::discovery::Observed>>,
    services: BTreeMap<LocationName, Shared<state::service::Observed>>,
    scaling: BTreeMap<LocationName, Shared<state::scaling::Observed>>,
}

impl Found {
    /// Every location with a resource. This destructures without `..`: a new kind does not compile until its locations count.
    fn names(&self) -> BTreeSet<LocationName> {
        let Self { log_groups, image_repositories, roles, task_definitions, discovery, services, scaling } = self;
        let names = log_groups.keys().chain(image_repositories.keys()).chain(roles.keys());
        let names = names.chain(task_definitions.keys()).chain(discovery.keys()).chain(services.keys());
        names.chain(scaling.keys()).cloned().collect()
    }
}

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
    let (log_groups, image_repositories, roles, task_definitions, discovery, services, scaling) = futures::try_join!(
        log_group::observe(session, scope),
        image_repository::observe(session, scope),
        role::observe(session, scope),
        task_definition::observe(session, scope),
        discovery::observe(session, scope),
        service::observe(session, scope),
        scaling::observe(session, scope),
    )?;
    let mut found = Found { log_groups, image_repositories, roles, task_definitions, discovery, services, scaling };
    let observed = found.names().into_iter().map(|name| {
        let roles = found.roles.remove(&name).unwrap_or_default();
        let definitions = found.task_definitions.remove(&name).unwrap_or_default();
        let resources = ObservedResources {
            log_group: found.log_groups.remove(&name),
            image_repository: found.image_repositories.remove(&name),
            // Listed only before unused images are deleted.
            images: None,
            role: roles.code,
            execution_role: roles.execution,
            run_definitions: definitions.runs,
            task_definitions: definitions.servers,
            discovery: found.discovery.remove(&name),
            service: found.services.remove(&name),
            scaling: found.scaling.remove(&name),
        };
        (name, resources)
    });
    let all: BTreeMap<LocationName, ObservedResources> = observed.collect();
    if let Scope::All = scope {
        session.cache.end_sweep(all.clone());
    }
    Ok(all)
}

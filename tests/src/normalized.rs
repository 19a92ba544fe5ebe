//! Observed state without the numbers, ids and dates of AWS.

use std::collections::BTreeMap;

use codeloc_core::ids::Arn;
use codeloc_core::resources::ObservedResources;
use codeloc_core::tags;
use codeloc_crds::LocationName;

/// The state that two ways to the same result must share: names, contents and tags. Task definitions are named by revision
/// instead of number, and inactive services are omitted.
#[must_use]
pub fn normalized(observed: &BTreeMap<LocationName, ObservedResources>) -> String {
    let mut observed = observed.clone();
    for location in observed.values_mut() {
        let mut revisions = BTreeMap::new();
        for definition in &mut location.task_definitions {
            let revision = Arn::from(definition.revision().map_or("none".to_owned(), String::from));
            revisions.insert(std::mem::replace(&mut definition.arn, revision.clone()), revision);
            definition.number = 0;
            definition.tags.remove(tags::ATTEMPT);
        }
        for definition in &mut location.run_definitions {
            (definition.arn, definition.number) = (definition.family().into(), 0);
        }
        let named = |arn: &Arn| revisions.get(arn).cloned().unwrap_or_else(|| "deregistered".into());
        if let Some(discovery) = &mut location.discovery {
            discovery.id.clear();
            discovery.arn = "".into();
        }
        if let Some(repository) = &mut location.image_repository {
            repository.created_ms = None;
        }
        location.service = location.service.take().filter(|service| service.exists());
        if let Some(service) = &mut location.service {
            service.registry = service.registry.take().map(|_| "registry".into());
            service.task_definition = named(&service.task_definition);
            for deployment in &mut service.deployments {
                deployment.id.clear();
                deployment.started_ms = 0;
                deployment.reason.clear();
                deployment.task_definition = named(&deployment.task_definition);
            }
        }
    }
    observed.retain(|_, observed| *observed != ObservedResources::default());
    format!("{observed:#?}")
}

//! Checks that need more than one file.

use std::collections::BTreeMap;

use crate::error::ConfigError;
use crate::glimpse::Glimpse;
use crate::prefix::{SHARED, belongs_to, lies_in, overlap};
use crate::read::Parsed;
use crate::repository::RepositoryName;

/// What is wrong with configs that pass by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetErrors {
    /// Both of two configs that take the same folder of the bucket. Neither name nor order decides between them: the author of one
    /// config could choose these, and so take another location's data or its place.
    pub contested: BTreeMap<RepositoryName, ConfigError>,
    /// Configs that are at fault whatever the others do about it.
    pub refused: BTreeMap<RepositoryName, ConfigError>,
}

/// Checks configs against each other, and against what can be made out of those that do not pass: `broken`, by folder.
pub fn check_fleet<'a>(
    fleet: impl IntoIterator<Item = &'a Parsed>,
    broken: &BTreeMap<RepositoryName, Glimpse>,
) -> FleetErrors {
    let by_name: BTreeMap<&RepositoryName, &Parsed> =
        fleet.into_iter().map(|parsed| (&parsed.repository.name, parsed)).collect();
    let of_fleet = by_name.iter().map(|(name, parsed)| (*name, parsed.repository.s3_prefix.as_str()));
    let of_broken =
        broken.iter().flat_map(|(name, glimpse)| glimpse.prefixes.iter().map(move |prefix| (name, prefix.as_str())));
    let prefixes: Vec<(&RepositoryName, &str)> = of_fleet.chain(of_broken).collect();
    // Below `repos/` each has its own place by its name, and no config passes that takes another's.
    let free: Vec<_> = prefixes.iter().filter(|(_, prefix)| belongs_to(prefix).is_none()).collect();
    let is_known = |name: &str| {
        by_name.keys().any(|known| known.as_str() == name)
            || broken.contains_key(name)
            || broken.values().any(|glimpse| glimpse.names.iter().any(|known| known.as_str() == name))
    };

    let mut errors = FleetErrors::default();
    for (name, parsed) in &by_name {
        let prefix = parsed.repository.s3_prefix.as_str();
        let contested = free.iter().find(|(other, taken)| other != name && overlap(prefix, taken));
        if let Some((other, taken)) = contested {
            let message = format!("prefix `{prefix}` overlaps `{taken}` of `{other}`");
            let hint = format!(
                "give `{name}` an `s3_prefix` that neither holds nor lies in another's; until then only the one that runs with it goes on"
            );
            errors.contested.insert((*name).clone(), parsed.error_at_prefix(message, hint));
        }
        let is_some_ones = |granted: &str| match belongs_to(granted) {
            Some(owner) => is_known(owner) || lies_in(granted, SHARED),
            None => prefixes.iter().any(|(_, taken)| lies_in(granted, taken)),
        };
        let granted = parsed.repository.access.write.iter().map(String::as_str);
        let stray: Vec<&str> = granted.filter(|granted| !is_some_ones(granted)).collect();
        if let Some(error) = parsed.error_at_grants(&stray) {
            errors.refused.insert((*name).clone(), error);
        }
    }
    errors
}

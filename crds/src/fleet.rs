//! Checks across configs.

use std::collections::BTreeMap;

use crate::error::ConfigError;
use crate::glimpse::Glimpse;
use crate::location::LocationName;
use crate::prefix::{SHARED, is_within, overlap, owner};
use crate::read::Parsed;

/// Conflicts between configs that are valid on their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetErrors {
    /// Configs whose prefix overlaps the prefix of another config, both of each pair. Neither name nor order decides between them,
    /// because an author could choose these to take over the data of another location.
    pub contested: BTreeMap<LocationName, ConfigError>,
    /// Configs with grants that are invalid regardless of the other authors.
    pub refused: BTreeMap<LocationName, ConfigError>,
}

/// Checks configs against each other and against `broken`, the names and prefixes of invalid configs by folder.
pub fn check_fleet<'a>(
    fleet: impl IntoIterator<Item = &'a Parsed>,
    broken: &BTreeMap<LocationName, Glimpse>,
) -> FleetErrors {
    let by_name: BTreeMap<&LocationName, &Parsed> =
        fleet.into_iter().map(|parsed| (&parsed.location.name, parsed)).collect();
    let valid = by_name.iter().map(|(name, parsed)| (*name, parsed.location.s3_prefix.as_str()));
    let invalid =
        broken.iter().flat_map(|(name, glimpse)| glimpse.prefixes.iter().map(move |prefix| (name, prefix.as_str())));
    let prefixes: Vec<(&LocationName, &str)> = valid.chain(invalid).collect();
    // In `repos/` the name decides the owner, and a valid config uses only its own folder there.
    let free: Vec<_> = prefixes.iter().filter(|(_, prefix)| owner(prefix).is_none()).collect();
    let is_known = |name: &str| {
        by_name.keys().any(|known| known.as_str() == name)
            || broken.contains_key(name)
            || broken.values().any(|glimpse| glimpse.names.iter().any(|known| known.as_str() == name))
    };

    let mut errors = FleetErrors::default();
    for (name, parsed) in &by_name {
        let prefix = parsed.location.s3_prefix.as_str();
        let contested = free.iter().find(|(other, taken)| other != name && overlap(prefix, taken));
        if let Some((other, taken)) = contested {
            let message = format!("prefix `{prefix}` overlaps `{taken}` of `{other}`");
            let hint = format!(
                "set another `s3_prefix` for `{name}` or `{other}`; until then codeloc freezes each of the two that \
                 does not already run with its prefix"
            );
            errors.contested.insert((*name).clone(), parsed.error_at_prefix(message, hint));
        }
        let has_owner = |granted: &str| match owner(granted) {
            Some(owner) => is_known(owner) || is_within(granted, SHARED),
            None => prefixes.iter().any(|(_, taken)| is_within(granted, taken)),
        };
        let granted = parsed.location.access.write.iter().map(String::as_str);
        let without_owner: Vec<&str> = granted.filter(|granted| !has_owner(granted)).collect();
        if let Some(error) = parsed.error_at_grants(&without_owner) {
            errors.refused.insert((*name).clone(), error);
        }
    }
    errors
}

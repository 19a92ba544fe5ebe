//! Checks that need more than one file.

use std::collections::BTreeMap;

use crate::check::prefixes_overlap;
use crate::error::ConfigError;
use crate::read::Parsed;
use crate::repository::RepositoryName;

/// Repositories whose prefix overlaps that of one with an earlier name. Only the later of two is at fault, so that a new
/// config with a bad prefix cannot freeze more than itself and its successors in the alphabet.
pub fn check_fleet<'a>(
    fleet: impl IntoIterator<Item = &'a Parsed>,
) -> BTreeMap<RepositoryName, ConfigError> {
    let by_name: BTreeMap<&RepositoryName, &Parsed> = fleet
        .into_iter()
        .map(|parsed| (&parsed.repository.name, parsed))
        .collect();
    let mut errors = BTreeMap::new();
    for (name, parsed) in &by_name {
        let prefix = &parsed.repository.s3_prefix;
        let earlier = by_name
            .range::<&RepositoryName, _>(..name)
            .find(|(_, other)| prefixes_overlap(prefix, &other.repository.s3_prefix));
        if let Some((other_name, other)) = earlier {
            let message = format!(
                "prefix `{prefix}` overlaps `{}` of `{other_name}`",
                other.repository.s3_prefix
            );
            let hint =
                format!("give `{name}` an `s3_prefix` that neither holds nor lies in another's");
            errors.insert((*name).clone(), parsed.error_at_prefix(message, hint));
        }
    }
    errors
}

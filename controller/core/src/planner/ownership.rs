//! Which resources belong to the location. codeloc changes and deletes only those that carry its tags.

use super::Input;
use crate::resources::Kind;
use crate::tags::{self, Owner, Tags};

/// Whether these are the tags of a resource of this location and deployment.
pub(super) fn is_owned(input: &Input<'_>, tags: &Tags) -> bool {
    tags::owner(tags, &input.deployment.id) == Owner::Location(input.name)
}

/// Resources that have a name of this location and belong to another owner. `adopt` claims those without an owner, and never those of
/// another deployment.
pub(super) fn not_owned(input: &Input<'_>, adopt: bool) -> Vec<(Kind, String)> {
    let blocks = |(kind, _, tags): &(Kind, &str, &Tags)| {
        has_unique_name(*kind) && !tags::may_manage(tags, &input.deployment.id, input.name, adopt)
    };
    input.observed.owned().filter(blocks).map(|(kind, name, _)| (kind, name.to_owned())).collect()
}

/// Whether AWS accepts only one resource of the kind with the same name: another owner's resource then blocks the location.
fn has_unique_name(kind: Kind) -> bool {
    match kind {
        Kind::LogGroup
        | Kind::ImageRepository
        | Kind::Role
        | Kind::ExecutionRole
        | Kind::Discovery
        | Kind::Service
        | Kind::Scaling
        | Kind::Workspace => true,
        // A family also holds revisions of other owners. codeloc registers its own and ignores the others.
        Kind::TaskDefinition | Kind::RunDefinition => false,
    }
}

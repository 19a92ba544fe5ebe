//! Prefixes of the shared bucket: how they are written, and whose they are.

use crate::repository::{RESERVED_NAMES, RESERVED_ROOTS};

pub(crate) const HINT: &str =
    "write folders out of letters, digits and -_.= with / between them and none at either end";

/// The folder of the bucket in which each location has one by its name.
const REPOSITORIES: &str = "repos";

/// What every location reads, and may be allowed to write.
pub(crate) const SHARED: &str = "repos/shared";

/// Whether a prefix is another one, or lies in it.
pub(crate) fn lies_in(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether two prefixes are equal or one lies in the other.
pub(crate) fn overlap(left: &str, right: &str) -> bool {
    lies_in(left, right) || lies_in(right, left)
}

/// The name whose `repos/NAME` a prefix is, or lies in. Empty for `repos` itself, which has no owner.
pub(crate) fn belongs_to(prefix: &str) -> Option<&str> {
    if prefix == REPOSITORIES {
        return Some("");
    }
    prefix.strip_prefix(REPOSITORIES)?.strip_prefix('/')?.split('/').next()
}

/// Whether a prefix is in a folder at the root of the bucket that is the platform's, as the controller's own is.
pub fn is_reserved(prefix: &str) -> bool {
    prefix.split('/').next().is_some_and(|root| RESERVED_ROOTS.contains(&root))
}

/// The platform's place that a prefix overlaps: a reserved folder at the root of the bucket, or below `repos`.
pub(crate) fn platforms(prefix: &str) -> Option<String> {
    if is_reserved(prefix) {
        return prefix.split('/').next().map(str::to_owned);
    }
    let places = RESERVED_NAMES.into_iter().map(|name| format!("{REPOSITORIES}/{name}"));
    places.into_iter().find(|place| overlap(prefix, place))
}

pub(crate) fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= 512
        && prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=' | '/'))
        && prefix.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

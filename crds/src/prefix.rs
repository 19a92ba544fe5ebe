//! Prefixes in the shared bucket: their syntax and their owners.

use crate::location::{RESERVED_NAMES, RESERVED_ROOTS};

pub(crate) const HINT: &str =
    "use folder names of letters, digits and -_.= separated by /, without a leading or trailing slash";

/// The folder that contains the default prefix of each location.
const LOCATIONS: &str = "repos";

/// Every location can read this prefix. A config can grant write access to it.
pub(crate) const SHARED: &str = "repos/shared";

/// Whether `inner` equals `outer` or is a folder in it.
pub(crate) fn is_within(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether two prefixes are equal or one contains the other.
pub(crate) fn overlap(left: &str, right: &str) -> bool {
    is_within(left, right) || is_within(right, left)
}

/// The `NAME` of a prefix at or below `repos/NAME`. Empty for `repos` itself, which has no owner.
pub(crate) fn owner(prefix: &str) -> Option<&str> {
    if prefix == LOCATIONS {
        return Some("");
    }
    prefix.strip_prefix(LOCATIONS)?.strip_prefix('/')?.split('/').next()
}

/// Whether a prefix is in a reserved folder at the root of the bucket.
pub fn is_reserved(prefix: &str) -> bool {
    prefix.split('/').next().is_some_and(|root| RESERVED_ROOTS.contains(&root))
}

/// The reserved folder that a prefix overlaps, at the root of the bucket or in `repos`.
pub(crate) fn reserved_overlap(prefix: &str) -> Option<String> {
    if is_reserved(prefix) {
        return prefix.split('/').next().map(str::to_owned);
    }
    RESERVED_NAMES.into_iter().map(|name| format!("{LOCATIONS}/{name}")).find(|reserved| overlap(prefix, reserved))
}

pub(crate) fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= 512
        && prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=' | '/'))
        && prefix.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

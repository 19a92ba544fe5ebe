//! The order of locations in the queue and of calls to AWS.

/// The reason of a reconciliation or call, which decides the order. The first variant has the highest priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A commit changed a location that serves.
    Commit,
    /// A rollout is in progress, or codeloc retries after a failure.
    Again,
    /// codeloc has started to create the location. It completes started locations before it starts others, so that it always uses the
    /// slowest of AWS's rates.
    Making,
    /// A new location: it does not serve yet, so it can wait.
    Cold,
    /// A periodic check without a known change.
    Resync,
    /// Deletes resources that nothing uses.
    Garbage,
}

impl Priority {
    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Again => "again",
            Self::Making => "making",
            Self::Cold => "cold",
            Self::Resync => "resync",
            Self::Garbage => "garbage",
        }
    }

    /// The priority after codeloc has started the work.
    #[must_use]
    pub fn begun(self) -> Self {
        if self == Self::Cold { Self::Making } else { self }
    }

    /// The priority of the next reconciliation of a location that is not in sync.
    #[must_use]
    pub fn again(self) -> Self {
        match self {
            Self::Making | Self::Cold => Self::Making,
            // codeloc waits for the result of its own changes.
            Self::Commit | Self::Again | Self::Resync | Self::Garbage => Self::Again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Priority; 6] =
        [Priority::Commit, Priority::Again, Priority::Making, Priority::Cold, Priority::Resync, Priority::Garbage];

    #[test]
    fn a_commit_precedes_all_and_garbage_follows_all() {
        assert!(ALL.is_sorted());
    }

    #[test]
    fn a_started_location_precedes_new_ones() {
        assert_eq!(Priority::Cold.begun(), Priority::Making);
        assert_eq!(Priority::Cold.again(), Priority::Making);
        assert!(ALL.into_iter().filter(|one| *one != Priority::Cold).all(|one| one.begun() == one));
    }

    #[test]
    fn a_retry_is_never_less_urgent_than_its_reason() {
        assert!(ALL.into_iter().filter(|one| *one != Priority::Commit).all(|one| one.again() <= one));
    }
}

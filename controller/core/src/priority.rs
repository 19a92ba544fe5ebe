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
}

//! Who goes first: in the queue, and where calls wait for their turn.

/// Why something is done. Smaller comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody changed a location that is live.
    Commit,
    /// Something is waited for, or failed and is tried again.
    Again,
    /// A location that is being made: what was begun is ended before more is begun, so that the slowest of AWS's rates is never
    /// left unused while others are used up.
    Making,
    /// A location that is made for the first time: nobody uses it yet.
    Cold,
    /// Nothing is known to have changed.
    Resync,
    /// What nobody needs any more is taken away.
    Garbage,
}

impl Priority {
    /// As metrics call it.
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

    /// Of something that was begun for this reason.
    #[must_use]
    pub fn begun(self) -> Self {
        if self == Self::Cold { Self::Making } else { self }
    }

    /// Of the next look at something that was not done yet.
    #[must_use]
    pub fn again(self) -> Self {
        match self {
            Self::Making | Self::Cold => Self::Making,
            // What was only looked at becomes something that is waited for.
            Self::Commit | Self::Again | Self::Resync | Self::Garbage => Self::Again,
        }
    }
}

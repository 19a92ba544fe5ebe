//! Who goes first: in the queue, and where calls wait for their turn.

/// Why something is done. Smaller comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody changed a location that is live.
    Commit,
    /// Something is waited for, or failed and is tried again.
    Again,
    /// A location that is made for the first time: nobody uses it yet.
    Cold,
    /// Nothing is known to have changed.
    Resync,
    /// What nobody needs any more is taken away.
    Garbage,
}

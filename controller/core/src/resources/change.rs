//! What a change means for the rest of its plan.

/// What happens when codeloc executes a change. Each kind assigns one to each of its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It creates something, and the answer of AWS contains its whole state.
    Creates,
    /// It creates a service, and ECS starts the first rollout.
    CreatesAndRollsOut,
    /// ECS starts a rollout.
    RollsOut,
    /// It changes, tags or deletes something that exists.
    Modifies,
    /// It only reports a difference, because AWS has no call that removes it.
    Reports,
}

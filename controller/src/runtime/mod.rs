//! What the process takes from its machine.

mod clock;

pub use clock::Clock;

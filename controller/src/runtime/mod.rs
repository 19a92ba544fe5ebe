//! The process and its machine: the date, signals and signatures.

mod clock;
mod shutdown;
pub mod signing;

pub use clock::Clock;
pub use shutdown::shut_on_signal;

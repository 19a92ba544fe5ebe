//! AWS in one process, small and strict: what the controller calls, as AWS answers it.

pub mod dns;
pub mod driver;
pub mod registry;

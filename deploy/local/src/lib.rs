//! AWS in one process, small and strict: what the controller calls, as AWS answers it.

pub mod driver;

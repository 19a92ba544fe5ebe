//! How requests reach the engine.

pub mod http;
pub mod in_process;

//! What the cloud refuses, and what it does of its own accord, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]
#![expect(clippy::needless_pass_by_value, reason = "json! is written where the call is made")]

mod quotas;
mod rates;
mod registries;
mod tags;
mod tasks;
mod world;

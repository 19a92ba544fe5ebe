//! Refusals and changes by the cloud itself, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]
#![expect(clippy::needless_pass_by_value, reason = "json! is written where the call is made")]

mod capacity;
mod harness;
mod permissions;
mod quotas;
mod rates;
mod registries;
mod tags;
mod tasks;

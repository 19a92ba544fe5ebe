//! Runs git as a program that is isolated from this machine and never prompts.
//!
//! Guarantees: no configuration of the system or the user, no hooks, no prompts; only the one protocol of the URL, and only
//! allowed protocols; user values are never in a place where git expects an option; every call ends in time, together with its
//! children; credentials in URLs are masked in every error; git follows no redirect ([`redirect`]).
//! Assumes: one fetch at a time per bare folder.

pub mod commit;
mod error;
mod failure;
mod git;
pub mod program;
mod redirect;
pub mod refs;
mod url;

pub use error::{CommandError, GitError, TokenError};
pub use failure::Failure;
pub use git::{Git, GitSettings, describe};

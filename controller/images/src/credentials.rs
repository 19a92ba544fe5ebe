//! User names and passwords for registries.

use std::fmt;
use std::future::Future;

use crate::error::BuildError;

/// `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Port: gives codeloc's login at a registry.
pub trait RegistryCredentials: Send + Sync + 'static {
    /// `host` is `host[:port]`. `None` means that codeloc sends no credentials.
    fn for_registry(&self, host: &str) -> impl Future<Output = Result<Option<Login>, BuildError>> + Send;
}

/// Sends no credentials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl RegistryCredentials for Anonymous {
    async fn for_registry(&self, _host: &str) -> Result<Option<Login>, BuildError> {
        Ok(None)
    }
}

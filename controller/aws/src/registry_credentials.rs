//! Credentials for pushing to ECR.

use aws_sdk_ecr::Client;
use base64::Engine;
use codeloc_images::{BuildError, Login, RegistryCredentials};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::call;

/// Half of the twelve hours that a token lasts.
const LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);

/// Gives the account's own registry a token, and others none.
#[derive(Debug)]
pub struct EcrCredentials {
    client: Client,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    host: String,
    login: Login,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Token").field("host", &self.host).finish_non_exhaustive()
    }
}

impl EcrCredentials {
    pub fn new(client: Client) -> Self {
        Self { client, token: Mutex::new(None) }
    }

    async fn fetch(&self) -> Result<Token, BuildError> {
        let answer = call("ecr:GetAuthorizationToken", self.client.get_authorization_token().send()).await;
        let answer = answer.map_err(|error| BuildError::transient("cannot get a login for ECR").caused_by(error))?;
        let data = answer.authorization_data().first();
        let parsed = data.and_then(|data| {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data.authorization_token()?).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, password) = text.split_once(':')?;
            let endpoint = data.proxy_endpoint()?;
            let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host).trim_end_matches('/');
            Some(Token {
                host: host.to_owned(),
                login: Login { user: user.to_owned(), password: password.to_owned() },
                until: Instant::now() + LIFETIME,
            })
        });
        parsed.ok_or_else(|| {
            BuildError::transient("cannot get a login for ECR: the answer of ecr:GetAuthorizationToken has no token")
        })
    }
}

impl RegistryCredentials for EcrCredentials {
    async fn for_registry(&self, host: &str) -> Result<Option<Login>, BuildError> {
        let mut token = self.token.lock().await;
        if token.as_ref().is_none_or(|token| token.until <= Instant::now()) {
            *token = Some(self.fetch().await?);
        }
        Ok(token.as_ref().filter(|token| token.host == host).map(|token| token.login.clone()))
    }
}

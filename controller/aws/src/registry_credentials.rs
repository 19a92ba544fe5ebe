//! Credentials for pushing to ECR.

use aws_sdk_ecr::Client;
use aws_sdk_ecr::types::AuthorizationData;
use base64::Engine;
use codeloc_images::{BuildError, Login, RegistryCredentials};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use crate::session::call;

/// Half of the twelve hours that a token lasts.
const LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);

/// Returns a token for the account's own registry, and none for others.
#[derive(Debug)]
pub struct EcrCredentials {
    client: Client,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    host: String,
    login: Login,
    expires: Instant,
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
        let token = answer.authorization_data().first().and_then(Token::parse);
        token.ok_or_else(|| {
            BuildError::transient("cannot get a login for ECR: the answer of ecr:GetAuthorizationToken has no token")
        })
    }
}

impl Token {
    /// `USER:PASSWORD` in base64, for the registry at the endpoint.
    fn parse(data: &AuthorizationData) -> Option<Self> {
        let decoded = base64::engine::general_purpose::STANDARD.decode(data.authorization_token()?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        let endpoint = data.proxy_endpoint()?;
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host).trim_end_matches('/');
        Some(Self {
            host: host.to_owned(),
            login: Login { user: user.to_owned(), password: password.to_owned() },
            expires: Instant::now() + LIFETIME,
        })
    }
}

impl RegistryCredentials for EcrCredentials {
    async fn for_registry(&self, host: &str) -> Result<Option<Login>, BuildError> {
        let mut token = self.token.lock().await;
        if token.as_ref().is_none_or(|token| token.expires <= Instant::now()) {
            *token = Some(self.fetch().await?);
        }
        Ok(token.as_ref().filter(|token| token.host == host).map(|token| token.login.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(token: &str) -> AuthorizationData {
        AuthorizationData::builder()
            .authorization_token(base64::engine::general_purpose::STANDARD.encode(token))
            .proxy_endpoint("https://1.dkr.ecr.eu-central-1.amazonaws.com/")
            .build()
    }

    #[tokio::test]
    async fn a_token_is_for_the_host_of_its_endpoint() {
        let token = Token::parse(&data("AWS:hunter2")).unwrap();
        assert_eq!(token.host, "1.dkr.ecr.eu-central-1.amazonaws.com");
        assert_eq!((token.login.user.as_str(), token.login.password.as_str()), ("AWS", "hunter2"));
        assert!(!format!("{token:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn an_answer_without_a_password_has_no_token() {
        assert!(Token::parse(&data("AWS")).is_none());
        assert!(Token::parse(&AuthorizationData::builder().build()).is_none());
    }
}

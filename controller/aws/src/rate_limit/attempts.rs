//! Reports the end of each attempt of each call to the rate limiter.

use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::FinalizerInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use super::{Attempt, RateLimiter};
use crate::error::THROTTLED;

#[derive(Debug)]
pub(crate) struct Attempts {
    service: &'static str,
    limits: Arc<RateLimiter>,
}

impl Attempts {
    pub fn new(service: &'static str, limits: Arc<RateLimiter>) -> Self {
        Self { service, limits }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "codeloc attempts"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(metadata) = config.load::<Metadata>() else { return Ok(()) };
        let operation = format!("{}:{}", self.service, metadata.name());
        let Some(response) = context.response() else {
            self.limits.count(&operation, Attempt::Failed);
            return Ok(());
        };
        // The SDK has read the whole body of a refusal to parse the error; it is small.
        let body = response.body().bytes().unwrap_or_default();
        self.limits.attempted(&operation, judge(response.status().is_success(), body));
        Ok(())
    }
}

fn judge(success: bool, body: &[u8]) -> Attempt {
    if success {
        Attempt::Passed
    } else if THROTTLED.iter().any(|phrase| contains(body, phrase.as_bytes())) {
        Attempt::Throttled
    } else {
        Attempt::Failed
    }
}

fn contains(text: &[u8], phrase: &[u8]) -> bool {
    text.windows(phrase.len()).any(|window| window == phrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttled_attempt_is_known_by_its_body() {
        let throttled = br#"{"__type":"ClientException","message":"Rate exceeded"}"#;
        assert_eq!(judge(false, throttled), Attempt::Throttled);
        assert_eq!(judge(false, br#"{"__type":"AccessDeniedException"}"#), Attempt::Failed);
        assert_eq!(judge(false, b""), Attempt::Failed);
        // A successful answer may quote such an error, for example in the events of a service.
        assert_eq!(judge(true, throttled), Attempt::Passed);
    }
}

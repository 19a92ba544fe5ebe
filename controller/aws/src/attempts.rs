//! Tells the limits what became of each attempt of each call.

use std::sync::Arc;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::FinalizerInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

use super::limits::{Attempt, Limits};
use crate::error::THROTTLED;

#[derive(Debug)]
pub(super) struct Attempts {
    service: &'static str,
    limits: Arc<Limits>,
}

impl Attempts {
    pub fn new(service: &'static str, limits: Arc<Limits>) -> Self {
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
        // The body of a refusal was read whole for the error; it is small.
        let refused = !response.status().is_success()
            && response.body().bytes().is_some_and(|body| THROTTLED.iter().any(|word| contains(body, word.as_bytes())));
        let attempt = match response.status().is_success() {
            true => Attempt::Passed,
            false if refused => Attempt::Throttled,
            false => Attempt::Failed,
        };
        self.limits.attempted(&operation, attempt);
        Ok(())
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

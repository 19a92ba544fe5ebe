//! Errors of AWS calls in words: the code and message of an answer, or the service, its URL and the cause of a missing answer.

use std::cell::RefCell;
use std::error::Error;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

tokio::task_local! {
    /// The URL to which the current call of this task was sent last.
    static LAST_URL: RefCell<Option<String>>;
}

/// Records the URL of each call: the SDK's errors do not hold it.
#[derive(Debug)]
pub(super) struct RecordUrl;

#[dyn_dispatch_hint]
impl Intercept for RecordUrl {
    fn name(&self) -> &'static str {
        "codeloc asked"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let origin = origin(context.request().uri());
        // Not set for calls outside of `telling`.
        let _ = LAST_URL.try_with(|asked| asked.replace(Some(origin)));
        Ok(())
    }
}

/// A URL without path and query.
fn origin(url: &str) -> String {
    let host = url.find("://").map_or(0, |end| end + 3);
    let end = url[host..].find(['/', '?']).map_or(url.len(), |length| host + length);
    url[..end].to_owned()
}

/// An error of a call.
pub(super) struct ErrorDetail {
    /// AWS's code; empty without an answer of AWS.
    pub code: String,
    pub message: String,
    /// That of HTTP.
    pub status: Option<u16>,
}

/// Makes a call.
pub(super) async fn with_error_detail<T, E>(
    service: &str,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, ErrorDetail>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let detailed = async {
        call.await.map_err(|error| {
            let asked = LAST_URL.with(RefCell::take);
            let (code, message) = describe_error(service, asked, &error);
            ErrorDetail { code, message, status: error.raw_response().map(|response| response.status().as_u16()) }
        })
    };
    LAST_URL.scope(RefCell::default(), detailed).await
}

fn describe_error<E>(service: &str, asked: Option<String>, error: &SdkError<E, HttpResponse>) -> (String, String)
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let service = asked.map_or_else(|| service.to_owned(), |url| format!("{service} at {url}"));
    let unanswered = |message: String| (String::new(), message);
    match error {
        SdkError::ServiceError(context) => {
            let (code, message) = (context.err().code().unwrap_or_default(), context.err().message());
            let status = context.raw().status().as_u16();
            match (code, message) {
                ("", None) => unanswered(format!("{service} answered with HTTP {status} without an AWS error code")),
                (code, message) => (code.to_owned(), message.unwrap_or_default().to_owned()),
            }
        }
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            unanswered(format!("could not reach {service}: {}", deepest(error)))
        }
        SdkError::TimeoutError(_) => unanswered(format!("{service} did not answer: {}", deepest(error))),
        SdkError::ResponseError(context) => {
            let status = context.raw().status().as_u16();
            unanswered(format!("{service} answered with HTTP {status} and an unreadable body: {}", deepest(error)))
        }
        // For example, there are no credentials.
        _ => unanswered(format!("the call could not be made: {}", reasons(error))),
    }
}

/// The last cause of an error, which is the most specific one.
fn deepest(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or_default()
}

/// All causes of an error, without the names that the SDK gives to its phases.
fn reasons(error: &(dyn Error + 'static)) -> String {
    const PLACES: [&str; 4] = ["dispatch failure", "failed to construct request", "other", "user error"];
    causes(error).filter(|cause| !PLACES.contains(&cause.as_str())).collect::<Vec<_>>().join(": ")
}

fn causes(error: &(dyn Error + 'static)) -> impl Iterator<Item = String> {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_url_without_path_and_query() {
        for (url, wanted) in [
            ("http://127.0.0.1:4566/?x=/", "http://127.0.0.1:4566"),
            ("https://ecs.eu-central-1.amazonaws.com", "https://ecs.eu-central-1.amazonaws.com"),
            ("/path", ""),
        ] {
            assert_eq!(origin(url), wanted);
        }
    }
}

//! The text of a failed AWS call: the code and message of the answer, or the service, its URL and why there is no answer.

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
    /// The URL of the last request of the current call in this task.
    static LAST_URL: RefCell<Option<String>>;
}

/// Records the URL of each call: the SDK's errors do not contain it.
#[derive(Debug)]
pub(crate) struct RecordUrl;

#[dyn_dispatch_hint]
impl Intercept for RecordUrl {
    fn name(&self) -> &'static str {
        "codeloc URL"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let origin = origin(context.request().uri());
        // Not set for calls outside of `with_error_detail`.
        let _ = LAST_URL.try_with(|last| last.replace(Some(origin)));
        Ok(())
    }
}

/// A URL without path and query.
fn origin(url: &str) -> String {
    let host = url.find("://").map_or(0, |end| end + 3);
    let end = url[host..].find(['/', '?']).map_or(url.len(), |length| host + length);
    url[..end].to_owned()
}

/// Why a call failed.
pub(crate) struct ErrorDetail {
    /// AWS's error code. Empty without an answer of AWS.
    pub code: String,
    pub message: String,
    /// The HTTP status.
    pub status: Option<u16>,
}

/// Makes a call and describes its error.
pub(crate) async fn with_error_detail<T, E>(
    service: &str,
    call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, ErrorDetail>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let detailed = async {
        call.await.map_err(|error| {
            let url = LAST_URL.with(RefCell::take);
            let (code, message) = describe_error(service, url, &error);
            ErrorDetail { code, message, status: error.raw_response().map(|response| response.status().as_u16()) }
        })
    };
    LAST_URL.scope(RefCell::default(), detailed).await
}

fn describe_error<E>(service: &str, url: Option<String>, error: &SdkError<E, HttpResponse>) -> (String, String)
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let service = url.map_or_else(|| service.to_owned(), |url| format!("{service} at {url}"));
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
            unanswered(format!("could not reach {service}: {}", root_cause(error)))
        }
        SdkError::TimeoutError(_) => unanswered(format!("{service} did not answer: {}", root_cause(error))),
        SdkError::ResponseError(context) => {
            let status = context.raw().status().as_u16();
            unanswered(format!("{service} answered with HTTP {status} and an unreadable body: {}", root_cause(error)))
        }
        // For example, there are no credentials.
        _ => unanswered(format!("codeloc could not send the call: {}", all_causes(error))),
    }
}

/// The last cause of an error, which is the most specific.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or_default()
}

/// All causes of an error, without the SDK's names for its phases.
fn all_causes(error: &(dyn Error + 'static)) -> String {
    const PHASES: [&str; 4] = ["dispatch failure", "failed to construct request", "other", "user error"];
    causes(error).filter(|cause| !PHASES.contains(&cause.as_str())).collect::<Vec<_>>().join(": ")
}

fn causes(error: &(dyn Error + 'static)) -> impl Iterator<Item = String> {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_url_without_path_and_query() {
        for (url, expected) in [
            ("http://127.0.0.1:4566/?x=/", "http://127.0.0.1:4566"),
            ("https://ecs.eu-central-1.amazonaws.com", "https://ecs.eu-central-1.amazonaws.com"),
            ("/path", ""),
        ] {
            assert_eq!(origin(url), expected);
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_listed_without_the_phases_of_the_sdk() {
        let cause = Layer { text: "no credentials", source: None };
        let error = Layer {
            text: "dispatch failure",
            source: Some(Box::new(Layer { text: "signing", source: Some(Box::new(cause)) })),
        };
        assert_eq!(all_causes(&error), "signing: no credentials");
        assert_eq!(root_cause(&error), "no credentials");
    }
}

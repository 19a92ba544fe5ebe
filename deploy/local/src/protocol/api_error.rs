//! Errors of API calls, with the codes and statuses of AWS.

use serde_json::Value;

/// The result of an operation: the output document or an error.
pub type Reply = Result<Value, ApiError>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: u16,
    /// `None` means the code of the service for invalid input.
    pub code: Option<&'static str>,
    pub message: String,
}

impl ApiError {
    /// Invalid input, with the code of the called service.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, code: None, message: message.into() }
    }

    pub fn missing(parameter: &str) -> Self {
        Self::invalid(format!("Parameter {parameter} is required and must not be empty."))
    }

    /// An error with its own code and status 400.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code: Some(code), message: message.into() }
    }

    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

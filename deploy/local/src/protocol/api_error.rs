//! What a refused call is told: AWS's code, AWS's status, and words that say what to do.

use serde_json::Value;

/// An operation's answer: the output document, or a refusal.
pub type Reply = Result<Value, ApiError>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub status: u16,
    /// Absent: the service's own word for bad input.
    pub code: Option<&'static str>,
    pub message: String,
}

impl ApiError {
    /// Bad input, under the code the called service uses for it.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, code: None, message: message.into() }
    }

    pub fn missing(parameter: &str) -> Self {
        Self::invalid(format!("Parameter {parameter} is required and must not be empty."))
    }

    /// A refusal under a code of its own, with status 400.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code: Some(code), message: message.into() }
    }

    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

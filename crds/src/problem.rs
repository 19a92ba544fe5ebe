//! A problem in a file: its position, message and hint.

use std::ops::Range;

/// One problem: position, message and hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Starts at 1.
    pub line: usize,
    /// In characters. Starts at 1.
    pub column: usize,
    pub message: String,
    pub hint: String,
    /// In bytes.
    pub(crate) span: Range<usize>,
}

/// A problem without line and column.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub span: Range<usize>,
    pub message: String,
    pub hint: String,
}

impl Finding {
    pub fn new(span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: hint.into() }
    }
}

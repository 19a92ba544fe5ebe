//! [`BuildError`]: why there is no image, and whether a retry can help.

use std::error::Error;
use std::fmt;

type Cause = Box<dyn Error + Send + Sync>;

/// What failed, and therefore when codeloc retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The network, a registry, a git host or the disk failed.
    Transient,
    /// The input cannot become an image. A retry gives the same error, unless something outside the commit has changed, such as the
    /// package index.
    Terminal,
    /// The build of a Dockerfile failed or reached its time limit. Each attempt takes as long again, and AWS bills it.
    Dockerfile,
    /// A person stopped the build.
    Stopped,
}

/// Why there is no image.
///
/// `Display` gives the complete text: the message and all causes. Causes must not contain credentials.
#[derive(Debug)]
pub struct BuildError {
    class: ErrorClass,
    message: String,
    cause: Option<Cause>,
}

impl BuildError {
    pub fn transient(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Transient, message: message.into(), cause: None }
    }

    pub fn terminal(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Terminal, message: message.into(), cause: None }
    }

    /// The build of a Dockerfile failed or reached its time limit.
    pub fn dockerfile(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Dockerfile, message: message.into(), cause: None }
    }

    /// A person stopped the build.
    pub fn stopped(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Stopped, message: message.into(), cause: None }
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn class(&self) -> ErrorClass {
        self.class
    }

    pub fn is_transient(&self) -> bool {
        self.class == ErrorClass::Transient
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let next = error.to_string();
            // Some errors repeat their causes in their own text.
            if !text.contains(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        formatter.write_str(&text)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// The text of an error that must be terminal.
#[cfg(test)]
pub(crate) fn expect_terminal<T: fmt::Debug>(result: Result<T, BuildError>) -> String {
    let error = result.expect_err("a terminal error");
    assert_eq!(error.class(), ErrorClass::Terminal, "{error}");
    error.to_string()
}

/// The text of an error that must be transient.
#[cfg(test)]
pub(crate) fn expect_transient<T: fmt::Debug>(result: Result<T, BuildError>) -> String {
    let error = result.expect_err("a transient error");
    assert_eq!(error.class(), ErrorClass::Transient, "{error}");
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_text_contains_every_cause_once() {
        let disk = || io::Error::new(io::ErrorKind::StorageFull, "no space left");
        let inner = BuildError::transient("cannot write /cache/lock").caused_by(disk());
        let outer = BuildError::terminal("cannot lock the dependencies").caused_by(inner);
        assert_eq!(outer.to_string(), "cannot lock the dependencies: cannot write /cache/lock: no space left");
        let repeats = BuildError::transient("cannot write: no space left").caused_by(disk());
        assert_eq!(repeats.to_string(), "cannot write: no space left");
    }

    #[test]
    fn the_cause_keeps_its_type() {
        let error = BuildError::transient("cannot read x").caused_by(io::Error::from(io::ErrorKind::NotFound));
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::NotFound));
        assert!(error.is_transient());
    }
}

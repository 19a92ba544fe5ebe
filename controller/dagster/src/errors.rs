//! Errors of the webserver and of `workspace.yaml`.

use std::io;
use std::path::PathBuf;

use crate::text::{bounded_line, with_sources};

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("the webserver did not answer: {0}")]
    Unreachable(String),
    #[error("the webserver did not answer: {}", with_sources(.0))]
    Transport(#[source] reqwest::Error),
    #[error("the webserver refused the request: {0}")]
    Refused(String),
    #[error("cannot read the webserver's answer ({0}); check that codeloc supports its Dagster release")]
    Malformed(#[source] serde_json::Error),
}

/// Separates codeloc's text from the body of an answer that is not JSON.
pub(crate) const NOT_JSON: &str = ", not JSON: ";

impl WebError {
    /// The error without the body of the answer, which may differ each time.
    pub fn topic(&self) -> String {
        let text = self.to_string();
        text.split_once(NOT_JSON).map_or(text.as_str(), |(before, _)| before).to_owned()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("cannot read the workspace file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the workspace file {path} is not one that codeloc wrote: {source}; move it away, or correct it")]
    Malformed { path: PathBuf, source: ParseError },
    #[error("cannot write the workspace file {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// Why a workspace file cannot be parsed.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("{}", bounded_line(&.0.to_string(), 300))]
    Yaml(#[source] Box<serde_saphyr::Error>),
    #[error("it lists the location {0:?} twice")]
    Duplicate(String),
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_topic_leaves_out_the_body_of_an_answer() {
        let error = WebError::Refused(format!("http://host/graphql answered HTTP 200 OK{NOT_JSON}<html>"));
        assert_eq!(error.topic(), "the webserver refused the request: http://host/graphql answered HTTP 200 OK");
        assert_eq!(WebError::Refused("no".to_owned()).topic(), "the webserver refused the request: no");
    }

    #[test]
    fn an_error_keeps_its_cause_and_shows_it() {
        let error = WebError::Malformed(serde_json::from_str::<bool>("2").unwrap_err());
        let cause = error.source().unwrap().to_string();
        assert!(error.to_string().contains(&cause), "{error}");
        let source = ParseError::Duplicate("orders".to_owned());
        let error = WorkspaceError::Malformed { path: "workspace.yaml".into(), source };
        assert_eq!(error.source().unwrap().to_string(), "it lists the location \"orders\" twice");
    }
}

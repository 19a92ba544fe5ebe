//! The id of an event. It names the process too: after a restart or a change of the lease holder, the numbers begin again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId {
    /// When the process started, in microseconds since 1970.
    pub process: i64,
    /// Increases by one with each event of the process.
    pub number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.process, self.number)
    }
}

impl FromStr for EventId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = || {
            let (process, number) = text.split_once('-')?;
            Some(Self { process: process.parse().ok()?, number: number.parse().ok()? })
        };
        id().ok_or_else(|| format!("`{text}` is not the id of an event; use an `id` from GET /v1/events"))
    }
}

impl TryFrom<String> for EventId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = EventId { process: 1_700_000_000_000_000, number: 12 };
        assert_eq!(id.to_string(), "1700000000000000-12");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "12", "x-1", "1-x", "1-", "-1"] {
            let error = text.parse::<EventId>().unwrap_err();
            assert!(error.starts_with(&format!("`{text}` is not the id of an event")), "{error}");
        }
    }
}

//! A failure that lasts, with the time of its start.

use tokio::time::Instant;

/// The message of the last failure, and the time of the first one since the last success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub since: Instant,
}

impl Failure {
    /// The failure after one more failed attempt: it keeps the start of the one before.
    pub fn lasting(before: Option<&Self>, message: String) -> Self {
        let since = before.map_or_else(Instant::now, |before| before.since);
        Self { message, since }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_failure_keeps_its_start() {
        let first = Failure::lasting(None, "refused".to_owned());
        tokio::time::advance(Duration::from_secs(5)).await;
        let second = Failure::lasting(Some(&first), "reset".to_owned());
        assert_eq!(second, Failure { message: "reset".to_owned(), since: first.since });
        assert_ne!(Failure::lasting(None, "reset".to_owned()).since, first.since);
    }
}

/// Something that fails at present: what, and since when without a success between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub since: tokio::time::Instant,
}

impl Failure {
    /// The failure after one more attempt: a failure that lasts keeps its beginning.
    pub fn lasting(before: Option<&Self>, message: String) -> Self {
        let since = before.map_or_else(tokio::time::Instant::now, |before| before.since);
        Self { message, since }
    }
}

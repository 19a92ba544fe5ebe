//! The digest that the tag of the base image names.
//!
//! Guarantees: an image is keyed by this digest, so a moved tag gives new images another key. codeloc reads a tag at most once in
//! [`MAX_AGE`], and keeps the last digest while the registry does not answer.

use std::time::Duration;

use codeloc_core::ids::Digest;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::BuildError;
use crate::settings::{BaseImage, base_reference};

const MAX_AGE: Duration = Duration::from_hours(1);
/// The pause after a failure: many builds may need the digest at the same time.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct BaseTag {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    digest: Option<Digest>,
    /// Why the last read failed.
    failure: Option<String>,
    /// The answer is used until then.
    until: Option<Instant>,
}

impl BaseTag {
    /// The digest of the tag `text`. `ask` reads it from the registry.
    pub(super) async fn digest(
        &self,
        text: &str,
        ask: impl Future<Output = Result<Option<Digest>, BuildError>>,
    ) -> Result<Digest, BuildError> {
        let mut known = self.known.lock().await;
        if known.until.is_none_or(|until| until <= Instant::now()) {
            let (failure, pause) = match ask.await {
                Ok(Some(digest)) => {
                    known.digest = Some(digest);
                    (None, MAX_AGE)
                }
                Ok(None) => {
                    return Err(BuildError::terminal(format!(
                        "the registry has no image {text}; push it, or set another build.base_image"
                    )));
                }
                Err(error) => (Some(error.to_string()), AFTER_FAILURE),
            };
            if let Some(error) = &failure {
                tracing::warn!(base_image = text, error, "cannot read the tag of the base image; codeloc retries");
            }
            known.failure = failure;
            known.until = Some(Instant::now() + pause);
        }
        known.digest.clone().ok_or_else(|| BuildError::transient(known.failure.clone().unwrap_or_default()))
    }

    /// Makes the next call of [`Self::digest`] ask again. A read in progress is recent enough.
    pub(super) fn refresh(&self) {
        if let Ok(mut known) = self.known.try_lock() {
            known.until = None;
        }
    }
}

impl BaseImage {
    /// The reference, if it is a tag, which can move.
    pub(super) fn tag(&self) -> Result<Option<&str>, BuildError> {
        match self {
            Self::Scratch => Ok(None),
            Self::Reference(text) => Ok(base_reference(text)?.digest().is_none().then_some(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::{expect_terminal, expect_transient};

    const TEXT: &str = "registry.test/base:3.12";

    fn digest(letter: char) -> Digest {
        Digest::from(format!("sha256:{}", letter.to_string().repeat(64)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_tag_is_read_once_an_hour_and_on_request() {
        let (base, asked) = (BaseTag::default(), AtomicUsize::new(0));
        let ask = async || {
            asked.fetch_add(1, Ordering::SeqCst);
            Ok(Some(digest(if asked.load(Ordering::SeqCst) == 1 { 'a' } else { 'b' })))
        };
        for _ in 0..3 {
            assert_eq!(base.digest(TEXT, ask()).await.unwrap(), digest('a'));
        }
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(base.digest(TEXT, ask()).await.unwrap(), digest('b'));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        base.refresh();
        base.digest(TEXT, ask()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_digest_stays_while_the_registry_does_not_answer() {
        let base = BaseTag::default();
        let down = async || Err(BuildError::transient("no answer"));
        assert_eq!(expect_transient(base.digest(TEXT, down()).await), "no answer");
        let up = async || Ok(Some(digest('a')));
        assert_eq!(expect_transient(base.digest(TEXT, up()).await), "no answer");
        tokio::time::advance(AFTER_FAILURE).await;
        base.digest(TEXT, up()).await.unwrap();
        base.refresh();
        assert_eq!(base.digest(TEXT, down()).await.unwrap(), digest('a'));
    }

    #[tokio::test]
    async fn a_base_image_that_does_not_exist_is_named() {
        let text = expect_terminal(BaseTag::default().digest(TEXT, async { Ok(None) }).await);
        assert_eq!(text, format!("the registry has no image {TEXT}; push it, or set another build.base_image"));
    }

    #[test]
    fn only_a_tag_can_move() {
        let tag = |text: &str| BaseImage::Reference(text.to_owned()).tag().unwrap().map(str::to_owned);
        assert_eq!(tag(TEXT).as_deref(), Some(TEXT));
        assert_eq!(tag("registry.test/base").as_deref(), Some("registry.test/base"));
        assert_eq!(tag(&format!("registry.test/base@{}", digest('a').as_str())), None);
        assert_eq!(BaseImage::Scratch.tag().unwrap(), None);
    }
}

//! Images in the making: one build per repository at a time, in the background, so that a pass only ever asks how far it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use super::queue::{Priority, Queue};
use crate::build::{BuildError, Builder, Image, Request};
use crate::lock::lock;
use crate::status::Journal;
use crate::status::events::{EventReason, News};

/// A build that failed for want of network or registry is tried again after this long.
const RETRY: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub enum ImageProgress {
    Ready(Image),
    Building(String),
    Failed(String),
}

#[derive(Debug)]
struct Slot {
    request: Request,
    progress: ImageProgress,
    retry_at: Option<Instant>,
}

pub struct Images<B> {
    builder: Arc<B>,
    slots: Arc<Mutex<HashMap<String, Slot>>>,
    permits: Arc<Semaphore>,
    queue: Arc<Queue>,
    journal: Arc<Journal>,
}

impl<B: Builder> Images<B> {
    pub fn new(builder: B, builds: usize, queue: Arc<Queue>, journal: Arc<Journal>) -> Self {
        let permits = Arc::new(Semaphore::new(builds));
        Self { builder: Arc::new(builder), slots: Arc::default(), permits, queue, journal }
    }

    /// Only looks whether the image was pushed before.
    pub async fn find(&self, request: &Request) -> Result<Option<Image>, BuildError> {
        self.builder.find(request).await
    }

    /// How far the image of this request is; starts a build where there is none. When it ends the queue is poked, as urgently as
    /// the image was asked for.
    pub fn ensure(&self, request: &Request, priority: Priority) -> ImageProgress {
        let name = request.repository.to_string();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&name)
            && slot.request == *request
            && slot.retry_at.is_none_or(|at| Instant::now() < at)
        {
            return slot.progress.clone();
        }
        let progress = ImageProgress::Building("looking for an image that was pushed before".to_owned());
        slots.insert(name.clone(), Slot { request: request.clone(), progress: progress.clone(), retry_at: None });
        drop(slots);
        self.spawn(name, request.clone(), priority);
        progress
    }

    fn spawn(&self, name: String, request: Request, priority: Priority) {
        let (builder, slots, permits, queue) =
            (self.builder.clone(), self.slots.clone(), self.permits.clone(), self.queue.clone());
        let journal = self.journal.clone();
        tokio::spawn(async move {
            // A newer commit's slot is not overwritten by an older one's news.
            let tell = |progress: ImageProgress, retry_at: Option<Instant>| {
                if let Some(slot) = lock(&slots).get_mut(&name).filter(|slot| slot.request == request) {
                    slot.progress = progress;
                    slot.retry_at = retry_at;
                }
            };
            let found = builder.find(&request).await;
            if let Ok(found) = &found {
                let result = if found.is_some() { "found" } else { "missing" };
                journal.metrics.image_lookups.with_label_values(&[result]).inc();
            }
            let result = match found {
                Ok(Some(image)) => Ok(image),
                Ok(None) => {
                    tell(ImageProgress::Building("waiting for another build to end".to_owned()), None);
                    let _permit = permits.acquire().await;
                    let begun = Instant::now();
                    let built = builder.build(&request, &|text| tell(ImageProgress::Building(text), None)).await;
                    let outcome = if built.is_ok() { "built" } else { "failed" };
                    journal.metrics.builds.with_label_values(&[outcome]).observe(begun.elapsed().as_secs_f64());
                    built
                }
                Err(error) => Err(error),
            };
            let commit = Some(request.commit.clone());
            match result {
                Ok(image) => {
                    let news = News::of(&name, EventReason::ImageReady, image.reference.clone());
                    journal.record(news.from_commit(commit));
                    tracing::info!(repository = %name, image = %image.reference, "image ready");
                    tell(ImageProgress::Ready(image), None);
                }
                Err(error) => {
                    tracing::warn!(repository = %name, %error, "no image");
                    journal.record(News::of(&name, EventReason::ImageFailed, error.to_string()).from_commit(commit));
                    let retry_at = matches!(error, BuildError::Transient(_)).then(|| Instant::now() + RETRY);
                    tell(ImageProgress::Failed(error.to_string()), retry_at);
                }
            }
            queue.add_now(&name, priority);
        });
    }

    pub fn forget(&self, name: &str) {
        lock(&self.slots).remove(name);
    }
}

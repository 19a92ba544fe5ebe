//! Image builds and image tags. Builds run in the background, one per location at a time, and so do requests to the registry: a pass
//! only reads their progress.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use codeloc_core::ids::Digest;
use codeloc_core::image::{Image, ImageStatus};
use codeloc_core::lock::lock;
use codeloc_crds::{ImagePolicy, LocationName};
use codeloc_images::{BuildError, Builder, Request};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use super::queue::Queue;
use super::reason::Reason;
use crate::status::Recorder;
use crate::status::events::{EventReason, NewEvent};
use crate::status::metrics::{BuildOutcome, ImageLookup};

/// The pause before codeloc retries a build after a transient failure, for example of the network.
const RETRY: Duration = Duration::from_secs(20);

/// Tags that codeloc requests from the registry at the same time.
const TAGS_AT_ONCE: usize = 8;

/// The last answers of the registry about a tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    pub digest: Option<Digest>,
    /// Why the last request failed.
    pub failure: Option<String>,
}

/// The tag that a location's config names.
#[derive(Debug)]
struct TagSlot {
    tag: String,
    policy: ImagePolicy,
    known: Tag,
    asking: bool,
    /// When codeloc retries a failed request.
    again_at: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    request: Request,
    progress: ImageStatus,
    retry_at: Option<Instant>,
}

pub struct Images<B> {
    builder: Arc<B>,
    slots: Arc<Mutex<HashMap<LocationName, Slot>>>,
    /// By location, because a pinned tag keeps the digest that it had when the config of that location first named it.
    tags: Arc<Mutex<HashMap<LocationName, TagSlot>>>,
    permits: Arc<Semaphore>,
    queue: Arc<Queue>,
    recorder: Arc<Recorder>,
}

impl<B: Builder> Images<B> {
    pub fn new(builder: B, builds: usize, queue: Arc<Queue>, recorder: Arc<Recorder>) -> Self {
        Self {
            builder: Arc::new(builder),
            slots: Arc::default(),
            tags: Arc::default(),
            permits: Arc::new(Semaphore::new(builds)),
            queue,
            recorder,
        }
    }

    /// Looks for an image that was pushed before.
    pub async fn find(&self, request: &Request) -> Result<Option<Image>, BuildError> {
        self.builder.find(request).await
    }

    /// The progress of the image of this request. Starts a build if there is none; when it ends, the location is queued for `reason`.
    pub fn ensure(&self, request: &Request, reason: Reason) -> ImageStatus {
        let name = request.location.clone();
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&name)
            && slot.request == *request
            && slot.retry_at.is_none_or(|at| Instant::now() < at)
        {
            return slot.progress.clone();
        }
        let progress = ImageStatus::Building("looking for the image in the registry".to_owned());
        slots.insert(name.clone(), Slot { request: request.clone(), progress: progress.clone(), retry_at: None });
        drop(slots);
        self.spawn(name, request.clone(), reason);
        progress
    }

    fn spawn(&self, name: LocationName, request: Request, reason: Reason) {
        let (builder, slots, permits, queue) =
            (self.builder.clone(), self.slots.clone(), self.permits.clone(), self.queue.clone());
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            // A build of an older commit must not overwrite the slot of a newer one.
            let tell = |progress: ImageStatus, retry_at: Option<Instant>| {
                if let Some(slot) = lock(&slots).get_mut(&name).filter(|slot| slot.request == request) {
                    slot.progress = progress;
                    slot.retry_at = retry_at;
                }
            };
            let found = builder.find(&request).await;
            let result = match &found {
                Ok(Some(_)) => ImageLookup::Found,
                Ok(None) => ImageLookup::Missing,
                Err(_) => ImageLookup::Failed,
            };
            recorder.metrics.count_image_lookup(result);
            let result = match found {
                Ok(Some(image)) => Ok(image),
                Ok(None) => {
                    tell(ImageStatus::Building("waiting for another build to end".to_owned()), None);
                    let _permit = permits.acquire().await;
                    let begun = Instant::now();
                    let built =
                        builder.build(&request, &|step| tell(ImageStatus::Building(step.to_string()), None)).await;
                    let outcome = if built.is_ok() { BuildOutcome::Built } else { BuildOutcome::Failed };
                    recorder.metrics.observe_build(outcome, begun.elapsed());
                    built
                }
                Err(error) => Err(error),
            };
            let commit = Some(request.commit.clone());
            match result {
                Ok(image) => {
                    let new_event =
                        NewEvent::of(&name, EventReason::ImageReady, format!("{} is in the registry", image.reference));
                    recorder.record(new_event.from_commit(commit));
                    tracing::info!(location = %name, image = %image.reference, "the image is in the registry");
                    tell(ImageStatus::Ready(image), None);
                }
                Err(error) => {
                    tracing::warn!(location = %name, %error, "cannot find or build the image");
                    recorder
                        .record(NewEvent::of(&name, EventReason::ImageFailed, error.to_string()).from_commit(commit));
                    let retry_at = error.is_transient().then(|| Instant::now() + RETRY);
                    tell(ImageStatus::Failed(error.to_string()), retry_at);
                }
            }
            queue.add_now(&name, reason);
        });
    }

    /// The last answer about the tag of a location. Without one, asks the registry; then the location is queued for `reason`.
    pub fn tag(&self, name: &LocationName, tag: &str, policy: ImagePolicy, reason: Reason) -> Tag {
        let mut tags = lock(&self.tags);
        let slot = tags.entry(name.clone()).or_insert_with(|| TagSlot::new(tag, policy));
        if slot.tag != tag {
            *slot = TagSlot::new(tag, policy);
        }
        slot.policy = policy;
        if slot.asking || slot.again_at.is_none_or(|at| Instant::now() < at) {
            return slot.known.clone();
        }
        slot.asking = true;
        let known = slot.known.clone();
        drop(tags);
        let (builder, slots, queue) = (self.builder.clone(), self.tags.clone(), self.queue.clone());
        let (name, tag) = (name.clone(), tag.to_owned());
        tokio::spawn(async move {
            let answer = ask(&*builder, &tag).await;
            if let Some(slot) = lock(&slots).get_mut(&name).filter(|slot| slot.tag == tag) {
                slot.take(&name, answer);
            }
            queue.add_now(&name, reason);
        });
        known
    }

    /// Asks the registry for a tag.
    pub async fn ask(&self, tag: &str) -> Tag {
        ask(&*self.builder, tag).await
    }

    /// Asks the registry once for each tag. Returns the locations that follow a tag with a new answer.
    pub async fn refresh_tags(&self, tags: BTreeSet<String>) -> Vec<LocationName> {
        let answers = futures::stream::iter(tags)
            .map(|tag| async move { (ask(&*self.builder, &tag).await, tag) })
            .buffer_unordered(TAGS_AT_ONCE);
        let answers: Vec<(Tag, String)> = answers.collect().await;
        let mut changed = Vec::new();
        for (answer, tag) in answers {
            for (name, slot) in &mut *lock(&self.tags) {
                if slot.tag == tag && slot.policy == ImagePolicy::Follow && slot.take(name, answer.clone()) {
                    changed.push(name.clone());
                }
            }
        }
        changed
    }

    /// Forgets the tag of a location whose config names none.
    pub fn forget_tag(&self, name: &LocationName) {
        lock(&self.tags).remove(name);
    }

    pub fn forget(&self, name: &LocationName) {
        lock(&self.slots).remove(name);
        self.forget_tag(name);
    }
}

async fn ask(builder: &impl Builder, tag: &str) -> Tag {
    match builder.digest(tag).await {
        Ok(Some(digest)) => Tag { digest: Some(digest), failure: None },
        Ok(None) => Tag { digest: None, failure: Some(format!("the registry has no image {tag}")) },
        Err(error) => Tag { digest: None, failure: Some(error.to_string()) },
    }
}

impl TagSlot {
    fn new(tag: &str, policy: ImagePolicy) -> Self {
        let (tag, known) = (tag.to_owned(), Tag::default());
        Self { tag, policy, known, asking: false, again_at: Some(Instant::now()) }
    }

    /// Stores an answer. Returns whether it differs. The last known digest stays after a failure.
    fn take(&mut self, name: &LocationName, answer: Tag) -> bool {
        self.asking = false;
        self.again_at = answer.failure.is_some().then(|| Instant::now() + RETRY);
        let known = Tag { digest: answer.digest.or_else(|| self.known.digest.clone()), failure: answer.failure };
        if known == self.known {
            return false;
        }
        match &known {
            Tag { failure: Some(why), .. } => tracing::warn!(location = %name, tag = %self.tag, "{why}"),
            Tag { digest, .. } => {
                let digest = digest.as_deref().unwrap_or_default();
                tracing::info!(location = %name, tag = %self.tag, digest, "the registry resolved the image tag");
            }
        }
        self.known = known;
        true
    }
}

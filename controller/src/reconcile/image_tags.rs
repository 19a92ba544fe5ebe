//! Image tags that configs name: the digest behind each, asked in the background.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use codeloc_core::ids::Digest;
use codeloc_core::lock::lock;
use codeloc_crds::{ImagePolicy, LocationName};
use codeloc_images::Builder;
use futures::StreamExt;
use tokio::time::{Duration, Instant};

use super::queue::Queue;
use super::reason::Reason;

/// The pause before codeloc repeats a failed request.
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

pub struct ImageTags<B> {
    builder: Arc<B>,
    /// By location, because a pinned tag keeps the digest that it had when the config of that location first named it.
    tags: Arc<Mutex<HashMap<LocationName, TagSlot>>>,
    queue: Arc<Queue>,
}

impl<B: Builder> ImageTags<B> {
    pub fn new(builder: Arc<B>, queue: Arc<Queue>) -> Self {
        Self { builder, tags: Arc::default(), queue }
    }

    /// The last answer about the tag of a location. Without one, asks the registry; then the location is queued for `reason`.
    pub fn get(&self, name: &LocationName, tag: &str, policy: ImagePolicy, reason: Reason) -> Tag {
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
    pub async fn refresh(&self, tags: BTreeSet<String>) -> Vec<LocationName> {
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
    pub fn forget(&self, name: &LocationName) {
        lock(&self.tags).remove(name);
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

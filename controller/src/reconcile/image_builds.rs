//! Image builds. They run in the background: a pass only reads their progress.
//!
//! Guarantees: a location has at most one build at a time; a build that nothing needs any more does not start, and the build of a
//! Dockerfile ends. A failed build is repeated after a growing pause, and at once when a user asks for it. An image that is gone from the
//! registry is built again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use codeloc_core::image::{Image, ImageStatus};
use codeloc_core::lock::lock;
use codeloc_crds::LocationName;
use codeloc_images::{BuildError, Builder, ErrorClass, Progress, Request};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::queue::Queue;
use super::reason::Reason;
use crate::status::Recorder;
use crate::status::events::{EventReason, NewEvent};
use crate::status::metrics::{BuildOutcome, ImageLookup};

/// An image that was seen in the registry within this time can be rolled out.
const RECENT: Duration = Duration::from_secs(60);
/// Each sweep looks up this number of images, and one more for each [`IMAGES_FOR_ANOTHER_LOOKUP`] images.
const LOOKUPS: usize = 9;
const IMAGES_FOR_ANOTHER_LOOKUP: usize = 100;
/// Images that codeloc looks up at the same time.
const LOOKUPS_AT_ONCE: usize = 4;
/// How often codeloc repeats the build of a Dockerfile by itself, because each attempt takes long and AWS bills it.
const DOCKERFILE_RETRIES: u32 = 3;

/// What a pass needs: an image of this request, in this repository.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub request: Request,
    /// When the repository was created, in milliseconds since 1970: a new repository with the same name has no images.
    pub repository_created_ms: Option<i64>,
    /// The image that the location runs.
    pub deployed: Option<String>,
}

impl Wanted {
    fn has_same_image(&self, other: &Self) -> bool {
        (&self.request, self.repository_created_ms) == (&other.request, other.repository_created_ms)
    }
}

/// The image of one location.
#[derive(Debug)]
struct Slot {
    wanted: Wanted,
    reason: Reason,
    progress: ImageStatus,
    /// When the image was last seen in the registry.
    seen: Instant,
    /// Failures in a row of this class.
    failures: u32,
    failed: Option<ErrorClass>,
    /// When codeloc retries by itself after a failure.
    retry_at: Option<Instant>,
    /// The number of the attempt in progress. A higher number replaces it.
    attempt: watch::Sender<u64>,
    /// Whether a worker has yet to start this attempt.
    pending: bool,
    /// Whether a worker is in charge of this slot.
    working: bool,
    /// The location is gone.
    forgotten: bool,
}

/// One attempt to find or build an image.
struct Attempt {
    wanted: Wanted,
    reason: Reason,
    number: u64,
    newest: watch::Receiver<u64>,
}

pub struct ImageBuilds<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    builder: Arc<B>,
    slots: Mutex<HashMap<LocationName, Slot>>,
    /// Locations for which a user has asked to look for the image again.
    requested: Mutex<HashSet<LocationName>>,
    /// Held during lookups after a sweep.
    looking_up: tokio::sync::Mutex<()>,
    queue: Arc<Queue>,
    recorder: Arc<Recorder>,
}

impl<B: Builder> ImageBuilds<B> {
    pub fn new(builder: Arc<B>, queue: Arc<Queue>, recorder: Arc<Recorder>) -> Self {
        let (slots, requested, looking_up) = Default::default();
        Self { shared: Arc::new(Shared { builder, slots, requested, looking_up, queue, recorder }) }
    }

    /// Looks for an image that was pushed before.
    pub async fn find(&self, wanted: &Wanted) -> Result<Option<Image>, BuildError> {
        self.shared.builder.find(&wanted.request, wanted.deployed.as_deref()).await
    }

    /// The progress of the image. Starts a build if there is none; when it ends, the location is queued for `reason`.
    pub fn ensure(&self, wanted: &Wanted, reason: Reason) -> ImageStatus {
        let name = &wanted.request.location;
        let mut slots = lock(&self.shared.slots);
        let slot = slots.entry(name.clone()).or_insert_with(|| Slot::new(wanted, reason));
        // During a build, the request waits: what it asks for may be newer than what is being built.
        if !slot.is_in_progress() && lock(&self.shared.requested).remove(name) {
            slot.start(Wanted { deployed: None, ..wanted.clone() }, reason);
        } else if !slot.wanted.has_same_image(wanted) || slot.forgotten {
            slot.start(wanted.clone(), reason);
        } else if slot.retry_at.is_some_and(|at| at <= Instant::now()) {
            slot.repeat(reason);
        }
        let progress = slot.progress.clone();
        if slot.pending && !std::mem::replace(&mut slot.working, true) {
            tokio::spawn(work(self.shared.clone(), name.clone()));
        }
        progress
    }

    /// Makes the next pass look for the image of a location again, and build it if the registry does not have it.
    pub fn retry(&self, name: &LocationName) {
        self.shared.builder.refresh();
        lock(&self.shared.requested).insert(name.clone());
    }

    /// The same for a location whose last build has failed.
    pub fn retry_failed(&self, name: &LocationName) {
        let failed = |slot: &Slot| !slot.is_in_progress() && matches!(slot.progress, ImageStatus::Failed(_));
        if lock(&self.shared.slots).get(name).is_some_and(failed) {
            lock(&self.shared.requested).insert(name.clone());
        }
    }

    /// Whether the registry has the image of a location, so that a task can start with it. If not, the next pass builds it again. A
    /// registry that does not answer counts as having it.
    pub async fn is_available(&self, name: &LocationName) -> bool {
        let ready = lock(&self.shared.slots).get(name).and_then(Slot::ready);
        match ready {
            Some((image, seen)) if seen.elapsed() >= RECENT => self.shared.look_up(name, &image).await,
            _ => true,
        }
    }

    /// Looks up the next few images that are in use, those first that were not seen for the longest time. Those that are gone are built
    /// again. While earlier lookups wait for the registry, there are no further ones.
    pub async fn look_up_some(&self) {
        let Ok(_one) = self.shared.looking_up.try_lock() else { return };
        let mut ready: Vec<(Instant, LocationName, Image)> = {
            let slots = lock(&self.shared.slots);
            let ready = slots.iter().filter_map(|(name, slot)| Some((name, slot.ready()?)));
            ready.map(|(name, (image, seen))| (seen, name.clone(), image)).collect()
        };
        let number = LOOKUPS + ready.len() / IMAGES_FOR_ANOTHER_LOOKUP;
        ready.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        let lookups = futures::stream::iter(ready.into_iter().take(number)).map(async |(_, name, image)| {
            if !self.shared.look_up(&name, &image).await {
                self.shared.queue.add_now(&name, Reason::ConfigChanged);
            }
        });
        lookups.buffer_unordered(LOOKUPS_AT_ONCE).collect::<Vec<()>>().await;
    }

    pub fn forget(&self, name: &LocationName) {
        let mut slots = lock(&self.shared.slots);
        let Some(slot) = slots.get_mut(name) else { return };
        if slot.working {
            slot.forgotten = true;
            slot.pending = false;
            slot.attempt.send_modify(|number| *number += 1);
        } else {
            slots.remove(name);
        }
    }
}

impl Slot {
    fn new(wanted: &Wanted, reason: Reason) -> Self {
        let mut slot = Self {
            wanted: wanted.clone(),
            reason,
            progress: ImageStatus::Building(String::new()),
            seen: Instant::now(),
            failures: 0,
            failed: None,
            retry_at: None,
            attempt: watch::Sender::default(),
            pending: false,
            working: false,
            forgotten: false,
        };
        slot.start(wanted.clone(), reason);
        slot
    }

    /// Looks for an image as if for the first time.
    fn start(&mut self, wanted: Wanted, reason: Reason) {
        self.wanted = wanted;
        (self.failures, self.failed) = (0, None);
        self.forgotten = false;
        self.progress = ImageStatus::Building("looking for the image in the registry".to_owned());
        self.repeat(reason);
    }

    /// Tries once more. The last failure stays visible until the attempt ends: it is not repaired yet.
    fn repeat(&mut self, reason: Reason) {
        self.reason = reason;
        self.retry_at = None;
        self.pending = true;
        self.attempt.send_modify(|number| *number += 1);
    }

    fn is_in_progress(&self) -> bool {
        self.pending || self.working
    }

    fn ready(&self) -> Option<(Image, Instant)> {
        match &self.progress {
            ImageStatus::Ready(image) if !self.forgotten => Some((image.clone(), self.seen)),
            _ => None,
        }
    }
}

/// Makes the attempts of one location, one after the other, until none is pending.
async fn work<B: Builder>(shared: Arc<Shared<B>>, name: LocationName) {
    while let Some(attempt) = shared.next(&name) {
        let Some(result) = shared.attempt(&name, &attempt).await else { continue };
        if let Some(retry_at) = shared.end(&name, &attempt, result) {
            tokio::spawn(wake(shared.clone(), name.clone(), attempt, retry_at));
        }
    }
}

/// Queues a location when its retry is due. No sweep needs to pass.
async fn wake<B: Builder>(shared: Arc<Shared<B>>, name: LocationName, attempt: Attempt, retry_at: Instant) {
    tokio::time::sleep_until(retry_at).await;
    if attempt.is_newest() {
        shared.queue.add_now(&name, attempt.reason);
    }
}

impl Attempt {
    fn is_newest(&self) -> bool {
        *self.newest.borrow() == self.number
    }

    /// Ends when nothing waits for this attempt any more and `may_stop` allows to stop it.
    async fn replaced(&self, may_stop: impl Fn() -> bool) {
        let mut newest = self.newest.clone();
        loop {
            if !self.is_newest() && may_stop() {
                return;
            }
            if newest.changed().await.is_err() {
                // The slot is gone only after its worker has ended.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl<B: Builder> Shared<B> {
    /// The attempt to make now. Without one, the worker ends.
    fn next(&self, name: &LocationName) -> Option<Attempt> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(name)?;
        if !std::mem::take(&mut slot.pending) {
            slot.working = false;
            if slot.forgotten {
                slots.remove(name);
            }
            return None;
        }
        let newest = slot.attempt.subscribe();
        let number = *newest.borrow();
        Some(Attempt { wanted: slot.wanted.clone(), reason: slot.reason, number, newest })
    }

    /// Finds or builds the image. Returns nothing if another attempt has replaced this one before the build started.
    async fn attempt(&self, name: &LocationName, attempt: &Attempt) -> Option<Result<Image, BuildError>> {
        let request = &attempt.wanted.request;
        let found = self.builder.find(request, attempt.wanted.deployed.as_deref()).await;
        let lookup = match &found {
            Ok(Some(_)) => ImageLookup::Found,
            Ok(None) => ImageLookup::Missing,
            Err(_) => ImageLookup::Failed,
        };
        self.recorder.metrics.count_image_lookup(lookup);
        match found {
            Ok(None) => {}
            Ok(Some(image)) => return Some(Ok(image)),
            Err(error) => return Some(Err(error)),
        }
        self.report(name, attempt, "waiting for another build to end".to_owned());
        let started = AtomicBool::new(false);
        let progress = |step: Progress| {
            started.store(true, Ordering::Relaxed);
            self.report(name, attempt, step.to_string());
        };
        // A started build of a commit helps the next one, which finds the dependencies in the caches. A Dockerfile's does not.
        let may_stop = || request.dockerfile.is_some() || !started.load(Ordering::Relaxed);
        let begun = Instant::now();
        let built = tokio::select! {
            biased;
            () = attempt.replaced(may_stop) => return None,
            built = self.builder.build(request, &progress) => built,
        };
        let outcome = if built.is_ok() { BuildOutcome::Built } else { BuildOutcome::Failed };
        self.recorder.metrics.observe_build(outcome, begun.elapsed());
        Some(built)
    }

    fn report(&self, name: &LocationName, attempt: &Attempt, text: String) {
        if let Some(slot) = lock(&self.slots).get_mut(name)
            && attempt.is_newest()
            && matches!(slot.progress, ImageStatus::Building(_))
        {
            slot.progress = ImageStatus::Building(text);
        }
    }

    /// Stores the result of an attempt. Returns when codeloc repeats it.
    fn end(&self, name: &LocationName, attempt: &Attempt, result: Result<Image, BuildError>) -> Option<Instant> {
        let mut retry_at = None;
        let (reason, text) = match &result {
            Ok(image) => (EventReason::ImageReady, format!("{} is in the registry", image.reference)),
            Err(error) => (EventReason::ImageFailed, error.to_string()),
        };
        match &result {
            Ok(_) => tracing::info!(location = %name, "{text}"),
            Err(error) => tracing::warn!(location = %name, %error, "cannot find or build the image"),
        }
        self.recorder.record(NewEvent::of(name, reason, text).from_commit(Some(attempt.wanted.request.commit.clone())));
        if let Some(slot) = lock(&self.slots).get_mut(name).filter(|_| attempt.is_newest()) {
            match result {
                Ok(image) => {
                    (slot.failures, slot.failed) = (0, None);
                    slot.seen = Instant::now();
                    slot.progress = ImageStatus::Ready(image);
                }
                Err(error) => {
                    // An outage of the registry does not use up the retries of a Dockerfile.
                    let again = slot.failed.replace(error.class()) == Some(error.class());
                    slot.failures = if again { slot.failures + 1 } else { 1 };
                    retry_at = pause(error.class(), slot.failures).map(|pause| Instant::now() + pause);
                    slot.retry_at = retry_at;
                    slot.progress = ImageStatus::Failed(format!("{error}; {}", advice(name, retry_at.is_some())));
                }
            }
            self.queue.add_now(name, attempt.reason);
        }
        retry_at
    }

    /// Whether the registry has the image of a location. If not, the location needs another one.
    async fn look_up(&self, name: &LocationName, image: &Image) -> bool {
        let found = self.builder.digest(&image.reference).await;
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.get_mut(name).filter(|slot| slot.ready().is_some_and(|(now, _)| now == *image)) else {
            return true;
        };
        match found {
            Ok(Some(_)) => slot.seen = Instant::now(),
            Ok(None) => {
                tracing::warn!(location = %name, image = image.reference, "the image is gone from the registry; codeloc builds it again");
                slots.remove(name);
                return false;
            }
            Err(error) => {
                tracing::warn!(location = %name, %error, "cannot check that the registry has the image; codeloc retries");
            }
        }
        true
    }
}

/// The pause before codeloc repeats a build by itself, after this many failures in a row.
fn pause(class: ErrorClass, failures: u32) -> Option<Duration> {
    let (first, longest) = match class {
        ErrorClass::Transient => (Duration::from_secs(20), Duration::from_mins(5)),
        // The input may be complete soon: a package that is published after the commit.
        ErrorClass::Terminal => (Duration::from_mins(1), Duration::from_hours(1)),
        ErrorClass::Dockerfile if failures <= DOCKERFILE_RETRIES => (Duration::from_mins(5), Duration::from_hours(1)),
        ErrorClass::Dockerfile | ErrorClass::Stopped => return None,
    };
    Some(first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest))
}

fn advice(name: &LocationName, retries: bool) -> String {
    if retries {
        format!("codeloc repeats the build after a pause; to repeat it now, run `codeloc retry {name}`")
    } else {
        format!("codeloc does not repeat the build by itself; push another commit, or run `codeloc retry {name}`")
    }
}

#[cfg(test)]
mod tests;

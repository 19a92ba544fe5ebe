//! Image builds. They run in the background: a pass only reads their progress.
//!
//! Guarantees: each image has at most one build at a time; a build that nothing needs any more does not start, and the build of a
//! Dockerfile ends. A failed build is repeated after a growing pause, and at once when a user asks for it. An image that is gone from the
//! registry is built again, both the desired one and, until the desired one runs, the one that serves or served last.

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

/// One of the two images of a location that its tasks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageOf {
    /// The revision that the config and its commit name.
    Desired,
    /// The revision that serves, if it is another one.
    Serving,
}

type Key = (LocationName, ImageOf);

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

/// One image of one location.
#[derive(Debug)]
struct Slot {
    wanted: Wanted,
    reason: Reason,
    progress: ImageStatus,
    /// The reference of the image while the registry should have it.
    available: Option<String>,
    /// When the image was last seen in the registry.
    seen: Option<Instant>,
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
    /// Boxed, so that the table stays small when it grows.
    slots: Mutex<HashMap<Key, Box<Slot>>>,
    /// Images for which a user has asked to look again.
    requested: Mutex<HashSet<Key>>,
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

    /// The progress of the desired image. Starts a build if there is none; when it ends, the location is queued for `reason`.
    pub fn ensure(&self, wanted: &Wanted, reason: Reason) -> ImageStatus {
        let key = (wanted.request.location.clone(), ImageOf::Desired);
        let mut slots = lock(&self.shared.slots);
        let slot = slots.entry(key.clone()).or_insert_with(|| Box::new(Slot::new(wanted, reason)));
        // During a build, the request waits: what it asks for may be newer than what is being built.
        if !slot.is_in_progress() && lock(&self.shared.requested).remove(&key) {
            slot.start(Wanted { deployed: None, ..wanted.clone() }, reason);
        } else if !slot.wanted.has_same_image(wanted) || slot.forgotten {
            slot.start(wanted.clone(), reason);
        } else if slot.retry_at.is_some_and(|at| at <= Instant::now()) {
            slot.repeat(reason);
        }
        self.work_on(key, slot);
        slot.progress.clone()
    }

    /// Keeps the image that serves, `serving.deployed`, in the registry until another call names another image or none. codeloc takes it
    /// for available until a lookup finds that it is gone.
    pub fn keep(&self, name: &LocationName, serving: Option<&Wanted>, reason: Reason) {
        let key = (name.clone(), ImageOf::Serving);
        let Some(serving) = serving else { return self.shared.forget(&key) };
        let mut slots = lock(&self.shared.slots);
        let slot = slots.entry(key.clone()).or_insert_with(|| Box::new(Slot::running(serving, reason)));
        if !slot.wanted.has_same_image(serving) || slot.wanted.deployed != serving.deployed || slot.forgotten {
            slot.take_for_available(serving, reason);
        } else if !slot.is_in_progress() && lock(&self.shared.requested).remove(&key)
            || slot.retry_at.is_some_and(|at| at <= Instant::now())
        {
            slot.repeat(reason);
        }
        self.work_on(key, slot);
    }

    fn work_on(&self, key: Key, slot: &mut Slot) {
        if slot.pending && !std::mem::replace(&mut slot.working, true) {
            tokio::spawn(work(self.shared.clone(), key));
        }
    }

    /// Makes the next pass look for the desired image of a location again, and build it if the registry does not have it.
    pub fn retry(&self, name: &LocationName) {
        self.shared.builder.refresh();
        self.retry_failed(name);
        lock(&self.shared.requested).insert((name.clone(), ImageOf::Desired));
    }

    /// Makes the next pass repeat the builds of a location that have failed.
    pub fn retry_failed(&self, name: &LocationName) {
        let failed = |slot: &Slot| !slot.is_in_progress() && matches!(slot.progress, ImageStatus::Failed(_));
        for key in [(name.clone(), ImageOf::Desired), (name.clone(), ImageOf::Serving)] {
            if lock(&self.shared.slots).get(&key).is_some_and(|slot| failed(slot)) {
                lock(&self.shared.requested).insert(key);
            }
        }
    }

    /// Whether the registry has this image of a location, so that a task can start with it. If not, the next pass builds it again. An image
    /// that codeloc does not build counts as available, and so does any image while the registry does not answer.
    pub async fn is_available(&self, name: &LocationName, image_of: ImageOf) -> bool {
        let key = (name.clone(), image_of);
        let slot = |slots: &HashMap<Key, Box<Slot>>| {
            slots.get(&key).filter(|slot| !slot.forgotten).map(|slot| slot.available())
        };
        let Some(available) = slot(&lock(&self.shared.slots)) else { return true };
        match available {
            Some((_, Some(seen))) if seen.elapsed() < RECENT => true,
            Some((image, _)) => self.shared.look_up(&key, &image).await,
            None => false,
        }
    }

    /// Looks up the next few images that are in use, those first that were not seen for the longest time. Those that are gone are built
    /// again. While earlier lookups wait for the registry, there are no further ones.
    pub async fn look_up_some(&self) {
        let Ok(_one) = self.shared.looking_up.try_lock() else { return };
        let mut available: Vec<(Option<Instant>, Key, String)> = {
            let slots = lock(&self.shared.slots);
            let available = slots.iter().filter_map(|(key, slot)| Some((key, slot.available()?)));
            available.map(|(key, (image, seen))| (seen, key.clone(), image)).collect()
        };
        let number = LOOKUPS + available.len() / IMAGES_FOR_ANOTHER_LOOKUP;
        available.sort();
        let lookups = futures::stream::iter(available.into_iter().take(number)).map(async |(_, key, image)| {
            if !self.shared.look_up(&key, &image).await {
                self.shared.queue.add_now(&key.0, Reason::ConfigChanged);
            }
        });
        lookups.buffer_unordered(LOOKUPS_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// Drops both images of a location.
    pub fn forget(&self, name: &LocationName) {
        self.forget_desired(name);
        self.shared.forget(&(name.clone(), ImageOf::Serving));
    }

    pub fn forget_desired(&self, name: &LocationName) {
        self.shared.forget(&(name.clone(), ImageOf::Desired));
    }
}

impl Slot {
    fn new(wanted: &Wanted, reason: Reason) -> Self {
        let mut slot = Self::idle(wanted, reason);
        slot.start(wanted.clone(), reason);
        slot
    }

    fn running(serving: &Wanted, reason: Reason) -> Self {
        let mut slot = Self::idle(serving, reason);
        slot.take_for_available(serving, reason);
        slot
    }

    fn idle(wanted: &Wanted, reason: Reason) -> Self {
        Self {
            wanted: wanted.clone(),
            reason,
            progress: ImageStatus::Building(String::new()),
            available: None,
            seen: None,
            failures: 0,
            failed: None,
            retry_at: None,
            attempt: watch::Sender::default(),
            pending: false,
            working: false,
            forgotten: false,
        }
    }

    fn take_for_available(&mut self, serving: &Wanted, reason: Reason) {
        (self.wanted, self.reason) = (serving.clone(), reason);
        self.progress = ImageStatus::Building(String::new());
        (self.failures, self.failed, self.retry_at) = (0, None, None);
        (self.available, self.seen) = (serving.deployed.clone(), None);
        (self.forgotten, self.pending) = (false, false);
        self.attempt.send_modify(|number| *number += 1);
    }

    /// Looks for an image as if for the first time.
    fn start(&mut self, wanted: Wanted, reason: Reason) {
        self.wanted = wanted;
        (self.failures, self.failed) = (0, None);
        self.forgotten = false;
        self.progress = ImageStatus::Building("looking for the image in the registry".to_owned());
        (self.available, self.seen) = (None, None);
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

    /// The reference of the image, and when it was last seen.
    fn available(&self) -> Option<(String, Option<Instant>)> {
        let available = self.available.clone().filter(|_| !self.forgotten)?;
        Some((available, self.seen))
    }
}

/// Makes the attempts of one image, one after the other, until none is pending.
async fn work<B: Builder>(shared: Arc<Shared<B>>, key: Key) {
    while let Some(attempt) = shared.next(&key) {
        let Some(result) = shared.attempt(&key, &attempt).await else { continue };
        let result = if key.1 == ImageOf::Serving { result.and_then(|image| attempt.restored(image)) } else { result };
        if let Some(retry_at) = shared.end(&key, &attempt, result) {
            tokio::spawn(wake(shared.clone(), key.0.clone(), attempt, retry_at));
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

    /// The image that serves, if the build gave it again. The definitions in ECS name it by its digest, so another one would not help.
    fn restored(&self, image: Image) -> Result<Image, BuildError> {
        let Wanted { request, deployed, .. } = &self.wanted;
        match deployed {
            Some(serving) if *serving != image.reference => Err(BuildError::terminal(format!(
                "{serving} serves, but the registry does not have it, and commit {} with the current config gives {}",
                request.commit, image.reference
            ))),
            _ => Ok(image),
        }
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
    fn next(&self, key: &Key) -> Option<Attempt> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(key)?;
        if !std::mem::take(&mut slot.pending) {
            slot.working = false;
            if slot.forgotten {
                slots.remove(key);
            }
            return None;
        }
        let newest = slot.attempt.subscribe();
        let number = *newest.borrow();
        Some(Attempt { wanted: slot.wanted.clone(), reason: slot.reason, number, newest })
    }

    /// Finds or builds the image. Returns nothing if another attempt has replaced this one before the build started.
    async fn attempt(&self, key: &Key, attempt: &Attempt) -> Option<Result<Image, BuildError>> {
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
        self.report(key, attempt, "waiting for another build to end".to_owned());
        let started = AtomicBool::new(false);
        let progress = |step: Progress| {
            started.store(true, Ordering::Relaxed);
            self.report(key, attempt, step.to_string());
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

    fn report(&self, key: &Key, attempt: &Attempt, text: String) {
        if let Some(slot) = lock(&self.slots).get_mut(key)
            && attempt.is_newest()
            && matches!(slot.progress, ImageStatus::Building(_))
        {
            slot.progress = ImageStatus::Building(text);
        }
    }

    /// Stores the result of an attempt. Returns when codeloc repeats it.
    fn end(&self, key: &Key, attempt: &Attempt, result: Result<Image, BuildError>) -> Option<Instant> {
        let (name, mut retry_at) = (&key.0, None);
        let (reason, text) = match &result {
            Ok(image) => (EventReason::ImageReady, format!("{} is in the registry", image.reference)),
            Err(error) => (EventReason::ImageFailed, error.to_string()),
        };
        match &result {
            Ok(_) => tracing::info!(location = %name, "{text}"),
            Err(error) => tracing::warn!(location = %name, %error, "cannot find or build the image"),
        }
        self.recorder.record(NewEvent::of(name, reason, text).from_commit(Some(attempt.wanted.request.commit.clone())));
        if let Some(slot) = lock(&self.slots).get_mut(key).filter(|_| attempt.is_newest()) {
            match result {
                Ok(image) => {
                    (slot.failures, slot.failed) = (0, None);
                    (slot.available, slot.seen) = (Some(image.reference.clone()), Some(Instant::now()));
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

    /// Whether the registry has this image. If not, the location needs another one.
    async fn look_up(&self, key: &Key, image: &str) -> bool {
        let (name, image_of) = key;
        let found = self.builder.digest(image).await;
        let mut slots = lock(&self.slots);
        let Some(slot) = slots.get_mut(key).filter(|slot| slot.available().is_some_and(|(now, _)| now == image)) else {
            return true;
        };
        match found {
            Ok(Some(_)) => slot.seen = Some(Instant::now()),
            Ok(None) => {
                tracing::warn!(location = %name, image, "the image is gone from the registry; codeloc builds it again");
                match image_of {
                    ImageOf::Desired => {
                        slots.remove(key);
                    }
                    ImageOf::Serving => {
                        let (wanted, reason) = (slot.wanted.clone(), slot.reason);
                        slot.start(wanted, reason);
                    }
                }
                return false;
            }
            Err(error) => {
                tracing::warn!(location = %name, %error, "cannot check that the registry has the image; codeloc retries");
            }
        }
        true
    }

    fn forget(&self, key: &Key) {
        let mut slots = lock(&self.slots);
        lock(&self.requested).remove(key);
        let Some(slot) = slots.get_mut(key) else { return };
        if slot.working {
            slot.forgotten = true;
            slot.pending = false;
            slot.attempt.send_modify(|number| *number += 1);
        } else {
            slots.remove(key);
        }
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

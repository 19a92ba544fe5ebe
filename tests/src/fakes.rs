//! The four ports beside AWS, simulated by what the cloud runs: a code server answers where a task runs, with the server
//! id of its task definition.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codeloc_core::dagster::{Answer, WebLocation};
use codeloc_core::image::{Image, Load, LoadTarget};
use codeloc_crds::GitReference;
use codeloc_dagster::workspace::Publisher;
use codeloc_dagster::{CodeServer, WebError, Webserver};
use codeloc_git::GitError;
use codeloc_git::refs::Refs;
use codeloc_git::refs::ResolveReference;
use codeloc_images::{BuildError, Builder, OnProgress, Request};
use localcloud::LocalCloud;
use localcloud::cloud::Cloud;
use localcloud::services::ecs::task::Task;
use tokio::sync::watch;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The heads of the users' branches. A branch that nobody moved is at commit 1.
#[derive(Clone, Default)]
pub struct Branches {
    commits: Arc<Mutex<BTreeMap<String, u32>>>,
    refs: Arc<Mutex<Vec<Refs>>>,
}

impl Branches {
    pub(crate) fn attach(&self, refs: Refs) {
        lock(&self.refs).push(refs);
    }

    /// Moves the branch of this repository to its `commit`-th commit, as a push with a webhook does.
    pub fn push(&self, name: &str, commit: u32) {
        let url = format!("https://git.test/{name}.git");
        lock(&self.commits).insert(url.clone(), commit);
        for refs in &*lock(&self.refs) {
            refs.trigger(&url);
        }
    }
}

impl ResolveReference for Branches {
    async fn resolve(&self, url: &str, _: &GitReference) -> Result<String, GitError> {
        let commit = lock(&self.commits).get(url).copied().unwrap_or(1);
        Ok(format!("{commit:040x}"))
    }
}

/// The image of a repository's `commit`-th commit.
pub fn image_of(target: &str, commit: &str) -> String {
    format!("{target}@sha256:{commit:0>64}")
}

/// Builds in no time; the digest tells the commit.
#[derive(Clone, Default)]
pub struct Builds {
    built: Arc<Mutex<BTreeMap<String, Image>>>,
    tags: Arc<Mutex<BTreeMap<String, String>>>,
    silent: Arc<AtomicBool>,
}

impl Builds {
    pub fn count(&self) -> usize {
        lock(&self.built).len()
    }

    /// Makes `NAME:TAG`, which somebody else pushes, name the image of this number.
    pub fn tag(&self, tag: &str, number: u32) {
        lock(&self.tags).insert(tag.to_owned(), format!("sha256:{number:064x}"));
    }

    /// Whether registries do not answer for tags.
    pub fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }
}

impl Builder for Builds {
    async fn find(&self, request: &Request) -> Result<Option<Image>, BuildError> {
        Ok(lock(&self.built).get(&image_of(&request.target, &request.commit)).cloned())
    }

    async fn build(&self, request: &Request, _: &OnProgress<'_>) -> Result<Image, BuildError> {
        let reference = image_of(&request.target, &request.commit);
        let load = Load {
            target: LoadTarget::Module(format!("{}.definitions", request.location)),
            working_directory: "/opt/codeloc/code".to_owned(),
        };
        let image = Image { reference: reference.clone(), commit: Some(request.commit.clone()), load };
        lock(&self.built).insert(reference, image.clone());
        Ok(image)
    }

    async fn digest(&self, tag: &str) -> Result<Option<String>, BuildError> {
        if self.silent.load(Ordering::SeqCst) {
            return Err(BuildError::transient("the registry does not answer"));
        }
        Ok(lock(&self.tags).get(tag).cloned())
    }
}

/// Answers for whatever task runs at an address.
#[derive(Clone)]
pub struct CloudCodeServer {
    cloud: Arc<LocalCloud>,
    broken: Arc<Mutex<BTreeSet<String>>>,
    given_away: Arc<Mutex<BTreeMap<IpAddr, String>>>,
}

/// What a task says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub server_id: String,
    pub image: String,
}

impl CloudCodeServer {
    pub fn new(cloud: Arc<LocalCloud>) -> Self {
        Self { cloud, broken: Arc::default(), given_away: Arc::default() }
    }

    /// From now on a task that the cloud does not know answers at this address, with this server id.
    pub fn give_away(&self, address: IpAddr, server_id: &str) {
        lock(&self.given_away).insert(address, server_id.to_owned());
    }

    /// Every address has its own task again.
    pub fn take_back(&self) {
        lock(&self.given_away).clear();
    }

    /// From now on, the code in images whose name ends like this does not load.
    pub fn break_code(&self, image_suffix: &str) {
        lock(&self.broken).insert(image_suffix.to_owned());
    }

    fn loads(&self, image: &str) -> bool {
        !lock(&self.broken).iter().any(|suffix| image.ends_with(suffix))
    }

    /// What the running task at an address says.
    pub fn at(&self, address: IpAddr) -> Option<Said> {
        self.cloud.with_cloud(|cloud| {
            let task = running(cloud).find(|task| task.address.map(IpAddr::V4) == Some(address))?;
            said(cloud, &task.definition)
        })
    }

    /// What each running task of a location's family says.
    pub fn of_location(&self, name: &str) -> Vec<Said> {
        let family = family(name);
        self.cloud.with_cloud(|cloud| all_said(cloud, running(cloud).filter(|task| task.family == family)))
    }

    /// The server id of the newest of them that has its code loaded, for each of these locations.
    fn loaded<'a>(&self, names: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
        self.cloud.with_cloud(|cloud| {
            let mut families: BTreeMap<&str, Vec<&Task>> = BTreeMap::new();
            for task in running(cloud) {
                families.entry(&task.family).or_default().push(task);
            }
            let loaded = names.filter_map(|name| {
                let tasks = families.remove(family(name).as_str())?;
                let said = all_said(cloud, tasks.into_iter());
                let newest = said.into_iter().rev().find(|said| self.loads(&said.image))?;
                Some((name.clone(), newest.server_id))
            });
            loaded.collect()
        })
    }
}

fn family(location: &str) -> String {
    format!("codeloc-{location}")
}

fn running(cloud: &Cloud) -> impl Iterator<Item = &Task> {
    cloud.ecs.tasks.values().filter(|task| task.last_status == "RUNNING")
}

/// What tasks say, by their definitions.
fn all_said<'a>(cloud: &'a Cloud, tasks: impl Iterator<Item = &'a Task>) -> Vec<Said> {
    let mut definitions: Vec<&str> = tasks.map(|task| task.definition.as_str()).collect();
    definitions.sort_unstable();
    definitions.into_iter().filter_map(|definition| said(cloud, definition)).collect()
}

/// What the task of a definition, which is given by its ARN, says.
fn said(cloud: &Cloud, definition: &str) -> Option<Said> {
    let (family, _) = definition.rsplit_once('/')?.1.rsplit_once(':')?;
    let mut definitions = cloud.ecs.families.get(family)?.revisions.values();
    let container = definitions.find(|one| one.arn == definition)?.containers().first()?;
    let environment = container["environment"].as_array()?;
    let id = environment.iter().find(|pair| pair["name"] == "DAGSTER_CLI_API_GRPC_FIXED_SERVER_ID")?;
    Some(Said { server_id: id["value"].as_str()?.to_owned(), image: container["image"].as_str()?.to_owned() })
}

impl CodeServer for CloudCodeServer {
    async fn ask(&self, address: SocketAddr) -> Answer {
        if let Some(server_id) = lock(&self.given_away).get(&address.ip()).cloned() {
            return Answer::Loaded { server_id, repositories: vec!["__repository__".to_owned()] };
        }
        match self.at(address.ip()) {
            Some(said) if self.loads(&said.image) => {
                Answer::Loaded { server_id: said.server_id, repositories: vec!["__repository__".to_owned()] }
            }
            Some(said) => Answer::LoadError {
                server_id: said.server_id,
                message: "ModuleNotFoundError: No module named 'nothing'".to_owned(),
            },
            None => Answer::Unreachable { message: "connection refused".to_owned() },
        }
    }
}

/// A webserver: it shows what it loaded when it was last asked to.
#[derive(Clone)]
pub struct CloudWebserver {
    publisher: Arc<Publisher>,
    code_server: CloudCodeServer,
    shown: Arc<Mutex<BTreeMap<String, String>>>,
    running: Arc<AtomicBool>,
    failing: Arc<Mutex<BTreeMap<String, String>>>,
    hangs: watch::Sender<bool>,
}

impl CloudWebserver {
    pub fn new(workspace_file: PathBuf, code_server: CloudCodeServer) -> Self {
        Self {
            publisher: Arc::new(Publisher::new(workspace_file)),
            code_server,
            shown: Arc::default(),
            running: Arc::default(),
            failing: Arc::default(),
            hangs: watch::Sender::default(),
        }
    }

    /// Whether it accepts every question and answers none.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// A caller gives up after 20 s.
    async fn answer(&self) -> Result<(), WebError> {
        let mut hangs = self.hangs.subscribe();
        match tokio::time::timeout(Duration::from_secs(20), hangs.wait_for(|hangs| !hangs)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(WebError::Unreachable("no answer within 20 s".to_owned())),
        }
    }

    /// Whether it cannot load a location, and what it says then.
    pub fn fail(&self, name: &str, words: Option<&str>) {
        let mut failing = lock(&self.failing);
        match words {
            Some(words) => failing.insert(name.to_owned(), words.to_owned()),
            None => failing.remove(name),
        };
    }

    /// Makes it show another revision of a location, or none.
    pub fn show(&self, name: &str, revision: Option<&str>) {
        let mut shown = lock(&self.shown);
        match revision {
            Some(revision) => shown.insert(name.to_owned(), revision.to_owned()),
            None => shown.remove(name),
        };
    }

    /// Whether runs are queued or run, of whatever location.
    pub fn run(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }

    /// What it shows, as `NAME REVISION`.
    pub fn shown(&self) -> Vec<String> {
        lock(&self.shown).iter().map(|(name, revision)| format!("{name} {revision}")).collect()
    }
}

impl Webserver for CloudWebserver {
    async fn ping(&self) -> Result<(), WebError> {
        self.answer().await
    }

    async fn locations(&self) -> Result<BTreeMap<String, WebLocation>, WebError> {
        self.answer().await?;
        let (shown, failing) = (lock(&self.shown).clone(), lock(&self.failing).clone());
        let state = |name: &str, id| match failing.get(name) {
            Some(message) => WebLocation::Error { message: message.clone() },
            None => WebLocation::Loaded { server_id: Some(id) },
        };
        Ok(shown.into_iter().map(|(name, id)| (name.clone(), state(&name, id))).collect())
    }

    async fn reload_workspace(&self) -> Result<(), WebError> {
        self.answer().await?;
        let entries = self.publisher.read().map_err(|error| WebError::Refused(error.to_string()))?;
        *lock(&self.shown) = self.code_server.loaded(entries.keys());
        Ok(())
    }

    async fn has_unfinished_runs(&self, _location: &str) -> Result<bool, WebError> {
        Ok(self.running.load(Ordering::SeqCst))
    }

    async fn reload_location(&self, name: &str) -> Result<WebLocation, WebError> {
        self.answer().await?;
        if let Some(message) = lock(&self.failing).get(name).cloned() {
            return Ok(WebLocation::Error { message });
        }
        let name = name.to_owned();
        let server_id = self.code_server.loaded(std::iter::once(&name)).remove(&name);
        if let Some(id) = &server_id {
            lock(&self.shown).insert(name, id.clone());
        }
        Ok(WebLocation::Loaded { server_id })
    }
}

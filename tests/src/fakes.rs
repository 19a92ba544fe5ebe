//! Simulated git, builder, code servers and webserver. A code server answers at the address of each task that localcloud
//! runs, with the server id of its task definition.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use codeloc_core::dagster::{Answer, WebLocation};
use codeloc_core::ids::{Commit, Digest};
use codeloc_core::image::{Image, Load, LoadTarget};
use codeloc_crds::GitReference;
use codeloc_dagster::workspace_file::Publisher;
use codeloc_dagster::{CodeServer, WebError, Webserver};
use codeloc_git::GitError;
use codeloc_git::refs::Refs;
use codeloc_git::refs::ResolveReference;
use codeloc_images::{BuildError, Builder, OnProgress, Request};
use localcloud::LocalCloud;
use localcloud::model::Cloud;
use localcloud::model::ecs::task::Task;
use localcloud::model::images::{Images, MemoryImages};
use tokio::sync::watch;

use crate::runs::Runs;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest commit of each git branch. A branch without a push is at commit 1.
#[derive(Clone, Default)]
pub struct Branches {
    commits: Arc<Mutex<BTreeMap<String, u32>>>,
    refs: Arc<Mutex<Vec<Refs>>>,
    unreachable: Arc<AtomicBool>,
}

impl Branches {
    pub(crate) fn attach(&self, refs: Refs) {
        lock(&self.refs).push(refs);
    }

    /// Makes the git host answer no request, or answer again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.unreachable.store(unreachable, Ordering::SeqCst);
    }

    /// Moves the branch of a repository to commit number `commit`, as a push with a webhook does.
    pub fn push(&self, name: &str, commit: u32) {
        let url = format!("https://git.test/{name}.git");
        lock(&self.commits).insert(url.clone(), commit);
        for refs in &*lock(&self.refs) {
            refs.trigger(&url);
        }
    }
}

impl ResolveReference for Branches {
    async fn resolve(&self, url: &str, _: &GitReference) -> Result<Commit, GitError> {
        if self.unreachable.load(Ordering::SeqCst) {
            return Err(GitError::TimedOut { operation: "ls-remote", url: url.to_owned(), seconds: 60 });
        }
        let commit = lock(&self.commits).get(url).copied().unwrap_or(1);
        Ok(commit_id(commit))
    }
}

/// The id of commit number `number` of a branch.
pub fn commit_id(number: u32) -> Commit {
    Commit::from(format!("{number:040x}"))
}

/// The image that [`Builds`] builds for a request. Its digest is the number of the commit.
pub fn built_image(request: &Request) -> Image {
    let load = Load {
        target: LoadTarget::Module(format!("{}.definitions", request.location)),
        working_directory: "/opt/codeloc/code".to_owned(),
    };
    let reference = format!("{}@{}", request.target, digest_of_commit(&request.commit));
    Image { reference, commit: Some(request.commit.clone()), load, notes: vec![] }
}

fn digest_of_commit(commit: &Commit) -> String {
    format!("sha256:{commit:0>64}")
}

/// A builder that takes no time. Its images are in localcloud's ECR and nowhere else.
#[derive(Clone)]
pub struct Builds {
    cloud: Arc<LocalCloud>,
    images: Arc<MemoryImages>,
    built: Arc<AtomicUsize>,
    /// References that were looked up.
    looked_up: Arc<Mutex<Vec<String>>>,
    failure: Arc<Mutex<Option<String>>>,
    tags: Arc<Mutex<BTreeMap<String, Digest>>>,
    unavailable: Arc<AtomicBool>,
    failing: Arc<Mutex<BTreeSet<Commit>>>,
}

impl Builds {
    pub fn new(cloud: Arc<LocalCloud>, images: Arc<MemoryImages>) -> Self {
        Self {
            cloud,
            images,
            built: Arc::default(),
            looked_up: Arc::default(),
            failure: Arc::default(),
            tags: Arc::default(),
            unavailable: Arc::default(),
            failing: Arc::default(),
        }
    }

    /// Makes each build of this commit fail for good.
    pub fn fail_commit(&self, commit: u32) {
        lock(&self.failing).insert(commit_id(commit));
    }

    /// The number of builds that succeeded.
    pub fn count(&self) -> usize {
        self.built.load(Ordering::SeqCst)
    }

    /// Removes and returns the references that were looked up.
    pub fn take_lookups(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.looked_up))
    }

    /// Makes all builds fail because of the commit, or succeed again.
    pub fn fail(&self, message: Option<&str>) {
        *lock(&self.failure) = message.map(str::to_owned);
    }

    /// Points `NAME:TAG` to the image with this number, as a push of another builder does.
    pub fn tag(&self, tag: &str, number: u32) {
        lock(&self.tags).insert(tag.to_owned(), Digest::from(format!("sha256:{number:064x}")));
    }

    /// Makes the registry unavailable.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.unavailable.store(unavailable, Ordering::SeqCst);
    }

    /// The repository of `HOST/REPOSITORY@DIGEST` or `HOST/REPOSITORY`, if it is in localcloud's ECR.
    fn repository(&self, reference: &str) -> Option<String> {
        let (host, rest) = reference.split_once('/')?;
        let name = rest.split('@').next()?;
        let exists = |cloud: &mut Cloud| cloud.rules.registry == host && cloud.ecr.repositories.contains_key(name);
        self.cloud.with_cloud(exists).then(|| name.to_owned())
    }

    fn holds(&self, reference: &str) -> bool {
        let digest = reference.split_once('@').map_or("", |(_, digest)| digest);
        self.repository(reference).is_some_and(|name| self.images.holds(&name, digest))
    }

    fn push(&self, request: &Request) -> Result<(), BuildError> {
        let repository = self.repository(&request.target);
        let repository = repository.ok_or_else(|| BuildError::transient("the registry has no such repository"))?;
        let image = localcloud::model::images::Image {
            digest: digest_of_commit(&request.commit),
            tags: vec![format!("commit-{}", request.commit)],
            size_bytes: 1,
            pushed_at: self.cloud.now(),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            parts: vec![],
        };
        self.images.put(&repository, image);
        Ok(())
    }
}

impl Builder for Builds {
    async fn find(&self, request: &Request, _: Option<&str>) -> Result<Option<Image>, BuildError> {
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(BuildError::transient("the registry does not answer"));
        }
        let image = built_image(request);
        Ok(self.holds(&image.reference).then_some(image))
    }

    async fn build(&self, request: &Request, _: &OnProgress<'_>) -> Result<Image, BuildError> {
        if let Some(message) = lock(&self.failure).clone() {
            return Err(BuildError::terminal(message));
        }
        if lock(&self.failing).contains(&request.commit) {
            return Err(BuildError::terminal("no version of pandas fits"));
        }
        self.push(request)?;
        self.built.fetch_add(1, Ordering::SeqCst);
        Ok(built_image(request))
    }

    async fn digest(&self, reference: &str) -> Result<Option<Digest>, BuildError> {
        if let Some((_, digest)) = reference.split_once('@') {
            lock(&self.looked_up).push(reference.to_owned());
            return Ok(self.holds(reference).then(|| Digest::from(digest)));
        }
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(BuildError::transient("the registry does not answer"));
        }
        Ok(lock(&self.tags).get(reference).cloned())
    }

    fn refresh(&self) {
        // The images have no base image.
    }
}

/// Code servers: one per running task of localcloud.
#[derive(Clone)]
pub struct CloudCodeServer {
    cloud: Arc<LocalCloud>,
    broken: Arc<Mutex<BTreeSet<String>>>,
    overridden: Arc<Mutex<BTreeMap<IpAddr, String>>>,
}

/// What the code server of a task reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningServer {
    pub server_id: String,
    pub image: String,
}

impl CloudCodeServer {
    pub fn new(cloud: Arc<LocalCloud>) -> Self {
        Self { cloud, broken: Arc::default(), overridden: Arc::default() }
    }

    /// Lets another code server answer at this address, with this server id.
    pub fn override_address(&self, address: IpAddr, server_id: &str) {
        lock(&self.overridden).insert(address, server_id.to_owned());
    }

    /// Lets the tasks answer at their addresses again.
    pub fn restore_addresses(&self) {
        lock(&self.overridden).clear();
    }

    /// Makes the code in images whose name ends with `image_suffix` fail to load.
    pub fn break_code(&self, image_suffix: &str) {
        lock(&self.broken).insert(image_suffix.to_owned());
    }

    fn loads(&self, image: &str) -> bool {
        !lock(&self.broken).iter().any(|suffix| image.ends_with(suffix))
    }

    /// The code server of the task at an address.
    pub fn at(&self, address: IpAddr) -> Option<RunningServer> {
        self.cloud.with_cloud(|cloud| {
            // The health check asks whether the port is open, so a task that is not healthy does not answer.
            let mut healthy = running(cloud).filter(|task| task.health == "HEALTHY");
            let task = healthy.find(|task| task.address.map(IpAddr::V4) == Some(address))?;
            server(cloud, &task.definition)
        })
    }

    /// The code servers of all running tasks of a location.
    pub fn servers_of(&self, name: &str) -> Vec<RunningServer> {
        let family = family(name);
        self.cloud.with_cloud(|cloud| servers_of_tasks(cloud, running(cloud).filter(|task| task.family == family)))
    }

    /// For each location, the server id of its newest task that has loaded its code.
    fn loaded<'a>(&self, names: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
        self.cloud.with_cloud(|cloud| {
            let mut families: BTreeMap<&str, Vec<&Task>> = BTreeMap::new();
            for task in running(cloud) {
                families.entry(&task.family).or_default().push(task);
            }
            let loaded = names.filter_map(|name| {
                let tasks = families.remove(family(name).as_str())?;
                let servers = servers_of_tasks(cloud, tasks.into_iter());
                let newest = servers.into_iter().rev().find(|server| self.loads(&server.image))?;
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

/// The code servers of tasks, sorted by task definition.
fn servers_of_tasks<'a>(cloud: &'a Cloud, tasks: impl Iterator<Item = &'a Task>) -> Vec<RunningServer> {
    let mut definitions: Vec<&str> = tasks.map(|task| task.definition.as_str()).collect();
    definitions.sort_unstable();
    definitions.into_iter().filter_map(|definition| server(cloud, definition)).collect()
}

/// The code server of a task with this task definition ARN.
fn server(cloud: &Cloud, definition: &str) -> Option<RunningServer> {
    let (family, _) = definition.rsplit_once('/')?.1.rsplit_once(':')?;
    let mut definitions = cloud.ecs.families.get(family)?.revisions.values();
    let container = definitions.find(|one| one.arn == definition)?.containers().first()?;
    let environment = container["environment"].as_array()?;
    let id = environment.iter().find(|pair| pair["name"] == "DAGSTER_CLI_API_GRPC_FIXED_SERVER_ID")?;
    Some(RunningServer { server_id: id["value"].as_str()?.to_owned(), image: container["image"].as_str()?.to_owned() })
}

impl CodeServer for CloudCodeServer {
    async fn ask(&self, address: SocketAddr) -> Answer {
        if let Some(server_id) = lock(&self.overridden).get(&address.ip()).cloned() {
            return Answer::Loaded { server_id, repositories: vec!["__repository__".to_owned()] };
        }
        match self.at(address.ip()) {
            Some(server) if self.loads(&server.image) => {
                Answer::Loaded { server_id: server.server_id, repositories: vec!["__repository__".to_owned()] }
            }
            Some(server) => Answer::LoadError {
                server_id: server.server_id,
                message: "ModuleNotFoundError: No module named 'nothing'".to_owned(),
            },
            None => Answer::Unreachable { message: "connection refused".to_owned() },
        }
    }
}

/// A webserver that shows the locations of its last reload.
#[derive(Clone)]
pub struct CloudWebserver {
    publisher: Arc<Publisher>,
    code_server: CloudCodeServer,
    shown: Arc<Mutex<BTreeMap<String, String>>>,
    running: Arc<AtomicBool>,
    runs: Runs,
    failing: Arc<Mutex<BTreeMap<String, String>>>,
    /// Locations that did not load at their last reload: the webserver shows that until the next one.
    failed: Arc<Mutex<BTreeMap<String, String>>>,
    reloads: Arc<AtomicUsize>,
    hangs: watch::Sender<bool>,
}

impl CloudWebserver {
    pub fn new(workspace_file: PathBuf, code_server: CloudCodeServer, runs: Runs) -> Self {
        Self {
            publisher: Arc::new(Publisher::new(workspace_file)),
            code_server,
            runs,
            shown: Arc::default(),
            running: Arc::default(),
            failing: Arc::default(),
            failed: Arc::default(),
            reloads: Arc::default(),
            hangs: watch::Sender::default(),
        }
    }

    /// Makes the webserver accept requests without a response.
    pub fn hang(&self, hangs: bool) {
        self.hangs.send_replace(hangs);
    }

    /// The client times out after 20 s.
    async fn answer(&self) -> Result<(), WebError> {
        let mut hangs = self.hangs.subscribe();
        match tokio::time::timeout(Duration::from_secs(20), hangs.wait_for(|hangs| !hangs)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(WebError::Unreachable("no answer within 20 s".to_owned())),
        }
    }

    /// Makes a location fail to load with this message, or load again.
    pub fn fail(&self, name: &str, message: Option<&str>) {
        let mut failing = lock(&self.failing);
        match message {
            Some(message) => failing.insert(name.to_owned(), message.to_owned()),
            None => failing.remove(name),
        };
    }

    /// How often it was asked to load one location again.
    pub fn reloads(&self) -> usize {
        self.reloads.load(Ordering::SeqCst)
    }

    /// Replaces the revision that the webserver shows for a location.
    pub fn show(&self, name: &str, revision: Option<&str>) {
        let mut shown = lock(&self.shown);
        match revision {
            Some(revision) => shown.insert(name.to_owned(), revision.to_owned()),
            None => shown.remove(name),
        };
    }

    /// Sets whether any location has queued or running runs.
    pub fn run(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }

    /// The loaded locations, as `NAME REVISION`.
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
        let shown = lock(&self.shown).clone();
        let mut failing = lock(&self.failed).clone();
        failing.extend(lock(&self.failing).clone());
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
        *lock(&self.failed) = lock(&self.failing).clone();
        Ok(())
    }

    async fn has_unfinished_runs(&self, location: &str) -> Result<bool, WebError> {
        Ok(self.running.load(Ordering::SeqCst) || self.runs.are_unfinished(location))
    }

    async fn reload_location(&self, name: &str) -> Result<WebLocation, WebError> {
        self.answer().await?;
        self.reloads.fetch_add(1, Ordering::SeqCst);
        if let Some(message) = lock(&self.failing).get(name).cloned() {
            lock(&self.failed).insert(name.to_owned(), message.clone());
            return Ok(WebLocation::Error { message });
        }
        lock(&self.failed).remove(name);
        let name = name.to_owned();
        let server_id = self.code_server.loaded(std::iter::once(&name)).remove(&name);
        if let Some(id) = &server_id {
            lock(&self.shown).insert(name, id.clone());
        }
        Ok(WebLocation::Loaded { server_id })
    }
}

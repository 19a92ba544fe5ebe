//! The four ports beside AWS, simulated by what the cloud runs: a code server answers where a task runs, with the server
//! id of its task definition.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codeloc::build::{BuildError, Builder, Image, Load, LoadTarget, Request};
use codeloc::dagster::workspace::Publisher;
use codeloc::dagster::{Answer, CodeServer, WebError, WebLocation, Webserver};
use codeloc::source::heads::ResolveReference;
use codeloc::source::{GitError, Heads};
use codeloc_crds::GitReference;
use localcloud::LocalCloud;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The heads of the users' branches. A branch that nobody moved is at commit 1.
#[derive(Clone, Default)]
pub struct Branches {
    commits: Arc<Mutex<BTreeMap<String, u32>>>,
    heads: Arc<Mutex<Option<Heads>>>,
}

impl Branches {
    pub(crate) fn attach(&self, heads: Heads) {
        *lock(&self.heads) = Some(heads);
    }

    /// Moves the branch of this repository to its `commit`-th commit, as a push with a webhook does.
    pub fn push(&self, name: &str, commit: u32) {
        let url = format!("https://git.test/{name}.git");
        lock(&self.commits).insert(url.clone(), commit);
        if let Some(heads) = lock(&self.heads).as_ref() {
            heads.poke(&url);
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
}

impl Builds {
    pub fn count(&self) -> usize {
        lock(&self.built).len()
    }
}

impl Builder for Builds {
    async fn find(&self, request: &Request) -> Result<Option<Image>, BuildError> {
        Ok(lock(&self.built).get(&image_of(&request.target, &request.commit)).cloned())
    }

    async fn build(&self, request: &Request, _: &(dyn Fn(String) + Send + Sync)) -> Result<Image, BuildError> {
        let reference = image_of(&request.target, &request.commit);
        let load = Load {
            target: LoadTarget::Module(format!("{}.definitions", request.repository)),
            working_directory: "/opt/codeloc/code".to_owned(),
        };
        let image = Image { reference: reference.clone(), load };
        lock(&self.built).insert(reference, image.clone());
        Ok(image)
    }
}

/// Answers for whatever task runs at an address.
#[derive(Clone)]
pub struct CloudCodeServer {
    cloud: Arc<LocalCloud>,
    ecs: aws_sdk_ecs::Client,
}

impl CloudCodeServer {
    pub fn new(cloud: Arc<LocalCloud>, ecs: aws_sdk_ecs::Client) -> Self {
        Self { cloud, ecs }
    }

    async fn server_id(&self, definition: &str) -> Option<String> {
        let answer = self.ecs.describe_task_definition().task_definition(definition).send().await.ok()?;
        let containers = answer.task_definition()?.container_definitions().to_vec();
        let environment = containers.first()?.environment().to_vec();
        let id = environment.iter().find(|pair| pair.name() == Some("DAGSTER_CLI_API_GRPC_FIXED_SERVER_ID"))?;
        id.value().map(str::to_owned)
    }

    /// What the newest running task of a location's family answers.
    async fn of_location(&self, name: &str) -> Option<String> {
        let family = format!("codeloc-{name}");
        let definition = self.cloud.with_cloud(|cloud| {
            let running = cloud.ecs.tasks.values().filter(|task| task.family == family && task.last_status == "RUNNING");
            running.map(|task| task.definition.clone()).max()
        })?;
        self.server_id(&definition).await
    }
}

impl CodeServer for CloudCodeServer {
    async fn ask(&self, address: SocketAddr) -> Answer {
        let definition = self.cloud.with_cloud(|cloud| {
            let mut running = cloud.ecs.tasks.values().filter(|task| task.last_status == "RUNNING");
            let task = running.find(|task| task.address.map(IpAddr::V4) == Some(address.ip()))?;
            Some(task.definition.clone())
        });
        let id = match definition {
            Some(definition) => self.server_id(&definition).await,
            None => None,
        };
        match id {
            Some(server_id) => Answer::Loaded { server_id, repositories: vec!["__repository__".to_owned()] },
            None => Answer::Unreachable { message: "connection refused".to_owned() },
        }
    }
}

/// A webserver: it shows what it loaded when it was last asked to.
pub struct CloudWebserver {
    publisher: Publisher,
    code_server: CloudCodeServer,
    shown: Mutex<BTreeMap<String, String>>,
}

impl CloudWebserver {
    pub fn new(workspace_file: PathBuf, code_server: CloudCodeServer) -> Self {
        Self { publisher: Publisher::new(workspace_file), code_server, shown: Mutex::default() }
    }
}

impl Webserver for CloudWebserver {
    async fn locations(&self) -> Result<BTreeMap<String, WebLocation>, WebError> {
        let shown = lock(&self.shown).clone();
        Ok(shown.into_iter().map(|(name, id)| (name, WebLocation::Loaded { server_id: Some(id) })).collect())
    }

    async fn reload_workspace(&self) -> Result<(), WebError> {
        let entries = self.publisher.read().map_err(|error| WebError::Refused(error.to_string()))?;
        let mut shown = BTreeMap::new();
        for name in entries.keys() {
            if let Some(id) = self.code_server.of_location(name).await {
                shown.insert(name.clone(), id);
            }
        }
        *lock(&self.shown) = shown;
        Ok(())
    }

    async fn reload_location(&self, name: &str) -> Result<WebLocation, WebError> {
        let server_id = self.code_server.of_location(name).await;
        if let Some(id) = &server_id {
            lock(&self.shown).insert(name.to_owned(), id.clone());
        }
        Ok(WebLocation::Loaded { server_id })
    }
}

//! Isolated builds: what needs other people's code to run happens outside this process, without its credentials.
//!
//! A build is a [`Job`]: projects whose build backend has to run, packages without a wheel, and commands. codeloc packs everything that the
//! job needs into one archive. [`IsolatedBuilder`] runs [`GUEST`] with it, and returns another archive, which is treated as hostile.
//!
//! Guarantees: a job that ran once is not repeated as long as a cache has its output; a location never gets the output of another one.

mod output;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::build_cache::BuildCache;
use crate::caches::{self, Caches};
use crate::checkout::{Repositories, Tree};
use crate::code_layer::{Content, of_commit, pack_files};
use crate::digest::{file_sha256, sha256_hex};
use crate::disk::{blocking, disk_error, temporary_folder};
use crate::error::BuildError;
use crate::layer::Node;
use crate::progress::{OnProgress, Progress};
use crate::settings::{BuildSettings, Compression};
use crate::single_flight::SingleFlight;
use crate::uv::{Target, Uv};
pub(crate) use output::{Generated, Output};

/// The Python script that does the work. It needs `uv` and a Python of any version from 3.10 on.
pub const GUEST: &str = include_str!("../../../../deploy/images/build/guest.py");

/// The code with which [`GUEST`] ends at its time limit, as `timeout` does.
pub const TIMED_OUT: i32 = 124;

/// 1980-01-01, the earliest time in a wheel.
const EARLIEST_TIME: i64 = 315_532_800;

/// One run of [`GUEST`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolatedBuild {
    /// The name of the location whose code runs.
    pub location: String,
    /// The minor version of Python for which packages are built.
    pub python: String,
    /// `arm64` or `amd64`.
    pub architecture: &'static str,
    /// Equal for equal input.
    pub key: String,
    /// What has to be built, for people.
    pub why: String,
    /// The path of the archive for the guest.
    pub input: PathBuf,
    /// Where to write the archive of the guest.
    pub output: PathBuf,
    /// The largest archive to accept, in bytes.
    pub largest_output: u64,
}

impl IsolatedBuild {
    /// The error of a guest that reached its time limit.
    pub fn too_long(&self, limit: Duration) -> BuildError {
        let minutes = limit.as_secs() / 60;
        BuildError::dockerfile(format!(
            "the isolated build ({}) takes longer than {minutes} min (build.isolated_minutes)",
            self.why
        ))
    }
}

/// Port: runs other people's code outside this process.
pub trait IsolatedBuilder: Send + Sync + 'static {
    /// Runs the guest within its own limits, and writes its archive. If codeloc drops the future, the builder stops the guest. An error of
    /// the foreign code has the class [`Dockerfile`](crate::ErrorClass::Dockerfile), because each attempt costs as much again.
    fn run<'a>(
        &'a self,
        build: &'a IsolatedBuild,
        progress: &'a OnProgress<'a>,
    ) -> BoxFuture<'a, Result<(), BuildError>>;
}

/// What to build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// Folders of projects, from the root of the repository.
    pub projects: Vec<String>,
    /// Requirements to resolve. Packages without a wheel are built.
    pub requirements: Option<Requirements>,
    /// Commands that prepare files of the code.
    pub commands: Option<Commands>,
    /// Why the job is necessary, such as `sdist: pyspark 4.1.1`.
    pub reasons: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Requirements {
    pub lines: String,
    pub constraints: String,
    pub overrides: String,
    /// The requirements are all packages.
    pub complete: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Commands {
    /// The folder in which they run, from the root of the repository.
    pub folder: String,
    pub lines: Vec<String>,
    /// The lock of the environment.
    pub lock: String,
    /// The output of the job that built packages of the lock.
    pub wheels: Option<Arc<Output>>,
}

impl Job {
    fn needs_tree(&self) -> bool {
        self.commands.is_some() || !self.projects.is_empty()
    }

    fn tree_time(&self, trees: &[&Tree]) -> Option<i64> {
        trees.first().filter(|_| self.needs_tree()).map(|tree| tree.commit_time)
    }
}

/// The order of the guest, as `order.json`.
#[derive(Serialize)]
struct Order<'a> {
    python: &'a str,
    commit_time: i64,
    index_url: Option<String>,
    indexes: Vec<String>,
    projects: &'a [String],
    resolve: bool,
    complete: bool,
    commands: Vec<Command<'a>>,
    limit_bytes: u64,
}

#[derive(Serialize)]
struct Command<'a> {
    folder: &'a str,
    run: &'a str,
}

/// Runs the jobs of one build.
pub(crate) struct Isolation<'a> {
    pub builder: Option<&'a dyn IsolatedBuilder>,
    pub settings: &'a BuildSettings,
    pub repositories: &'a Repositories,
    pub build_cache: &'a dyn BuildCache,
    pub caches: &'a Caches,
    pub single_flight: &'a SingleFlight,
    pub uv: &'a Uv,
    pub target: &'a Target,
    pub location: &'a str,
    /// The files of the commit.
    pub trees: &'a [&'a Tree],
    pub progress: &'a OnProgress<'a>,
}

impl Isolation<'_> {
    /// The output of the first job whose packages do not contradict each other.
    pub(crate) async fn run_first(&self, jobs: &[Job]) -> Result<Arc<Output>, BuildError> {
        let mut last = None;
        for job in jobs {
            match self.run(job).await {
                Err(error) if error.to_string().contains("No solution found") => last = Some(error),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| BuildError::terminal("there is nothing to build")))
    }

    /// The output of a job.
    pub(crate) async fn run(&self, job: &Job) -> Result<Arc<Output>, BuildError> {
        let why = job.reasons.join(", ");
        let Some(builder) = self.builder else { return Err(unavailable(&why)) };
        let nodes = self.input(job)?;
        let key = self.key(&nodes)?;
        // Two builds of the same job would share one task, which the first of them to end would stop.
        let _exclusive = self.single_flight.enter(format!("isolated {key}")).await;
        let work = &self.settings.work;
        let file = work.join(caches::ISOLATED).join(format!("{key}.tar"));
        let name = format!("isolated/{key}.tar");
        let mut read = None;
        if !file.exists() {
            let folder = temporary_folder(work)?;
            let output = folder.path().join("output.tar");
            if !self.build_cache.read_file(&name, &output).await? {
                (self.progress)(Progress::Isolated(why.clone()));
                let input = self.pack(nodes).await?;
                let build = IsolatedBuild {
                    location: self.location.to_owned(),
                    python: self.target.python.clone(),
                    architecture: self.target.architecture,
                    key: key.clone(),
                    why: why.clone(),
                    input: input.to_path_buf(),
                    output: output.clone(),
                    largest_output: self.settings.limits.packages,
                };
                builder.run(&build, self.progress).await?;
                // An archive that codeloc refuses must not be found again.
                let own = self.read(&output, &why).await?;
                if self.build_cache.write_file_first(&name, &output).await? {
                    read = Some(own);
                } else {
                    self.build_cache.read_file(&name, &output).await?;
                }
            }
            std::fs::create_dir_all(work.join(caches::ISOLATED)).map_err(|error| disk_error(&file, error))?;
            std::fs::rename(&output, &file).map_err(|error| disk_error(&file, error))?;
        }
        caches::mark_used(&file);
        Ok(Arc::new(match read {
            Some(read) => read,
            None => self.read(&file, &why).await?,
        }))
    }

    /// Unpacks an archive of the guest. An error of the foreign code is an error here.
    async fn read(&self, file: &Path, why: &str) -> Result<Output, BuildError> {
        let (file, work, why) = (file.to_owned(), self.settings.work.clone(), why.to_owned());
        let limits = self.settings.limits;
        blocking(move || {
            let digest = file_sha256(&file).map_err(|error| disk_error(&file, error))?;
            let output = output::read(&file, temporary_folder(&work)?, digest, limits).map_err(|reason| {
                BuildError::dockerfile(format!("codeloc refuses the result of the isolated build ({why}): {reason}"))
            })?;
            output.check(&why)?;
            Ok(output)
        })
        .await
    }

    /// The files of the archive for the guest.
    fn input(&self, job: &Job) -> Result<BTreeMap<String, Node<Content>>, BuildError> {
        let commands = job.commands.as_ref();
        let order = Order {
            python: &self.target.python,
            // The same packages in another commit give the same output.
            commit_time: job.tree_time(self.trees).unwrap_or(EARLIEST_TIME),
            index_url: self.uv.plain_default_index(),
            indexes: self.uv.plain_indexes(),
            projects: &job.projects,
            resolve: job.requirements.is_some(),
            complete: job.requirements.as_ref().is_some_and(|requirements| requirements.complete),
            commands: commands
                .map(|commands| commands.lines.iter().map(|run| Command { folder: &commands.folder, run }).collect())
                .unwrap_or_default(),
            limit_bytes: self.settings.limits.packages,
        };
        let mut nodes = BTreeMap::new();
        let mut add = |path: &str, text: String| {
            let size = text.len() as u64;
            if size > 0 {
                nodes.insert(path.to_owned(), Node::File { content: Content::Text(text), size, executable: false });
            }
        };
        add("order.json", serde_json::to_string(&order).expect("an order is plain data"));
        if let Some(Requirements { lines, constraints, overrides, .. }) = &job.requirements {
            add("requirements.in", lines.clone());
            add("constraints.txt", constraints.clone());
            add("overrides.txt", overrides.clone());
        }
        if let Some(Commands { lock, .. }) = commands {
            add("lock.txt", lock.clone());
        }
        for wheel in
            commands.and_then(|commands| commands.wheels.as_ref()).into_iter().flat_map(|output| &output.wheels)
        {
            let size = std::fs::metadata(wheel).map_err(|error| disk_error(wheel, error))?.len();
            let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let content = Content::Disk(wheel.clone());
            nodes.insert(format!("wheels/{name}"), Node::File { content, size, executable: false });
        }
        if job.needs_tree() {
            for tree in self.trees {
                let root = ["tree", tree.folder.as_str()].join("/");
                let root = root.trim_end_matches('/');
                nodes.extend(tree.nodes.iter().map(|(path, node)| (format!("{root}/{path}"), of_commit(node.clone()))));
            }
        }
        Ok(nodes)
    }

    /// The location is part of the key: the code of another location made its output.
    fn key(&self, nodes: &BTreeMap<String, Node<Content>>) -> Result<String, BuildError> {
        let mut listed = Vec::new();
        for (path, node) in nodes {
            listed.push(match node {
                Node::File { content, executable, .. } => {
                    let identity = content.identity().map_err(|error| disk_error(Path::new(path), error))?;
                    (path, format!("{identity} {executable}"))
                }
                Node::Link(target) => (path, format!("link {target}")),
            });
        }
        Ok(sha256_hex(serde_json::json!([sha256_hex(GUEST), self.location, self.target.key(), listed]).to_string()))
    }

    async fn pack(&self, nodes: BTreeMap<String, Node<Content>>) -> Result<tempfile::TempPath, BuildError> {
        let _reading = self.caches.enter().await?;
        let repository = self.trees.first().map(|tree| tree.repository.clone());
        let packed = pack_files(self.repositories, &self.settings.work, repository, Compression::Gzip, nodes, vec![]);
        Ok(packed.await?.spooled.file)
    }
}

/// The error of a location that needs an isolated build, where none is possible.
pub(crate) fn unavailable(why: &str) -> BuildError {
    BuildError::terminal(format!(
        "{why}: this needs code of the package or of the project to run, which codeloc does only in an isolated build; set \
         `build.isolated_image` in the settings of codeloc, use a version with a wheel, or use `dockerfile` in the config"
    ))
}

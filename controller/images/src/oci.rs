//! [`OciBuilder`]: the steps of a build in order.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use codeloc_core::ids::Digest;
use codeloc_core::image::{CODE_FOLDER, Image, load_of_given_image};
use codeloc_core::lock::lock;
use codeloc_crds::{Architecture, CodePointer};
use codeloc_git::Git;
use codeloc_git::program::{Program, tail};
use oci_client::Reference;
use tokio::sync::{OnceCell, RwLockReadGuard, Semaphore, SemaphorePermit};

use crate::base::BaseTag;
use crate::build_cache::{self, BuildCache, NoBuildCache, PushedLayer};
use crate::builder::{Builder, Request};
use crate::caches::{self, Caches};
use crate::checkout::{OwnedWanted, Repositories, Tree, read_error};
use crate::code_layer::{Content, Packed, of_commit, pack_files};
use crate::credentials::RegistryCredentials;
use crate::dbt::Dbt;
use crate::dependencies::{Lock, Resolution, Resolved};
use crate::disk::{SPOOL, blocking, temporary_folder};
use crate::dockerfile::{DockerfileBuilder, Order};
use crate::error::BuildError;
use crate::image::{Assembly, Base, check_base, is_for_request, read_labels};
use crate::installed::{self, Written};
use crate::isolated::{Commands, Generated, IsolatedBuilder, Isolation, Job, Output, unavailable};
use crate::key::Inputs;
use crate::layer::{Layer, Node};
use crate::load::{Known, Loaded, load};
use crate::packages::Packages;
use crate::progress::{OnProgress, Progress};
use crate::project::Plan;
use crate::project::files::{below, within};
use crate::registry::{Access, Registry};
use crate::requirements::{Requirement, base_set};
use crate::settings::{BaseImage, BuildSettings, Compression, Platform, base_reference};
use crate::single_flight::SingleFlight;
use crate::uv::{Target, Uv};

/// The [`Builder`] of production: git objects, uv and the OCI protocol.
///
/// Guarantees: one build per image and one installation per lock at a time; it finds a pushed image by its tag, even after a
/// restart with an empty work folder; while a Dockerfile is built outside this process, the other builds do not wait for it.
/// Assumes that the target repository exists.
pub struct OciBuilder<C> {
    settings: BuildSettings,
    credentials: C,
    base_set: Vec<Requirement>,
    repositories: Repositories,
    uv: Uv,
    caches: Caches,
    /// The version of the configured interpreter, such as `3.12.1`.
    interpreter: OnceCell<String>,
    single_flight: SingleFlight,
    /// The repository path that got a layer last, by registry and digest.
    pushed_layers: Mutex<HashMap<String, String>>,
    slots: Semaphore,
    /// Limits the repositories that are read at the same time.
    readers: Semaphore,
    base_tag: BaseTag,
    build_cache: Arc<dyn BuildCache>,
    dockerfiles: Option<Arc<dyn DockerfileBuilder>>,
    isolated: Option<Arc<dyn IsolatedBuilder>>,
}

const READERS: usize = 8;

/// What all steps of one build share.
#[derive(Clone, Copy)]
struct Build<'a> {
    request: &'a Request,
    inputs: &'a Inputs<'a>,
    registry: &'a Registry,
    tag: &'a str,
    progress: &'a OnProgress<'a>,
}

/// A build of this machine: it counts against the limit, and the caches stay while it reads them.
struct LocalBuild<'a> {
    _slot: SemaphorePermit<'a>,
    _reading: RwLockReadGuard<'a, ()>,
}

/// What a build knows before it does any work: a repository that codeloc refuses waits for no other build.
struct Read {
    tree: Tree,
    plan: Plan,
    loaded: Loaded,
    dbt: Dbt,
    /// The outputs of the builds of projects.
    built: Vec<Arc<Output>>,
}

/// The dependency layer of an image, ready to be pushed.
struct Dependencies {
    key: String,
    layer: Layer,
    /// `None` if the target repository has the layer.
    file: Option<PathBuf>,
}

impl<C: RegistryCredentials> OciBuilder<C> {
    /// Errors are terminal: the settings are invalid.
    pub fn new(settings: BuildSettings, git: Git, credentials: C) -> Result<Self, BuildError> {
        settings.check()?;
        let settings = settings.with_absolute_paths().map_err(|error| {
            BuildError::terminal("cannot make the paths of the build settings absolute").caused_by(error)
        })?;
        remove_leftovers(&settings.work.join(SPOOL));
        Ok(Self {
            base_set: base_set(&settings.requirements)?,
            repositories: Repositories::new(git, settings.work.join(caches::GIT), settings.limits),
            uv: Uv::new(&settings),
            caches: Caches::new(settings.work.clone(), settings.limits.caches),
            interpreter: OnceCell::new(),
            single_flight: SingleFlight::default(),
            pushed_layers: Mutex::default(),
            slots: Semaphore::new(settings.parallel.max(1)),
            readers: Semaphore::new(READERS),
            base_tag: BaseTag::default(),
            settings,
            credentials,
            build_cache: Arc::new(NoBuildCache),
            dockerfiles: None,
            isolated: None,
        })
    }

    /// Stores locks and the layers of locks in a cache that outlives the work folder.
    #[must_use]
    pub fn with_build_cache(mut self, build_cache: impl BuildCache) -> Self {
        self.build_cache = Arc::new(build_cache);
        self
    }

    /// Builds Dockerfiles with this builder. Without it they are refused.
    #[must_use]
    pub fn with_dockerfiles(mut self, builder: impl DockerfileBuilder) -> Self {
        self.dockerfiles = Some(Arc::new(builder));
        self
    }

    /// Runs other people's code with this builder. Without it, what needs such a run is refused.
    #[must_use]
    pub fn with_isolated(mut self, builder: impl IsolatedBuilder) -> Self {
        self.isolated = Some(Arc::new(builder));
        self
    }

    /// The Python and platform of a request's packages.
    async fn target(&self, request: &Request) -> Result<Target, BuildError> {
        let interpreter = match &self.settings.python {
            Some(path) => Some(
                self.interpreter.get_or_try_init(|| interpreter_version(path, &self.settings.work)).await?.as_str(),
            ),
            None => None,
        };
        let own_minor = interpreter.map(minor_of);
        let host = self.settings.platform == Platform::Host;
        let default = own_minor.filter(|_| host).unwrap_or(&self.settings.default_python);
        let python = request.python.as_deref().unwrap_or(default);
        let (architecture, machine) = match (host, request.architecture) {
            (true, _) if cfg!(target_arch = "aarch64") => ("arm64", "aarch64"),
            (true, _) | (false, Architecture::X86_64) => ("amd64", "x86_64"),
            (false, Architecture::Arm64) => ("arm64", "aarch64"),
        };
        Ok(Target {
            python: python.to_owned(),
            architecture,
            platform: (!host).then(|| format!("{machine}-{}", self.settings.glibc_floor)),
            compiler: interpreter.filter(|version| minor_of(version) == python).map(str::to_owned),
        })
    }

    /// Everything that decides an image, except for the digest of its base image.
    async fn inputs(&self, request: &Request) -> Result<Inputs<'_>, BuildError> {
        Ok(Inputs {
            settings: &self.settings,
            index: self.uv.index(),
            target: self.target(request).await?,
            constraints: self.settings.constraints_text()?,
            base: None,
        })
    }

    /// The digest of the base image of a request, if the setting is a tag. Reads the tag at most once an hour.
    async fn base_digest(&self, request: &Request) -> Result<Option<Digest>, BuildError> {
        match self.settings.base_image.tag()? {
            Some(tag) if request.dockerfile.is_none() => Ok(Some(self.base_tag.digest(tag, self.digest(tag)).await?)),
            _ => Ok(None),
        }
    }

    /// Waits until this machine may run another build.
    async fn start(&self, progress: &OnProgress<'_>) -> Result<LocalBuild<'_>, BuildError> {
        let slot = if let Ok(slot) = self.slots.try_acquire() {
            slot
        } else {
            progress(Progress::Waiting);
            acquire(&self.slots).await?
        };
        Ok(LocalBuild { _slot: slot, _reading: self.caches.enter().await? })
    }

    /// Waits for the slot of a build and for the commit. While other builds ran, the caches may have lost the repository, and another build may
    /// have fetched its own commit into a new one.
    async fn start_with(&self, build: Build<'_>, tree: &Tree) -> Result<LocalBuild<'_>, BuildError> {
        let local = self.start(build.progress).await?;
        let url = &build.request.git_url;
        let _exclusive = self.single_flight.enter(format!("git {url}")).await;
        self.repositories.fetch_again(url, tree).await?;
        Ok(local)
    }

    /// Fetches a commit and reads what its files say, without the slot of a build. Builds the projects that do not say what they need.
    async fn read(&self, build: Build<'_>) -> Result<Read, BuildError> {
        const MOST_ROUNDS: usize = 5;
        let Build { request, progress, .. } = build;
        progress(Progress::FetchingCommit);
        let mut read = self.read_with(build, vec![]).await?;
        for _ in 0..MOST_ROUNDS {
            if read.plan.to_build.is_empty() {
                return Ok(read);
            }
            let reasons: Vec<String> = read.plan.to_build.iter().map(|project| project.why.clone()).collect();
            if self.isolated.is_none() {
                return Err(unavailable(&reasons.join(", ")));
            }
            let known = read.built.iter().flat_map(|output| output.projects()).map(|project| project.folder.clone());
            let projects: Vec<String> =
                known.chain(read.plan.to_build.iter().map(|project| project.folder.clone())).collect();
            let outside = self.outside(&read.tree, projects.iter().map(String::as_str)).await?;
            let trees: Vec<&Tree> = std::iter::once(&read.tree).chain(&outside).collect();
            let job = Job { projects, reasons, ..Job::default() };
            let output = self.isolation(build, &trees).run(&job).await?;
            read = self.read_with(build, vec![output]).await?;
        }
        Err(BuildError::terminal(format!(
            "the projects of {} need each other to be built; list their dependencies under [project] in pyproject.toml",
            request.location.as_str()
        )))
    }

    async fn read_with(&self, build: Build<'_>, outputs: Vec<Arc<Output>>) -> Result<Read, BuildError> {
        let Build { request, inputs: Inputs { target, .. }, .. } = build;
        let _reader = acquire(&self.readers).await?;
        let _reading = self.caches.enter().await?;
        let tree = {
            let _exclusive = self.single_flight.enter(format!("git {}", request.git_url)).await;
            self.repositories.tree(&request.git_url, &request.commit, request.subdirectory.as_deref()).await?
        };
        if request.dockerfile.is_some() {
            let loaded = Loaded { load: load_of_given_image(&request.code), search: vec![] };
            return Ok(Read { tree, plan: Plan::default(), loaded, dbt: Dbt::default(), built: outputs });
        }
        let code = match &request.code {
            CodePointer::PythonFile(file) => CodePointer::PythonFile(tree.resolve(file)),
            module @ CodePointer::Module(_) => module.clone(),
        };
        let wanted = OwnedWanted {
            dependencies: request.dependencies.clone(),
            code: Some(code.clone()),
            python: Some(target.python.clone()),
            built: outputs.iter().flat_map(|output| output.projects().to_vec()).collect(),
            // Only a project that names an index needs them, and a build without packages works without uv.
            indexes: self.uv.indexes().await.unwrap_or_default(),
        };
        let mut plan = self.repositories.plan(&tree, wanted).await?;
        plan.notes.extend(tree.submodules.iter().map(|path| {
            format!("codeloc skips the submodule {path}; if the code needs it, add its files to the repository")
        }));
        let loaded = load(&code, &tree.files(), &known(&tree, &plan))?;
        let repositories = self.repositories.clone();
        // A commit that is too large to list has its dbt projects in the location's folder, or not at all.
        let whole = if tree.folder.is_empty() { None } else { self.repositories.beside(&tree, "").await.ok() };
        let (tree, dbt) = blocking(move || {
            let mut reader = repositories.reader(&tree.repository)?;
            let dbt = Dbt::read(&tree, whole.as_ref(), &mut reader).map_err(read_error)?;
            Ok((tree, dbt))
        })
        .await?;
        Ok(Read { tree, plan, loaded, dbt, built: outputs })
    }

    /// The trees of projects that are outside of the `subdirectory`.
    async fn outside(&self, tree: &Tree, folders: impl Iterator<Item = &str>) -> Result<Vec<Tree>, BuildError> {
        let mut trees = Vec::new();
        for folder in installed::outside(&tree.folder, folders) {
            trees.push(self.repositories.beside(tree, folder).await?);
        }
        Ok(trees)
    }

    fn isolation<'a>(&'a self, build: Build<'a>, trees: &'a [&'a Tree]) -> Isolation<'a> {
        Isolation {
            builder: self.isolated.as_deref(),
            settings: &self.settings,
            repositories: &self.repositories,
            build_cache: self.build_cache.as_ref(),
            caches: &self.caches,
            single_flight: &self.single_flight,
            uv: &self.uv,
            target: &build.inputs.target,
            location: build.request.location.as_str(),
            trees,
            progress: build.progress,
        }
    }

    async fn registry(&self, target: &str, access: Access) -> Result<Registry, BuildError> {
        let timeout = self.settings.registry_timeout;
        Registry::open(target, access, &self.credentials, timeout).await
    }

    /// The image with this tag, if the registry has it.
    async fn lookup(
        &self,
        registry: &Registry,
        tag: &str,
        request: &Request,
        target: &Target,
    ) -> Result<Option<Image>, BuildError> {
        let Some(digest) = registry.digest_of(tag).await? else {
            return Ok(None);
        };
        if request.dockerfile.is_some() {
            let reference = format!("{}@{digest}", request.target);
            let (commit, load) = (Some(request.commit.clone()), load_of_given_image(&request.code));
            return Ok(Some(Image { reference, commit, load, notes: vec![] }));
        }
        let pulled = registry.pull(&digest, target.architecture).await?;
        let (load, notes) = read_labels(&pulled.config).ok_or_else(|| {
            BuildError::terminal(format!(
                "the image {}:{tag} has no label that says how to load its code; delete this tag",
                request.target
            ))
        })?;
        let reference = format!("{}@{}", request.target, pulled.digest);
        Ok(Some(Image { reference, commit: Some(request.commit.clone()), load, notes }))
    }

    /// The image that a location runs, if it was built for this request. Its base image may be older than the one that the tag names.
    async fn deployed_image(
        &self,
        registry: &Registry,
        request: &Request,
        inputs: &Inputs<'_>,
        deployed: &str,
    ) -> Result<Option<Image>, BuildError> {
        let digest = deployed.strip_prefix(&request.target).and_then(|rest| rest.strip_prefix('@'));
        let (Some(digest), Some(_)) = (digest, self.settings.base_image.tag()?) else { return Ok(None) };
        if registry.digest_of(digest).await?.is_none() {
            return Ok(None);
        }
        let pulled = registry.pull(digest, inputs.target.architecture).await?;
        if !is_for_request(&pulled.config, &inputs.request_key(request)) {
            return Ok(None);
        }
        let (reference, commit) = (deployed.to_owned(), Some(request.commit.clone()));
        Ok(read_labels(&pulled.config).map(|(load, notes)| Image { reference, commit, load, notes }))
    }

    fn resolution<'a>(&'a self, build: Build<'a>) -> Resolution<'a> {
        let Build { inputs: Inputs { target, constraints, .. }, progress, .. } = build;
        Resolution {
            uv: &self.uv,
            target,
            base: &self.base_set,
            constraints: constraints.as_deref(),
            work: &self.settings.work,
            build_cache: self.build_cache.as_ref(),
            can_build: self.isolated.is_some(),
            progress,
        }
    }

    async fn dependencies(&self, build: Build<'_>, lock: &Lock) -> Result<Dependencies, BuildError> {
        let Build { inputs: Inputs { target, .. }, registry, progress, .. } = build;
        let packages = Packages {
            uv: &self.uv,
            target,
            compression: self.settings.compression,
            work: &self.settings.work,
            interpreter: self.settings.python.as_deref(),
            timeout: self.settings.uv_timeout,
            max_bytes: self.settings.limits.packages,
        };
        let key = packages.key(&lock.text);
        let _exclusive = self.single_flight.enter(format!("layer {key}")).await;
        let cached = match packages.cached(&key) {
            Some(cached) => cached,
            None => match self.pushed_layer(registry, &key).await? {
                Some(layer) => return Ok(Dependencies { key, layer, file: None }),
                None => packages.build(&key, lock, progress).await?,
            },
        };
        Ok(Dependencies { key, layer: cached.layer, file: Some(cached.file) })
    }

    /// The layer of a lock, if the build cache names it and the registry has it. Mounts it if another repository has it.
    async fn pushed_layer(&self, registry: &Registry, key: &str) -> Result<Option<Layer>, BuildError> {
        let Some(text) = self.build_cache.read(&build_cache::layer_name(registry.host(), key)).await? else {
            return Ok(None);
        };
        // Another version of codeloc may have written a text that this one cannot read.
        let Ok(PushedLayer { layer, repository }) = serde_json::from_str(&text) else { return Ok(None) };
        let is_available = registry.has_blob(&layer.digest).await?
            || (repository != registry.path() && registry.mount(&layer.digest, &repository).await);
        Ok(is_available.then_some(layer))
    }

    /// Pushes the dependency layer and writes that to the build cache, so that other builds reuse it.
    async fn push_dependencies(
        &self,
        registry: &Registry,
        dependencies: &Dependencies,
        progress: &OnProgress<'_>,
    ) -> Result<(), BuildError> {
        let Dependencies { key, layer, file } = dependencies;
        let Some(file) = file else { return Ok(()) };
        let is_recorded = lock(&self.pushed_layers).contains_key(&pushed_key(registry, layer));
        self.push_layer(registry, layer, file, progress).await?;
        if is_recorded {
            return Ok(());
        }
        let pushed = PushedLayer { layer: layer.clone(), repository: registry.path().to_owned() };
        let text = serde_json::to_string(&pushed).expect("plain data");
        self.build_cache.write(&build_cache::layer_name(registry.host(), key), text).await
    }

    /// Packs the code, the projects outside of it, and the files that make projects importable.
    async fn code_layer(
        &self,
        tree: &Tree,
        plan: &Plan,
        loaded: &Loaded,
        outside: &[Tree],
        built: &[Arc<Output>],
        python: &str,
    ) -> Result<Packed, BuildError> {
        let search: Vec<String> = loaded.search.iter().map(|folder| within(&tree.folder, folder)).collect();
        let mut nodes: BTreeMap<String, Node<Content>> = BTreeMap::new();
        for (path, written) in installed::files(&tree.folder, &plan.projects, &search, python) {
            let Written { text, executable } = written;
            nodes.insert(path, Node::File { size: text.len() as u64, content: Content::Text(text), executable });
        }
        for tree_of in std::iter::once(tree).chain(outside) {
            let root = installed::in_image(&tree.folder, &tree_of.folder);
            let files = tree_of.nodes.iter();
            nodes.extend(files.map(|(path, node)| (format!("{root}/{path}"), of_commit(node.clone()))));
        }
        for (path, file) in built.iter().flat_map(|output| &output.files) {
            let Generated { path: content, size, executable } = file.clone();
            let path = installed::in_image(&tree.folder, path);
            // A link of the commit would lead the file to another place.
            if parents(&path).all(|parent| !matches!(nodes.get(parent), Some(Node::Link(_) | Node::File { .. }))) {
                nodes.insert(path, Node::File { content: Content::Disk(content), size, executable });
            }
        }
        let root = CODE_FOLDER.trim_start_matches('/').to_owned();
        let Self { repositories, settings, .. } = self;
        let repository = Some(tree.repository.clone());
        pack_files(repositories, &settings.work, repository, settings.compression, nodes, vec![root]).await
    }

    /// Builds the image of a Dockerfile with the [`DockerfileBuilder`]. Only the preparation is a build of this machine.
    async fn build_dockerfile(
        &self,
        build: Build<'_>,
        dockerfile: &str,
        tree: Tree,
        local: LocalBuild<'_>,
    ) -> Result<Image, BuildError> {
        let Build { request, inputs: Inputs { target, .. }, registry, tag, progress, .. } = build;
        let Some(builder) = &self.dockerfiles else {
            return Err(BuildError::terminal(
                "no setting chooses a builder of Dockerfiles; set `build.codebuild_project` or `build.buildah`",
            ));
        };
        let dockerfile = tree.resolve(dockerfile);
        if !tree.files().contains(dockerfile.as_str()) {
            return Err(BuildError::terminal(format!("the commit has no file {dockerfile} (`dockerfile`)")));
        }
        progress(Progress::PackingCode);
        let nodes = tree.nodes.iter().map(|(path, node)| (path.clone(), of_commit(node.clone()))).collect();
        let (repositories, work, repository) = (&self.repositories, &self.settings.work, tree.repository.clone());
        let context = pack_files(repositories, work, Some(repository), Compression::Gzip, nodes, vec![]).await?;
        let order = Order {
            context: context.spooled.file.to_path_buf(),
            dockerfile,
            image: format!("{}:{tag}", request.target),
            architecture: target.architecture,
            commit_time: tree.commit_time,
            credentials: self.credentials.for_registry(registry.host()).await?,
        };
        // From here on, the build takes as long as the Dockerfile does.
        drop((tree, local));
        let outcome = builder.build(&order, progress).await;
        let found = async {
            // The password of the first client may have expired meanwhile.
            let registry = self.registry(&request.target, Access::Read).await?;
            self.lookup(&registry, tag, request, target).await
        };
        // The registry decides: a builder may fail after its push, and may succeed without one.
        match (found.await, outcome) {
            (Ok(Some(image)), _) => Ok(image),
            (_, Err(error)) | (Err(error), _) => Err(error),
            (Ok(None), Ok(())) => Err(BuildError::transient(format!(
                "the builder reports that it built {}, but the registry does not have {}",
                order.dockerfile, order.image
            ))),
        }
    }

    /// Checks the base image and copies its layers to the target repository.
    async fn base(&self, build: Build<'_>) -> Result<Option<Base>, BuildError> {
        let Build { registry, inputs: Inputs { target, base, .. }, progress, .. } = build;
        let BaseImage::Reference(text) = &self.settings.base_image else {
            return Ok(None);
        };
        let reference = base_reference(text)?;
        let repository = format!("{}/{}", reference.resolve_registry(), reference.repository());
        let source = self.registry(&repository, Access::Read).await?;
        let version = base.as_deref().or(reference.digest()).unwrap_or("latest");
        let pulled = source.pull(version, target.architecture).await?;
        check_base(&pulled.config, target).map_err(|reason| {
            BuildError::terminal(format!("the packages do not fit the base image {text}: {reason}"))
        })?;
        for blob in &pulled.manifest.layers {
            let digest = Digest::from(blob.digest.as_str());
            if registry.has_blob(&digest).await?
                || (source.host() == registry.host() && registry.mount(&digest, source.path()).await)
            {
                continue;
            }
            let folder = temporary_folder(&self.settings.work)?;
            let file = folder.path().join("layer");
            source.pull_file(blob, &file).await?;
            let size = blob.size.cast_unsigned();
            registry.push_file(&digest, size, &file, &upload_progress(size, progress)).await?;
        }
        Ok(Some(Base { layers: pulled.manifest.layers, config: pulled.config }))
    }

    /// Uploads a layer, unless the target repository has it or can mount it from the repository that got it last.
    async fn push_layer(
        &self,
        registry: &Registry,
        layer: &Layer,
        file: &Path,
        progress: &OnProgress<'_>,
    ) -> Result<(), BuildError> {
        let key = pushed_key(registry, layer);
        if !registry.has_blob(&layer.digest).await? {
            let last = lock(&self.pushed_layers).get(&key).cloned();
            let mounted = match last.filter(|path| path != registry.path()) {
                Some(path) => registry.mount(&layer.digest, &path).await,
                None => false,
            };
            if !mounted {
                registry.push_file(&layer.digest, layer.size, file, &upload_progress(layer.size, progress)).await?;
            }
        }
        lock(&self.pushed_layers).insert(key, registry.path().to_owned());
        Ok(())
    }
}

impl<C: RegistryCredentials> Builder for OciBuilder<C> {
    async fn find(&self, request: &Request, deployed: Option<&str>) -> Result<Option<Image>, BuildError> {
        let mut inputs = self.inputs(request).await?;
        let registry = self.registry(&request.target, Access::Read).await?;
        if let Some(deployed) = deployed
            && let Some(image) = self.deployed_image(&registry, request, &inputs, deployed).await?
        {
            return Ok(Some(image));
        }
        inputs.base = self.base_digest(request).await?;
        self.lookup(&registry, &inputs.tag(request), request, &inputs.target).await
    }

    async fn build(&self, request: &Request, progress: &OnProgress<'_>) -> Result<Image, BuildError> {
        let inputs = Inputs { base: self.base_digest(request).await?, ..self.inputs(request).await? };
        let (target, tag) = (&inputs.target, inputs.tag(request));
        let _exclusive = self.single_flight.enter(format!("image {}:{tag}", request.target)).await;
        let registry = self.registry(&request.target, Access::Write).await?;
        if let Some(image) = self.lookup(&registry, &tag, request, target).await? {
            return Ok(image);
        }

        let build = Build { request, inputs: &inputs, registry: &registry, tag: &tag, progress };
        let Read { tree, mut plan, loaded, dbt, mut built } = self.read(build).await?;
        let mut local = self.start_with(build, &tree).await?;
        if let Some(dockerfile) = &request.dockerfile {
            return self.build_dockerfile(build, dockerfile, tree, local).await;
        }
        let base = self.base(build).await?;
        let resolution = self.resolution(build);
        let lock = match resolution.lock(&plan, None).await? {
            Resolved::Lock(lock) => lock,
            Resolved::Build(to_build) => {
                // Other people's code takes its time, and other builds do not wait for it.
                drop(local);
                let output = self.isolation(build, &[]).run_first(&to_build.jobs).await;
                local = self.start_with(build, &tree).await?;
                match output {
                    Err(error) => resolution.without(&to_build, error).await?,
                    Ok(output) => match resolution.lock(&plan, Some(output)).await? {
                        Resolved::Lock(lock) => lock,
                        Resolved::Build(_) => {
                            return Err(BuildError::terminal(
                                "the packages need another isolated build than the one that ran",
                            ));
                        }
                    },
                }
            }
        };
        plan.notes.extend(lock.notes.iter().cloned());
        let folders = plan.projects.iter().map(|project| &project.folder).chain(&dbt.beside);
        let outside = self.outside(&tree, folders.map(String::as_str)).await?;
        let is_automatic = request.commands.is_empty();
        let commands = if is_automatic { dbt.commands(&lock.text) } else { request.commands.clone() };
        if commands.is_empty() {
            plan.notes.extend(dbt.notes());
        } else {
            drop(local);
            let trees: Vec<&Tree> = std::iter::once(&tree).chain(&outside).collect();
            let reasons = commands.iter().map(|command| format!("command: {command}")).collect();
            let commands = Commands {
                folder: tree.folder.clone(),
                lines: commands,
                lock: lock.text.clone(),
                wheels: lock.built.clone(),
            };
            let job = Job { commands: Some(commands), reasons, ..Job::default() };
            match self.isolation(build, &trees).run(&job).await {
                Ok(output) => built.push(output),
                // The code may prepare its dbt project itself, with variables that only the location has.
                Err(error) if is_automatic && !error.is_transient() => {
                    plan.notes.extend(dbt.notes());
                    plan.notes.push(format!("codeloc cannot prepare the dbt project: {}", last_line(&error)));
                }
                Err(error) => return Err(error),
            }
            local = self.start_with(build, &tree).await?;
        }
        let dependencies = self.dependencies(build, &lock).await?;
        progress(Progress::PackingCode);
        let commit_time = tree.commit_time;
        let code = self.code_layer(&tree, &plan, &loaded, &outside, &built, &target.python).await?;
        let Packed { spooled: code, pointers } = code;
        plan.notes.extend(pointers.iter().map(|path| {
            format!("{path} is only a pointer of Git LFS, whose files codeloc does not fetch; if the code needs it, commit the file itself")
        }));
        let notes = bounded(&plan.notes);

        progress(Progress::Uploading);
        self.push_dependencies(&registry, &dependencies, progress).await?;
        self.push_layer(&registry, &code.layer, &code.file, progress).await?;
        let request_key = inputs.base.as_ref().map(|_| inputs.request_key(request));
        let assembled = Assembly {
            base: base.as_ref(),
            dependencies: &dependencies.layer,
            code: &code.layer,
            load: &loaded.load,
            notes: &notes,
            architecture: target.architecture,
            python: &target.python,
            location: request.location.as_str(),
            commit: &request.commit,
            commit_time,
            request_key: request_key.as_deref(),
        }
        .assemble()?;
        registry.push_bytes(assembled.config, &assembled.config_digest).await?;
        let digest = registry.push_manifest(&tag, assembled.manifest).await?;
        drop(local);
        let reference = format!("{}@{digest}", request.target);
        Ok(Image { reference, commit: Some(request.commit.clone()), load: loaded.load, notes })
    }

    async fn digest(&self, reference: &str) -> Result<Option<Digest>, BuildError> {
        let parsed = Reference::from_str(reference)
            .map_err(|error| BuildError::terminal(format!("{reference} is not an image reference")).caused_by(error))?;
        let repository = format!("{}/{}", parsed.resolve_registry(), parsed.repository());
        let registry = self.registry(&repository, Access::Read).await?;
        registry.digest_of(parsed.digest().or(parsed.tag()).unwrap_or("latest")).await
    }

    fn refresh(&self) {
        self.base_tag.refresh();
    }
}

async fn acquire(limit: &Semaphore) -> Result<SemaphorePermit<'_>, BuildError> {
    limit.acquire().await.map_err(|error| BuildError::transient("the build was stopped").caused_by(error))
}

/// The last line of an error: programs say there what failed.
fn last_line(error: &BuildError) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("exit code"));
    lines.next_back().unwrap_or_default().to_owned()
}

/// The folders above a path.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// The location's own project, relative to the root of its code.
fn known(tree: &Tree, plan: &Plan) -> Known {
    let inside = |folder: &String| below(&tree.folder, folder).map(str::to_owned);
    let own = plan.projects.first();
    Known {
        folder: own.and_then(|project| inside(&project.folder)).unwrap_or_default(),
        roots: plan.projects.iter().flat_map(|project| &project.roots).filter_map(inside).collect(),
        pyproject: plan.pyproject.clone(),
    }
}

/// The first notes, each of them shortened: they become a label of the image and part of the status.
fn bounded(notes: &[String]) -> Vec<String> {
    const MOST: usize = 8;
    const LONGEST: usize = 300;
    let more = notes.len().saturating_sub(MOST);
    let mut kept: Vec<String> = notes.iter().take(MOST).map(|note| note.chars().take(LONGEST).collect()).collect();
    if more > 0 {
        kept.push(format!("and {more} more"));
    }
    kept
}

/// Reports the uploaded MiB of a layer.
fn upload_progress<'a>(size: u64, progress: &'a OnProgress<'_>) -> impl Fn(u64) + Send + Sync + 'a {
    let total_mib = size >> 20;
    move |done_mib| progress(Progress::UploadingLayer { done_mib, total_mib })
}

/// The key of a layer in [`OciBuilder::pushed_layers`].
fn pushed_key(registry: &Registry, layer: &Layer) -> String {
    format!("{} {}", registry.host(), layer.digest)
}

/// Removes files that a killed process left in the spool folder. Another process may use the folder now, so this removes only
/// files that are older than any build. The next start retries the ones that cannot be removed.
fn remove_leftovers(spool: &Path) {
    const AGE: Duration = Duration::from_hours(24);
    for entry in std::fs::read_dir(spool).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > AGE) {
            let path = entry.path();
            let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
    }
}

fn minor_of(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

/// The minor version of Python in images whose config names none.
pub(super) async fn default_python(settings: &BuildSettings) -> Result<String, BuildError> {
    match &settings.python {
        Some(path) if settings.platform == Platform::Host => {
            Ok(minor_of(&interpreter_version(path, &settings.work).await?).to_owned())
        }
        _ => Ok(settings.default_python.clone()),
    }
}

async fn interpreter_version(interpreter: &Path, work: &Path) -> Result<String, BuildError> {
    let folder = temporary_folder(work)?;
    let script = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
    let output = Program::new(interpreter, Duration::from_mins(1))
        .folder(folder.path())
        .arguments(["-I", "-S", "-c", script])
        .run()
        .await
        .map_err(|error| BuildError::transient("cannot read the version of build.compile_python").caused_by(error))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || version.split('.').count() != 3 {
        return Err(BuildError::transient(format!(
            "cannot read the version of build.compile_python: {} failed: {}",
            interpreter.display(),
            tail(&output.stderr)
        )));
    }
    Ok(version)
}

//! [`OciBuilder`]: the steps of a build in their order.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use codeloc_core::image::{CODE_FOLDER, Image, load_of_given_image};
use codeloc_core::lock::lock;
use codeloc_crds::{Architecture, CodePointer};
use codeloc_git::Git;
use codeloc_git::program::{Program, tail};
use oci_client::Reference;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, OwnedMutexGuard, Semaphore};

use super::{
    BaseImage, BuildError, BuildSettings, Builder, Compression, Platform, Request, build_cache,
    build_cache::BuildCache, build_cache::NoBuildCache, build_cache::Sent, caches, caches::Caches,
    checkout::Repositories, checkout::Tree, checkout::unreadable, dependencies::Resolution, dependencies::base_set,
    dependencies::candidates, dependencies::constraints, dependencies::input, disk::blocking, disk::fresh_folder,
    dockerfile::DockerfileBuilder, dockerfile::Order, image::Assembly, image::Base, image::check_base, image::load_of,
    layer::Layer, layer::Node, layer::Spooled, layer::compressor, layer::pack, load::load, packages::Packages,
    registry::Access, registry::Registry, registry::RegistryCredentials, requirements::Requirement, uv::Target, uv::Uv,
};

/// Raised when the same request and settings must give another image.
const LAYOUT: u32 = 2;

/// The real [`Builder`]: git objects, uv and the OCI protocol.
///
/// Guarantees: one build per image and one installation per lock at a time; an image that was pushed is found again by
/// its tag, after a restart and with an empty work folder alike. Assumes that the target repository exists.
pub struct OciBuilder<C> {
    settings: BuildSettings,
    credentials: C,
    base_set: Vec<Requirement>,
    repositories: Repositories,
    uv: Uv,
    caches: Caches,
    /// The version of the configured interpreter, `3.12.1`.
    interpreter: OnceCell<String>,
    single_flight: SingleFlight,
    slots: Semaphore,
    build_cache: Arc<dyn BuildCache>,
    dockerfiles: Option<Arc<dyn DockerfileBuilder>>,
}

/// Takes short texts for the status page.
pub type Progress<'a> = dyn Fn(String) + Send + Sync + 'a;

/// The dependency layer of one image, ready to be pushed.
struct Dependencies {
    key: String,
    layer: Layer,
    /// Nothing, where the target repository has the layer already.
    file: Option<PathBuf>,
}

/// The image that every location's stands on.
pub(super) fn base_reference(text: &str) -> Result<Reference, BuildError> {
    Reference::from_str(text)
        .map_err(|error| BuildError::Terminal(format!("base image {text} is not an image reference: {error}")))
}

impl<C: RegistryCredentials> OciBuilder<C> {
    /// Errors are [`BuildError::Terminal`]: settings that contradict themselves.
    pub fn new(settings: BuildSettings, git: Git, credentials: C) -> Result<Self, BuildError> {
        settings.check()?;
        let settings =
            settings.rooted().map_err(|error| BuildError::Terminal(format!("the build's paths: {error}")))?;
        remove_leftovers(&settings.work.join("spool"));
        Ok(Self {
            base_set: base_set(&settings.requirements)?,
            repositories: Repositories::new(git, settings.work.join(caches::GIT), settings.limits),
            uv: Uv::new(&settings),
            caches: Caches::new(settings.work.clone(), settings.limits.caches),
            interpreter: OnceCell::new(),
            single_flight: SingleFlight::default(),
            slots: Semaphore::new(settings.parallel.max(1)),
            settings,
            credentials,
            build_cache: Arc::new(NoBuildCache),
            dockerfiles: None,
        })
    }

    /// Remembers on this shelf what must outlive the work folder.
    #[must_use]
    pub fn with_build_cache(mut self, place: impl BuildCache) -> Self {
        self.build_cache = Arc::new(place);
        self
    }

    /// Has Dockerfiles built there; without it they are refused.
    #[must_use]
    pub fn with_dockerfiles(mut self, builder: impl DockerfileBuilder) -> Self {
        self.dockerfiles = Some(Arc::new(builder));
        self
    }

    /// The Python and platform that a request's packages are for.
    async fn target(&self, request: &Request) -> Result<Target, BuildError> {
        let interpreter = match &self.settings.python {
            Some(path) => {
                Some(self.interpreter.get_or_try_init(|| version_of(path, &self.settings.work)).await?.as_str())
            }
            None => None,
        };
        let own_minor = interpreter.map(minor_of);
        let host = self.settings.platform == Platform::Host;
        let python = if host { own_minor.unwrap_or(&request.python) } else { &request.python };
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

    /// The tag of a request's image: the commit, for people, and a hash of all that decides the image.
    fn tag(&self, request: &Request, target: &Target, constraints: Option<&str>) -> String {
        let decides = match &request.dockerfile {
            Some(dockerfile) => serde_json::json!([
                LAYOUT,
                request.location.as_str(),
                request.commit,
                request.subdirectory,
                ["dockerfile", dockerfile],
                target.architecture,
            ]),
            None => self.decides(request, target, constraints),
        };
        let key = hex::encode(Sha256::digest(decides.to_string()));
        format!("commit-{}-{}", request.commit.get(..12).unwrap_or(&request.commit), &key[..16])
    }

    fn decides(&self, request: &Request, target: &Target, constraints: Option<&str>) -> serde_json::Value {
        let code = match &request.code {
            CodePointer::PythonFile(file) => ("file", file),
            CodePointer::Module(module) => ("module", module),
        };
        let base = match &self.settings.base_image {
            BaseImage::Scratch => "scratch",
            BaseImage::Reference(reference) => reference,
        };
        serde_json::json!([
            LAYOUT,
            request.location.as_str(),
            request.commit,
            request.subdirectory,
            code,
            request.dependencies,
            target.key(),
            target.compiler,
            base,
            self.settings.requirements,
            constraints,
            self.uv.index(),
            compressor(self.settings.compression),
        ])
    }

    async fn registry(&self, target: &str, access: Access) -> Result<Registry, BuildError> {
        let timeout = self.settings.registry_timeout;
        Registry::open(target, access, &self.credentials, timeout).await
    }

    async fn found(
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
            return Ok(Some(Image { reference, commit, load }));
        }
        let pulled = registry.pull(&digest, target.architecture).await?;
        let load = load_of(&pulled.config).ok_or_else(|| {
            BuildError::Terminal(format!(
                "{}:{tag} does not say how its code is loaded: remove that tag",
                request.target
            ))
        })?;
        let reference = format!("{}@{}", request.target, pulled.digest);
        Ok(Some(Image { reference, commit: Some(request.commit.clone()), load }))
    }

    async fn dependencies(
        &self,
        request: &Request,
        tree: &Tree,
        target: &Target,
        constraints: Option<&str>,
        registry: &Registry,
        progress: &Progress<'_>,
    ) -> Result<Dependencies, BuildError> {
        let explicit = request.dependencies.as_deref().map(|path| path.trim_start_matches("./"));
        let texts = self.repositories.texts(tree, candidates(&tree.files(), explicit)).await?;
        let input = input(explicit, &texts)?;
        let work = &self.settings.work;
        let resolution = Resolution {
            uv: &self.uv,
            target,
            base: &self.base_set,
            constraints,
            work,
            build_cache: self.build_cache.as_ref(),
            progress,
        };
        let lock = resolution.lock(&input, &texts).await?;
        let packages = Packages {
            uv: &self.uv,
            target,
            compression: self.settings.compression,
            work,
            interpreter: self.settings.python.as_deref(),
            timeout: self.settings.uv_timeout,
            largest: self.settings.limits.packages,
        };
        let key = packages.key(&lock);
        let _alone = self.single_flight.enter(format!("layer {key}")).await;
        let kept = match packages.kept(&key) {
            Some(kept) => kept,
            None => match self.sent_before(registry, &key).await? {
                Some(layer) => return Ok(Dependencies { key, layer, file: None }),
                None => packages.make(&key, &lock, progress).await?,
            },
        };
        Ok(Dependencies { key, layer: kept.layer, file: Some(kept.file) })
    }

    /// The layer of a lock without its file: the shelf says which it is, and the registry has it.
    async fn sent_before(&self, registry: &Registry, key: &str) -> Result<Option<Layer>, BuildError> {
        let Some(text) = self.build_cache.read(&build_cache::layer_name(registry.host(), key)).await? else {
            return Ok(None);
        };
        // A text of another version of this program is as good as none.
        let Ok(Sent { layer, repository }) = serde_json::from_str(&text) else { return Ok(None) };
        let there = registry.has_blob(&layer.digest).await?
            || (repository != registry.path() && registry.mount(&layer.digest, &repository).await);
        Ok(there.then_some(layer))
    }

    /// Pushes the dependency layer and remembers that, so that it need not be made again.
    async fn push_dependencies(
        &self,
        registry: &Registry,
        dependencies: &Dependencies,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let Dependencies { key, layer, file } = dependencies;
        let Some(file) = file else { return Ok(()) };
        let known = self.single_flight.sent_to(&sent_key(registry, layer)).is_some();
        self.push_layer(registry, layer, file, progress).await?;
        if known {
            return Ok(());
        }
        let sent = Sent { layer: layer.clone(), repository: registry.path().to_owned() };
        let text = serde_json::to_string(&sent).expect("plain data");
        self.build_cache.write(&build_cache::layer_name(registry.host(), key), text).await
    }

    async fn code_layer(&self, tree: &Tree) -> Result<Spooled, BuildError> {
        self.packed(tree, self.settings.compression, CODE_FOLDER.trim_start_matches('/')).await
    }

    /// All files of a commit in a layer, below a folder; below none where `root` is empty.
    async fn packed(&self, tree: &Tree, compression: Compression, root: &'static str) -> Result<Spooled, BuildError> {
        let (repositories, repository, nodes) =
            (self.repositories.clone(), tree.repository.clone(), tree.nodes.clone());
        let spool = self.settings.work.join("spool");
        blocking(move || {
            let mut reader = repositories.reader(&repository)?;
            let (root, folders) = match root {
                "" => (String::new(), vec![]),
                root => (format!("{root}/"), vec![root.to_owned()]),
            };
            let nodes: BTreeMap<String, Node<String>> =
                nodes.into_iter().map(|(path, node)| (format!("{root}{path}"), node)).collect();
            let open = |path: &str, object: &String| {
                reader.read(path.strip_prefix(&root).unwrap_or(path), object).map(std::io::Cursor::new)
            };
            pack(&spool, compression, &nodes, &folders, open).map_err(|error| unreadable(&error))
        })
        .await
    }

    /// The image of a Dockerfile, built and pushed by something else.
    #[expect(clippy::too_many_arguments, reason = "all that a build knows by then")]
    async fn outside(
        &self,
        dockerfile: &str,
        request: &Request,
        tree: &Tree,
        target: &Target,
        registry: &Registry,
        tag: &str,
        progress: &Progress<'_>,
    ) -> Result<Image, BuildError> {
        let Some(builder) = &self.dockerfiles else {
            return Err(BuildError::Terminal(
                "Dockerfiles are not built here: set `build.codebuild_project` or `build.buildah`".to_owned(),
            ));
        };
        let dockerfile = dockerfile.trim_start_matches("./");
        if !tree.files().contains(dockerfile) {
            return Err(BuildError::Terminal(format!("the commit has no file {dockerfile} (`dockerfile`)")));
        }
        progress("packing".to_owned());
        let context = self.packed(tree, Compression::Gzip, "").await?;
        let order = Order {
            context: context.file.to_path_buf(),
            dockerfile: dockerfile.to_owned(),
            image: format!("{}:{tag}", request.target),
            architecture: target.architecture,
            commit_time: tree.commit_time,
            credentials: self.credentials.for_registry(registry.host()).await?,
        };
        let built = builder.build(&order, progress).await;
        // Whatever its builder says: with the image in the registry there is nothing left to do, and without it there is no image.
        match (self.found(registry, tag, request, target).await, built) {
            (Ok(Some(image)), _) => Ok(image),
            (_, Err(error)) | (Err(error), _) => Err(error),
            (Ok(None), Ok(())) => {
                Err(BuildError::Transient(format!("{} was built, and the registry has no {tag}", order.dockerfile)))
            }
        }
    }

    /// The base image that packages of the target fit on, its layers brought into the target repository.
    async fn base(
        &self,
        registry: &Registry,
        target: &Target,
        progress: &Progress<'_>,
    ) -> Result<Option<Base>, BuildError> {
        let BaseImage::Reference(text) = &self.settings.base_image else {
            return Ok(None);
        };
        let reference = base_reference(text)?;
        let home = format!("{}/{}", reference.resolve_registry(), reference.repository());
        let source = self.registry(&home, Access::Read).await?;
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        let pulled = source.pull(wanted, target.architecture).await?;
        check_base(&pulled.config, target)
            .map_err(|why| BuildError::Terminal(format!("packages cannot be put on the base image {text}: {why}")))?;
        for blob in &pulled.manifest.layers {
            if registry.has_blob(&blob.digest).await?
                || (source.host() == registry.host() && registry.mount(&blob.digest, source.path()).await)
            {
                continue;
            }
            let folder = fresh_folder(&self.settings.work.join("spool"))?;
            let file = folder.path().join("layer");
            source.pull_file(blob, &file).await?;
            let layer = Layer {
                digest: blob.digest.clone(),
                diff_id: String::new(),
                size: blob.size.cast_unsigned(),
                media_type: blob.media_type.clone(),
            };
            registry.push_file(&layer, &file, &of_upload(&layer, progress)).await?;
        }
        Ok(Some(Base { layers: pulled.manifest.layers, config: pulled.config }))
    }

    /// Uploads a layer, unless the registry has it here or in the repository that it was sent to before.
    async fn push_layer(
        &self,
        registry: &Registry,
        layer: &Layer,
        file: &Path,
        progress: &Progress<'_>,
    ) -> Result<(), BuildError> {
        let key = sent_key(registry, layer);
        if !registry.has_blob(&layer.digest).await? {
            let elsewhere = self.single_flight.sent_to(&key);
            let mounted = match elsewhere.filter(|path| path != registry.path()) {
                Some(path) => registry.mount(&layer.digest, &path).await,
                None => false,
            };
            if !mounted {
                registry.push_file(layer, file, &of_upload(layer, progress)).await?;
            }
        }
        self.single_flight.sent(key, registry.path().to_owned());
        Ok(())
    }
}

impl<C: RegistryCredentials> Builder for OciBuilder<C> {
    async fn find(&self, request: &Request) -> Result<Option<Image>, BuildError> {
        let target = self.target(request).await?;
        let constraints = constraints(self.settings.constraints.as_deref())?;
        let tag = self.tag(request, &target, constraints.as_deref());
        let registry = self.registry(&request.target, Access::Read).await?;
        self.found(&registry, &tag, request, &target).await
    }

    async fn build(&self, request: &Request, progress: &Progress<'_>) -> Result<Image, BuildError> {
        let target = self.target(request).await?;
        let constraints = constraints(self.settings.constraints.as_deref())?;
        let tag = self.tag(request, &target, constraints.as_deref());
        let _alone = self.single_flight.enter(format!("image {}:{tag}", request.target)).await;
        let _slot =
            self.slots.acquire().await.map_err(|_| BuildError::Transient("the controller is stopping".to_owned()))?;
        let _kept = self.caches.enter().await?;
        let registry = self.registry(&request.target, Access::Write).await?;
        if let Some(image) = self.found(&registry, &tag, request, &target).await? {
            return Ok(image);
        }

        progress("fetching".to_owned());
        let tree = {
            let _alone = self.single_flight.enter(format!("git {}", request.git_url)).await;
            self.repositories.tree(&request.git_url, &request.commit, request.subdirectory.as_deref()).await?
        };
        if let Some(dockerfile) = &request.dockerfile {
            return self.outside(dockerfile, request, &tree, &target, &registry, &tag, progress).await;
        }
        let pyproject = self.repositories.texts(&tree, ["pyproject.toml"]).await?;
        let load = load(&request.code, &tree.files(), pyproject.get("pyproject.toml").map(String::as_str))?;
        let base = self.base(&registry, &target, progress).await?;
        let dependencies =
            self.dependencies(request, &tree, &target, constraints.as_deref(), &registry, progress).await?;
        progress("packing".to_owned());
        let code = self.code_layer(&tree).await?;

        progress("uploading".to_owned());
        self.push_dependencies(&registry, &dependencies, progress).await?;
        self.push_layer(&registry, &code.layer, &code.file, progress).await?;
        let assembled = Assembly {
            base: base.as_ref(),
            dependencies: &dependencies.layer,
            code: &code.layer,
            load: &load,
            architecture: target.architecture,
            python: &target.python,
            location: request.location.as_str(),
            commit: &request.commit,
            commit_time: tree.commit_time,
        }
        .assemble()?;
        registry.push_bytes(assembled.config, &assembled.config_digest).await?;
        let digest = registry.push_manifest(&tag, assembled.manifest).await?;
        let reference = format!("{}@{digest}", request.target);
        Ok(Image { reference, commit: Some(request.commit.clone()), load })
    }

    async fn digest(&self, tag: &str) -> Result<Option<String>, BuildError> {
        let reference = Reference::from_str(tag)
            .map_err(|error| BuildError::Terminal(format!("{tag} is not an image reference: {error}")))?;
        let home = format!("{}/{}", reference.resolve_registry(), reference.repository());
        let registry = self.registry(&home, Access::Read).await?;
        registry.digest_of(reference.tag().unwrap_or("latest")).await
    }
}

/// Tells how far an upload is, in MiB.
fn of_upload<'a>(layer: &Layer, progress: &'a Progress<'_>) -> impl Fn(u64) + Send + Sync + 'a {
    let whole = layer.size >> 20;
    move |done| progress(format!("uploading {done}/{whole} MiB"))
}

/// What `SingleFlight` knows a layer of a registry by.
fn sent_key(registry: &Registry, layer: &Layer) -> String {
    format!("{} {}", registry.host(), layer.digest)
}

/// Removes what an earlier process left in the spool when it was killed. Another process may be at work in there now, so
/// only what is older than any build goes; what cannot be removed is tried again next time.
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

async fn version_of(interpreter: &Path, work: &Path) -> Result<String, BuildError> {
    let folder = fresh_folder(&work.join("spool"))?;
    let script = "import sys; print('%d.%d.%d' % sys.version_info[:3])";
    let output = Program::new(interpreter, Duration::from_mins(1))
        .folder(folder.path())
        .arguments(["-I", "-S", "-c", script])
        .run()
        .await?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || version.split('.').count() != 3 {
        return Err(BuildError::Transient(format!(
            "{} does not tell its version: {}",
            interpreter.display(),
            tail(&output.stderr)
        )));
    }
    Ok(version)
}

/// Work that must not run twice at the same moment, by name; and where layers were sent.
#[derive(Default)]
struct SingleFlight {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    sent: Mutex<HashMap<String, String>>,
}

impl SingleFlight {
    async fn enter(&self, key: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = lock(&self.locks);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// The repository path that a layer was sent to last, by registry and digest.
    fn sent_to(&self, key: &str) -> Option<String> {
        lock(&self.sent).get(key).cloned()
    }

    fn sent(&self, key: String, path: String) {
        lock(&self.sent).insert(key, path);
    }
}

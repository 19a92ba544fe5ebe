//! Wiring: the parts of a daemon, put together in one place for the program, the tests and the benchmark.

use std::sync::Arc;
use std::time::Duration;

use codeloc_aws::build_cache::S3BuildCache;
use codeloc_aws::codebuild::CodeBuild;
use codeloc_aws::isolated::{IsolatedSettings, IsolatedTasks};
use codeloc_aws::lease::Lease;
use codeloc_aws::rate_limit::RateLimiter;
use codeloc_aws::registry_credentials::EcrCredentials;
use codeloc_aws::{Clients, SdkConfig};
use codeloc_core::deployment::Deployment;
use codeloc_crds::GitReference;
use codeloc_dagster::WorkspaceError;
use codeloc_dagster::code_server::GrpcCodeServer;
use codeloc_dagster::webserver::GraphqlWebserver;
use codeloc_dagster::workspace_file::Publisher;
use codeloc_git::refs::{RefKey, Refs, RefsSettings, ResolveReference};
use codeloc_git::{Git, GitSettings};
use codeloc_images::{BuildError, Buildah, OciBuilder};
use tokio::sync::watch;

use super::{Daemon, DeploymentError, MovedRefs, Progress, find_deployment};
use crate::config_source::{SourceSettings, SourceState};
use crate::reconcile::queue::Queue;
use crate::reconcile::{
    Aws, Context, DesiredState, Executor, Images, Observer, Policy, Ports, Retry, StatusRecorder, WorkspacePublisher,
};
use crate::runtime::Clock;
use crate::settings::{Compression, Platform, Settings};
use crate::status::Recorder;

/// Branches that codeloc asks git for at the same time.
const REFS_AT_ONCE: usize = 8;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}

pub async fn aws(settings: &Settings) -> SdkConfig {
    codeloc_aws::config(settings.aws.region.as_deref(), settings.aws.endpoint_url.as_deref()).await
}

pub fn git(settings: &Settings) -> Git {
    Git::new(GitSettings {
        program: settings.git.program.clone(),
        home: settings.build.work_folder.join("git-home"),
        url_rewrites: settings.git.url_rewrites.clone(),
        tokens: settings.git.tokens.clone(),
        allow_local: settings.git.allow_local,
        timeout: Duration::from_secs(settings.git.timeout_seconds),
    })
}

pub fn source(settings: &Settings) -> SourceSettings {
    let interval = Duration::from_secs(settings.git.poll_seconds);
    let source = &settings.source;
    match (&source.path, &source.git_url) {
        (None, Some(url)) => SourceSettings::Git {
            url: url.clone(),
            reference: GitReference::Branch(source.git_branch.clone().unwrap_or_else(|| "main".to_owned())),
            folder: source.git_folder.clone().unwrap_or_else(|| "repos".to_owned()),
            work: settings.build.work_folder.join("configs"),
            interval,
        },
        (path, _) => SourceSettings::Folder { root: path.clone().unwrap_or_default(), interval },
    }
}

/// The parts of a daemon that differ between the program, the tests and the benchmark.
pub struct Parts<P: Ports> {
    pub settings: Settings,
    pub clients: Clients,
    pub limits: Arc<RateLimiter>,
    pub deployment: Deployment,
    /// The name of this process in the lease.
    pub holder: String,
    pub refs: Refs,
    pub builder: P::Builder,
    pub code_server: P::CodeServer,
    pub webserver: Option<P::Webserver>,
    pub clock: Clock,
    pub source: watch::Receiver<SourceState>,
}

impl<P: Ports> Parts<P> {
    /// Creates the daemon. Changes nothing. Errors: `workspace.yaml` exists and cannot be read.
    pub fn assemble(self) -> Result<Daemon<P>, WorkspaceError> {
        let Self {
            settings,
            clients,
            limits,
            deployment,
            holder,
            refs,
            builder,
            code_server,
            webserver,
            clock,
            source,
        } = self;
        let queue = Arc::new(Queue::default());
        let recorder = Arc::new(Recorder::new(clock));
        let file = Publisher::new(&settings.dagster.workspace_file);
        let publisher = Arc::new(WorkspacePublisher::open(file, webserver, recorder.clone())?);
        let (bucket, seconds) = (&settings.aws.bucket, settings.reconcile.lease_seconds);
        let lease = Lease::new(clients.s3.clone(), bucket, &settings.deployment, holder, seconds);
        let aws = Arc::new(Aws::new(clients, deployment, limits, lease));
        let images = Images::new(builder, queue.clone(), recorder.clone());
        let platform =
            (settings.build.platform == Platform::Host).then(|| format!("host ({})", std::env::consts::ARCH));
        let context = Context {
            observer: Observer::new(aws.clone(), code_server, publisher.clone()),
            desired: DesiredState::new(&settings.deployment, refs, images),
            policy: Policy { mode: settings.mode, allow_prune: settings.allow_prune },
            executor: Executor::new(aws, publisher.clone()),
            retry: Retry::default(),
            status: StatusRecorder::new(recorder, clock, platform),
        };
        Ok(Daemon { settings, context, publisher, queue, progress: Progress::default(), clock, source })
    }
}

/// Follows branches and tags; those that move arrive at the receiver.
pub fn follow_refs(remote: impl ResolveReference, settings: &Settings) -> (Refs, MovedRefs) {
    let interval = Duration::from_secs(settings.git.poll_seconds);
    let (moved, receiver) = tokio::sync::mpsc::unbounded_channel::<RefKey>();
    let refs = Refs::start(remote, RefsSettings { interval, parallelism: REFS_AT_ONCE }, move |key| {
        // The receiver lives until the process ends.
        let _ = moved.send(key.clone());
    });
    (refs, receiver)
}

/// The ports of the program.
pub struct Program;

impl Ports for Program {
    type Builder = OciBuilder<EcrCredentials>;
    type CodeServer = GrpcCodeServer;
    type Webserver = GraphqlWebserver;
}

/// Creates the daemon of the program. Reads from AWS where the deployment is.
pub async fn daemon(
    settings: Settings,
    source: watch::Receiver<SourceState>,
) -> Result<(Arc<Daemon<Program>>, MovedRefs), WiringError> {
    let config = aws(&settings).await;
    let limits = Arc::new(RateLimiter::default());
    let clients = Clients::new(&config, &limits);
    let deployment = find_deployment(&settings, &clients, codeloc_aws::region(&config)).await?;
    let git = git(&settings);
    let (refs, moved) = follow_refs(git.clone(), &settings);
    let build_cache = S3BuildCache::new(clients.s3.clone(), &settings.aws.bucket, &settings.deployment);
    let builder = OciBuilder::new(build_settings(&settings), git, EcrCredentials::new(clients.ecr.clone()))?;
    let builder = with_dockerfiles(builder.with_build_cache(build_cache), &settings, &clients)?;
    let builder = with_isolated(builder, &settings, &clients, &deployment);
    let timeout = Duration::from_secs(settings.dagster.timeout_seconds);
    let parts = Parts::<Program> {
        limits,
        deployment,
        holder: holder(),
        refs,
        builder,
        code_server: GrpcCodeServer::new(timeout),
        webserver: settings.dagster.webserver_url.as_deref().map(|url| GraphqlWebserver::new(url, timeout)),
        clock: Clock::of_this_machine(),
        source,
        settings,
        clients,
    };
    Ok((Arc::new(parts.assemble()?), moved))
}

/// With what builds Dockerfiles, where the settings name it.
fn with_dockerfiles(
    builder: OciBuilder<EcrCredentials>,
    settings: &Settings,
    clients: &Clients,
) -> Result<OciBuilder<EcrCredentials>, BuildError> {
    let (aws, build) = (&settings.aws, &settings.build);
    let timeout = Duration::from_mins(build.dockerfile_minutes);
    if let Some(project) = &build.codebuild_project {
        let (client, s3) = (clients.codebuild.clone(), clients.s3.clone());
        let codebuild = CodeBuild::new(client, s3, &aws.bucket, &settings.deployment, project, timeout);
        return Ok(builder.with_dockerfiles(codebuild));
    }
    let Some(program) = &build.buildah else { return Ok(builder) };
    let buildah = Buildah::new(program, &build.work_folder.join("build"), timeout)
        .map_err(|error| BuildError::terminal("cannot use the path in build.buildah").caused_by(error))?;
    Ok(builder.with_dockerfiles(buildah))
}

/// With tasks for other people's code, if the settings name their image.
fn with_isolated(
    builder: OciBuilder<EcrCredentials>,
    settings: &Settings,
    clients: &Clients,
    deployment: &Deployment,
) -> OciBuilder<EcrCredentials> {
    let build = &settings.build;
    let Some(image) = &build.isolated_image else { return builder };
    let own = &build.isolated_security_groups;
    let security_groups = if own.is_empty() { &settings.aws.security_groups } else { own };
    let isolated = IsolatedSettings {
        image: image.clone(),
        security_groups: security_groups.clone(),
        cpu: build.isolated_cpu,
        memory: build.isolated_memory,
        disk_gib: build.isolated_disk_gib,
        timeout: Duration::from_mins(build.isolated_minutes),
    };
    builder.with_isolated(IsolatedTasks::new(clients, deployment, isolated))
}

/// This process and no other: host, process and the moment it began.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let began = Clock::of_this_machine().now().as_millisecond();
    format!("{host}/{}/{began}", std::process::id())
}

pub fn build_settings(settings: &Settings) -> codeloc_images::BuildSettings {
    let of = &settings.build;
    codeloc_images::BuildSettings {
        uv: of.uv.clone(),
        python: of.compile_python.clone(),
        default_python: of.python.clone(),
        base_image: if of.base_image == "scratch" {
            codeloc_images::BaseImage::Scratch
        } else {
            codeloc_images::BaseImage::Reference(of.base_image.clone())
        },
        requirements: of.requirements.clone(),
        constraints: of.constraints.clone(),
        index_url: of.index_url.clone(),
        indexes: of
            .indexes
            .iter()
            .map(|(name, url)| codeloc_images::PackageIndex {
                name: name.clone(),
                url: url.clone(),
                credentials: of.index_credentials.get(name).cloned(),
            })
            .collect(),
        exclusive_packages: of.exclusive_packages.clone(),
        platform: match of.platform {
            Platform::Config => codeloc_images::Platform::Requested,
            Platform::Host => codeloc_images::Platform::Host,
        },
        compression: match of.compression {
            Compression::Zstd => codeloc_images::Compression::Zstd,
            Compression::Gzip => codeloc_images::Compression::Gzip,
        },
        limits: codeloc_images::Limits { caches: u64::from(of.cache_gib) << 30, ..codeloc_images::Limits::default() },
        parallel: settings.reconcile.builds,
        ..codeloc_images::BuildSettings::new(of.work_folder.join("build"))
    }
}

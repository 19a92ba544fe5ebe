//! Puts the real parts together: AWS, git, the builder, the code servers and the webserver.

use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use codeloc_aws::build_cache::S3BuildCache;
use codeloc_aws::codebuild::CodeBuild;
use codeloc_aws::lease::Lease;
use codeloc_aws::limits::Limits;
use codeloc_aws::registry_credentials::EcrCredentials;
use codeloc_aws::{Cache, Clients};
use codeloc_crds::GitReference;
use codeloc_dagster::code_server::GrpcCodeServer;
use codeloc_dagster::webserver::GraphqlWebserver;
use codeloc_dagster::workspace::Publisher;
use codeloc_git::refs::{RefKey, Refs, RefsSettings};
use codeloc_git::{Git, GitSettings};
use codeloc_images::{BuildError, Buildah, OciBuilder};

use super::Failure;
use crate::config_source::SourceSettings;
use crate::reconcile::queue::Queue;
use crate::reconcile::{Context, Images, Reconciler, Workspace, deployment};
use crate::runtime::Clock;
use crate::settings::{Compression, Platform, Settings};
use crate::status::{Recorder, StatusStore};

pub type Real = Reconciler<OciBuilder<EcrCredentials>, GrpcCodeServer, GraphqlWebserver>;

/// Branches that moved.
pub type Moved = tokio::sync::mpsc::UnboundedReceiver<RefKey>;

/// Branches that are asked for at once.
const HEADS_AT_ONCE: usize = 8;

pub async fn aws(settings: &Settings) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(5))
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(5))
                .operation_attempt_timeout(Duration::from_secs(20))
                .build(),
        );
    if let Some(region) = &settings.aws.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &settings.aws.endpoint_url {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
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

/// Everything a pass touches. Reads from AWS where the deployment lives.
pub async fn reconciler(settings: Settings) -> Result<(Real, Moved), Failure> {
    let config = aws(&settings).await;
    let limits = Arc::new(Limits::default());
    let clients = Clients::new(&config, &limits);
    let deployment = deployment::find(&settings, &clients, config.region().map(Region::as_ref)).await?;
    let git = git(&settings);
    let queue = Arc::new(Queue::default());
    let clock = Clock::of_this_machine();
    let recorder = Arc::new(Recorder::new(clock));
    let statuses = StatusStore::default();
    let refs_settings =
        RefsSettings { interval: Duration::from_secs(settings.git.poll_seconds), parallelism: HEADS_AT_ONCE };
    let (moved, receiver) = tokio::sync::mpsc::unbounded_channel::<RefKey>();
    let refs = Refs::start(git.clone(), refs_settings, move |key| {
        // The receiver lives as long as the process.
        let _ = moved.send(key.clone());
    });
    let build_cache = S3BuildCache::new(clients.s3.clone(), &settings.aws.bucket, &settings.deployment);
    let builder = OciBuilder::new(build_settings(&settings), git, EcrCredentials::new(clients.ecr.clone()))?;
    let builder = with_dockerfiles(builder.with_build_cache(build_cache), &settings, &clients)?;
    let timeout = Duration::from_secs(settings.dagster.timeout_seconds);
    let webserver = settings.dagster.webserver_url.as_deref().map(|url| GraphqlWebserver::new(url, timeout));
    let lease = Lease::new(
        clients.s3.clone(),
        &settings.aws.bucket,
        &settings.deployment,
        holder(),
        settings.reconcile.lease_seconds,
    );
    let context = Context {
        limits,
        lease: Arc::new(lease),
        images: Images::new(builder, settings.reconcile.builds, queue.clone(), recorder.clone()),
        workspace: Workspace::open(Publisher::new(&settings.dagster.workspace_file), webserver, recorder.clone())?,
        code_server: GrpcCodeServer::new(timeout),
        cache: Cache::default(),
        settings,
        deployment,
        clients,
        refs,
        statuses,
        queue,
        clock,
        recorder,
    };
    Ok((Reconciler::new(context), receiver))
}

/// With what builds Dockerfiles, where the settings name it.
fn with_dockerfiles(
    builder: OciBuilder<EcrCredentials>,
    settings: &Settings,
    clients: &Clients,
) -> Result<OciBuilder<EcrCredentials>, BuildError> {
    let (aws, build) = (&settings.aws, &settings.build);
    if let Some(project) = &build.codebuild_project {
        let (client, s3) = (clients.codebuild.clone(), clients.s3.clone());
        return Ok(builder.with_dockerfiles(CodeBuild::new(client, s3, &aws.bucket, &settings.deployment, project)));
    }
    let Some(program) = &build.buildah else { return Ok(builder) };
    let buildah = Buildah::new(program, &build.work_folder.join("build"))
        .map_err(|error| BuildError::terminal("cannot use the path in build.buildah").caused_by(error))?;
    Ok(builder.with_dockerfiles(buildah))
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
        base_image: if of.base_image == "scratch" {
            codeloc_images::BaseImage::Scratch
        } else {
            codeloc_images::BaseImage::Reference(of.base_image.clone())
        },
        requirements: of.requirements.clone(),
        constraints: of.constraints.clone(),
        index_url: of.index_url.clone(),
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

//! AWS `CodeBuild`, for production: a project of the operator builds and pushes, with its own role.
//!
//! codeloc uploads the commit's files to the platform's bucket and passes variables to the project. It overrides the project's
//! buildspec: the project needs only a role and an environment with Docker and the architecture of the images.
//!
//! Guarantees: no build runs longer than codeloc's limit; a build that codeloc no longer waits for is stopped, and its files are
//! deleted. Builds that wait in `CodeBuild`'s queue do not use up their limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_codebuild::types::{Build, EnvironmentVariable, SourceType, StatusType};
use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::lock::lock;
use codeloc_core::names;
use codeloc_images::{BuildError, DockerfileBuilder, OnProgress, Order, Progress, disk_error};
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use crate::error::{CallError, Class};
use crate::session::call;

/// The time between two reads of a build, which takes minutes.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The longest time in the queue of a project (`CodeBuild` User Guide, quotas: 8 hours).
const QUEUE_LIMIT: Duration = Duration::from_hours(8);
/// `CodeBuild` ends a build at its own limit first, and then has a log.
const GRACE: Duration = Duration::from_mins(5);
/// How long `CodeBuild` answers a repeated idempotency token with the same build (`CodeBuild` API reference, `StartBuild`).
const TOKEN_LIFETIME: Duration = Duration::from_mins(5);

/// Everything that differs between builds is in a variable: a branch or a path cannot become a command.
const BUILDSPEC: &str = r#"version: 0.2
phases:
  pre_build:
    commands:
      - mkdir context
      - aws s3 cp "$CODELOC_CONTEXT" - | tar --extract --gzip --directory context
      - aws ecr get-login-password | docker login --username AWS --password-stdin "$CODELOC_REGISTRY"
  build:
    commands:
      - docker build --platform "linux/$CODELOC_ARCHITECTURE" --file "context/$CODELOC_DOCKERFILE" --tag "$CODELOC_IMAGE" context
  post_build:
    commands:
      - test "$CODEBUILD_BUILD_SUCCEEDING" = 1
      - docker push "$CODELOC_IMAGE"
"#;

#[derive(Clone, Debug)]
pub struct CodeBuild {
    client: aws_sdk_codebuild::Client,
    s3: aws_sdk_s3::Client,
    bucket: String,
    /// The prefix of the uploaded files, without a slash at the end.
    prefix: String,
    project: String,
    /// The time limit of one build, without its time in the queue.
    timeout: Duration,
    /// The last build of each tag that has ended: its id, and when codeloc saw that.
    ended: Arc<Mutex<HashMap<String, (String, Instant)>>>,
    /// The number of builds that codeloc no longer waited for.
    replaced: Arc<AtomicU32>,
}

impl CodeBuild {
    pub fn new(
        client: aws_sdk_codebuild::Client,
        s3: aws_sdk_s3::Client,
        bucket: &str,
        deployment: &str,
        project: &str,
        timeout: Duration,
    ) -> Self {
        let prefix = format!("{}/builds/contexts", names::own_prefix(deployment));
        let (bucket, project) = (bucket.to_owned(), project.to_owned());
        Self { client, s3, bucket, prefix, project, timeout, ended: Arc::default(), replaced: Arc::default() }
    }

    async fn build_and_push(&self, order: &Order, progress: &OnProgress<'_>) -> Result<(), BuildError> {
        let tag = order.image.rsplit_once(':').map_or("", |(_, tag)| tag).to_owned();
        let token = self.token(&tag);
        let key = format!("{}/{token}.tar.gz", self.prefix);
        let mut running = Running { codebuild: self, tag, token, key, starting: None, build: None, ended: false };
        let done = self.build_from(order, &mut running, progress).await;
        running.ended = true;
        self.delete_context(&running.key).await;
        done
    }

    /// If this fails, the next build of this commit overwrites the object.
    async fn delete_context(&self, key: &str) {
        let deleted = call("s3:DeleteObject", self.s3.delete_object().bucket(&self.bucket).key(key).send()).await;
        if let Err(error) = deleted {
            tracing::warn!(%key, %error, "cannot delete the files of a build from the bucket; delete the object");
        }
    }

    /// If this fails, `CodeBuild` ends the build at its time limit.
    async fn stop(&self, id: &str) {
        let stopped = call("codebuild:StopBuild", self.client.stop_build().id(id).send()).await;
        if let Err(error) = stopped {
            tracing::warn!(build = id, %error, "cannot stop a build that nothing waits for; stop it in CodeBuild");
        }
    }

    async fn build_from(
        &self,
        order: &Order,
        running: &mut Running<'_>,
        progress: &OnProgress<'_>,
    ) -> Result<(), BuildError> {
        let body = ByteStream::from_path(&order.context)
            .await
            .map_err(|error| disk_error(&order.context, std::io::Error::other(error)))?;
        let put = self.s3.put_object().bucket(&self.bucket).key(&running.key).body(body);
        call("s3:PutObject", put.send()).await.map_err(refused)?;

        progress(Progress::Dockerfile("CodeBuild: starting".to_owned()));
        let id = self.start(order, running).await?;
        running.build = Some(id.clone());
        let mut deadline = Deadline::new(self.timeout);
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let request = self.client.batch_get_builds().ids(&id);
            let answer = match call("codebuild:BatchGetBuilds", request.send()).await {
                Ok(answer) => answer,
                Err(error) if error.class == Class::Terminal || deadline.has_passed() => return Err(refused(error)),
                Err(error) => {
                    tracing::warn!(build = id, %error, "cannot read the status of a build; codeloc retries");
                    continue;
                }
            };
            let Some(build) = answer.builds.unwrap_or_default().into_iter().next() else {
                return Err(BuildError::transient(format!("CodeBuild no longer has the build {id}")));
            };
            let phase = build.current_phase().unwrap_or("waiting").to_lowercase();
            match build.build_status() {
                None | Some(StatusType::InProgress) if deadline.after_phase(&phase).has_passed() => {
                    self.remember_end(&running.tag, &id);
                    self.stop(&id).await;
                    let minutes = self.timeout.as_secs() / 60;
                    let limit =
                        format!("it takes longer than {minutes} min (build.dockerfile_minutes){}", log_link(&build));
                    return Err(BuildError::dockerfile(format!(
                        "CodeBuild cannot build {}: {limit}",
                        order.dockerfile
                    )));
                }
                None | Some(StatusType::InProgress) => progress(Progress::Dockerfile(format!("CodeBuild: {phase}"))),
                Some(status) => {
                    self.remember_end(&running.tag, &id);
                    return match status {
                        StatusType::Succeeded => Ok(()),
                        status => Err(failure(&order.dockerfile, &build, status)),
                    };
                }
            }
        }
    }

    /// Starts a build. After a restart, codeloc finds the build that it started before.
    async fn start(&self, order: &Order, running: &mut Running<'_>) -> Result<String, BuildError> {
        let variables = [
            ("CODELOC_CONTEXT", format!("s3://{}/{}", self.bucket, running.key)),
            ("CODELOC_REGISTRY", order.host().to_owned()),
            ("CODELOC_ARCHITECTURE", order.architecture.to_owned()),
            ("CODELOC_DOCKERFILE", order.dockerfile.clone()),
            ("CODELOC_IMAGE", order.image.clone()),
        ];
        let variable = |(name, value): (&str, String)| EnvironmentVariable::builder().name(name).value(value).build();
        let variables: Vec<EnvironmentVariable> = variables.into_iter().filter_map(|one| variable(one).ok()).collect();
        let minutes = i32::try_from(self.timeout.as_secs() / 60).unwrap_or(i32::MAX);
        let start = self
            .client
            .start_build()
            .project_name(&self.project)
            .source_type_override(SourceType::NoSource)
            .buildspec_override(BUILDSPEC)
            .set_environment_variables_override(Some(variables))
            .timeout_in_minutes_override(minutes)
            .idempotency_token(&running.token);
        // In its own task, so that codeloc learns which build to stop, even if nothing waits for this one any more.
        let starting = tokio::spawn(async move {
            let started = call("codebuild:StartBuild", start.send()).await.map_err(refused)?;
            started.build_value.and_then(|build| build.id).ok_or_else(|| {
                BuildError::transient("cannot use CodeBuild: its answer to codebuild:StartBuild names no build")
            })
        });
        let started = running.starting.insert(starting).await;
        started.unwrap_or_else(|stopped| Err(BuildError::transient("cannot use CodeBuild").caused_by(stopped)))
    }

    /// The token of the next build. With the token of a build that has ended, `CodeBuild` would return that build.
    fn token(&self, tag: &str) -> String {
        match lock(&self.ended).get(tag) {
            Some((id, _)) => {
                let unique = id.rsplit(':').next().unwrap_or_default();
                format!("{tag}-{}", unique.get(..8).unwrap_or(unique))
            }
            None => tag.to_owned(),
        }
    }

    fn remember_end(&self, tag: &str, id: &str) {
        let mut ended = lock(&self.ended);
        ended.retain(|_, (_, at)| at.elapsed() < TOKEN_LIFETIME);
        ended.insert(tag.to_owned(), (id.to_owned(), Instant::now()));
    }
}

/// A build that codeloc waits for. If codeloc no longer does, because nothing needs the image, the build is stopped.
struct Running<'a> {
    codebuild: &'a CodeBuild,
    tag: String,
    token: String,
    /// The key of its files in the bucket.
    key: String,
    /// The call of `StartBuild`.
    starting: Option<JoinHandle<Result<String, BuildError>>>,
    /// The id of the build, once `StartBuild` has answered.
    build: Option<String>,
    ended: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // At the end of the process nothing runs the task, so the build goes on, and the next start finds it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.ended {
            return;
        }
        let (codebuild, tag, key) =
            (self.codebuild.clone(), std::mem::take(&mut self.tag), std::mem::take(&mut self.key));
        let (starting, mut build) = (self.starting.take(), self.build.take());
        // Another build of the same image must not join this one.
        let number = codebuild.replaced.fetch_add(1, Ordering::Relaxed);
        codebuild.remember_end(&tag, build.as_deref().unwrap_or(&format!("{number:08}")));
        runtime.spawn(async move {
            if let (None, Some(starting)) = (&build, starting) {
                build = starting.await.ok().and_then(Result::ok);
            }
            if let Some(id) = build {
                codebuild.stop(&id).await;
            }
            codebuild.delete_context(&key).await;
        });
    }
}

/// When codeloc gives a build up, even if `CodeBuild` does not end it.
struct Deadline {
    at: Instant,
    timeout: Duration,
    queued: bool,
}

impl Deadline {
    fn new(timeout: Duration) -> Self {
        Self { at: Instant::now() + QUEUE_LIMIT + GRACE, timeout, queued: true }
    }

    /// The time limit starts when the build leaves the queue.
    fn after_phase(&mut self, phase: &str) -> &Self {
        if self.queued && !matches!(phase, "submitted" | "queued" | "waiting") {
            self.queued = false;
            self.at = Instant::now() + self.timeout + GRACE;
        }
        self
    }

    fn has_passed(&self) -> bool {
        Instant::now() >= self.at
    }
}

impl DockerfileBuilder for CodeBuild {
    fn build<'a>(&'a self, order: &'a Order, progress: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.build_and_push(order, progress))
    }
}

/// Transient: the operator can fix it, and no new commit helps.
fn refused(error: CallError) -> BuildError {
    BuildError::transient("cannot use CodeBuild").caused_by(error)
}

/// The messages of the failed phases and the link to the log.
fn failure(dockerfile: &str, build: &Build, status: &StatusType) -> BuildError {
    let failed = build.phases().iter().filter(|phase| phase.phase_status().is_some_and(|one| *one == *status));
    let messages: Vec<String> = failed
        .flat_map(|phase| {
            let name = phase.phase_type().map_or_else(String::new, |kind| kind.as_str().to_lowercase());
            let texts = phase.contexts().iter().filter_map(|context| context.message());
            texts.map(|message| format!("{name}: {}", message.trim())).collect::<Vec<_>>()
        })
        .collect();
    let reason = if messages.is_empty() { status.as_str().to_lowercase() } else { messages.join("; ") };
    let text = format!("CodeBuild cannot build {dockerfile}: {reason}{}", log_link(build));
    match status {
        // The Dockerfile, or what it downloads, is at fault.
        StatusType::Failed | StatusType::TimedOut => BuildError::dockerfile(text),
        StatusType::Stopped => BuildError::stopped(text),
        // An internal error of CodeBuild.
        _ => BuildError::transient(text),
    }
}

fn log_link(build: &Build) -> String {
    build.logs().and_then(|logs| logs.deep_link()).map_or_else(String::new, |link| format!("; its log: {link}"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_codebuild::types::{BuildPhase, BuildPhaseType, LogsLocation, PhaseContext};
    use codeloc_images::ErrorClass;

    use super::*;

    fn phase(kind: BuildPhaseType, status: StatusType, message: &str) -> BuildPhase {
        let context = PhaseContext::builder().message(message).build();
        BuildPhase::builder().phase_type(kind).phase_status(status).contexts(context).build()
    }

    #[test]
    fn a_failed_command_names_phase_message_and_log() {
        let build = Build::builder()
            .phases(phase(BuildPhaseType::PreBuild, StatusType::Succeeded, "fine"))
            .phases(phase(BuildPhaseType::Build, StatusType::Failed, " exit status 1\n"))
            .logs(LogsLocation::builder().deep_link("https://logs.example").build())
            .build();
        let error = failure("Dockerfile", &build, &StatusType::Failed);
        assert_eq!(error.class(), ErrorClass::Dockerfile);
        let expected = "CodeBuild cannot build Dockerfile: build: exit status 1; its log: https://logs.example";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_status_of_a_build_decides_whether_codeloc_retries() {
        for (status, class, text) in [
            (StatusType::Failed, ErrorClass::Dockerfile, "failed"),
            (StatusType::TimedOut, ErrorClass::Dockerfile, "timed_out"),
            (StatusType::Stopped, ErrorClass::Stopped, "stopped"),
            (StatusType::Fault, ErrorClass::Transient, "fault"),
        ] {
            let error = failure("Dockerfile", &Build::builder().build(), &status);
            assert_eq!(error.class(), class, "{status}");
            assert_eq!(error.to_string(), format!("CodeBuild cannot build Dockerfile: {text}"));
        }
    }

    #[test]
    fn no_value_of_a_commit_is_part_of_the_buildspec() {
        for variable in ["CONTEXT", "REGISTRY", "ARCHITECTURE", "DOCKERFILE", "IMAGE"] {
            assert!(BUILDSPEC.contains(&format!("$CODELOC_{variable}")), "{variable}");
        }
    }
}

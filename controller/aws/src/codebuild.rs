//! AWS `CodeBuild`, for production: a project of the operator builds and pushes, with its own role.
//!
//! codeloc uploads the commit's files to the platform's bucket and passes variables to the project. It overrides the project's
//! buildspec: the project needs only a role and an environment with Docker and the architecture of the images.

use aws_sdk_codebuild::types::{Build, EnvironmentVariable, SourceType, StatusType};
use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::names;
use codeloc_images::{BuildError, DockerfileBuilder, OnProgress, Order, Progress, disk_error};
use futures::future::BoxFuture;
use tokio::time::Duration;

use crate::error::CallError;
use crate::session::call;

/// The time between two reads of a build, which takes minutes.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

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
}

impl CodeBuild {
    pub fn new(
        client: aws_sdk_codebuild::Client,
        s3: aws_sdk_s3::Client,
        bucket: &str,
        deployment: &str,
        project: &str,
    ) -> Self {
        let prefix = format!("{}/builds/contexts", names::own_prefix(deployment));
        Self { client, s3, bucket: bucket.to_owned(), prefix, project: project.to_owned() }
    }

    async fn build_and_push(&self, order: &Order, progress: &OnProgress<'_>) -> Result<(), BuildError> {
        let tag = order.image.rsplit_once(':').map_or("", |(_, tag)| tag);
        let key = format!("{}/{tag}.tar.gz", self.prefix);
        let done = self.build_from(order, tag, &key, progress).await;
        // If this fails, the next build of this commit overwrites the object.
        let deleted = call("s3:DeleteObject", self.s3.delete_object().bucket(&self.bucket).key(&key).send()).await;
        if let Err(error) = deleted {
            tracing::warn!(%key, %error, "cannot delete the files of a build from the bucket; delete the object");
        }
        done
    }

    async fn build_from(
        &self,
        order: &Order,
        tag: &str,
        key: &str,
        progress: &OnProgress<'_>,
    ) -> Result<(), BuildError> {
        let body = ByteStream::from_path(&order.context)
            .await
            .map_err(|error| disk_error(&order.context, std::io::Error::other(error)))?;
        let put = self.s3.put_object().bucket(&self.bucket).key(key).body(body);
        call("s3:PutObject", put.send()).await.map_err(refused)?;

        progress(Progress::Dockerfile("CodeBuild: starting".to_owned()));
        let variables = [
            ("CODELOC_CONTEXT", format!("s3://{}/{key}", self.bucket)),
            ("CODELOC_REGISTRY", order.host().to_owned()),
            ("CODELOC_ARCHITECTURE", order.architecture.to_owned()),
            ("CODELOC_DOCKERFILE", order.dockerfile.clone()),
            ("CODELOC_IMAGE", order.image.clone()),
        ];
        let variable = |(name, value): (&str, String)| EnvironmentVariable::builder().name(name).value(value).build();
        let variables: Vec<EnvironmentVariable> = variables.into_iter().filter_map(|one| variable(one).ok()).collect();
        let start = self
            .client
            .start_build()
            .project_name(&self.project)
            .source_type_override(SourceType::NoSource)
            .buildspec_override(BUILDSPEC)
            .set_environment_variables_override(Some(variables))
            // After a restart, codeloc finds the build that it started before.
            .idempotency_token(tag);
        let started = call("codebuild:StartBuild", start.send()).await.map_err(refused)?;
        let id = started.build_value.and_then(|build| build.id).ok_or_else(|| {
            BuildError::transient("cannot use CodeBuild: its answer to codebuild:StartBuild names no build")
        })?;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let request = self.client.batch_get_builds().ids(&id);
            let answer = call("codebuild:BatchGetBuilds", request.send()).await.map_err(refused)?;
            let Some(build) = answer.builds.unwrap_or_default().into_iter().next() else {
                return Err(BuildError::transient(format!("CodeBuild no longer has the build {id}")));
            };
            match build.build_status() {
                None | Some(StatusType::InProgress) => {
                    let phase = build.current_phase().unwrap_or("waiting").to_lowercase();
                    progress(Progress::Dockerfile(format!("CodeBuild: {phase}")));
                }
                Some(StatusType::Succeeded) => return Ok(()),
                Some(status) => return Err(failure(&order.dockerfile, &build, status)),
            }
        }
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

/// The messages of the failed phases and the link to the log. A failed command is the Dockerfile's fault.
fn failure(dockerfile: &str, build: &Build, status: &StatusType) -> BuildError {
    let failed = build.phases().iter().filter(|phase| phase.phase_status().is_some_and(|one| *one == *status));
    let messages: Vec<String> = failed
        .flat_map(|phase| {
            let name = phase.phase_type().map_or_else(String::new, |kind| kind.as_str().to_lowercase());
            let texts = phase.contexts().iter().filter_map(|context| context.message());
            texts.map(|message| format!("{name}: {}", message.trim())).collect::<Vec<_>>()
        })
        .collect();
    let link =
        build.logs().and_then(|logs| logs.deep_link()).map_or_else(String::new, |link| format!("; its log: {link}"));
    let reason = if messages.is_empty() { status.as_str().to_lowercase() } else { messages.join("; ") };
    let text = format!("CodeBuild cannot build {dockerfile}: {reason}{link}");
    if *status == StatusType::Failed { BuildError::terminal(text) } else { BuildError::transient(text) }
}

#[cfg(test)]
mod tests {
    use aws_sdk_codebuild::types::{BuildPhase, BuildPhaseType, LogsLocation, PhaseContext};

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
        assert!(!error.is_transient());
        let expected = "CodeBuild cannot build Dockerfile: build: exit status 1; its log: https://logs.example";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_fault_of_codebuild_is_transient() {
        let error = failure("Dockerfile", &Build::builder().build(), &StatusType::TimedOut);
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "CodeBuild cannot build Dockerfile: timed_out");
    }

    #[test]
    fn no_value_of_a_commit_is_part_of_the_buildspec() {
        for variable in ["CONTEXT", "REGISTRY", "ARCHITECTURE", "DOCKERFILE", "IMAGE"] {
            assert!(BUILDSPEC.contains(&format!("$CODELOC_{variable}")), "{variable}");
        }
    }
}

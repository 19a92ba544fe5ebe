//! AWS `CodeBuild`, for production: a project of the operator's builds and pushes, with a role of its own.
//!
//! The commit's files go to the platform's bucket, and the project is told by variables what to do with them. Its own buildspec is not
//! used, so that a project needs nothing but a role, an environment with Docker and the architecture of the images.

use aws_sdk_codebuild::types::{Build, EnvironmentVariable, SourceType, StatusType};
use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::names;
use codeloc_images::{BuildError, DockerfileBuilder, OnProgress, Order, Progress, disk_error};
use futures::future::BoxFuture;
use tokio::time::Duration;

use crate::{CallError, call};

/// Between two looks at a build, which takes minutes.
const LOOK: Duration = Duration::from_secs(5);

/// Everything that differs between two builds is in a variable, never in the text: a branch or a path cannot become a command.
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
    /// Of the files of commits, without a slash at the end.
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
        // Left behind where this fails: nobody reads it again, and the next build of this commit writes over it.
        let deleted = call("s3:DeleteObject", self.s3.delete_object().bucket(&self.bucket).key(&key).send()).await;
        if let Err(error) = deleted {
            tracing::warn!(%key, %error, "the files of a build stay in the bucket");
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
            // A process that was started anew finds the build that its predecessor began a moment ago.
            .idempotency_token(tag);
        let started = call("codebuild:StartBuild", start.send()).await.map_err(refused)?;
        let id = started.build_value.and_then(|build| build.id).ok_or_else(|| {
            BuildError::transient("cannot use CodeBuild: the answer of codebuild:StartBuild has no build")
        })?;
        loop {
            tokio::time::sleep(LOOK).await;
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
                Some(status) => return Err(failure(order, &build, status)),
            }
        }
    }
}

impl DockerfileBuilder for CodeBuild {
    fn build<'a>(&'a self, order: &'a Order, progress: &'a OnProgress<'a>) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.build_and_push(order, progress))
    }
}

/// Transient, because only the operator can fix it, and a new commit does not help.
fn refused(error: CallError) -> BuildError {
    BuildError::transient("cannot use CodeBuild").caused_by(error)
}

/// What the phases say, and where the log is. The Dockerfile is to blame where a command failed.
fn failure(order: &Order, build: &Build, status: &StatusType) -> BuildError {
    let failed = build.phases().iter().filter(|phase| phase.phase_status().is_some_and(|one| *one == *status));
    let said: Vec<String> = failed
        .flat_map(|phase| {
            let name = phase.phase_type().map_or_else(String::new, |kind| kind.as_str().to_lowercase());
            let messages = phase.contexts().iter().filter_map(|context| context.message());
            messages.map(|message| format!("{name}: {}", message.trim())).collect::<Vec<_>>()
        })
        .collect();
    let link =
        build.logs().and_then(|logs| logs.deep_link()).map_or_else(String::new, |link| format!("; its log: {link}"));
    let said = if said.is_empty() { status.as_str().to_lowercase() } else { said.join("; ") };
    let text = format!("CodeBuild cannot build {}: {said}{link}", order.dockerfile);
    if *status == StatusType::Failed { BuildError::terminal(text) } else { BuildError::transient(text) }
}

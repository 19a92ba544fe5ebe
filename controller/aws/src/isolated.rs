//! Isolated builds as ECS tasks.
//!
//! A task has no task role, no secrets and no variable of the controller. It gets one presigned URL to read its input and one to write its
//! output. The family is that of no location, because a location's name has no underscore.

use std::time::Duration;

use aws_sdk_ecs::types::{
    AssignPublicIp, AwsVpcConfiguration, Compatibility, Container, ContainerDefinition, ContainerOverride,
    CpuArchitecture, DesiredStatus, EphemeralStorage, KeyValuePair, LaunchType, LogConfiguration, LogDriver,
    NetworkConfiguration, NetworkMode, OsFamily, RuntimePlatform, Tag, Task, TaskOverride,
};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use codeloc_core::deployment::Deployment;
use codeloc_core::names;
use codeloc_core::tags;
use codeloc_crds::LocationName;
use codeloc_images::{BuildError, GUEST, IsolatedBuild, IsolatedBuilder, OnProgress, Progress, TIMED_OUT, disk_error};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::build_cache::download;
use crate::clients::Clients;
use crate::error::{CallError, Class};
use crate::session::call;

/// The time between two reads of a task, which takes minutes.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Start and end of a task, in addition to its own time limit. Fargate takes one to three minutes to start one.
const GRACE: Duration = Duration::from_mins(15);
const CONTAINER: &str = "build";
/// Fargate gives this much without being asked, in GiB.
const INCLUDED_DISK: i32 = 20;

/// The limits of one isolated build.
#[derive(Clone, Debug)]
pub struct IsolatedSettings {
    /// The image of the tasks; `{python}` is the minor version of Python.
    pub image: String,
    pub security_groups: Vec<String>,
    /// CPU units.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    pub disk_gib: u32,
    pub timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct IsolatedTasks {
    clients: Clients,
    /// Signs URLs for a client that sends no checksum.
    signing: aws_sdk_s3::Client,
    deployment: Deployment,
    settings: IsolatedSettings,
}

impl IsolatedTasks {
    pub fn new(clients: &Clients, deployment: &Deployment, settings: IsolatedSettings) -> Self {
        let signing = clients.s3.config().to_builder();
        let signing = signing.request_checksum_calculation(RequestChecksumCalculation::WhenRequired).build();
        let signing = aws_sdk_s3::Client::from_conf(signing);
        Self { clients: clients.clone(), signing, deployment: deployment.clone(), settings }
    }

    fn object(&self, key: &str, name: &str) -> String {
        format!("{}/builds/isolated/work/{key}.{name}", names::own_prefix(&self.deployment.id))
    }

    async fn build(&self, build: &IsolatedBuild, progress: &OnProgress<'_>) -> Result<(), BuildError> {
        let (input, output) = (self.object(&build.key, "input"), self.object(&build.key, "output"));
        let bucket = &self.deployment.bucket;
        let read = || download(&self.clients.s3, bucket, &output, &build.output, build.largest_output);
        // A task that a former process started may have ended.
        let mut result = Ok(());
        if !read().await? {
            result = Box::pin(self.run(build, &input, &output, progress)).await;
            if !read().await? {
                result?;
                return Err(BuildError::transient(format!("the isolated build ({}) wrote no result", build.why)));
            }
            // The report of the guest says more than the end of its task.
            result = Ok(());
        }
        for key in [&input, &output] {
            let deleted = call("s3:DeleteObject", self.clients.s3.delete_object().bucket(bucket).key(key).send()).await;
            if let Err(error) = deleted {
                tracing::warn!(%key, %error, "cannot delete the files of an isolated build from the bucket; delete the object");
            }
        }
        result
    }

    /// Runs the task to its end.
    async fn run(
        &self,
        build: &IsolatedBuild,
        input: &str,
        output: &str,
        progress: &OnProgress<'_>,
    ) -> Result<(), BuildError> {
        let (arn, definition) = if let Some(arn) = self.running(build).await? {
            (arn, None)
        } else {
            let (arn, definition) = self.start(build, input, output).await?;
            (arn, Some(definition))
        };
        let stop = StopOnDrop { tasks: self, arn: Some(arn.clone()) };
        if let Some(definition) = definition {
            // The task keeps its definition. Without this, each build would leave one.
            let request = self.clients.ecs.deregister_task_definition().task_definition(&definition);
            if let Err(error) = call("ecs:DeregisterTaskDefinition", request.send()).await {
                tracing::warn!(%definition, %error, "cannot deregister the definition of an isolated build; deregister it");
            }
        }
        let task = self.until_stopped(build, &arn, progress).await?;
        stop.forget();
        ended(build, &task, &self.settings)
    }

    /// The task of an earlier process for the same input.
    async fn running(&self, build: &IsolatedBuild) -> Result<Option<String>, BuildError> {
        let request = self
            .clients
            .ecs
            .list_tasks()
            .cluster(&self.deployment.cluster)
            .started_by(started_by(&build.key))
            .desired_status(DesiredStatus::Running);
        let tasks = call("ecs:ListTasks", request.send()).await.map_err(unavailable)?;
        Ok(tasks.task_arns().first().cloned())
    }

    /// Uploads the input and starts the task. Returns the ARNs of the task and of its definition.
    async fn start(&self, build: &IsolatedBuild, input: &str, output: &str) -> Result<(String, String), BuildError> {
        let bucket = &self.deployment.bucket;
        let body = ByteStream::from_path(&build.input).await;
        let body = body.map_err(|error| disk_error(&build.input, std::io::Error::other(error)))?;
        let put = self.clients.s3.put_object().bucket(bucket).key(input).body(body);
        call("s3:PutObject", put.send()).await.map_err(unavailable)?;

        let ecs = &self.clients.ecs;
        let registered =
            call("ecs:RegisterTaskDefinition", self.definition(build, ecs)?.send()).await.map_err(unavailable)?;
        let definition = registered.task_definition().and_then(|one| one.task_definition_arn());
        let definition = definition.ok_or_else(|| malformed("ecs:RegisterTaskDefinition", "ARN"))?.to_owned();

        let lifetime = PresigningConfig::expires_in(self.settings.timeout + GRACE).map_err(invalid)?;
        let get = self.signing.get_object().bucket(bucket).key(input).presigned(lifetime.clone());
        let put = self.signing.put_object().bucket(bucket).key(output).presigned(lifetime);
        let (get, put) = (get.await.map_err(invalid)?, put.await.map_err(invalid)?);
        let variable = |name: &str, value: &str| KeyValuePair::builder().name(name).value(value).build();
        let container = ContainerOverride::builder()
            .name(CONTAINER)
            .environment(variable("CODELOC_INPUT", get.uri()))
            .environment(variable("CODELOC_OUTPUT", put.uri()));
        let vpc = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.deployment.subnets.clone()))
            .set_security_groups(Some(self.settings.security_groups.clone()))
            .assign_public_ip(if self.deployment.assign_public_ip {
                AssignPublicIp::Enabled
            } else {
                AssignPublicIp::Disabled
            })
            .build()
            .map_err(invalid)?;
        let request = ecs
            .run_task()
            .cluster(&self.deployment.cluster)
            .task_definition(&definition)
            .launch_type(LaunchType::Fargate)
            .started_by(started_by(&build.key))
            .network_configuration(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
            .overrides(TaskOverride::builder().container_overrides(container.build()).build());
        let started = call("ecs:RunTask", request.send()).await.map_err(unavailable)?;
        match (started.tasks().first().and_then(Task::task_arn), started.failures().first()) {
            (Some(arn), _) => Ok((arn.to_owned(), definition)),
            (None, failure) => {
                let reason = failure.and_then(|failure| failure.reason()).unwrap_or("no reason");
                Err(BuildError::transient(format!("ECS does not start the isolated build: {reason}")))
            }
        }
    }

    fn definition(
        &self,
        build: &IsolatedBuild,
        ecs: &aws_sdk_ecs::Client,
    ) -> Result<
        aws_sdk_ecs::operation::register_task_definition::builders::RegisterTaskDefinitionFluentBuilder,
        BuildError,
    > {
        let location = LocationName::new(&build.location)
            .map_err(|_| BuildError::terminal(format!("{} is not the name of a location", build.location)))?;
        let Deployment { id, region, execution_role_arn, .. } = &self.deployment;
        let IsolatedSettings { image, cpu, memory, disk_gib, timeout, .. } = &self.settings;
        let logs = LogConfiguration::builder()
            .log_driver(LogDriver::Awslogs)
            .options("awslogs-group", names::log_group(id, &location))
            .options("awslogs-region", region)
            .options("awslogs-stream-prefix", "build")
            .build()
            .map_err(invalid)?;
        let seconds = KeyValuePair::builder().name("CODELOC_SECONDS").value(timeout.as_secs().to_string()).build();
        let command = ["python3", "-I", "-c", GUEST];
        let container = ContainerDefinition::builder()
            .name(CONTAINER)
            .image(image.replace("{python}", &build.python))
            .essential(true)
            .set_command(Some(command.map(str::to_owned).to_vec()))
            .environment(seconds)
            .log_configuration(logs)
            .build();
        let architecture = if build.architecture == "arm64" { CpuArchitecture::Arm64 } else { CpuArchitecture::X8664 };
        let platform =
            RuntimePlatform::builder().cpu_architecture(architecture).operating_system_family(OsFamily::Linux).build();
        let disk = i32::try_from(*disk_gib).unwrap_or(i32::MAX);
        let disk = (disk > INCLUDED_DISK).then(|| EphemeralStorage::builder().size_in_gib(disk).build());
        let owner = Tag::builder().key(tags::MANAGED_BY).value(id).build();
        Ok(ecs
            .register_task_definition()
            .family(names::build_family(id))
            .requires_compatibilities(Compatibility::Fargate)
            .network_mode(NetworkMode::Awsvpc)
            .cpu(cpu.to_string())
            .memory(memory.to_string())
            .execution_role_arn(execution_role_arn)
            .runtime_platform(platform)
            .set_ephemeral_storage(disk)
            .container_definitions(container)
            .tags(owner))
    }

    async fn until_stopped(
        &self,
        build: &IsolatedBuild,
        arn: &str,
        progress: &OnProgress<'_>,
    ) -> Result<Task, BuildError> {
        let deadline = Instant::now() + self.settings.timeout + GRACE;
        let mut shown = String::new();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let request = self.clients.ecs.describe_tasks().cluster(&self.deployment.cluster).tasks(arn);
            let answer = match call("ecs:DescribeTasks", request.send()).await {
                Ok(answer) => answer,
                Err(error) if error.class == Class::Terminal || Instant::now() >= deadline => {
                    return Err(unavailable(error));
                }
                Err(error) => {
                    tracing::warn!(task = arn, %error, "cannot read the status of an isolated build; codeloc retries");
                    continue;
                }
            };
            let Some(task) = answer.tasks.unwrap_or_default().into_iter().next() else {
                return Err(BuildError::transient(format!("ECS no longer has the task {arn} of the isolated build")));
            };
            let status = task.last_status().unwrap_or("PROVISIONING").to_lowercase();
            if status == "stopped" {
                return Ok(task);
            }
            if status != shown {
                progress(Progress::Isolated(format!("{} ({status})", build.why)));
                shown = status;
            }
            if Instant::now() >= deadline {
                return Err(build.too_long(self.settings.timeout));
            }
        }
    }
}

/// A task that codeloc waits for. If codeloc no longer does, because nothing needs the image, the task is stopped.
struct StopOnDrop<'a> {
    tasks: &'a IsolatedTasks,
    arn: Option<String>,
}

impl StopOnDrop<'_> {
    fn forget(mut self) {
        self.arn = None;
    }
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        // At the end of the process nothing runs the call, so the task goes on, and the next start finds it.
        let (Some(arn), Ok(runtime)) = (self.arn.take(), tokio::runtime::Handle::try_current()) else { return };
        let (ecs, cluster) = (self.tasks.clients.ecs.clone(), self.tasks.deployment.cluster.clone());
        runtime.spawn(async move {
            let request = ecs.stop_task().cluster(cluster).task(&arn).reason("nothing waits for this build any more");
            if let Err(error) = call("ecs:StopTask", request.send()).await {
                tracing::warn!(task = arn, %error, "cannot stop an isolated build that nothing waits for; stop it in ECS");
            }
        });
    }
}

impl IsolatedBuilder for IsolatedTasks {
    fn run<'a>(
        &'a self,
        build: &'a IsolatedBuild,
        progress: &'a OnProgress<'a>,
    ) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(self.build(build, progress))
    }
}

/// ECS accepts 128 letters.
fn started_by(key: &str) -> String {
    format!("codeloc-build/{}", key.get(..32).unwrap_or(key))
}

/// What the end of a task means, if its guest has written no result.
fn ended(build: &IsolatedBuild, task: &Task, settings: &IsolatedSettings) -> Result<(), BuildError> {
    let container = task.containers().iter().find(|container| container.name() == Some(CONTAINER));
    let code = container.and_then(Container::exit_code);
    let reasons = [task.stopped_reason(), container.and_then(|container| container.reason())];
    let reasons: Vec<&str> = reasons.into_iter().flatten().filter(|reason| !reason.is_empty()).collect();
    let reason = reasons.join("; ");
    match code {
        Some(0) => Ok(()),
        Some(TIMED_OUT) => Err(build.too_long(settings.timeout)),
        Some(code) => Err(BuildError::dockerfile(format!(
            "the isolated build ({}) ended with code {code}: {reason}; its output is in the log group of the location",
            build.why
        ))),
        // The container did not start: the foreign code is not at fault.
        None => Err(BuildError::transient(format!("ECS cannot run the isolated build ({}): {reason}", build.why))),
    }
}

/// Transient: the operator can fix it, and no new commit helps.
fn unavailable(error: CallError) -> BuildError {
    BuildError::transient("cannot use ECS for an isolated build").caused_by(error)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::transient("cannot describe an isolated build to AWS").caused_by(error)
}

fn malformed(operation: &'static str, what: &'static str) -> BuildError {
    unavailable(CallError::malformed(operation, what))
}

#[cfg(test)]
mod tests {
    use codeloc_images::ErrorClass;

    use super::*;

    fn outcome(code: Option<i32>, reason: &str) -> Result<(), BuildError> {
        let container = Container::builder().name(CONTAINER).set_exit_code(code).build();
        let task = Task::builder().stopped_reason(reason).containers(container).build();
        let build = IsolatedBuild {
            location: "orders".to_owned(),
            python: "3.12".to_owned(),
            architecture: "arm64",
            key: "k".to_owned(),
            why: "sdist: a 1".to_owned(),
            input: "input".into(),
            output: "output".into(),
            largest_output: 1,
        };
        let settings = IsolatedSettings {
            image: "build:{python}".to_owned(),
            security_groups: vec![],
            cpu: 1024,
            memory: 2048,
            disk_gib: 20,
            timeout: Duration::from_mins(30),
        };
        ended(&build, &task, &settings)
    }

    #[test]
    fn the_end_of_a_task_decides_whether_codeloc_retries() {
        outcome(Some(0), "Essential container in task exited").unwrap();
        let late = outcome(Some(TIMED_OUT), "").unwrap_err();
        assert_eq!(late.class(), ErrorClass::Dockerfile);
        assert!(late.to_string().contains("longer than 30 min (build.isolated_minutes)"), "{late}");
        let killed = outcome(Some(137), "OutOfMemoryError: Container killed due to memory usage").unwrap_err();
        assert_eq!(killed.class(), ErrorClass::Dockerfile);
        assert!(killed.to_string().contains("code 137: OutOfMemoryError"), "{killed}");
        let pull = outcome(None, "CannotPullContainerError: not found").unwrap_err();
        assert!(pull.is_transient() && pull.to_string().contains("CannotPull"), "{pull}");
    }
}

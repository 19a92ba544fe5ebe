//! localcloud and codeloc as processes, without Dagster's webserver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ecs::types::TaskDefinitionStatus;
use codeloc_aws::Clients;
use serde_json::Value;

use crate::processes::{Process, Web, binary, command, free_ports, root, wait_for};

/// A folder with configs and settings, and a running localcloud.
pub struct Sandbox {
    pub web: Web,
    folder: PathBuf,
    cloud: Process,
    cloud_port: u16,
    codeloc_port: u16,
    /// The port in codeloc's setting `aws.endpoint_url`.
    endpoint_port: u16,
}

/// A valid config with an image, so that codeloc needs no git and no build, and with more lines.
pub fn config_with_image(name: &str, more: &str) -> String {
    let image = format!("registry.test/{name}@sha256:{}", "0123456789abcdef".repeat(4));
    format!("name: {name}\ngit_url: https://git.test/{name}.git\nmodule: {name}\nimage: {image}\n{more}")
}

impl Sandbox {
    /// localcloud's driver `process` runs the pushed images, `simulated` runs nothing.
    pub async fn start(folder: &Path, driver: &str) -> Self {
        Self::start_with(folder, driver, &[]).await
    }

    /// [`Self::start`] with more flags for localcloud.
    pub async fn start_with(folder: &Path, driver: &str, more: &[&str]) -> Self {
        let [cloud_port, codeloc_port] = free_ports();
        std::fs::create_dir_all(folder.join("repos")).expect("create a folder");
        let mut localcloud = command(binary("localcloud"));
        localcloud.args(["--listen", &format!("127.0.0.1:{cloud_port}"), "--driver", driver]);
        localcloud.arg("--state").arg(folder.join("cloud"));
        localcloud.args(["--cluster", "dagster", "--namespace", "dagster.internal", "--bucket", "dagster-platform"]);
        localcloud.args(["--role", "codeloc-local-execution"]);
        localcloud.args(more);
        let cloud = Process::start(&mut localcloud, folder.join("localcloud.log"));
        let mut sandbox = Self {
            web: Web::default(),
            folder: folder.to_owned(),
            cloud,
            cloud_port,
            codeloc_port,
            endpoint_port: cloud_port,
        };
        wait_for("localcloud answers", 60, || {
            sandbox.cloud.check();
            let web = sandbox.web.clone();
            async move { web.get(&format!("http://127.0.0.1:{cloud_port}/_localcloud/health")).await }
        })
        .await;
        sandbox
    }

    pub fn cloud_port(&self) -> u16 {
        self.cloud_port
    }

    pub fn codeloc_port(&self) -> u16 {
        self.codeloc_port
    }

    /// Changes the port of `aws.endpoint_url` for the next [`Self::write_settings`].
    pub fn set_aws_port(&mut self, port: u16) {
        self.endpoint_port = port;
    }

    pub fn remove_config(&self, name: &str) {
        std::fs::remove_dir_all(self.folder.join("repos").join(name)).expect("remove a config");
    }

    pub fn write_config(&self, name: &str, text: &str) {
        let folder = self.folder.join("repos").join(name);
        std::fs::create_dir_all(&folder).expect("create a folder");
        std::fs::write(folder.join("config.yml"), text).expect("write a config");
    }

    /// Writes the settings of `make run` without a webserver. Builds use the work folder `work`.
    pub fn write_settings(&self, work: &Path) {
        let template = std::fs::read_to_string(root().join("deploy/local/codeloc.yml")).expect("read the settings");
        let text: String = template
            .lines()
            .filter(|line| !line.contains("webserver_url"))
            .map(|line| line.replace("${state}/work", &work.display().to_string()) + "\n")
            .collect();
        let filled = [
            ("${root}", root().display().to_string()),
            ("${state}/git/", format!("{}/", root().join(".local/git").display())),
            ("${state}/run", self.folder.display().to_string()),
            ("${repos}", self.folder.join("repos").display().to_string()),
            ("${codeloc_port}", self.codeloc_port.to_string()),
            ("${cloud_port}", self.endpoint_port.to_string()),
        ];
        let text = filled.iter().fold(text, |text, (name, value)| text.replace(name, value));
        assert!(!text.contains("${"), "the settings contain an unknown placeholder:\n{text}");
        std::fs::write(self.settings(), text).expect("write the settings");
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("codeloc.yml")
    }

    /// Runs `codeloc COMMAND --config … WORDS`.
    pub fn codeloc(&self, command_name: &str, arguments: &[&str]) -> Output {
        let mut codeloc = command(binary("codeloc"));
        codeloc.arg(command_name).arg("--config").arg(self.settings()).args(arguments);
        codeloc.output().expect("codeloc runs")
    }

    /// Starts the daemon; its log is `daemon-N.log`.
    pub fn daemon(&self, number: u32) -> Process {
        let mut daemon = command(binary("codeloc"));
        daemon.args(["run", "--config"]).arg(self.settings());
        Process::start(&mut daemon, self.folder.join(format!("daemon-{number}.log")))
    }

    /// Ends localcloud; connections to its port are refused.
    pub fn kill_cloud(&mut self) {
        self.cloud.kill();
    }

    /// The status of one location from the API.
    pub async fn status(&self, name: &str) -> Result<Value, String> {
        let all = self.web.get(&format!("http://127.0.0.1:{}/v1/locations", self.codeloc_port)).await?;
        let found = all.as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).cloned();
        found.ok_or_else(|| format!("no {name} in {all}"))
    }

    /// Whether the registry contains any part of an image.
    pub fn pushing(&self) -> bool {
        let registry = self.folder.join("cloud/registry");
        let any = |path: &str| std::fs::read_dir(registry.join(path)).is_ok_and(|mut entries| entries.next().is_some());
        any("uploads") || any("blobs/sha256")
    }

    /// The names in `workspace.yaml`.
    pub fn published(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("workspace.yaml")).unwrap_or_default();
        text.lines().filter_map(|line| line.trim().strip_prefix("location_name: ")).map(str::to_owned).collect()
    }

    /// An SDK configuration for this localcloud.
    pub fn sdk(&self) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "test")))
            .endpoint_url(format!("http://127.0.0.1:{}", self.cloud_port))
            .build()
    }

    /// All resources in localcloud by kind, owned or not: names, and the counts that show a duplicate or a leftover.
    pub async fn inventory(&self) -> BTreeMap<&'static str, Vec<String>> {
        let aws = Clients::new(&self.sdk(), &std::sync::Arc::default());
        let mut found = BTreeMap::new();
        let text = |name: Option<&str>| name.unwrap_or_default().to_owned();

        let groups = aws.logs.describe_log_groups().send().await.expect("log groups");
        found.insert("log groups", groups.log_groups().iter().map(|group| text(group.log_group_name())).collect());

        let repositories = aws.ecr.describe_repositories().send().await.expect("image repositories");
        let names: Vec<String> = repositories.repositories().iter().map(|one| text(one.repository_name())).collect();
        let mut images = Vec::new();
        for name in &names {
            let listed = aws.ecr.describe_images().repository_name(name).send().await.expect("images");
            images.extend(listed.image_details().iter().map(|image| text(image.image_digest())));
        }
        found.insert("image repositories", names);
        found.insert("images", images);

        let roles = aws.iam.list_roles().send().await.expect("roles");
        let mut listed = Vec::new();
        for role in roles.roles() {
            let policies = aws.iam.list_role_policies().role_name(role.role_name()).send().await.expect("policies");
            listed.push(format!("{}{}: {:?}", role.path(), role.role_name(), policies.policy_names()));
        }
        found.insert("roles", listed);

        let mut definitions = Vec::new();
        for status in [TaskDefinitionStatus::Active, TaskDefinitionStatus::Inactive] {
            let listed = aws.ecs.list_task_definitions().status(status.clone()).send().await.expect("definitions");
            // The hash in the family of a run task definition depends on the registry's port.
            let reported = listed.task_definition_arns().iter().map(|arn| match arn.split_once("_run_") {
                Some((before, hash)) => format!("{status} {before}_run{}", &hash[16..]),
                None => format!("{status} {arn}"),
            });
            definitions.extend(reported);
        }
        found.insert("task definitions", definitions);

        let arns = aws.ecs.list_services().cluster("dagster").send().await.expect("services");
        let mut services = Vec::new();
        for arn in arns.service_arns() {
            let answer = aws.ecs.describe_services().cluster("dagster").services(arn).send().await.expect("a service");
            services.extend(answer.services().iter().map(|one| {
                let (running, deployments) = (one.running_count(), one.deployments().len());
                format!("{} {} {running} {deployments}", text(one.service_name()), text(one.task_definition()))
            }));
        }
        found.insert("services", services);
        let tasks = aws.ecs.list_tasks().cluster("dagster").send().await.expect("tasks");
        found.insert("tasks", vec![tasks.task_arns().len().to_string()]);

        let discovery = aws.discovery.list_services().send().await.expect("Cloud Map services");
        let mut names = Vec::new();
        for service in discovery.services() {
            let id = text(service.id());
            let instances = aws.discovery.list_instances().service_id(id).send().await.expect("instances");
            names.push(format!("{} {}", text(service.name()), instances.instances().len()));
        }
        found.insert("Cloud Map services", names);

        let ecs = "ecs";
        let targets = aws.scaling.describe_scalable_targets().service_namespace(ecs.into()).send().await;
        let targets = targets.expect("scalable targets");
        let of = |target: &str, least: i32, most: i32| format!("{target} {least} {most}");
        let targets = targets.scalable_targets().iter();
        let targets = targets.map(|one| of(one.resource_id(), one.min_capacity(), one.max_capacity())).collect();
        found.insert("scalable targets", targets);
        let policies = aws.scaling.describe_scaling_policies().service_namespace(ecs.into()).send().await;
        let policies = policies.expect("scaling policies");
        let policies = policies.scaling_policies().iter();
        found.insert(
            "scaling policies",
            policies.map(|one| format!("{} {}", one.resource_id(), one.policy_name())).collect(),
        );
        for listed in found.values_mut() {
            listed.sort();
        }
        found
    }
}

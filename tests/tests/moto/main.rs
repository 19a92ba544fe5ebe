//! The `codeloc` program against moto, an AWS emulator of other authors: the three samples are created, kept, changed and
//! deleted, and resources of other owners do not change.
//!
//! moto runs no containers, so no location answers. [`deviations`] lists this and other differences; the test fails when one
//! disappears.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod deviations;
mod inventory;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use aws_sdk_applicationautoscaling::types::{ScalableDimension, ServiceNamespace};
use aws_sdk_ecs::types::{Compatibility, ContainerDefinition, NetworkMode, Tag};
use aws_sdk_servicediscovery::types::{
    DnsConfig, DnsRecord, FilterCondition, RecordType, ServiceFilter, ServiceFilterName,
};
use codeloc_aws::Clients;
use codeloc_core::tags::{LOCATION, MANAGED_BY};
use codeloc_tests::moto::{self, Moto};
use codeloc_tests::policies::TRUST_ECS_TASKS;
use deviations::{Deviation, Found};
use inventory::inventory;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const SAMPLES: [&str; 3] = ["inventory", "nightly-report", "orders"];
/// The status of a location on moto, which registers no tasks.
const UNANSWERED: &str = "no task is registered in Cloud Map yet";
/// The time limit of one `apply`, in seconds. The samples need one second.
const APPLY: &str = "5";
/// The maximum number of `apply` runs.
const APPLIES: usize = 12;
const PATIENCE: Duration = Duration::from_secs(120);

/// A deployment on moto: cluster, namespace, network, and a folder of configs.
struct TestDeployment {
    moto: Moto,
    clients: Clients,
    namespace: String,
    subnets: Vec<String>,
    security_group: String,
    folder: TempDir,
}

impl TestDeployment {
    async fn new(program: &Path) -> Self {
        let moto = Moto::start(program, &[("MOTO_ECS_SERVICE_RUNNING", "1")]).await;
        let clients = Clients::new(&moto.sdk(), &std::sync::Arc::default());
        let (subnets, security_group) = moto.network().await;
        clients.ecs.create_cluster().cluster_name("dagster").send().await.unwrap();
        let namespace = namespace(&clients, "dagster.internal").await;
        let s3 = aws_sdk_s3::config::Builder::from(&moto.sdk()).force_path_style(true).build();
        let place = aws_sdk_s3::types::BucketLocationConstraint::from(moto::REGION);
        let place = aws_sdk_s3::types::CreateBucketConfiguration::builder().location_constraint(place).build();
        let bucket = aws_sdk_s3::Client::from_conf(s3).create_bucket().bucket("platform");
        bucket.create_bucket_configuration(place).send().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("repos")).unwrap();
        Self { moto, clients, namespace, subnets, security_group, folder }
    }

    fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join("repos").join(name).join("config.yml")
    }

    /// Commits a sample with an image, so that codeloc needs no build and no git.
    fn commit(&self, name: &str) {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../repos").join(name).join("config.yml");
        let text = std::fs::read_to_string(sample).unwrap();
        std::fs::create_dir_all(self.config(name).parent().unwrap()).unwrap();
        let image = format!("image: registry.test/{name}@sha256:{:0>64}", 1);
        std::fs::write(self.config(name), format!("{text}\n{image}\n")).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_dir_all(self.config(name).parent().unwrap()).unwrap();
    }

    /// The program, with the settings of this deployment as flags.
    fn codeloc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(codeloc());
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let subnets = format!("[{}]", self.subnets.join(", "));
        let settings = [
            ("source-path", path("repos")),
            ("aws-region", moto::REGION.to_owned()),
            ("aws-endpoint-url", self.moto.endpoint()),
            ("aws-bucket", "platform".to_owned()),
            ("aws-subnets", subnets),
            ("aws-security-groups", format!("[{}]", self.security_group)),
            ("aws-execution-role-arn", "arn:aws:iam::123456789012:role/execution".to_owned()),
            ("build-work-folder", path("work")),
            ("dagster-workspace-file", path("workspace.yaml")),
            // moto's threads share their state without locks.
            ("reconcile-workers", "1".to_owned()),
            ("reconcile-resync-seconds", "3600".to_owned()),
        ];
        command.args(arguments).args(settings.iter().map(|(name, value)| format!("--{name}={value}")));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("AWS_") || text.starts_with("CODELOC_") || text == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command.current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn output(&self, arguments: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE, self.codeloc(arguments).output()).await.unwrap().unwrap()
    }

    /// `codeloc plan --json`: kind and location of each step, and of each later step.
    async fn plan(&self) -> (Vec<(String, String)>, Vec<(String, String)>) {
        let output = self.output(&["plan", "--json"]).await;
        let plans: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)));
        let steps = |which: &str| {
            let plans = plans.as_array().unwrap().iter();
            let of_plan = |plan: &Value| -> Vec<(String, String)> {
                let steps = plan[which].as_array().unwrap().iter();
                steps.map(|step| (text(&step["kind"]), text(&plan["location"]))).collect()
            };
            plans.flat_map(of_plan).collect()
        };
        let (now, later): (Vec<_>, Vec<_>) = (steps("steps"), steps("later"));
        // 0 for no change, 2 for changes.
        let code = if now.is_empty() && later.is_empty() { 0 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{}", printed(&output));
        (now, later)
    }

    /// Runs `codeloc apply` until the plan is empty and each sample was reconciled; returns the mutating calls. On moto, `apply`
    /// always ends by its time limit.
    async fn settle(&self) -> Vec<String> {
        let before = self.moto.calls().len();
        for _ in 0..APPLIES {
            let output = self.output(&["apply", "--timeout", APPLY]).await;
            assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
            let calls = self.moto.calls().split_off(before);
            let looks = calls.iter().filter(|call| *call == "servicediscovery:ListInstances").count();
            if looks < SAMPLES.len() || !self.plan().await.0.is_empty() {
                continue;
            }
            let shown = SAMPLES.map(|name| format!("{name}: OutOfSync, Progressing: {UNANSWERED}\n")).concat();
            assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
            return mutating(calls);
        }
        panic!("not settled after {APPLIES} times {APPLY} s: {:#?}", self.plan().await);
    }

    /// Waits until moto received a call this number of times since `before`.
    async fn wait_for_calls(&self, before: usize, call: &str, times: usize) {
        let count = || self.moto.calls().split_off(before).iter().filter(|one| *one == call).count();
        let received = async {
            while count() < times {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, received).await.is_ok(), "{call} came {} times, not {times}", count());
    }

    fn workspace(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("workspace.yaml")).unwrap()
    }

    /// Creates resources of other owners with similar names: untagged, or of another deployment.
    async fn create_foreign_resources(&self) {
        let clients = &self.clients;
        clients.logs.create_log_group().log_group_name("/codeloc/locations/orders-old").send().await.unwrap();
        let role = clients.iam.create_role().role_name("codeloc-orders-old").path("/codeloc/");
        role.assume_role_policy_document(TRUST_ECS_TASKS).send().await.unwrap();
        let tags = [(MANAGED_BY, "elsewhere"), (LOCATION, "orders-old")]
            .map(|(key, value)| Tag::builder().key(key).value(value).build());
        let container = ContainerDefinition::builder().name("server").image("registry.test/old:1").build();
        let definition = clients.ecs.register_task_definition().family("codeloc-orders-old");
        let definition = definition.network_mode(NetworkMode::Awsvpc).requires_compatibilities(Compatibility::Fargate);
        let definition = definition.cpu("256").memory("512").container_definitions(container);
        definition.set_tags(Some(tags.to_vec())).send().await.unwrap();
        let service = clients.ecs.create_service().cluster("dagster").service_name("orders-old-service");
        let service = service.task_definition("codeloc-orders-old:1").desired_count(1).set_tags(Some(tags.to_vec()));
        service.send().await.unwrap();
        let target = clients.scaling.register_scalable_target().service_namespace(ServiceNamespace::Ecs);
        let target = target.resource_id("service/dagster/orders-old-service").min_capacity(1).max_capacity(3);
        target.scalable_dimension(ScalableDimension::EcsServiceDesiredCount).send().await.unwrap();
        // In another namespace, and without a tag.
        let namespace = namespace(clients, "other.internal").await;
        let record = DnsRecord::builder().r#type(RecordType::A).ttl(60).build().unwrap();
        let registry = clients.discovery.create_service().name("payments-service").namespace_id(namespace);
        registry.dns_config(DnsConfig::builder().dns_records(record).build().unwrap()).send().await.unwrap();
    }

    async fn service(&self, name: &str) -> aws_sdk_ecs::types::Service {
        let described = self.clients.ecs.describe_services().cluster("dagster").services(name).send().await.unwrap();
        described.services()[0].clone()
    }
}

async fn namespace(clients: &Clients, name: &str) -> String {
    // moto takes one private namespace for each VPC.
    clients.discovery.create_private_dns_namespace().name(name).vpc(format!("vpc-{name}")).send().await.unwrap();
    let listed = clients.discovery.list_namespaces().send().await.unwrap();
    listed.namespaces().iter().find(|one| one.name() == Some(name)).unwrap().id().unwrap().to_owned()
}

/// The program of the same build.
fn codeloc() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("codeloc");
    assert!(program.is_file(), "there is no {}: `cargo build -p codeloc` makes it", program.display());
    program
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn mutating(calls: Vec<String>) -> Vec<String> {
    calls.into_iter().filter(|call| !moto::reads(call)).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

/// The resources of a sample.
fn expected_inventory(name: &str, definition: &str, cpu: u32, memory: u32) -> Vec<String> {
    let owner = format!("of codeloc for {name}");
    vec![
        format!("log group /codeloc/locations/{name}: kept 30 days; {owner}"),
        format!(
            "role /codeloc/codeloc-{name}: ecs-tasks.amazonaws.com may reach platform/repos/{name}/* \
             platform/repos/shared/* platform; {owner}"
        ),
        format!(
            "task definition {definition}: registry.test/{name} as codeloc-{name}, {cpu} CPU units, {memory} MiB, \
             log to /codeloc/locations/{name}; {owner}"
        ),
        format!(
            "task definition codeloc-{name}_run:1: registry.test/{name} as codeloc-{name}, {cpu} CPU units, {memory} MiB, \
             log to /codeloc/locations/{name}; {owner}"
        ),
        format!("registry {name}-service.dagster.internal: A for 10 s; {owner}"),
        format!(
            "service {name}-service: 1 of {definition}, 3 subnets, 1 security group(s), breaker with rollback, \
             registry {name}-service.dagster.internal; {owner}"
        ),
    ]
}

fn scaled(name: &str) -> String {
    format!(
        "scaling service/dagster/{name}-service: 1..2, ECSServiceAverageCPUUtilization at 70 %, \
         ECSServiceAverageMemoryUtilization at 80 %"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_samples_converge_on_moto_and_are_deleted() {
    let Some(program) = moto::program() else {
        eprintln!(
            "SKIPPED: no moto at CODELOC_MOTO_SERVER or .local/moto/bin/moto_server (`make prepare` installs it); \
             the samples were not converged on moto"
        );
        return;
    };
    let deployment = TestDeployment::new(&program).await;
    let mut found = Found::default();
    deployment.create_foreign_resources().await;
    let foreign_resources = inventory(&deployment.clients).await;
    assert_eq!(foreign_resources.len(), 6, "{foreign_resources:#?}");

    for name in SAMPLES {
        deployment.commit(name);
    }
    let changes = deployment.settle().await;
    let mut all = [foreign_resources.clone(), vec![scaled("inventory"), scaled("orders")]].concat();
    all.extend(expected_inventory("inventory", "codeloc-inventory:1", 512, 1024));
    all.extend(expected_inventory("nightly-report", "codeloc-nightly-report:1", 256, 512));
    all.extend(expected_inventory("orders", "codeloc-orders:1", 256, 512));
    assert_eq!(inventory(&deployment.clients).await, sorted(all));
    check_created_resources(&deployment, &changes, &mut found).await;

    let second_changes = deployment.settle().await;
    assert_eq!(second_changes, Vec::<String>::new(), "the second apply changes nothing");
    let later = SAMPLES.map(|name| ("workspace".to_owned(), name.to_owned()));
    assert_eq!(deployment.plan().await, (vec![], later.to_vec()));
    assert!(deployment.workspace().ends_with("\nload_from: []\n"), "{}", deployment.workspace());

    a_running_daemon_rolls_out_a_change_of_memory(&deployment, &mut found).await;

    for name in SAMPLES {
        deployment.remove(name);
    }
    let output = deployment.output(&["apply", "--timeout", "120", "--allow-prune", "3"]).await;
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(inventory(&deployment.clients).await, foreign_resources, "only the resources of codeloc are deleted");
    assert_eq!(deployment.plan().await, (vec![], vec![]));
    let before = deployment.moto.calls().len();
    assert!(deployment.output(&["apply", "--timeout", "120"]).await.status.success());
    assert_eq!(mutating(deployment.moto.calls().split_off(before)), Vec::<String>::new());
    check_remaining_resources(&deployment, &mut found).await;

    assert_eq!(found.outdated(), Vec::<String>::new());
}

async fn check_created_resources(deployment: &TestDeployment, changes: &[String], found: &mut Found) {
    let clients = &deployment.clients;
    let times = |call: &str| changes.iter().filter(|one| *one == call).count();
    // One call per location and protocol, so the record is complete.
    let creating = ["logs:CreateLogGroup", "iam:CreateRole", "servicediscovery:CreateService"];
    assert_eq!(creating.map(times), [SAMPLES.len(); 3], "{changes:#?}");
    assert_eq!(
        times("ecs:RegisterTaskDefinition"),
        2 * SAMPLES.len(),
        "one for the server and one for runs: {changes:#?}"
    );
    found.note(Deviation::ConfigurationDropped, times("ecs:UpdateService") == SAMPLES.len());
    let service = deployment.service("orders-service").await;
    let tasks = clients.ecs.list_tasks().cluster("dagster").send().await.unwrap();
    found.note(Deviation::NoTasks, service.running_count() == 1 && tasks.task_arns().is_empty());

    let filter = ServiceFilter::builder().name(ServiceFilterName::NamespaceId).condition(FilterCondition::Eq);
    let filter = filter.values(&deployment.namespace).build().unwrap();
    let listed = clients.discovery.list_services().filters(filter).send().await.unwrap();
    let is_foreign = |name: Option<&str>| name == Some("payments-service");
    found.note(Deviation::NamespaceIgnored, listed.services().iter().any(|one| is_foreign(one.name())));
    let owned = listed.services().iter().filter(|one| !is_foreign(one.name()));
    let mut instances = 0;
    for registry in owned {
        let listed = clients.discovery.list_instances().service_id(registry.id().unwrap()).send().await.unwrap();
        instances += listed.instances().len();
    }
    found.note(Deviation::NoInstances, instances == 0);
}

async fn a_running_daemon_rolls_out_a_change_of_memory(deployment: &TestDeployment, found: &mut Found) {
    let before = deployment.moto.calls().len();
    let log = std::fs::File::create(deployment.folder.path().join("log")).unwrap();
    let mut daemon: Child = deployment.codeloc(&["run", "--listen=127.0.0.1:0"]).stderr(log).spawn().unwrap();
    // The daemon is idle.
    deployment.wait_for_calls(before, "servicediscovery:ListInstances", SAMPLES.len()).await;
    let config = std::fs::read_to_string(deployment.config("orders")).unwrap();
    assert!(config.contains("memory: 512"), "{config}");
    std::fs::write(deployment.config("orders"), config.replace("memory: 512", "memory: 1024")).unwrap();
    deployment.wait_for_calls(before, "ecs:RegisterTaskDefinition", 2).await;
    // An orderly stop releases the lease.
    let id = daemon.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    tokio::time::timeout(PATIENCE, daemon.wait()).await.unwrap().unwrap();
    let second_changes = deployment.settle().await;
    assert_eq!(second_changes, Vec::<String>::new(), "the daemon finished its changes");
    let changed = mutating(deployment.moto.calls().split_off(before));
    assert_eq!(changed, ["ecs:RegisterTaskDefinition", "ecs:UpdateService", "ecs:RegisterTaskDefinition"]);

    let lines = inventory(&deployment.clients).await;
    for line in expected_inventory("orders", "codeloc-orders:2", 256, 1024) {
        assert!(lines.contains(&line), "{line} is not in {lines:#?}");
    }
    let service = deployment.service("orders-service").await;
    let old = service.deployments().iter().any(|one| one.task_definition() != service.task_definition());
    found.note(Deviation::DeploymentStays, old && service.deployments().len() == 1);
}

async fn check_remaining_resources(deployment: &TestDeployment, found: &mut Found) {
    let clients = &deployment.clients;
    let listed = clients.ecs.list_services().cluster("dagster").send().await.unwrap();
    found.note(Deviation::InactiveListed, listed.service_arns().iter().any(|arn| arn.ends_with("/orders-service")));
    let policies = clients.scaling.describe_scaling_policies().service_namespace(ServiceNamespace::Ecs);
    found.note(Deviation::PoliciesStay, !policies.send().await.unwrap().scaling_policies().is_empty());
    let delete = clients.ecs.delete_service().cluster("dagster").service("orders-old-service").force(true);
    let deleted = delete.send().await.unwrap();
    found.note(Deviation::InactiveAtOnce, deleted.service().unwrap().status() == Some("INACTIVE"));
}

/// The test writes the part of the page between these marks.
const MARKS: (&str, &str) = ("<!-- deviations: the samples on moto -->\n", "<!-- end -->");

#[test]
#[expect(clippy::disallowed_methods, reason = "the one variable that rewrites the docs")]
fn the_docs_contain_the_table_of_deviations() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/emulators.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(MARKS.0).expect("the page has the first mark");
    let (shown, _) = rest.split_once(MARKS.1).expect("the page has the second mark");
    let table = deviations::table();
    if std::env::var("UPDATE_DOCS").is_ok() {
        let fresh = format!("{head}{}{table}{}", MARKS.0, &rest[shown.len()..]);
        std::fs::write(&path, fresh).unwrap();
    } else {
        assert_eq!(
            shown, table,
            "update docs/emulators.md with `UPDATE_DOCS=1 cargo test -p codeloc-tests --test moto`"
        );
    }
}

#[test]
fn outdated_and_unchecked_deviations_are_reported() {
    let mut found = Found::default();
    for deviation in Deviation::ALL {
        found.note(deviation, deviation != Deviation::InactiveListed);
    }
    assert_eq!(
        found.outdated(),
        [
            "ecs:ListServices no longer deviates (still names services that are INACTIVE): remove InactiveListed and the \
             code that handles it"
        ]
    );
    assert_eq!(Found::default().outdated().len(), Deviation::ALL.len());
}

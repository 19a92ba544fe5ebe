//! The command line: output and exit codes.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use codeloc_tests::processes::{binary, free_ports, root, run, stderr, stdout};
use codeloc_tests::sandbox::Sandbox;
use serde_json::{Value, json};

/// The shortest valid config with more lines.
fn config(name: &str, more: &str) -> String {
    format!("name: {name}\ngit_url: https://github.com/user/{name}.git\nmodule: {name}.definitions\n{more}")
}

/// A folder of configs by name.
fn folder(configs: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in configs {
        let inside = folder.path().join("repos").join(name);
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("config.yml"), text).unwrap();
    }
    folder
}

fn validate(folder: &Path) -> Output {
    let output = codeloc_tests::processes::command(binary("codeloc")).arg("validate").current_dir(folder).output();
    output.unwrap()
}

/// Exit code, standard output and error messages of `codeloc validate`.
fn verdict(configs: &[(&str, String)]) -> String {
    let folder = folder(configs);
    let output = validate(folder.path());
    format!("exit {}\n{}{}", output.status.code().unwrap(), stdout(&output), stderr(&output).trim_end())
}

#[test]
fn the_readme_example_is_valid() {
    let text = "name: my-pipeline
git_url: https://github.com/user/repo.git
branch: main
python_file: my_pipeline/definitions.py

resources:
  cpu: 256
  memory: 512
  architecture: ARM64

s3_prefix: repos/my-pipeline

environment:
  - name: CUSTOM_VAR
    value: custom_value

scaling:
  min_capacity: 1
  max_capacity: 2
  cpu_threshold: 70
  memory_threshold: 80
";
    insta::assert_snapshot!(verdict(&[("my-pipeline", text.to_owned())]), @r#"
    exit 0
    1 valid, 0 invalid
    "#);
}

#[test]
fn the_samples_are_valid() {
    let output = validate(root());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "3 valid, 0 invalid\n");
}

#[test]
fn a_misspelt_field_gets_a_suggestion() {
    insta::assert_snapshot!(verdict(&[("orders", config("orders", "enviroment: []\n"))]), @r#"
    exit 1
    0 valid, 1 invalid
      error: unknown field `enviroment`
       ╭─[repos/orders/config.yml:4:1]
     3 │ module: orders.definitions
     4 │ enviroment: []
       · ^^^^^^^^^^
       ╰────
      hint: did you mean `environment`?
    "#);
}

#[test]
fn an_invalid_fargate_size_gets_the_valid_sizes() {
    insta::assert_snapshot!(verdict(&[("orders", config("orders", "resources:\n  cpu: 256\n  memory: 8192\n"))]), @r#"
    exit 1
    0 valid, 1 invalid
      error: `resources.memory` is 8192, but with cpu 256 Fargate offers 512, 1024 or 2048 MiB
       ╭─[repos/orders/config.yml:6:11]
     5 │   cpu: 256
     6 │   memory: 8192
       ·           ^^^^
       ╰────
      hint: set `memory` to one of these sizes, or choose another `cpu`
    "#);
}

#[test]
fn a_duplicate_key_is_reported() {
    insta::assert_snapshot!(verdict(&[("orders", config("orders", "branch: main\nbranch: dev\n"))]), @r#"
    exit 1
    0 valid, 1 invalid
      error: `branch` is set twice
       ╭─[repos/orders/config.yml:5:1]
     4 │ branch: main
     5 │ branch: dev
       · ^^^^^^
       ╰────
      hint: remove one of the two
    "#);
}

#[test]
fn a_name_with_a_dot_is_reported() {
    insta::assert_snapshot!(verdict(&[("or.ders", config("or.ders", ""))]), @r#"
    exit 1
    0 valid, 1 invalid
      error: `or.ders` is not a valid name
       ╭─[repos/or.ders/config.yml:1:7]
     1 │ name: or.ders
       ·       ^^^^^^^
     2 │ git_url: https://github.com/user/or.ders.git
       ╰────
      hint: use lowercase letters, digits and single hyphens, starting with a letter
    "#);
}

#[test]
fn overlapping_prefixes_invalidate_both_configs_only() {
    let configs = [
        ("left", config("left", "s3_prefix: teams/both\n")),
        ("right", config("right", "s3_prefix: teams/both/inner\n")),
        ("third", config("third", "")),
    ];
    insta::assert_snapshot!(verdict(&configs), @r#"
    exit 1
    1 valid, 2 invalid
      error: prefix `teams/both` overlaps `teams/both/inner` of `right`
       ╭─[repos/left/config.yml:4:12]
     3 │ module: left.definitions
     4 │ s3_prefix: teams/both
       ·            ^^^^^^^^^^
       ╰────
      hint: set another `s3_prefix` for `left` or `right`; until then codeloc freezes each of the two that does not already run with its prefix

      error: prefix `teams/both/inner` overlaps `teams/both` of `left`
       ╭─[repos/right/config.yml:4:12]
     3 │ module: right.definitions
     4 │ s3_prefix: teams/both/inner
       ·            ^^^^^^^^^^^^^^^^
       ╰────
      hint: set another `s3_prefix` for `right` or `left`; until then codeloc freezes each of the two that does not already run with its prefix
    "#);
}

#[test]
fn the_default_prefix_of_another_location_is_refused() {
    let configs = [("aaa", config("aaa", "s3_prefix: repos/orders\n")), ("orders", config("orders", ""))];
    let output = verdict(&configs);
    assert!(output.starts_with("exit 1\n1 valid, 1 invalid\n"), "{output}");
    assert!(output.contains("prefix `repos/orders` belongs to the location `orders`"), "{output}");
}

#[test]
fn a_very_long_key_is_an_ordinary_error() {
    let long = format!("{}: x\n{}", "k".repeat(70_000), config("long", ""));
    let output = verdict(&[("long", long), ("orders", config("orders", ""))]);
    assert!(output.starts_with("exit 1\n1 valid, 1 invalid\n"), "{output}");
    assert!(output.contains("[repos/long/config.yml:1:"), "{output}");
}

#[test]
fn the_printed_schema_is_the_committed_one() {
    let output = run(binary("codeloc"), &["schema"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), std::fs::read_to_string(root().join("crds/location.schema.json")).unwrap());
}

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_for_an_empty_account_shows_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    let image = format!("image: registry.test/orders@sha256:{DIGEST}\n");
    sandbox.write_config("orders", &config("orders", &image));

    // The settings of AWS, independent of this machine.
    let as_in_aws = ["--build-platform", "config", "--dagster-address", "dns"];
    let output = sandbox.codeloc("plan", &as_in_aws);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\{.*\}", "{JSON}");
    settings.add_filter(r"revision: [0-9a-f]{16}\n", "revision: [revision]\n");
    settings.add_filter(r"_run_[0-9a-f]{16}", "_run_[hash]");
    settings.add_filter(r"namespace: ns-\w+", "namespace: [namespace]");
    settings.add_filter(r"variables: DAGSTER_.*", "variables: [names]");
    let _guard = settings.bind_to_scope();
    insta::assert_snapshot!(stdout(&output), @r#"
    orders: the desired revision is not deployed yet
      + log group /codeloc-local/locations/orders: does not exist
          retention_days: 30
          tags: codeloc:location=orders, codeloc:managed-by=codeloc-local
      + role codeloc-local-orders: does not exist
          path: /codeloc-local/
          trust: {JSON}
          permissions_boundary: none
          tags: codeloc:location=orders, codeloc:managed-by=codeloc-local, codeloc:placement=dagster/dagster.internal
      ~ role codeloc-local-orders: inline policy is missing
          policy: {JSON}
      + task definition codeloc-local-orders: no equal revision is registered
          revision: [revision]
          image: registry.test/orders@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
          cpu: 256
          memory: 512
          architecture: ARM64
          task_role: arn:aws:iam::123456789012:role/codeloc-local/codeloc-local-orders
          execution_role: arn:aws:iam::123456789012:role/codeloc-local-execution
          command: python -m dagster api grpc --use-python-environment-entry-point
          secrets: none
          port: 4000
          log_group: /codeloc-local/locations/orders in eu-central-1
          health_check: every 10 s, timeout 5 s, 3 retries, start period 120 s: import socket; socket.create_connection(('127.0.0.1', 4000), 3).close()
          stop_timeout: 60
          variables: [names]
          arn: (known after apply)
      + Cloud Map service orders-service: does not exist
          namespace: [namespace]
          record: A, 10 s
          id: (known after apply)
          tags: codeloc:location=orders, codeloc:managed-by=codeloc-local
      + ECS service orders-service: does not exist
          task_definition: (known after apply)
          revision: [revision]
          desired_count: 1
          subnets: subnet-local
          security_groups: sg-local
          registry: (known after apply)
          tags: codeloc:location=orders, codeloc:managed-by=codeloc-local
      + run task definition codeloc-local-orders_run_[hash]: does not exist
          image: registry.test/orders@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
          cpu: 256
          memory: 512
          task_role: arn:aws:iam::123456789012:role/codeloc-local/codeloc-local-orders
          log_group: /codeloc-local/locations/orders
      + scaling service/dagster/orders-service: does not exist
          capacity: 1..2
      + scaling codeloc-cpu: does not exist
          target: ECSServiceAverageCPUUtilization at 70 %
          arn: (known after apply)
      + scaling codeloc-memory: does not exist
          target: ECSServiceAverageMemoryUtilization at 80 %
          arn: (known after apply)
      + workspace entry orders (later): the location is not in workspace.yaml
          address: orders-service.dagster.internal:4000

    11 steps in 1 of 1 location.
    "#);

    let calls = sandbox.web.calls(sandbox.cloud_port(), 0).await.unwrap();
    let mutating: Vec<_> = calls.iter().filter(|call| call.mutating).collect();
    assert!(mutating.is_empty(), "a plan only reads: {mutating:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_plan_has_the_same_steps_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    sandbox.write_config("orders", &config("orders", &format!("image: registry.test/orders@sha256:{DIGEST}\n")));
    let output = sandbox.codeloc("plan", &["--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let plans: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plans[0]["location"], &plans[0]["sync"]), (&"orders".into(), &"OutOfSync".into()));
    let kinds = |steps: &Value| -> Vec<String> {
        steps.as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap().to_owned()).collect()
    };
    let expected = [
        "log_group",
        "role",
        "role",
        "task_definition",
        "discovery",
        "service",
        "run_definition",
        "scaling",
        "scaling",
        "scaling",
    ];
    assert_eq!(kinds(&plans[0]["steps"]), expected);
    assert_eq!(kinds(&plans[0]["later"]), ["workspace"]);
    let expected = json!({
        "kind": "log_group",
        "action": "create",
        "name": "/codeloc-local/locations/orders",
        "fields": [
            {"name": "retention_days", "to": "30"},
            {"name": "tags", "to": "codeloc:location=orders, codeloc:managed-by=codeloc-local"},
        ],
        "reason": "does not exist",
    });
    assert_eq!(plans[0]["steps"][0], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_with_an_invalid_config_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    sandbox.write_config("orders", &config("orders", "enviroment: []\n"));
    let output = sandbox.codeloc("plan", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains("did you mean `environment`?"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_without_aws_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::start(folder.path(), "simulated").await;
    let [unused] = free_ports();
    sandbox.set_aws_port(unused);
    sandbox.write_settings(&folder.path().join("work"));
    sandbox.write_config("orders", &config("orders", ""));
    let output = sandbox.codeloc("plan", &[]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    assert!(stderr(&output).starts_with("error: sts:GetCallerIdentity"), "{}", stderr(&output));
}

/// Answers one request after another: a path, its status line and its body.
fn daemon(answers: &'static [(&str, &str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = String::new();
            BufReader::new(&connection).read_line(&mut request).unwrap();
            let found = answers.iter().find(|(path, _, _)| request.starts_with(&format!("GET {path} ")));
            let (_, status, body) = found.expect("the path has an answer");
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            connection.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn status_warns_about_unreadable_configs() {
    let server = daemon(&[
        ("/v1/locations", "200 OK", "[]"),
        ("/v1/status", "200 OK", r#"{"fault": "cannot read the folder of configs repos: it is gone"}"#),
    ]);
    let output = run(binary("codeloc"), &["status", "--server", &server]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "warning: cannot read the folder of configs repos: it is gone\n");
}

#[test]
fn status_without_a_daemon_says_what_to_do() {
    let [port] = free_ports();
    let output = run(binary("codeloc"), &["status", "--server", &format!("http://127.0.0.1:{port}")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("start it with `codeloc run`"), "{}", stderr(&output));
}

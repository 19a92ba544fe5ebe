//! The alert rules and the dashboard, with a real Prometheus that scrapes a running codeloc.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use codeloc_tests::processes::{Process, Web, command, free_ports, prepared, root, run, stderr, stdout, wait_for};
use codeloc_tests::sandbox::{Sandbox, config_with_image};
use serde_json::{Value, json};

/// `prometheus` or `promtool`, if `make prepare` installed it.
fn tool(name: &str) -> Option<PathBuf> {
    let path = root().join(".local/registry-tools/bin").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {name} is not in .local/registry-tools (`make prepare` says why)");
    }
    path.exists().then_some(path)
}

fn observability(file: &str) -> PathBuf {
    root().join("deploy/observability").join(file)
}

#[test]
fn the_alert_rules_are_valid_and_each_alert_is_tested() {
    let Some(promtool) = tool("promtool") else { return };
    let rules = observability("alerts.yml");
    let checked = run(&promtool, &["check", "rules", rules.to_str().unwrap()]);
    assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
    let tests = observability("alerts.test.yml");
    let tested = run(&promtool, &["test", "rules", tests.to_str().unwrap()]);
    assert!(tested.status.success(), "{}{}", stdout(&tested), stderr(&tested));
    // Every alert has a test in which it fires.
    let names = |path: &Path, key: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter_map(|line| line.trim().strip_prefix(key).map(|name| name.trim().to_owned())).collect()
    };
    assert_eq!(names(&rules, "- alert:"), names(&tests, "alertname:"));
}

/// A Prometheus that scrapes every second, with the committed rules and shorter durations.
struct Prometheus {
    web: Web,
    port: u16,
    _process: Process,
}

impl Prometheus {
    fn start(program: &Path, folder: &Path, codeloc_port: u16) -> Self {
        let [port] = free_ports();
        let rules = std::fs::read_to_string(observability("alerts.yml")).unwrap();
        let hasty: String = rules
            .lines()
            .filter(|line| !line.trim().starts_with("for:"))
            .map(|line| line.replace("[10m]", "[20s]").replace("30m", "20s").replace("[2m]", "[3s]") + "\n")
            .collect();
        std::fs::write(folder.join("alerts.yml"), hasty).unwrap();
        let settings = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{
                "job_name": "codeloc",
                "static_configs": [{"targets": [format!("127.0.0.1:{codeloc_port}")]}],
            }],
        });
        std::fs::write(folder.join("prometheus.yml"), settings.to_string()).unwrap();
        let mut prometheus = command(program);
        prometheus.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        prometheus.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start(&mut prometheus, folder.join("prometheus.log"));
        Self { web: Web::default(), port, _process: process }
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = self.web.get(&format!("http://127.0.0.1:{}/api/v1/{path}", self.port)).await?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(answer.to_string()) }
    }

    async fn query(&self, expression: &str) -> Result<usize, String> {
        let request = self.web.client.get(format!("http://127.0.0.1:{}/api/v1/query", self.port));
        let url = reqwest::Url::parse_with_params(request.build().unwrap().url().as_str(), [("query", expression)]);
        let answer = self.web.get(url.unwrap().as_str()).await?;
        match answer["data"]["result"].as_array() {
            Some(found) if answer["status"] == "success" => Ok(found.len()),
            _ => Err(answer.to_string()),
        }
    }

    async fn wait_until_firing(&self, alert: &str) {
        wait_for(&format!("{alert} fires"), 90, || async {
            let alerts = self.get("alerts").await?;
            let firing = alerts["alerts"].as_array().into_iter().flatten();
            let names: Vec<&str> = firing.filter_map(|one| one["labels"]["alertname"].as_str()).collect();
            if names.contains(&alert) { Ok(()) } else { Err(format!("firing: {names:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_fills_every_panel_and_fires_alerts() {
    let Some(program) = tool("prometheus").filter(|_| prepared("a real Prometheus on a running codeloc")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    for name in ["orders", "billing", "stock"] {
        sandbox.write_config(name, &config_with_image(name, ""));
    }
    let _daemon = sandbox.daemon(1);
    let prometheus = Prometheus::start(&program, folder.path(), sandbox.codeloc_port());
    let sdk = sandbox.sdk();
    let ecs = aws_sdk_ecs::Client::new(&sdk);
    wait_for("three services are there", 60, || async {
        let answer = ecs.list_services().cluster("dagster").send().await.map_err(|error| error.to_string())?;
        if answer.service_arns().len() == 3 { Ok(()) } else { Err(format!("{:?}", answer.service_arns())) }
    })
    .await;

    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(observability("dashboard.json")).unwrap()).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            wait_for(&format!("{}: {expression}", panel["title"]), 60, || async {
                match prometheus.query(expression).await? {
                    0 => Err("no data".to_owned()),
                    _ => Ok(()),
                }
            })
            .await;
        }
    }

    // Degraded: a resource of another owner has its name.
    let logs = aws_sdk_cloudwatchlogs::Client::new(&sdk);
    logs.create_log_group().log_group_name("/codeloc-local/locations/taken").send().await.unwrap();
    sandbox.write_config("taken", &config_with_image("taken", ""));
    prometheus.wait_until_firing("CodelocDegraded").await;
    sandbox.remove_config("taken");
    // Drift in mode detect.
    sandbox.write_config("orders", &config_with_image("orders", "mode: detect\n"));
    let group = "/codeloc-local/locations/orders";
    logs.put_retention_policy().log_group_name(group).retention_in_days(7).send().await.unwrap();
    prometheus.wait_until_firing("CodelocDrift").await;
    // Prune blocked: two of three locations lost their configs.
    sandbox.remove_config("billing");
    sandbox.remove_config("stock");
    prometheus.wait_until_firing("CodelocPruneBlocked").await;
    // Another process takes the lease.
    let s3 = aws_sdk_s3::Client::from_conf(aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true).build());
    let record = json!({"holder": "another process", "sequence": 1_000_000, "seconds": 600}).to_string();
    let put = s3.put_object().bucket("dagster-platform").key("codeloc/codeloc-local/lease.json");
    put.body(ByteStream::from(record.into_bytes())).send().await.unwrap();
    prometheus.wait_until_firing("CodelocLeaseLost").await;
    // The config source cannot be read.
    std::fs::rename(folder.path().join("repos"), folder.path().join("elsewhere")).unwrap();
    prometheus.wait_until_firing("CodelocGitStale").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_throttling_alert_fires_when_aws_refuses_calls() {
    let Some(program) = tool("prometheus").filter(|_| prepared("a real Prometheus on a throttled codeloc")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // Two percent of the rates of AWS.
    let sandbox = Sandbox::start_with(folder.path(), "simulated", &["--throttle", "2"]).await;
    sandbox.write_settings(&folder.path().join("work"));
    for number in 0..12 {
        let name = format!("location{number}");
        sandbox.write_config(&name, &config_with_image(&name, ""));
    }
    let _daemon = sandbox.daemon(1);
    let prometheus = Prometheus::start(&program, folder.path(), sandbox.codeloc_port());
    prometheus.wait_until_firing("CodelocThrottled").await;
}

//! The alert rules and the dashboard, with a real Prometheus that scrapes a running codeloc.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aws_sdk_s3::primitives::ByteStream;
use codeloc_tests::processes::{Process, Web, command, free_ports, prepared, root, run, stderr, stdout, wait_for};
use codeloc_tests::sandbox::{Sandbox, config_with_image};
use serde::Deserialize;
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

/// Cases in which each alert must fire; `alerts.test.yml` describes them.
const CASES: [&str; 5] = ["ordinary", "absent series", "flapping", "first burst", "two deployments"];
/// The case of a test in which the alert does not fire.
const NO_ALERT: &str = "no alert";

#[derive(Deserialize)]
struct UnitTests {
    tests: Vec<UnitTest>,
}

#[derive(Deserialize)]
struct UnitTest {
    name: String,
    input_series: Vec<Series>,
    alert_rule_test: Vec<Check>,
}

#[derive(Deserialize)]
struct Series {
    series: String,
}

#[derive(Deserialize)]
struct Check {
    alertname: String,
    exp_alerts: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    exp_labels: BTreeMap<String, String>,
}

impl UnitTest {
    /// Alerts of this rule that the test expects at some time.
    fn expected<'a>(&'a self, alert: &'a str) -> impl Iterator<Item = &'a Expected> {
        self.alert_rule_test.iter().filter(move |check| check.alertname == alert).flat_map(|check| &check.exp_alerts)
    }

    fn jobs(&self) -> BTreeSet<&str> {
        let label = |series: &'_ Series| series.series.split_once("job=\"").map(|(before, _)| before.len() + 5);
        let jobs = self.input_series.iter().filter_map(|one| Some(&one.series[label(one)?..]));
        jobs.filter_map(|rest| rest.split('"').next()).collect()
    }
}

fn alerts() -> Vec<String> {
    let rules: Value = serde_saphyr::from_str(&std::fs::read_to_string(observability("alerts.yml")).unwrap()).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect()
}

fn unit_tests() -> Vec<UnitTest> {
    let text = std::fs::read_to_string(observability("alerts.test.yml")).unwrap();
    serde_saphyr::from_str::<UnitTests>(&text).unwrap().tests
}

/// What is wrong with the tests of the alerts: missing cases, names without a case, and tests that do not show what their case says.
fn gaps(alerts: &[String], tests: &[UnitTest]) -> Vec<String> {
    let mut gaps = Vec::new();
    for alert in alerts {
        for case in CASES {
            let prefix = format!("{alert}, {case}: ");
            if !tests.iter().any(|test| test.name.starts_with(&prefix)) {
                gaps.push(format!("{alert} has no test of the case `{case}`"));
            }
        }
    }
    for test in tests {
        let name = &test.name;
        let parts = name.split_once(": ").and_then(|(head, _)| head.split_once(", "));
        let Some((alert, case)) = parts.filter(|(alert, _)| alerts.iter().any(|known| known == alert)) else {
            gaps.push(format!("`{name}` does not start with `ALERT, CASE: `"));
            continue;
        };
        let expected: BTreeSet<_> = test.expected(alert).map(|one| one.exp_labels.get("job")).collect();
        match case {
            NO_ALERT if !expected.is_empty() => gaps.push(format!("`{name}` expects the alert")),
            NO_ALERT => {}
            _ if !CASES.contains(&case) => gaps.push(format!("`{name}` has an unknown case")),
            _ if expected.is_empty() => gaps.push(format!("`{name}` does not expect the alert")),
            "two deployments" if test.jobs().len() <= expected.len() => {
                gaps.push(format!("`{name}` needs a second job that does not alert"));
            }
            _ => {}
        }
    }
    gaps
}

#[test]
fn every_alert_is_tested_in_five_cases() {
    let (alerts, mut tests) = (alerts(), unit_tests());
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(gaps(&alerts, &tests), Vec::<String>::new());
    // This test notices what is missing.
    for alert in &alerts {
        for case in CASES {
            let prefix = format!("{alert}, {case}: ");
            let (removed, kept): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.name.starts_with(&prefix));
            assert_eq!(gaps(&alerts, &kept), [format!("{alert} has no test of the case `{case}`")]);
            tests = kept.into_iter().chain(removed).collect();
        }
    }
}

#[test]
fn a_test_of_an_alert_must_show_its_case() {
    let alerts = ["Down".to_owned()];
    let found = |name: &str, series: &[&str], expected: &str| {
        let series: Vec<Value> = series.iter().map(|series| json!({"series": series})).collect();
        let expected: Value = serde_saphyr::from_str(expected).unwrap();
        let checks = json!([{"alertname": "Down", "exp_alerts": expected}]);
        let test = json!({"name": name, "input_series": series, "alert_rule_test": checks});
        let found = gaps(&alerts, &[serde_json::from_value(test).unwrap()]);
        found.into_iter().filter(|gap| gap.contains(name)).collect::<Vec<String>>()
    };
    let (one, two) = ([r#"up{job="a"}"#], [r#"up{job="a"}"#, r#"up{instance="1",job="b"}"#]);
    let fires = "[{exp_labels: {job: a}}]";
    assert!(found("Down, ordinary: x", &one, fires).is_empty());
    assert!(found("Down, no alert: x", &one, "[]").is_empty());
    assert!(found("Down, two deployments: x", &two, fires).is_empty());
    for (name, series, expected, gap) in [
        ("Down, flapping: x", &one[..], "[]", "does not expect the alert"),
        ("Down, no alert: x", &one, fires, "expects the alert"),
        ("Down, two deployments: x", &one, fires, "needs a second job that does not alert"),
        ("Down, strange: x", &one, fires, "has an unknown case"),
        ("Up, ordinary: x", &one, fires, "does not start with `ALERT, CASE: `"),
    ] {
        assert_eq!(found(name, series, expected), [format!("`{name}` {gap}")]);
    }
}

#[test]
fn the_alert_rules_are_valid_and_pass_their_tests() {
    let Some(promtool) = tool("promtool") else { return };
    let rules = observability("alerts.yml");
    let checked = run(&promtool, &["check", "rules", rules.to_str().unwrap()]);
    assert!(checked.status.success(), "{}{}", stdout(&checked), stderr(&checked));
    let tests = observability("alerts.test.yml");
    let tested = run(&promtool, &["test", "rules", tests.to_str().unwrap()]);
    assert!(tested.status.success(), "{}{}", stdout(&tested), stderr(&tested));
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
            let expression = &target["expr"].as_str().unwrap().replace("$job", ".*");
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

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeping_alert_fires_before_the_first_sweep_succeeds() {
    let Some(program) = tool("prometheus").filter(|_| prepared("a real Prometheus on a codeloc that cannot sweep"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let sandbox =
        Sandbox::start_with(folder.path(), "simulated", &["--deny", "iam:GetAccountAuthorizationDetails"]).await;
    sandbox.write_settings(&folder.path().join("work"));
    sandbox.write_config("orders", &config_with_image("orders", ""));
    let _daemon = sandbox.daemon(1);
    let prometheus = Prometheus::start(&program, folder.path(), sandbox.codeloc_port());
    let failed = r#"codeloc_sweep_duration_seconds_count{outcome="failed"} > 0"#;
    let firing = r#"ALERTS{alertname="CodelocNotSweeping", alertstate="firing"}"#;
    wait_for("sweeps fail and CodelocNotSweeping fires", 90, || async {
        match prometheus.query(&format!("{firing} and on (job) {failed}")).await? {
            0 => Err("no failed sweep, or no alert".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

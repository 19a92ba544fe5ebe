//! `docs/metrics.md`, and the metrics that the alerts and the dashboard use.

use codeloc::status::metrics::{ALL, MetricKind, Metrics, Scrape};
use serde_json::Value;

use super::{GENERATED, assert_fresh, code, header, read, row};

const PAGE: &str = "docs/metrics.md";

const HEAD: &str = "\
# Metrics

`GET /metrics` answers in Prometheus's text format. If the API needs tokens, use one with the role `read`.
[`deploy/observability`](../deploy/observability) contains alerts with unit tests, and a Grafana dashboard.

";

fn page() -> String {
    let mut page = format!("{GENERATED}{HEAD}{}", header(["Metric", "Type", "Labels", "Meaning"]));
    for definition in ALL {
        let kind = match definition.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels: Vec<String> = definition.labels.iter().map(|label| code(label)).collect();
        page.push_str(&row([&code(definition.name), kind, &labels.join(", "), definition.help]));
    }
    page
}

#[test]
fn the_metrics_page_is_fresh() {
    assert_fresh(PAGE, &page());
}

const ALERTS: &str = "deploy/observability/alerts.yml";
const DASHBOARD: &str = "deploy/observability/dashboard.json";

/// The names of codeloc's metrics in a query, each with its matchers.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let ends = |character: char| !character.is_ascii_lowercase() && character != '_';
    let selectors = query.split("codeloc_").skip(1).map(|rest| {
        let (name, rest) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
        let matchers =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(matchers, _)| matchers);
        let matchers = matchers.split(',').filter(|matcher| !matcher.is_empty()).map(str::to_owned).collect();
        (format!("codeloc_{name}"), matchers)
    });
    selectors.collect()
}

/// Whether a line of a scrape is a series that these matchers select.
fn selects(name: &str, matchers: &[String], line: &str) -> bool {
    let Some(labels) = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])) else { return false };
    matchers.iter().all(|matcher| match matcher.split_once("!=") {
        Some((label, value)) => labels.contains(&format!("{label}=")) && !labels.contains(&format!("{label}={value}")),
        None => labels.contains(matcher.as_str()),
    })
}

#[test]
fn the_series_of_alerts_exist_from_the_start() {
    // The series of a location exist with its status, those of an operation with its first call, and the date with the first read.
    // Until then, codeloc_source_up is 0.
    let later = ["codeloc_location_", "codeloc_aws_calls_total", "codeloc_source_read_timestamp_seconds"];
    let rules: Value = serde_saphyr::from_str(&read(ALERTS)).unwrap();
    let rules = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let scrape = Metrics::default().render(&Scrape::default());
    let mut checked = 0;
    for (name, matchers) in rules.flat_map(|rule| selectors(rule["expr"].as_str().unwrap())) {
        if later.iter().any(|later| name.starts_with(later)) {
            continue;
        }
        let exists = scrape.lines().any(|line| selects(&name, &matchers, line));
        assert!(exists, "{name} with {matchers:?} is not in\n{scrape}");
        checked += 1;
    }
    assert!(checked > 20, "the alerts were not found");
}

#[test]
fn every_panel_shows_only_the_selected_jobs() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["name"] == "job"), "{variables:?}");
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            for (name, matchers) in selectors(target["expr"].as_str().unwrap()) {
                assert!(matchers.iter().any(|matcher| matcher == r#"job=~"$job""#), "{}: {name}", panel["title"]);
            }
        }
    }
}

#[test]
fn alerts_and_dashboard_use_existing_metrics() {
    let texts = [read(ALERTS), read(DASHBOARD)].concat();
    let mut used = 0;
    for rest in texts.split("codeloc_").skip(1) {
        let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        let name = format!("codeloc_{name}");
        let known = ALL.iter().any(|definition| {
            let series = ["_bucket", "_count", "_sum"].map(|end| format!("{}{end}", definition.name));
            definition.name == name || (definition.kind == MetricKind::Histogram && series.contains(&name))
        });
        assert!(known, "{name} is used, but does not exist");
        used += 1;
    }
    assert!(used > 20, "the files were not found");
}

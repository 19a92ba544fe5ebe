//! `docs/metrics.md`, and the metrics that the alerts and the dashboard use.

use codeloc::status::metrics::{ALL, MetricKind};

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

#[test]
fn alerts_and_dashboard_use_existing_metrics() {
    let texts = [read("deploy/observability/alerts.yml"), read("deploy/observability/dashboard.json")].concat();
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

//! `docs/events.md`.

use codeloc::status::events::{EventReason, KEPT};

use super::{GENERATED, assert_fresh, code, header, row};

const PAGE: &str = "docs/events.md";

const HEAD: &str = "\
# Events

An event records what happened to a location or to the daemon, why, and from which commit.

- `codeloc events`, `GET /v1/events` and the page at `/` show events. `GET /v1/events/stream` sends them as they happen.
- With `notify.url_file`, codeloc posts events to a webhook in the JSON that Slack's incoming webhooks take. With
  `notify.secret_file`, codeloc signs them in the header `X-Codeloc-Signature-256`.
- If an event repeats, codeloc increases the event's count and does not add another event
  ([watching.md](watching.md#events)).
- `codeloc events` and the API list events in the order of their last occurrence.
";

fn page() -> String {
    let schema = schemars::schema_for!(EventReason).to_value();
    let described = schema["oneOf"].as_array().cloned().unwrap_or_default();
    let description = |name: &str| {
        let reason = described.iter().find(|one| one["const"] == name);
        let text = reason.and_then(|one| one["description"].as_str());
        text.unwrap_or_else(|| panic!("{name} has no description")).replace('\n', " ")
    };
    let mut page = format!("{GENERATED}{HEAD}- codeloc keeps the last {KEPT} events until the process ends.\n\n");
    page.push_str(&header(["Reason", "Severity", "Meaning"]));
    for reason in EventReason::ALL {
        let name = reason.label();
        page.push_str(&row([&code(name), reason.severity().label(), &description(name)]));
    }
    page
}

#[test]
fn the_events_page_is_fresh() {
    assert_fresh(PAGE, &page());
}

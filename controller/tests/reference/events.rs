//! `docs/events.md`.

use codeloc::status::events::{EventReason, KEPT};

use super::{GENERATED, assert_fresh, code, header, row};

const PAGE: &str = "docs/events.md";

const HEAD: &str = "\
# Events

codeloc records what happened to which location, why, and from which commit.

- `codeloc events`, `GET /v1/events` and the page at `/` show events. `GET /v1/events/stream` sends them as they happen.
- `notify.url_file` posts events to a webhook in the JSON that Slack's incoming webhooks take. With `notify.secret_file`,
  codeloc signs them in `X-Codeloc-Signature-256`.
- codeloc counts an event that repeats within ten minutes instead of adding it again, even if other events come in between
  ([watching.md](watching.md#events)).
- The list is in the order of each event's last occurrence.
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

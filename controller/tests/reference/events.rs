//! `docs/events.md`.

use codeloc::status::events::{EventReason, KEPT, Severity};

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
        let fits = |one: &&serde_json::Value| one["const"] == name;
        let text = described.iter().find(fits).and_then(|one| one["description"].as_str()).unwrap_or_default();
        text.replace('\n', " ")
    };
    let mut page = format!("{GENERATED}{HEAD}- codeloc keeps the last {KEPT} events until the process ends.\n\n");
    page.push_str(&header(["Reason", "Severity", "Meaning"]));
    for reason in EventReason::ALL {
        let name = format!("{reason:?}");
        let severity = match reason.severity() {
            Severity::Normal => "normal",
            Severity::Warning => "warning",
        };
        let meaning = match description(&name).as_str() {
            // Two whose names say it all.
            "" => match reason {
                EventReason::ImageReady => "The image of a commit is in the registry.".to_owned(),
                EventReason::ImageFailed => {
                    "The image of a commit could not be built. The message shows the cause.".to_owned()
                }
                other => panic!("{other:?} is not described"),
            },
            text => text.to_owned(),
        };
        page.push_str(&row([&code(&name), severity, &meaning]));
    }
    page
}

#[test]
fn the_page_of_the_events_is_fresh() {
    assert_fresh(PAGE, &page());
}

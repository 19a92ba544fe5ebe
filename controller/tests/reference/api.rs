//! `docs/openapi.json` and `docs/api.md`.

use super::{GENERATED, assert_fresh, code, header, row};

const HEAD: &str = "\
# REST API

`GET /openapi.json` returns the OpenAPI description; [openapi.json](openapi.json) is a copy of it. The API listens on
`listen`, which is a loopback address by default.

## Access

With `api.tokens_file`, requests need a token. The file has one line `ROLE NAME TOKEN` for each token; ROLE is `read` or
`write`. These routes need no token: `GET /healthz`, `/readyz`, `/openapi.json` and the page at `/`.

Without tokens, codeloc listens only on loopback, and refuses a request unless its `Host` is 127.0.0.1, [::1] or
localhost, with or without a port. A page of another site could let any other name point to this machine.

## Errors and health

- Errors are problem documents (RFC 9457) that say what to do.
- `/readyz` answers 503 while the daemon cannot do its work, and shows why ([watching.md](watching.md#outages)).
- `/healthz` answers as long as the process is alive.

## Writes

A write is a commit to the config repository in the name of the token, so git stays the only source of truth. If another
push arrives at the same moment, codeloc applies the change again on top of it, or refuses the change if it no longer
makes sense. With an `Idempotency-Key`, a repeated write counts once.

## Git webhooks

`POST /hooks/git` takes the webhooks of GitHub, GitLab and Bitbucket, and of other senders that sign the body with
HMAC-SHA256 in `X-Codeloc-Signature-256`. The shared secret is in `api.hook_secret_file`. After a push to the config
repository or to a location's repository, codeloc reads it immediately.

## Limits

| What | Limit |
| --- | --- |
| Body of a request | 256 KiB, received within 20 seconds |
| One request | 1 minute |
| Requests at the same time | 64 |
| Connections | 512. A new connection replaces the oldest one that waits for a request. |
| Open streams | 32 |
| A client that accepts no bytes | disconnected after 15 seconds |
| Bodies of webhooks at the same time | 8, each received within 5 seconds. codeloc refuses a webhook without a signature or the secret before it reads the body. |

`/healthz` and `/readyz` do not count towards these limits. If all other connections are busy, they have reserved ones.

## Routes

";

fn page() -> String {
    let description = serde_json::to_value(codeloc::api::openapi()).unwrap();
    let mut page = format!("{GENERATED}{HEAD}{}", header(["Route", "Meaning"]));
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let text = operation["summary"].as_str().or(operation["description"].as_str()).unwrap();
            page.push_str(&row([&code(&format!("{} {path}", method.to_uppercase())), text]));
        }
    }
    page
}

#[test]
fn the_api_page_is_fresh() {
    assert_fresh("docs/api.md", &page());
}

#[test]
fn the_openapi_document_is_fresh() {
    let description = serde_json::to_string_pretty(&codeloc::api::openapi()).unwrap();
    assert_fresh("docs/openapi.json", &(description + "\n"));
}

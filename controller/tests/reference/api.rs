//! `docs/openapi.json` and `docs/api.md`.

use super::{GENERATED, assert_fresh, code, header, row};

const HEAD: &str = "\
# REST API

`GET /openapi.json` returns the OpenAPI description; [openapi.json](openapi.json) is a copy of it. The API listens on
`listen`, which is a loopback address by default.

## Access

With `api.tokens_file`, requests need the header `Authorization: Bearer TOKEN`. The file has one line `ROLE NAME TOKEN`
for each token, of at least 20 characters. The role `read` allows `GET` requests, including `/metrics`; the role `write`
allows all requests. NAME is the author of the commits that the API writes. codeloc reads the file for each request, so
you can replace tokens without a restart. While the file is invalid or unreadable, codeloc logs the line and the error,
and the last valid tokens stay in force. These routes need no token: `GET /healthz`, `/readyz`, `/openapi.json` and the
page at `/`. `POST /hooks/git` needs the webhook secret instead.

The API speaks plain HTTP. If other machines use it, terminate TLS in front of it, for example in a load balancer.

Without tokens, codeloc listens only on loopback, and refuses a request unless its `Host` is 127.0.0.1, [::1] or
localhost, with or without a port. This check keeps web pages of other sites from reaching the API through a DNS name
that points to this machine.

## Errors and health

- Errors are problem documents (RFC 9457) that say what to do.
- `/readyz` answers 503 while the daemon cannot do its work, and shows why ([watching.md](watching.md#outages)).
- `/healthz` answers as long as the process is alive.

## Writes

A write is a commit to the config repository in the name of the token, so git stays the only source of truth. codeloc
pushes it with its own git credentials, which therefore need write access ([aws.md](aws.md#private-git-repositories)).
If another push arrives at the same moment, codeloc applies the change again on top of it. codeloc refuses the change if
it is no longer possible, for example because the config was removed.

A write continues if its client disconnects or its request times out. Send a write with an `Idempotency-Key` header, and
send it again with the same key if you did not get an answer:

- If codeloc performed the write, it returns the same answer and does not write again. It remembers the last 1000 keys
  until it restarts.
- If the write is still running, the request waits for it.
- If the write failed or was refused, codeloc tries again.

## Streams

`GET /v1/events/stream` and `GET /v1/locations/{name}/logs/stream` send server-sent events. Each event and each line has an id. To
continue after a disconnect, send the last id in the header `Last-Event-ID`, as a browser's `EventSource` does.

- The id of an event names the process that recorded it. If it was another process, because the daemon restarted or
  another daemon holds the lease, the stream starts with all events that this process recorded. `after` in
  `GET /v1/events` works in the same way.
- The id of a log line is valid in every daemon. The stream continues 30 seconds before the line, because the lines of
  other tasks can appear late. Ignore lines whose `id` you have seen.
- While you follow a log, codeloc sends each line once, also if it appears up to 30 seconds after newer lines of other
  tasks. With more than 10000 lines in 30 seconds, this time is shorter.

## Git webhooks

`POST /hooks/git` takes the webhooks of GitHub, GitLab and Bitbucket, and of other senders that sign the body with
HMAC-SHA256 in `X-Codeloc-Signature-256`. The shared secret is in `api.hook_secret_file`. After a push to the config
repository or to a location's repository, codeloc reads that repository immediately. The URL in the config may have
another form than the URLs in the webhook: with ssh or HTTPS, in other case, or with a host for ssh on port 443 such as
`ssh.github.com`.

## Limits

| What | Limit |
| --- | --- |
| Body of a request | 256 KiB, received within 20 seconds |
| One request | 1 minute |
| Requests at the same time | 64 |
| Connections | 512. A new connection replaces the oldest one that waits for a request. |
| Writes at the same time, including those whose client left | 64 |
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

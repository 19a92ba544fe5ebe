//! `docs/openapi.json` and `docs/api.md`.

use super::{GENERATED, assert_fresh, code, header, row};

const HEAD: &str = "\
# REST API

`GET /openapi.json` describes it; [the same file](openapi.json) is committed here. It listens on `listen`, which is loopback unless told
otherwise, and on nothing else without tokens: `api.tokens_file` holds a line `ROLE NAME TOKEN` for each, where ROLE is `read` or `write`.
Errors are problem documents (RFC 9457) that say what to do. `GET /healthz`, `/readyz`, `/openapi.json` and the page at `/` need no token.
`/readyz` answers 503 while the daemon cannot do its work, and says why ([watching.md](watching.md)); `/healthz` answers as long as it lives.

Writing means committing to the config repository, in the name of the token: git stays the only truth. A push by somebody else at the
same moment is not lost: the change is made again on top of it, or refused where it no longer makes sense. An `Idempotency-Key` makes
a write that is sent again count once.

`POST /hooks/git` takes the webhooks of GitHub, GitLab and Bitbucket, and of others that sign the body with HMAC-SHA256 in
`X-Codeloc-Signature-256`; the shared secret is in `api.hook_secret_file`. A push to the config repository, or to one that a location
is built from, is looked at at once.

Without tokens a request is refused unless its `Host` is 127.0.0.1, [::1] or localhost, with or without a port: any other name may be
one that a foreign page lets point here.

A body may have 256 KiB and 20 seconds, a request may take a minute, 64 are answered at once on 512 connections, and 32 streams may be
open. A client that takes no byte of its answer for 15 seconds is cut off. Where all connections are taken, a new one takes the place of
the oldest that waits for a request. A hook that brings neither a signature nor the secret is refused before its body is read; the bodies of 8
hooks are read at once, for at most 5 seconds. `/healthz` and `/readyz` count towards none of these: they are answered on connections of
their own where all others are busy.

";

fn page() -> String {
    let described = serde_json::to_value(codeloc::api::openapi()).unwrap();
    let mut page = format!("{GENERATED}{HEAD}{}", header(["Route", "Meaning"]));
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let text = operation["summary"].as_str().or(operation["description"].as_str()).unwrap();
            page.push_str(&row([&code(&format!("{} {path}", method.to_uppercase())), text]));
        }
    }
    page
}

#[test]
fn the_page_of_the_api_is_fresh() {
    assert_fresh("docs/api.md", &page());
}

#[test]
fn the_description_of_the_api_is_fresh() {
    let described = serde_json::to_string_pretty(&codeloc::api::openapi()).unwrap();
    assert_fresh("docs/openapi.json", &(described + "\n"));
}

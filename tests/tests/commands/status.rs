//! `codeloc status` of an unknown location, and `--wait` after a push.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use codeloc_tests::processes::{binary, run, stderr, stdout};
use codeloc_tests::{TestDeployment, commit_id, config};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Answer, daemon, status};

fn ask(server: &str, arguments: &[&str]) -> std::process::Output {
    run(binary("codeloc"), &[&["status", "--server", server], arguments].concat())
}

#[test]
fn an_unknown_location_is_an_error_that_names_similar_ones() {
    let server = daemon(|_, path| match path {
        "/v1/locations" => {
            Answer::json(&json!(["orders", "billing", "nightly-report"].map(|name| status(name, &json!({})))))
        }
        _ => Answer::json(&json!([])),
    });
    for json in [&[][..], &["--json"]] {
        let output = ask(&server, &[&["ordres"], json].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(stderr(&output), "error: there is no location `ordres`; did you mean `orders`?\n");
        assert_eq!(stdout(&output), if json.is_empty() { "" } else { "[]\n" });
        let output = ask(&server, &[&["billing", "zzz"], json].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(stderr(&output), "error: there is no location `zzz`; `codeloc list` shows all of them\n");
        assert!(stdout(&output).contains("billing"), "{output:?}");
    }
}

/// A daemon that returns one list of statuses after another and repeats the last one, with the number of its responses.
fn daemon_with_statuses(shown: Vec<Value>, configs: Vec<Value>) -> (String, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let server = daemon(move |_, path| {
        let at = count.load(Ordering::SeqCst);
        match path {
            "/v1/status" => Answer::json(&json!({
                "version": "1", "deployment": "codeloc", "mode": "enforce", "lease": "held", "commit": null,
                "fault": null, "now": "2026-01-01T12:00:00Z", "as_of": configs[at.min(configs.len() - 1)],
            })),
            "/v1/locations" => {
                count.fetch_add(1, Ordering::SeqCst);
                Answer::json(&shown[at.min(shown.len() - 1)])
            }
            _ => Answer("403 Forbidden", "application/problem+json", json!({"detail": "may only read"}).to_string()),
        }
    });
    (server, requests)
}

#[test]
fn wait_includes_the_newest_commit_of_the_branch() {
    let status_at = |commit: &str, as_of: Value, more: &Value| {
        let mut one = status("orders", more);
        (one["commit"], one["as_of"]) = (json!(commit), as_of);
        json!([one])
    };
    let shown = vec![
        status_at("old", json!("2026-01-01T11:59:59Z"), &json!({})),
        status_at("old", Value::Null, &json!({})),
        status_at("new", json!("2026-01-01T12:00:01Z"), &json!({"health": "Progressing"})),
        status_at("new", json!("2026-01-01T12:00:02Z"), &json!({})),
    ];
    let (server, requests) = daemon_with_statuses(shown, vec![json!("2026-01-01T12:00:00Z")]);
    for arguments in [&["orders", "--wait", "--json"][..], &["--wait", "--json"]] {
        requests.store(0, Ordering::SeqCst);
        let output = ask(&server, arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()[0]["commit"], "new", "{output:?}");
        assert_eq!(requests.load(Ordering::SeqCst), 4);
    }
}

#[test]
fn wait_includes_configs_that_were_just_committed() {
    let well = |name: &str| status(name, &json!({"as_of": "2026-01-01T12:00:02Z"}));
    let shown = vec![json!([well("orders")]), json!([well("orders")]), json!([well("billing"), well("orders")])];
    let configs = vec![json!("2026-01-01T11:00:00Z"), Value::Null, json!("2026-01-01T12:00:02Z")];
    let (server, requests) = daemon_with_statuses(shown.clone(), configs.clone());
    let output = ask(&server, &["--wait", "--json"]);
    assert!(output.status.success() && stdout(&output).contains("billing"), "{output:?}");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    let (server, _) = daemon_with_statuses(shown, configs);
    let output = ask(&server, &["billing", "--wait"]);
    assert!(output.status.success() && stdout(&output).contains("billing: Synced, Healthy"), "{output:?}");
}

#[test]
fn a_wait_that_times_out_names_the_reason() {
    let old = status("orders", &json!({"as_of": "2026-01-01T11:00:00Z"}));
    let unhealthy = status("billing", &json!({"health": "Degraded", "message": "no image"}));
    let (server, _) = daemon_with_statuses(vec![json!([old, unhealthy])], vec![json!("2026-01-01T12:00:00Z")]);
    let output = ask(&server, &["--wait", "--timeout", "0"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let reported = stderr(&output);
    let known = "the status of orders may be old: the daemon has not read its config or its branch since";
    assert!(reported.contains(known) && reported.contains("billing is Synced, Degraded: no image"), "{reported}");
    let output = ask(&server, &["ordres", "--wait", "--timeout", "0"]);
    assert!(stderr(&output).contains("did you mean `orders`?"), "{}", stderr(&output));
}

#[test]
fn waiting_ends_at_once_if_a_revision_failed() {
    let of = |as_of: &str, more: &Value| {
        let mut one = status("orders", more);
        one["as_of"] = json!(as_of);
        json!([one])
    };
    let condition = json!({
        "kind": "Deployed", "status": "False", "reason": "RolloutFailed", "message": "no module shop",
        "since": "2026-01-01T00:00:00Z",
    });
    let failed = json!({"health": "Degraded", "message": "no module shop", "conditions": [condition]});
    let configs = vec![json!("2026-01-01T12:00:00Z")];
    let (server, asked) = daemon_with_statuses(vec![of("2026-01-01T12:00:00Z", &failed)], configs.clone());
    let output = ask(&server, &["--wait"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = "error: not every location is Synced and Healthy: orders is Synced, Degraded: no module shop\n";
    assert_eq!(stderr(&output), expected);
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // A fix was pushed, and the daemon has not read it yet.
    let shown = vec![of("2026-01-01T11:59:59Z", &failed), of("2026-01-01T12:00:01Z", &json!({}))];
    let (server, asked) = daemon_with_statuses(shown, configs);
    let output = ask(&server, &["--wait"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn wait_for_a_commit_ends_when_the_location_runs_it() {
    let (old, new) = ("0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98");
    let at = |commit: &str, more: &Value| {
        let mut one = status("orders", more);
        (one["commit"], one["as_of"]) = (json!(commit), json!("2026-01-01T12:00:01Z"));
        json!([one])
    };
    let shown = vec![at(old, &json!({})), at(new, &json!({"health": "Progressing"})), at(new, &json!({}))];
    let (server, asked) = daemon_with_statuses(shown.clone(), vec![json!("2026-01-01T12:00:01Z")]);
    let output = ask(&server, &["orders", "--wait", "--commit", &new[..8], "--json"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()[0]["commit"], new, "{output:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (server, _) = daemon_with_statuses(shown, vec![json!("2026-01-01T12:00:01Z")]);
    let output = ask(&server, &["orders", "--wait", "--commit", new, "--timeout", "0"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = format!(
        "error: not all locations were Synced and Healthy within 0 s: orders is at commit 0123456789ab, not at commit {new}\n"
    );
    assert_eq!(stderr(&output), expected);
    let output = ask(&server, &["orders", "--wait", "--config-commit", new, "--timeout", "0"]);
    let expected = format!("the configs are at no commit, not at commit {new}");
    assert!(output.status.code() == Some(1) && stderr(&output).contains(&expected), "{output:?}");
    let output = ask(&server, &["orders", "--wait", "--commit", "main"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("a commit has 7 to 40 hexadecimal digits"), "{output:?}");
}

#[tokio::test(start_paused = true)]
async fn a_status_includes_every_push_before_its_as_of_time() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let includes = |this: &TestDeployment, pushed: Instant| {
        this.healthy("orders") && this.as_of("orders").is_some_and(|moment| moment >= pushed)
    };
    let before = deployment.status("orders").unwrap();
    let pushed = Instant::now();
    deployment.publish();
    deployment.branches.push("orders", 2);
    deployment.wait_until("the status includes the push", |this| includes(this, pushed)).await;
    let moved = deployment.status("orders").unwrap();
    assert_eq!(moved.commit.as_deref(), Some(commit_id(2).as_str()));
    assert_ne!(moved.serving, before.serving);

    let committed = Instant::now();
    deployment.commit("orders", config("orders") + "resources: {cpu: 512, memory: 1024}\n");
    // codeloc resolves the branch without a push.
    deployment.wait_until("the status includes the config", |this| includes(this, committed)).await;
    assert_ne!(deployment.status("orders").unwrap().serving, moved.serving);
}

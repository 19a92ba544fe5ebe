//! `codeloc status` of an unknown location, and `--wait` after a push.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use codeloc_tests::processes::{binary, run, stderr, stdout};
use codeloc_tests::{TestDeployment, config};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Answer, daemon, status};

fn ask(server: &str, words: &[&str]) -> std::process::Output {
    run(binary("codeloc"), &[&["status", "--server", server], words].concat())
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

/// A daemon that answers with one list of statuses after another and repeats the last one, and the number of its answers.
fn moving(shown: Vec<Value>, configs: Vec<Value>) -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
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
    (server, asked)
}

#[test]
fn waiting_is_for_the_commit_that_the_branch_names_now() {
    let of = |commit: &str, as_of: Value, more: &Value| {
        let mut one = status("orders", more);
        (one["commit"], one["as_of"]) = (json!(commit), as_of);
        json!([one])
    };
    let shown = vec![
        of("old", json!("2026-01-01T11:59:59Z"), &json!({})),
        of("old", Value::Null, &json!({})),
        of("new", json!("2026-01-01T12:00:01Z"), &json!({"health": "Progressing"})),
        of("new", json!("2026-01-01T12:00:02Z"), &json!({})),
    ];
    let (server, asked) = moving(shown, vec![json!("2026-01-01T12:00:00Z")]);
    for words in [&["orders", "--wait", "--json"][..], &["--wait", "--json"]] {
        asked.store(0, Ordering::SeqCst);
        let output = ask(&server, words);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()[0]["commit"], "new", "{output:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }
}

#[test]
fn waiting_is_for_configs_that_were_just_committed() {
    let well = |name: &str| status(name, &json!({"as_of": "2026-01-01T12:00:02Z"}));
    let shown = vec![json!([well("orders")]), json!([well("orders")]), json!([well("billing"), well("orders")])];
    let configs = vec![json!("2026-01-01T11:00:00Z"), Value::Null, json!("2026-01-01T12:00:02Z")];
    let (server, asked) = moving(shown.clone(), configs.clone());
    let output = ask(&server, &["--wait", "--json"]);
    assert!(output.status.success() && stdout(&output).contains("billing"), "{output:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let (server, _) = moving(shown, configs);
    let output = ask(&server, &["billing", "--wait"]);
    assert!(output.status.success() && stdout(&output).contains("billing: Synced, Healthy"), "{output:?}");
}

#[test]
fn waiting_in_vain_says_for_what() {
    let old = status("orders", &json!({"as_of": "2026-01-01T11:00:00Z"}));
    let ill = status("billing", &json!({"health": "Degraded", "message": "no image"}));
    let (server, _) = moving(vec![json!([old, ill])], vec![json!("2026-01-01T12:00:00Z")]);
    let output = ask(&server, &["--wait", "--timeout", "0"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = stderr(&output);
    let known = "orders may be out of date: the daemon has not read its config or its branch again";
    assert!(told.contains(known) && told.contains("billing is Synced, Degraded: no image"), "{told}");
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
    let (server, asked) = moving(vec![of("2026-01-01T12:00:00Z", &failed)], configs.clone());
    let output = ask(&server, &["--wait"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = "error: not every location is Synced and Healthy: orders is Synced, Degraded: no module shop\n";
    assert_eq!(stderr(&output), expected);
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    // A fix was pushed, and the daemon has not read it yet.
    let shown = vec![of("2026-01-01T11:59:59Z", &failed), of("2026-01-01T12:00:01Z", &json!({}))];
    let (server, asked) = moving(shown, configs);
    let output = ask(&server, &["--wait"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_status_knows_of_every_push_before_its_moment() {
    let mut deployment = TestDeployment::converged(&["orders"]).await;
    let knows = |this: &TestDeployment, pushed: Instant| {
        this.healthy("orders") && this.as_of("orders").is_some_and(|moment| moment >= pushed)
    };
    let before = deployment.status("orders").unwrap();
    let pushed = Instant::now();
    deployment.publish();
    deployment.branches.push("orders", 2);
    deployment.until("the push is known of", |this| knows(this, pushed)).await;
    let moved = deployment.status("orders").unwrap();
    assert_eq!(moved.commit.as_deref(), Some(format!("{:040x}", 2).as_str()));
    assert_ne!(moved.serving, before.serving);

    let committed = Instant::now();
    deployment.commit("orders", config("orders") + "resources: {cpu: 512, memory: 1024}\n");
    // The branch is asked by itself.
    deployment.until("the config is known of", |this| knows(this, committed)).await;
    assert_ne!(deployment.status("orders").unwrap().serving, moved.serving);
}

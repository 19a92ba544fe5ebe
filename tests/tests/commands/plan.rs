//! `codeloc plan` beside a daemon prints the plan of the daemon in the form of a local one.

use codeloc_tests::lone::Lone;
use codeloc_tests::processes::{binary, command, free_ports, run, stderr, stdout, until};
use serde_json::json;

use super::{Answer, daemon, status};

fn config(name: &str, more: &str) -> String {
    let digest = "0123456789abcdef".repeat(4);
    format!(
        "name: {name}\ngit_url: https://git.test/{name}.git\nmodule: {name}\nimage: registry.test/{name}@sha256:{digest}\n{more}"
    )
}

/// A daemon that changes nothing, a location that is missing in AWS, and an invalid config.
async fn beside_a_daemon(folder: &std::path::Path) -> (Lone, codeloc_tests::processes::Process) {
    let lone = Lone::start(folder, "simulated").await;
    lone.write_settings(&folder.join("work"));
    lone.write_config("orders", &config("orders", "mode: detect\n"));
    lone.write_config("broken", &config("broken", "nope: 1\n"));
    let daemon = lone.daemon(1);
    until("the daemon knows both locations", 60, || async {
        lone.status("broken").await?;
        let status = lone.status("orders").await?;
        if status["drift"].as_array().is_some_and(|drift| !drift.is_empty()) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    (lone, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_computes_the_plan_without_local_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let (lone, _daemon) = beside_a_daemon(folder.path()).await;
    for form in [&[][..], &["--json"]] {
        let here = lone.codeloc("plan", &[form, &["--local"]].concat());
        assert!(stdout(&here).contains("orders-service"), "{here:?}");
        let mut keyless = command(binary("codeloc"));
        keyless.args(["plan", "--config"]).arg(folder.path().join("codeloc.yml")).args(form);
        let there = keyless.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").output().unwrap();
        assert_eq!((there.status.code(), stdout(&there)), (here.status.code(), stdout(&here)), "{}", stderr(&there));
        let url = format!("http://127.0.0.1:{}", lone.codeloc_port());
        assert!(stderr(&there).starts_with(&format!("the daemon at {url} computed this plan")), "{}", stderr(&there));
        assert!(stderr(&there).ends_with(&stderr(&here)), "{}", stderr(&there));
        let named = run(binary("codeloc"), &[&["plan", "--server", &url], form].concat());
        assert_eq!((named.status.code(), stdout(&named)), (here.status.code(), stdout(&here)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_another_deployment_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (lone, _daemon) = beside_a_daemon(folder.path()).await;
    let output = lone.codeloc("plan", &["--deployment", "other"]);
    assert!(!stderr(&output).contains("computed this plan"), "{}", stderr(&output));
    assert!(stdout(&output).contains("role other-orders"), "{}", stdout(&output));
}

#[test]
fn a_named_daemon_that_cannot_plan_is_an_error() {
    let [port] = free_ports();
    let away = run(binary("codeloc"), &["plan", "--server", &format!("http://127.0.0.1:{port}")]);
    assert_eq!(away.status.code(), Some(1));
    assert!(stderr(&away).contains("start it with `codeloc run`"), "{}", stderr(&away));
    let server = daemon(|_, path| match path {
        "/readyz" => Answer("503 Service Unavailable", "text/plain", "live state has not been read yet\n".to_owned()),
        _ => Answer::json(&json!([status("orders", &json!({}))])),
    });
    let early = run(binary("codeloc"), &["plan", "--server", &server]);
    assert_eq!((early.status.code(), stdout(&early).as_str()), (Some(1), ""));
    assert!(stderr(&early).contains("live state has not been read yet"), "{}", stderr(&early));
}

//! `codeloc plan` prints the plan of a running daemon like a local plan.

use codeloc_tests::processes::{binary, command, free_ports, run, stderr, stdout, wait_for};
use codeloc_tests::sandbox::{Sandbox, config_with_image};
use serde_json::json;

use super::{Answer, daemon, status};

/// A daemon that changes nothing, a location that is missing in AWS, and an invalid config.
async fn with_daemon(folder: &std::path::Path) -> (Sandbox, codeloc_tests::processes::Process) {
    let sandbox = Sandbox::start(folder, "simulated").await;
    sandbox.write_settings(&folder.join("work"));
    sandbox.write_config("orders", &config_with_image("orders", "mode: detect\n"));
    sandbox.write_config("broken", &config_with_image("broken", "nope: 1\n"));
    let daemon = sandbox.daemon(1);
    wait_for("the daemon knows both locations", 60, || async {
        sandbox.status("broken").await?;
        let status = sandbox.status("orders").await?;
        if status["drift"].as_array().is_some_and(|drift| !drift.is_empty()) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    (sandbox, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_computes_the_plan_without_local_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let (sandbox, _daemon) = with_daemon(folder.path()).await;
    for form in [&[][..], &["--json"]] {
        let local = sandbox.codeloc("plan", &[form, &["--local"]].concat());
        assert!(stdout(&local).contains("orders-service"), "{local:?}");
        let mut keyless = command(binary("codeloc"));
        keyless.args(["plan", "--config"]).arg(folder.path().join("codeloc.yml")).args(form);
        let remote = keyless.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").output().unwrap();
        assert_eq!(
            (remote.status.code(), stdout(&remote)),
            (local.status.code(), stdout(&local)),
            "{}",
            stderr(&remote)
        );
        let url = format!("http://127.0.0.1:{}", sandbox.codeloc_port());
        assert!(stderr(&remote).starts_with(&format!("the daemon at {url} computed this plan")), "{}", stderr(&remote));
        assert!(stderr(&remote).ends_with(&stderr(&local)), "{}", stderr(&remote));
        let named = run(binary("codeloc"), &[&["plan", "--server", &url], form].concat());
        assert_eq!((named.status.code(), stdout(&named)), (local.status.code(), stdout(&local)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_another_deployment_is_not_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (sandbox, _daemon) = with_daemon(folder.path()).await;
    let output = sandbox.codeloc("plan", &["--deployment", "other"]);
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
        "/readyz" => Answer("503 Service Unavailable", "text/plain", "codeloc has not read AWS yet\n".to_owned()),
        _ => Answer::json(&json!([status("orders", &json!({}))])),
    });
    let early = run(binary("codeloc"), &["plan", "--server", &server]);
    assert_eq!((early.status.code(), stdout(&early).as_str()), (Some(1), ""));
    assert!(stderr(&early).contains("codeloc has not read AWS yet"), "{}", stderr(&early));
}

//! Error messages of AWS calls: operation, code and message, or operation, URL and cause.

use codeloc_tests::processes::{free_ports, stderr, stdout};
use codeloc_tests::sandbox::{Sandbox, config_with_image};

use super::{Answer, daemon};

async fn sandbox(folder: &std::path::Path, flags: &[&str]) -> Sandbox {
    let sandbox = Sandbox::start_with(folder, "simulated", flags).await;
    sandbox.write_settings(&folder.join("work"));
    sandbox.write_config("orders", &config_with_image("orders", ""));
    sandbox
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_operation_code_and_message() {
    for operation in [
        "sts:GetCallerIdentity",
        "servicediscovery:ListNamespaces",
        "iam:GetAccountAuthorizationDetails",
        "logs:DescribeLogGroups",
        "ecr:DescribeRepositories",
        "ecs:ListServices",
        "application-autoscaling:DescribeScalableTargets",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = sandbox(folder.path(), &["--deny", operation]).await;
        let output = sandbox.codeloc("plan", &[]);
        let reported = stderr(&output);
        let rest = reported
            .strip_prefix(&format!("error: {operation}: "))
            .unwrap_or_else(|| panic!("{operation}: {reported}"));
        let (code, message) = rest.split_once(": ").unwrap_or_else(|| panic!("{operation}: {reported}"));
        assert!(code.starts_with("AccessDenied") && message.contains("not authorized"), "{operation}: {reported}");
        assert_eq!((output.status.code(), reported.lines().count()), (Some(1), 1), "{reported}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_response_names_operation_url_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let mut sandbox = sandbox(folder.path(), &[]).await;
    let [unused] = free_ports();
    sandbox.set_aws_port(unused);
    sandbox.write_settings(&folder.path().join("work"));
    let refused = format!(
        "sts:GetCallerIdentity: could not reach sts at http://127.0.0.1:{unused}: Connection refused (os error 111)"
    );
    let planned = stderr(&sandbox.codeloc("plan", &[]));
    assert_eq!(planned, format!("error: {refused}\n"));
    let examined = stdout(&sandbox.codeloc("doctor", &[]));
    assert!(examined.lines().any(|line| line.ends_with(&refused)), "{examined}");

    let proxy = daemon(|_, _| Answer("503 Service Unavailable", "text/html", "<html>busy</html>".to_owned()));
    let reported = stderr(&sandbox.codeloc("plan", &["--aws-endpoint-url", &proxy]));
    let expected = format!("error: sts:GetCallerIdentity: sts at {proxy} answered with HTTP 503");
    assert!(reported.starts_with(&expected) && !reported.contains("ServiceError"), "{reported}");

    let mut keyless = codeloc_tests::processes::command(codeloc_tests::processes::binary("codeloc"));
    keyless.args(["plan", "--config"]).arg(folder.path().join("codeloc.yml"));
    let output = keyless.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").output().unwrap();
    let reported = stderr(&output);
    assert!(reported.starts_with("error: sts:GetCallerIdentity: codeloc could not send the call: "), "{reported}");
    assert!(reported.contains("credential") && !reported.contains('{'), "{reported}");
}

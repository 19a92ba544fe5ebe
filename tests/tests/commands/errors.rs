//! Errors of AWS name operation, code and message; a missing answer names operation, URL and cause.

use codeloc_tests::lone::Lone;
use codeloc_tests::processes::{free_ports, stderr, stdout};

use super::{Answer, daemon};

const ORDERS: &str = "name: orders\ngit_url: https://git.test/orders.git\nmodule: orders\nimage: registry.test/orders@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

async fn lone(folder: &std::path::Path, flags: &[&str]) -> Lone {
    let lone = Lone::start_with(folder, "simulated", flags).await;
    lone.write_settings(&folder.join("work"));
    lone.write_config("orders", ORDERS);
    lone
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
        let lone = lone(folder.path(), &["--deny", operation]).await;
        let output = lone.codeloc("plan", &[]);
        let told = stderr(&output);
        let rest = told.strip_prefix(&format!("error: {operation}: ")).unwrap_or_else(|| panic!("{operation}: {told}"));
        let (code, message) = rest.split_once(": ").unwrap_or_else(|| panic!("{operation}: {told}"));
        assert!(code.starts_with("AccessDenied") && message.contains("not authorized"), "{operation}: {told}");
        assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_answer_names_operation_url_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let mut lone = lone(folder.path(), &[]).await;
    let [unused] = free_ports();
    lone.look_at(unused);
    lone.write_settings(&folder.path().join("work"));
    let refused = format!(
        "sts:GetCallerIdentity: could not reach sts at http://127.0.0.1:{unused}: Connection refused (os error 111)"
    );
    let planned = stderr(&lone.codeloc("plan", &[]));
    assert_eq!(planned, format!("error: {refused}\n"));
    let examined = stdout(&lone.codeloc("doctor", &[]));
    assert!(examined.lines().any(|line| line.ends_with(&refused)), "{examined}");

    let proxy = daemon(|_, _| Answer("503 Service Unavailable", "text/html", "<html>busy</html>".to_owned()));
    let told = stderr(&lone.codeloc("plan", &["--aws-endpoint-url", &proxy]));
    let wanted = format!("error: sts:GetCallerIdentity: sts at {proxy} answered with HTTP 503");
    assert!(told.starts_with(&wanted) && !told.contains("ServiceError"), "{told}");

    let mut keyless = codeloc_tests::processes::command(codeloc_tests::processes::binary("codeloc"));
    keyless.args(["plan", "--config"]).arg(folder.path().join("codeloc.yml"));
    let output = keyless.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").output().unwrap();
    let told = stderr(&output);
    assert!(told.starts_with("error: sts:GetCallerIdentity: the call could not be made: "), "{told}");
    assert!(told.contains("credential") && !told.contains('{'), "{told}");
}

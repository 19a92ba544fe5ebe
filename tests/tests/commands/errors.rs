//! Error messages of AWS calls: operation, code and message, or operation, URL and cause.

use codeloc_tests::processes::{binary, command, free_ports, stderr, stdout};
use codeloc_tests::sandbox::{Sandbox, config_with_image};

use super::{Answer, daemon};

/// Commands that write a config.
const WRITES: [&[&str]; 6] = [
    &["add", "https://example.com/new.git"],
    &["update", "orders", "--set", "branch=next"],
    &["suspend", "orders"],
    &["resume", "orders"],
    &["rollback", "orders", "--to", "0123456789abcdef0123456789abcdef01234567"],
    &["remove", "orders"],
];

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

#[test]
fn a_write_with_two_sources_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("repos/orders/config.yml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let text = "name: orders\ngit_url: https://example.com/orders.git\nmodule: orders\nmode: suspended\n";
    std::fs::write(&config, text).unwrap();
    let settings = folder.path().join("codeloc.yml");
    std::fs::write(&settings, "source: {path: repos, git_url: \"https://example.com/configs.git\"}\n").unwrap();
    for arguments in WRITES {
        let output = command(binary("codeloc")).args(arguments).current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let expected = "error: setting source has both `path` and `git_url`; remove one of them\n";
        assert_eq!(stderr(&output), expected, "{arguments:?}");
    }
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
}

#[test]
fn an_empty_variable_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("codeloc.yml"), "source: {git_url: \"https://example.com/configs.git\"}\n")
        .unwrap();
    for (variable, setting) in [
        ("CODELOC_SOURCE_PATH", "source.path"),
        ("CODELOC_AWS_SUBNETS", "aws.subnets"),
        ("CODELOC_GIT_POLL_SECONDS", "git.poll_seconds"),
    ] {
        for arguments in WRITES.into_iter().chain([&["run"][..], &["doctor"]]) {
            let mut command = command(binary("codeloc"));
            let output = command.args(arguments).env(variable, "").current_dir(folder.path()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{variable} {arguments:?}: {output:?}");
            let expected = format!(
                "error: {variable}: the value of {setting} is empty; set a value, or leave it out; see docs/settings.md\n"
            );
            assert_eq!(stderr(&output), expected, "{arguments:?}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

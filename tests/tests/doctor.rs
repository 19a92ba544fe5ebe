//! `codeloc doctor` with a good setup and with broken ones.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use codeloc::runtime::Clock;
use codeloc_tests::processes::{binary, command, prepared, stdout};
use codeloc_tests::sandbox::Sandbox;
use serde_json::Value;

/// The exit code, and the checks that are not good, with their fixes.
fn examine(sandbox: &Sandbox, flags: &[&str]) -> (Option<i32>, Vec<(String, String)>) {
    let output = sandbox.codeloc("doctor", &[&["--json"], flags].concat());
    let findings: Vec<Value> = serde_json::from_str(&stdout(&output)).unwrap_or_else(|error| {
        panic!("{error}: {}\n{}", stdout(&output), codeloc_tests::processes::stderr(&output));
    });
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let not_good = findings.iter().filter(|finding| finding["verdict"] != "good");
    let reported = not_good.map(|finding| {
        let reported = format!("{}: {} ({})", text(finding, "check"), text(finding, "found"), text(finding, "verdict"));
        (reported, text(finding, "fix"))
    });
    (output.status.code(), reported.collect())
}

const ORDERS: &str =
    "name: orders\ngit_url: https://github.com/codeloc-samples/orders.git\nmodule: orders.definitions\n";

async fn start(more: &[&str]) -> (tempfile::TempDir, Sandbox) {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start_with(folder.path(), "simulated", more).await;
    sandbox.write_settings(&folder.path().join("work"));
    sandbox.write_config("orders", ORDERS);
    (folder, sandbox)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_each_broken_setting_and_nothing_else() {
    if !prepared("the doctor with real git and uv") {
        return;
    }
    let (_folder, sandbox) = start(&[]).await;
    assert_eq!(examine(&sandbox, &[]), (Some(0), vec![]));

    let iam = aws_sdk_iam::Client::new(&sandbox.sdk());
    let trust = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}"#;
    iam.create_role().role_name("of-ec2").assume_role_policy_document(trust).send().await.unwrap();
    let role = |name: &str| format!("--aws-execution-role-arn=arn:aws:iam::123456789012:role/{name}");
    let (missing_role, other_role) = (role("nope"), role("of-ec2"));
    let broken: [(&str, &str, &str); 27] = [
        ("--deployment=Not_An_Id", "settings: ", "docs/settings.md"),
        (
            "--aws-cluster=arn:aws:ecs:eu-central-1:123456789012:cluster/dagster",
            "settings: setting aws.cluster",
            "docs/settings.md",
        ),
        ("--aws-log-retention-days=10", "settings: setting aws.log_retention_days is 10", "docs/settings.md"),
        ("--git-poll-seconds=0", "settings: setting git.poll_seconds is 0", "docs/settings.md"),
        ("--reconcile-resync-seconds=0", "settings: setting reconcile.resync_seconds is 0", "docs/settings.md"),
        ("--listen=0.0.0.0:8080", "settings: listen is 0.0.0.0:8080", "docs/settings.md"),
        ("--api-tokens-file=/nope", "settings: cannot read api.tokens_file /nope", "docs/settings.md"),
        ("--notify-url-file=/nope", "settings: cannot read notify.url_file /nope", "docs/settings.md"),
        ("--cost-prices-file=/nope", "settings: cannot read cost.prices_file /nope", "docs/settings.md"),
        ("--build-base-image=::bad::", "settings: build.base_image ::bad::", "docs/settings.md"),
        ("--build-constraints=/nope", "settings: cannot read build.constraints", "docs/settings.md"),
        ("--aws-cluster=nope", "cluster: there is no active ECS cluster nope", "aws.cluster"),
        ("--aws-namespace=nope.internal", "namespace: there is no Cloud Map namespace", "aws.namespace"),
        ("--aws-bucket=nope", "bucket: there is no bucket nope", "aws.bucket"),
        ("--aws-subnets=[vpc-1]", "network: `vpc-1` is not the id of a subnet", "aws.subnets"),
        ("--aws-security-groups=[]", "network: aws.subnets or aws.security_groups is empty", "aws.security_groups"),
        (&missing_role, "roles: there is no role", "aws.execution_role_arn"),
        (&other_role, "roles: ECS cannot assume of-ec2", "ecs-tasks.amazonaws.com"),
        (
            "--aws-permissions-boundary=arn:aws:iam::123456789012:policy/nope",
            "roles: there is no policy",
            "aws.permissions_boundary",
        ),
        ("--build-codebuild-project=nope", "codebuild: there is no CodeBuild project nope", "build.codebuild_project"),
        ("--build-uv=/nope/uv", "uv: cannot start", "build.uv"),
        ("--git-program=/nope/git", "git: cannot start", "git.program"),
        ("--build-work-folder=/proc/nope", "work-folder: /proc/nope is not writable", "build.work_folder"),
        ("--dagster-workspace-file=/nope/w.yaml", "workspace-file: /nope/w.yaml", "dagster.workspace_file"),
        ("--dagster-webserver-url=http://127.0.0.1:1", "dagster: the webserver does not answer", "webserver_url"),
        ("--source-path=/nope", "configs: cannot read the folder", "source.path"),
        ("--aws-endpoint-url=http://127.0.0.1:1", "credentials: ", "aws.endpoint_url"),
    ];
    for (flag, found, mend) in broken {
        let (exit, reported) = examine(&sandbox, &[flag]);
        let matches = |(reported, how): &(String, String)| {
            reported.starts_with(found) && reported.ends_with("(bad)") && how.contains(mend)
        };
        assert!(exit == Some(1) && reported.iter().any(matches), "{flag}: exit {exit:?}, {reported:#?}");
    }

    sandbox.write_config("orders", &format!("{ORDERS}branch: nope\n"));
    sandbox.write_config("broken", "name: broken\nmodul: x\n");
    let (exit, reported) = examine(&sandbox, &[]);
    assert_eq!((exit, reported.len()), (Some(1), 2), "{reported:#?}");
    assert!(
        reported[0].0.contains("repos/broken/config.yml:1") && reported[0].1.contains("codeloc validate"),
        "{reported:#?}"
    );
    assert!(reported[1].0.starts_with("git: branch nope") && reported[1].1.contains("git_url"), "{reported:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_each_denied_action() {
    if !prepared("the doctor with real git and uv") {
        return;
    }
    let (_folder, sandbox) = start(&["--deny", "ecs:CreateService", "--deny", "s3:GetObject"]).await;
    let (exit, reported) = examine(&sandbox, &[]);
    assert_eq!(exit, Some(1));
    let all: Vec<String> = reported.iter().map(|(reported, mend)| format!("{reported} | {mend}")).collect();
    let all = all.join("\n");
    for part in [
        "is not allowed to ecs:CreateService on arn:aws:ecs:eu-central-1:123456789012:service/dagster/",
        "allow s3:GetObject",
        "bucket: ",
    ] {
        assert!(all.contains(part), "no {part} in\n{all}");
    }
    let (_folder, sandbox) = start(&["--deny", "sts:GetCallerIdentity"]).await;
    let (exit, reported) = examine(&sandbox, &[]);
    assert!(exit == Some(1) && reported[0].0.starts_with("credentials: "), "{reported:#?}");
}

/// The portal of AWS IAM Identity Center for a session of `aws sso login`.
async fn sso_portal() -> String {
    let keys = || async {
        let expiration = (Clock::of_this_machine().now() + jiff::SignedDuration::from_hours(1)).as_millisecond();
        axum::Json(serde_json::json!({"roleCredentials": {
            "accessKeyId": "ASIASSO", "secretAccessKey": "of-sso", "sessionToken": "session", "expiration": expiration,
        }}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = axum::Router::new().route("/federation/credentials", axum::routing::get(keys));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

/// A home folder as the AWS CLI leaves it after `aws sso login` and `aws login`.
fn home(folder: &std::path::Path) -> std::path::PathBuf {
    let home = folder.join("home");
    let write = |path: &str, text: String| {
        let path = home.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let later = Clock::of_this_machine().now() + jiff::SignedDuration::from_hours(1);
    let keys = r#"echo {\"Version\":1,\"AccessKeyId\":\"AKIAPROCESS\",\"SecretAccessKey\":\"of-process\"}"#;
    write(
        ".aws/config",
        format!(
            "[profile process]\ncredential_process = {keys}\n
[profile sso]\nsso_session = team\nsso_account_id = 123456789012\nsso_role_name = Admin\n
[sso-session team]\nsso_start_url = https://team.awsapps.com/start\nsso_region = eu-central-1\nsso_registration_scopes = sso:account:access\n
[profile ended]\nsso_session = over\nsso_account_id = 123456789012\nsso_role_name = Admin\n
[sso-session over]\nsso_start_url = https://over.awsapps.com/start\nsso_region = eu-central-1\n
[profile login]\nlogin_session = me\n"
        ),
    );
    // The AWS CLI names the files by the SHA-1 of `team` and the SHA-256 of `me`.
    write(
        ".aws/sso/cache/d25187dc137f35c88bc80ec8c3ffbdb17b5eb873.json",
        serde_json::json!({"accessToken": "token", "expiresAt": later, "region": "eu-central-1"}).to_string(),
    );
    write(
        ".aws/login/cache/2744ccd10c7533bd736ad890f9dd5cab2adb27b07d500b9493f29cdc420cb2e0.json",
        serde_json::json!({
            "accessToken": {
                "accessKeyId": "ASIALOGIN", "secretAccessKey": "of-login", "sessionToken": "session",
                "accountId": "123456789012", "expiresAt": later,
            },
            "tokenType": "aws_sigv4", "refreshToken": "refresh", "idToken": "id",
            "clientId": "arn:aws:signin:::devtools/same-device", "dpopKey": "not needed before the hour is over",
        })
        .to_string(),
    );
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_with_sso_process_and_login_reach_aws() {
    if !prepared("the doctor with real git and uv") {
        return;
    }
    let (folder, sandbox) = start(&[]).await;
    let (portal, home) = (sso_portal().await, home(folder.path()));
    let credentials = |profile: &str| {
        let mut codeloc = command(binary("codeloc"));
        for keys in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
            codeloc.env_remove(keys);
        }
        codeloc.env("HOME", &home).env("AWS_PROFILE", profile).env("AWS_ENDPOINT_URL_SSO", &portal);
        let output = codeloc.args(["doctor", "--json", "--config"]).arg(folder.path().join("codeloc.yml")).output();
        let findings: Vec<Value> = serde_json::from_str(&stdout(&output.unwrap())).unwrap();
        findings.into_iter().find(|finding| finding["check"] == "credentials").unwrap()
    };
    for profile in ["process", "sso", "login"] {
        let finding = credentials(profile);
        assert_eq!(finding["verdict"], "good", "{profile}: {finding}");
    }
    let ended = credentials("ended");
    assert_eq!(ended["verdict"], "bad", "{ended}");
    assert!(ended["fix"].as_str().unwrap().contains("`aws sso login`"), "{ended}");
    drop(sandbox);
}

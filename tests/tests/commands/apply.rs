//! `codeloc apply` with a signal, with a lease of another process, and without access to AWS.

use std::process::{Child, Command, Stdio};

use aws_sdk_s3::primitives::ByteStream;
use codeloc_tests::processes::{binary, command, stderr, wait_for};
use codeloc_tests::sandbox::{Sandbox, config_with_image};
use serde_json::{Value, json};

const KEY: &str = "codeloc/codeloc-local/lease.json";
const BUCKET: &str = "dagster-platform";

/// A location that never becomes healthy, because the driver starts no tasks.
async fn sandbox(folder: &std::path::Path, flags: &[&str]) -> Sandbox {
    let sandbox = Sandbox::start_with(folder, "simulated", flags).await;
    sandbox.write_settings(&folder.join("work"));
    sandbox.write_config("orders", &config_with_image("orders", ""));
    sandbox
}

fn s3(sandbox: &Sandbox) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(&sandbox.sdk()).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config)
}

async fn holder(sandbox: &Sandbox) -> Result<String, String> {
    let answer = s3(sandbox).get_object().bucket(BUCKET).key(KEY).send().await.map_err(|error| format!("{error:?}"))?;
    let bytes = answer.body.collect().await.map_err(|error| error.to_string())?.into_bytes();
    let record: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(record["holder"].as_str().unwrap_or_default().to_owned())
}

/// Writes the lease of another process that does not renew it.
async fn hold(sandbox: &Sandbox, seconds: u64) {
    let record = json!({"holder": "vm/1/2", "sequence": 7, "seconds": seconds}).to_string();
    let write = s3(sandbox).put_object().bucket(BUCKET).key(KEY).body(ByteStream::from(record.into_bytes()));
    write.send().await.unwrap();
}

fn apply(folder: &std::path::Path) -> Child {
    let mut codeloc = command(binary("codeloc"));
    codeloc.args(["apply", "--timeout", "400", "--config"]).arg(folder.join("codeloc.yml"));
    codeloc.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn changes(sandbox: &Sandbox) -> usize {
    let calls = sandbox.web.calls(sandbox.cloud_port(), 0).await.unwrap();
    calls.iter().filter(|call| call.mutating && call.service != "s3").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_apply_and_releases_the_lease() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path(), &[]).await;
    for signal in ["-TERM", "-INT"] {
        let child = apply(folder.path());
        wait_for("apply holds the lease", 60, || async {
            match holder(&sandbox).await? {
                none if none.is_empty() => Err("released".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{signal}: {errors}");
        assert!(errors.contains("stopped by a signal before all locations were reconciled"), "{signal}: {errors}");
        assert_eq!(holder(&sandbox).await.unwrap(), "", "after {signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_waits_for_a_lease_that_another_process_holds() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path(), &[]).await;
    hold(&sandbox, 3600).await;
    let output = sandbox.codeloc("apply", &["--timeout", "8"]);
    let errors = stderr(&output);
    assert_eq!((output.status.code(), changes(&sandbox).await), (Some(1), 0), "{errors}");
    assert!(errors.contains("waiting for the lease: vm/1/2 holds it"), "{errors}");
    let expected =
        "error: not every location was Synced and Healthy within 8 s: vm/1/2 holds the lease; stop that process";
    assert!(errors.contains(expected), "{errors}");

    // The lease expires while the command waits.
    hold(&sandbox, 2).await;
    let mut child = apply(folder.path());
    wait_for("apply changes something", 60, || {
        assert_eq!(child.try_wait().unwrap(), None, "apply exited");
        let sandbox = &sandbox;
        async move { if changes(sandbox).await > 0 { Ok(()) } else { Err("no change".to_owned()) } }
    })
    .await;
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let errors = stderr(&child.wait_with_output().unwrap());
    assert!(errors.contains("waiting for the lease: vm/1/2 holds it"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_fails_when_aws_was_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path(), &["--deny", "iam:GetAccountAuthorizationDetails"]).await;
    let output = sandbox.codeloc("apply", &["--timeout", "4"]);
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let expected = "error: not every location was Synced and Healthy within 4 s: no sweep could read all of AWS: \
                    iam:GetAccountAuthorizationDetails: AccessDenied";
    assert!(errors.contains(expected), "{errors}");
}

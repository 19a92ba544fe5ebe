//! `codeloc apply` ended by a signal, beside a held lease, and without access to AWS.

use std::process::{Child, Command, Stdio};

use aws_sdk_s3::primitives::ByteStream;
use codeloc_tests::lone::Lone;
use codeloc_tests::processes::{binary, command, stderr, until};
use serde_json::{Value, json};

const KEY: &str = "codeloc/codeloc-local/lease.json";
const BUCKET: &str = "dagster-platform";

/// A cloud, and a location that never becomes healthy: the driver runs no task.
async fn lone(folder: &std::path::Path, flags: &[&str]) -> Lone {
    let lone = Lone::start_with(folder, "simulated", flags).await;
    lone.write_settings(&folder.join("work"));
    let image = format!("registry.test/orders@sha256:{}", "0123456789abcdef".repeat(4));
    let config = format!("name: orders\ngit_url: https://git.test/orders.git\nmodule: orders\nimage: {image}\n");
    lone.write_config("orders", &config);
    lone
}

fn s3(lone: &Lone) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(&lone.sdk()).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config)
}

async fn holder(lone: &Lone) -> Result<String, String> {
    let answer = s3(lone).get_object().bucket(BUCKET).key(KEY).send().await.map_err(|error| format!("{error:?}"))?;
    let bytes = answer.body.collect().await.map_err(|error| error.to_string())?.into_bytes();
    let record: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(record["holder"].as_str().unwrap_or_default().to_owned())
}

/// Writes the lease as another process does, which then stops renewing it.
async fn hold(lone: &Lone, seconds: u64) {
    let record = json!({"holder": "vm/1/2", "sequence": 7, "seconds": seconds}).to_string();
    let write = s3(lone).put_object().bucket(BUCKET).key(KEY).body(ByteStream::from(record.into_bytes()));
    write.send().await.unwrap();
}

fn apply(folder: &std::path::Path) -> Child {
    let mut codeloc = command(binary("codeloc"));
    codeloc.args(["apply", "--timeout", "400", "--config"]).arg(folder.join("codeloc.yml"));
    codeloc.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn changes(lone: &Lone) -> usize {
    let calls = lone.web.calls(lone.cloud_port(), 0).await.unwrap();
    calls.iter().filter(|call| call.mutating && call.service != "s3").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_the_lease_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let lone = lone(folder.path(), &[]).await;
    for signal in ["-TERM", "-INT"] {
        let child = apply(folder.path());
        until("apply holds the lease", 60, || async {
            match holder(&lone).await? {
                none if none.is_empty() => Err("given back".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{signal}: {errors}");
        assert!(errors.contains("stopped by a signal before all locations were reconciled"), "{signal}: {errors}");
        assert_eq!(holder(&lone).await.unwrap(), "", "after {signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_another_process_holds_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let lone = lone(folder.path(), &[]).await;
    hold(&lone, 3600).await;
    let output = lone.codeloc("apply", &["--timeout", "8"]);
    let errors = stderr(&output);
    assert_eq!((output.status.code(), changes(&lone).await), (Some(1), 0), "{errors}");
    assert!(errors.contains("waiting for the lease: vm/1/2 holds it"), "{errors}");
    assert!(errors.ends_with("error: not converged within 8 s: vm/1/2 holds the lease\n"), "{errors}");

    // It runs out while the command waits.
    hold(&lone, 2).await;
    let mut child = apply(folder.path());
    until("apply changes something", 60, || {
        assert_eq!(child.try_wait().unwrap(), None, "ended by itself");
        let lone = &lone;
        async move { if changes(lone).await > 0 { Ok(()) } else { Err("no change".to_owned()) } }
    })
    .await;
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let errors = stderr(&child.wait_with_output().unwrap());
    assert!(errors.contains("waiting for the lease: vm/1/2 holds it"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aws_that_was_never_read_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let lone = lone(folder.path(), &["--deny", "iam:GetAccountAuthorizationDetails"]).await;
    let output = lone.codeloc("apply", &["--timeout", "4"]);
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let wanted = "error: not converged within 4 s: no sweep could read all of AWS: iam:GetAccountAuthorizationDetails: AccessDenied";
    assert!(errors.contains(wanted), "{errors}");
}

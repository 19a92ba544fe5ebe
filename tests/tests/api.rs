//! The REST API of a running daemon, as others look at it.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::path::Path;
use std::process::Command;

use codeloc_tests::lone::Lone;
use codeloc_tests::processes::{command, prepared, root, stderr, stdout, until};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdefghij-write";

fn config(name: &str) -> String {
    let digest = "0123456789abcdef".repeat(4);
    format!(
        "name: {name}\ngit_url: https://git.test/{name}.git\nmodule: {name}\nimage: registry.test/{name}@sha256:{digest}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_answer_that_is_not_described_and_none_that_blames_the_server() {
    let program = root().join(".local/schemathesis/bin/schemathesis");
    if !prepared("the API under Schemathesis") || !program.exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lone = Lone::start(folder.path(), "simulated").await;
    lone.write_settings(&folder.path().join("work"));
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("write schemathesis {TOKEN}\n")).unwrap();
    let settings = folder.path().join("codeloc.yml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\napi:\n  tokens_file: {}\n", tokens.display())).unwrap();
    lone.write_config("orders", &config("orders"));
    let _daemon = lone.daemon(1);
    let base = format!("http://127.0.0.1:{}", lone.codeloc_port());
    until("the daemon knows its location", 60, || async {
        let request = lone.web.client.get(format!("{base}/v1/locations/orders")).bearer_auth(TOKEN);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;

    let mut schemathesis = command(&program);
    schemathesis.current_dir(folder.path()).args(["run", &format!("{base}/openapi.json"), "--no-color"]);
    schemathesis.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--exclude-path-regex", "/stream$"]);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                  unsupported_method,ignored_auth";
    // The same requests each time.
    schemathesis.args([
        "--checks",
        checks,
        "--seed",
        "1",
        "--max-examples",
        "15",
        "--phases",
        "examples,coverage,fuzzing",
    ]);
    let output = schemathesis.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
}

fn git(folder: &Path, words: &[&str]) {
    let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"];
    let output = Command::new("git").args(identity).args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", stderr(&output));
}

/// Seconds since 1970.
fn now() -> f64 {
    codeloc::runtime::Clock::of_this_machine().now().as_duration().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aws_that_is_away_is_told_by_the_command_line_and_the_api() {
    if !prepared("a daemon whose AWS goes away") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut lone = Lone::start(folder.path(), "simulated").await;
    lone.write_settings(&folder.path().join("work"));
    lone.write_config("billing", &config("billing"));
    let mut daemon = lone.daemon(1);
    let base = format!("http://127.0.0.1:{}", lone.codeloc_port());
    let web = lone.web.clone();
    let ready = async |wanted: u16| {
        until(&format!("/readyz answers {wanted}"), 60, || async {
            let request = web.client.get(format!("{base}/readyz")).send();
            let answer = request.await.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let text = answer.text().await.map_err(|error| error.to_string())?;
            if status == wanted { Ok(text) } else { Err(text) }
        })
        .await
    };
    assert_eq!(ready(200).await, "ok\n");
    lone.kill_cloud();
    let told = ready(503).await;
    let begins = "AWS does not answer (s3:";
    assert!(told.starts_with(begins), "{told}");
    let status = lone.web.get(&format!("{base}/v1/status")).await.unwrap();
    assert!(status["fault"].as_str().unwrap().starts_with(begins), "{status}");
    let output = lone.codeloc("status", &[]);
    assert!(stderr(&output).contains(&format!("warning: {begins}")), "{}", stderr(&output));
    // Whatever it was doing then.
    assert!(stdout(&output).contains("last observed "), "{}", stdout(&output));
    daemon.check();
}

/// A daemon that reads its configs from a repository, and by itself looks at it once an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_a_signed_hook_tells_of_leads_to_a_change_at_once_and_an_add_through_the_api_is_a_commit() {
    if !prepared("a daemon that is told of pushes") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lone = Lone::start(folder.path(), "simulated").await;
    lone.write_settings(&folder.path().join("work"));
    let origin = folder.path().join("configs.git");
    git(folder.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "configs.git"]);
    git(folder.path(), &["clone", "--quiet", "configs.git", "checkout"]);
    let checkout = folder.path().join("checkout");
    let push = |name: &str| {
        std::fs::create_dir_all(checkout.join("repos").join(name)).unwrap();
        std::fs::write(checkout.join("repos").join(name).join("config.yml"), config(name)).unwrap();
        git(&checkout, &["add", "--all"]);
        git(&checkout, &["commit", "--quiet", "-m", &format!("Adds {name}")]);
        git(&checkout, &["push", "--quiet", "origin", "HEAD:main"]);
    };
    // Nothing is wanted yet, so that nothing is on its way when the hook comes.
    std::fs::create_dir(checkout.join("repos")).unwrap();
    std::fs::write(checkout.join("repos/README.md"), "Configs.\n").unwrap();
    git(&checkout, &["add", "--all"]);
    git(&checkout, &["commit", "--quiet", "-m", "Begins"]);
    git(&checkout, &["push", "--quiet", "origin", "HEAD:main"]);
    std::fs::write(folder.path().join("secret"), "hush").unwrap();
    let settings = folder.path().join("codeloc.yml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let (before, after) = text.split_once("source:\n").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    let text = format!("{before}source:\n  git_url: {}\n{after}", origin.display());
    let text = text.replace("poll_seconds: 5", "poll_seconds: 3600");
    let secret = folder.path().join("secret").display().to_string();
    std::fs::write(&settings, format!("{text}\napi:\n  hook_secret_file: {secret}\n")).unwrap();
    let mut daemon = lone.daemon(1);
    let ecs = aws_sdk_ecs::Client::new(&lone.sdk());
    let serves = async |name: &str| {
        until(&format!("{name} has a service"), 60, || async {
            let answer = ecs.list_services().cluster("dagster").send().await.map_err(|error| error.to_string())?;
            let found = answer.service_arns().iter().any(|arn| arn.contains(name));
            if found { Ok(()) } else { Err(format!("{:?}", answer.service_arns())) }
        })
        .await;
    };
    let base = format!("http://127.0.0.1:{}", lone.codeloc_port());
    // It looks at AWS every two seconds at most: a hook that comes later finds it idle.
    until("the daemon is idle", 60, || async {
        let request = lone.web.client.get(format!("{base}/metrics")).send().await.map_err(|error| error.to_string())?;
        let text = request.text().await.map_err(|error| error.to_string())?;
        let swept = text.lines().find_map(|line| line.strip_prefix("codeloc_sweep_timestamp_seconds "));
        let swept: f64 = swept.and_then(|at| at.parse().ok()).ok_or("nothing was swept")?;
        if text.contains("codeloc_sweep_duration_seconds_count{outcome=\"done\"} 0") {
            return Err("no sweep has ended".to_owned());
        }
        if now() - swept > 2.5 { Ok(()) } else { Err(format!("swept at {swept}")) }
    })
    .await;

    push("billing");
    let body = json!({"repository": {"clone_url": origin.display().to_string()}}).to_string();
    let hook = |secret: &str| {
        let signature = codeloc::runtime::signing::sign(body.as_bytes(), secret);
        let request = lone.web.client.post(format!("{base}/hooks/git")).header("x-github-event", "push");
        request.header("x-hub-signature-256", signature).header("content-type", "application/json").body(body.clone())
    };
    assert_eq!(hook("guess").send().await.unwrap().status(), 401);
    let mark = lone.web.calls(lone.cloud_port(), 0).await.unwrap().last().map_or(0, |call| call.sequence);
    let told = now();
    assert_eq!(hook("hush").send().await.unwrap().status(), 202);
    serves("billing").await;
    let calls = lone.web.calls(lone.cloud_port(), mark).await.unwrap();
    let first = calls.iter().find(|call| call.mutating && call.service != "s3").unwrap();
    println!("from the hook to {}: {:.3} s", first.operation, first.time - told);

    let added = lone.web.client.post(format!("{base}/v1/locations")).header("content-type", "application/yaml");
    let added = added.body(config("stock")).send().await.unwrap();
    assert_eq!(added.status(), 201);
    let written: Value = added.json().await.unwrap();
    serves("stock").await;
    git(&checkout, &["pull", "--quiet", "origin", "main"]);
    let log = Command::new("git").args(["log", "--format=%H %an: %s"]).current_dir(&checkout).output().unwrap();
    let log = stdout(&log);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], format!("{} codeloc: Adds code location stock", written["commit"].as_str().unwrap()));
    assert!(lines[1].ends_with("Ada: Adds billing") && lines[2].ends_with("Ada: Begins"), "{lines:?}");
    daemon.check();
}

//! The REST API of a running daemon.

use codeloc_tests::processes::{command, git, prepared, root, stderr, stdout, wait_for};
use codeloc_tests::sandbox::{Sandbox, config_with_image};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdefghij-write";

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_undocumented_response_and_no_server_error() {
    let program = root().join(".local/schemathesis/bin/schemathesis");
    if !prepared("the API under Schemathesis") || !program.exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("write schemathesis {TOKEN}\n")).unwrap();
    let settings = folder.path().join("codeloc.yml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\napi:\n  tokens_file: {}\n", tokens.display())).unwrap();
    sandbox.write_config("orders", &config_with_image("orders", ""));
    let _daemon = sandbox.daemon(1);
    let base = format!("http://127.0.0.1:{}", sandbox.codeloc_port());
    wait_for("the daemon knows its location", 60, || async {
        let request = sandbox.web.client.get(format!("{base}/v1/locations/orders")).bearer_auth(TOKEN);
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

/// Seconds since 1970.
fn now() -> f64 {
    codeloc::runtime::Clock::of_this_machine().now().as_duration().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn command_line_and_api_report_an_outage_of_aws() {
    if !prepared("a daemon during an outage of AWS") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    sandbox.write_config("billing", &config_with_image("billing", ""));
    let mut daemon = sandbox.daemon(1);
    let base = format!("http://127.0.0.1:{}", sandbox.codeloc_port());
    let web = sandbox.web.clone();
    let ready = async |expected: u16| {
        wait_for(&format!("/readyz answers {expected}"), 60, || async {
            let request = web.client.get(format!("{base}/readyz")).send();
            let answer = request.await.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let text = answer.text().await.map_err(|error| error.to_string())?;
            if status == expected { Ok(text) } else { Err(text) }
        })
        .await
    };
    assert_eq!(ready(200).await, "ok\n");
    sandbox.kill_cloud();
    let reported = ready(503).await;
    let begins = "AWS does not answer (s3:";
    assert!(reported.starts_with(begins), "{reported}");
    let status = sandbox.web.get(&format!("{base}/v1/status")).await.unwrap();
    assert!(status["fault"].as_str().unwrap().starts_with(begins), "{status}");
    let output = sandbox.codeloc("status", &[]);
    assert!(stderr(&output).contains(&format!("warning: {begins}")), "{}", stderr(&output));
    // Independent of what the daemon did at the outage.
    assert!(stdout(&output).contains("last observed "), "{}", stdout(&output));
    daemon.check();
}

/// The daemon reads its configs from a git repository, which it polls once an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_hook_reconciles_at_once_and_an_add_commits() {
    if !prepared("a daemon with a git webhook") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(folder.path(), "simulated").await;
    sandbox.write_settings(&folder.path().join("work"));
    let origin = folder.path().join("configs.git");
    git(folder.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "configs.git"]);
    git(folder.path(), &["clone", "--quiet", "configs.git", "checkout"]);
    let checkout = folder.path().join("checkout");
    let push = |name: &str| {
        std::fs::create_dir_all(checkout.join("repos").join(name)).unwrap();
        std::fs::write(checkout.join("repos").join(name).join("config.yml"), config_with_image(name, "")).unwrap();
        git(&checkout, &["add", "--all"]);
        git(&checkout, &["commit", "--quiet", "-m", &format!("Adds {name}")]);
        git(&checkout, &["push", "--quiet", "origin", "HEAD:main"]);
    };
    // Without configs, the daemon is idle when the hook comes.
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
    let mut daemon = sandbox.daemon(1);
    let ecs = aws_sdk_ecs::Client::new(&sandbox.sdk());
    let serves = async |name: &str| {
        wait_for(&format!("{name} has a service"), 60, || async {
            let answer = ecs.list_services().cluster("dagster").send().await.map_err(|error| error.to_string())?;
            let found = answer.service_arns().iter().any(|arn| arn.contains(name));
            if found { Ok(()) } else { Err(format!("{:?}", answer.service_arns())) }
        })
        .await;
    };
    let base = format!("http://127.0.0.1:{}", sandbox.codeloc_port());
    // The daemon sweeps at most every two seconds; later, it is idle.
    wait_for("the daemon is idle", 60, || async {
        let request =
            sandbox.web.client.get(format!("{base}/metrics")).send().await.map_err(|error| error.to_string())?;
        let text = request.text().await.map_err(|error| error.to_string())?;
        let swept = text.lines().find_map(|line| line.strip_prefix("codeloc_sweep_timestamp_seconds "));
        let swept: f64 = swept.and_then(|at| at.parse().ok()).ok_or("no sweep yet")?;
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
        let request = sandbox.web.client.post(format!("{base}/hooks/git")).header("x-github-event", "push");
        request.header("x-hub-signature-256", signature).header("content-type", "application/json").body(body.clone())
    };
    assert_eq!(hook("guess").send().await.unwrap().status(), 401);
    let mark = sandbox.web.calls(sandbox.cloud_port(), 0).await.unwrap().last().map_or(0, |call| call.sequence);
    let reported = now();
    assert_eq!(hook("hush").send().await.unwrap().status(), 202);
    serves("billing").await;
    let calls = sandbox.web.calls(sandbox.cloud_port(), mark).await.unwrap();
    let first = calls.iter().find(|call| call.mutating && call.service != "s3").unwrap();
    println!("from the hook to {}: {:.3} s", first.operation, first.time - reported);

    let added = sandbox.web.client.post(format!("{base}/v1/locations")).header("content-type", "application/yaml");
    let added = added.body(config_with_image("stock", "")).send().await.unwrap();
    assert_eq!(added.status(), 201);
    let written: Value = added.json().await.unwrap();
    serves("stock").await;
    git(&checkout, &["pull", "--quiet", "origin", "main"]);
    let log = git(&checkout, &["log", "--format=%H %an: %s"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], format!("{} codeloc: Add location stock", written["commit"].as_str().unwrap()));
    assert!(lines[1].ends_with("Ada: Adds billing") && lines[2].ends_with("Ada: Begins"), "{lines:?}");
    daemon.check();
}

//! The first day of a data engineer, with commands only: add, change, break, roll back and remove a local project.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::path::Path;
use std::process::Output;

use codeloc_tests::processes::{command, git, prepared, root, stderr, stdout, wait_for};
use codeloc_tests::sandbox::Sandbox;
use serde_json::Value;

const CODE: &str =
    "import dagster as dg\n\n@dg.asset\ndef hello():\n    return 1\n\ndefs = dg.Definitions(assets=[hello])\n";

fn commit(project: &Path, code: &str) -> String {
    std::fs::create_dir_all(project.join("shop")).unwrap();
    std::fs::write(project.join("shop/__init__.py"), "").unwrap();
    std::fs::write(project.join("shop/definitions.py"), code).unwrap();
    let git = |arguments: &[&str]| git(project, arguments);
    git(&["init", "--quiet", "--initial-branch=trunk"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "x"]);
    git(&["rev-parse", "HEAD"])
}

fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

/// Waits until the status of the location matches, and returns it.
async fn wait_for_status(sandbox: &Sandbox, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, 300, || async {
        let status = sandbox.status("shop").await?;
        if matches(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

fn is_healthy(status: &Value) -> bool {
    status["sync"] == "Synced" && status["health"] == "Healthy"
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_add_change_roll_back_and_remove_a_project() {
    if !prepared("the first day of a data engineer") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    let first = commit(&project, CODE);
    let sandbox = Sandbox::start(folder.path(), "process").await;
    sandbox.write_settings(&folder.path().join("work"));
    // A second location, because the prune guard keeps the last one.
    sandbox.write_config("other", "name: other\ngit_url: https://github.com/codeloc-samples/none.git\nmodule: other\n");
    let daemon = sandbox.daemon(1);

    let added = success(&sandbox.codeloc("add", &[project.to_str().unwrap(), "--name", "shop"]));
    assert_eq!(added, "shop: saved in the config folder: Add location shop\n");
    let config = std::fs::read_to_string(folder.path().join("repos/shop/config.yml")).unwrap();
    assert!(config.contains("branch: trunk\npython_file: shop/definitions.py\n"), "{config}");
    let created = wait_for_status(&sandbox, "the project runs", is_healthy).await;
    let listed = success(&sandbox.codeloc("list", &[]));
    let row: Vec<&str> = listed.lines().find(|line| line.starts_with("shop ")).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["shop", "Synced", "Healthy", &first[..8]], "{listed}");

    success(&sandbox.codeloc("update", &["shop", "--set", "environment=[{name: A, value: b}]"]));
    let changed = |status: &Value| is_healthy(status) && status["revision"] != created["revision"];
    wait_for_status(&sandbox, "the changed config serves", changed).await;

    commit(&project, &format!("{CODE}raise RuntimeError('broken on purpose')\n"));
    success(&sandbox.codeloc("sync", &["shop"]));
    let broken = wait_for_status(&sandbox, "the broken commit is held", |status| status["health"] == "Degraded").await;
    assert!(broken["message"].as_str().unwrap().contains("RuntimeError: broken on purpose"), "{broken}");
    let reported = success(&sandbox.codeloc("status", &["shop"]));
    assert!(reported.contains("RolloutFailed") && reported.contains("broken on purpose"), "{reported}");
    assert!(success(&sandbox.codeloc("logs", &["shop"])).contains("broken on purpose"));

    // A new daemon did not see the first commit serve.
    drop(daemon);
    let _daemon = sandbox.daemon(2);
    wait_for_status(&sandbox, "the new daemon knows the location", |status| status["health"] == "Degraded").await;
    success(&sandbox.codeloc("rollback", &["shop"]));
    let restored = wait_for_status(&sandbox, "the first commit is back", is_healthy).await;
    assert_eq!(restored["commit"], first.as_str());

    success(&sandbox.codeloc("remove", &["shop"]));
    wait_for("the location is deleted", 120, || async {
        match sandbox.status("shop").await {
            Err(error) if error.starts_with("no shop in") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let happened = success(&sandbox.codeloc("events", &["--location", "shop", "--json"]));
    for reason in ["CommitObserved", "ImageReady", "Applied", "RolloutFailed", "Healthy", "Removed"] {
        assert!(happened.contains(&format!("\"reason\":\"{reason}\"")), "no {reason} in\n{happened}");
    }
}

/// `make` with `echo` as Python and a `cargo` that always fails.
fn make(arguments: &[&str]) -> Output {
    let mut make = command("make");
    make.current_dir(root()).env_remove("MAKEFLAGS").args(["CARGO=false", "PYTHON=echo"]).args(arguments);
    make.output().unwrap()
}

#[test]
fn make_names_a_missing_variable_before_any_build() {
    for (target, variable) in [
        ("add-repo", "REPO_URL"),
        ("update-repo", "REPO_NAME"),
        ("remove-repo", "REPO_NAME"),
        ("repo-logs", "REPO_NAME"),
        ("dev-add-repo", "REPO_PATH"),
    ] {
        let output = make(&[target]);
        let reported = stderr(&output);
        assert!(
            reported.contains(&format!("{target} needs {variable}, as in: make {target} {variable}=")),
            "{reported}"
        );
        assert!(!output.status.success() && !reported.contains("Error 1"), "{reported}");
    }
}

#[test]
fn dev_with_repos_uses_the_samples_by_default() {
    let samples = root().join("repos").display().to_string();
    for (arguments, configs) in [(&[][..], samples.as_str()), (&["REPOS=/elsewhere"], "/elsewhere")] {
        let output = make(&[&["CARGO=true", "dev-with-repos"], arguments].concat());
        assert!(stdout(&output).contains(&format!("deploy/local/run.py --repos {configs}\n")), "{output:?}");
    }
}

#[test]
fn make_run_prepares_only_what_it_uses() {
    let reported = "import sys; sys.path.insert(0, 'deploy/local'); sys.dont_write_bytecode = True; import prepare
for step in ('make_environment', 'add_package', 'make_policies', 'make_repository'):
    setattr(prepare, step, lambda *what, step=step: print(step, *(getattr(one, 'repository', one) for one in what)))
prepare.prepare(for_tests=False)";
    let output = command("python3").args(["-c", reported]).current_dir(root()).output().unwrap();
    insta::assert_snapshot!(success(&output), @"
    make_environment tools
    make_environment dagster
    add_package
    make_repository orders
    make_repository nightly-report
    make_repository platform-monorepo
    ");
}

//! What a data engineer does on the first day, with the commands alone: a local project is added, changed, broken, rolled back and
//! removed, and each outcome is where one would look.

#![expect(clippy::unwrap_used, reason = "a test fails where a call does")]

use std::path::Path;
use std::process::{Command, Output};

use codeloc_tests::lone::Lone;
use codeloc_tests::processes::{command, prepared, root, stderr, stdout, until};
use serde_json::Value;

const CODE: &str =
    "import dagster as dg\n\n@dg.asset\ndef hello():\n    return 1\n\ndefs = dg.Definitions(assets=[hello])\n";

fn commit(project: &Path, code: &str) -> String {
    std::fs::create_dir_all(project.join("shop")).unwrap();
    std::fs::write(project.join("shop/__init__.py"), "").unwrap();
    std::fs::write(project.join("shop/definitions.py"), code).unwrap();
    let git = |words: &[&str]| {
        let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").args(identity).args(words).current_dir(project).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        stdout(&output).trim().to_owned()
    };
    git(&["init", "--quiet", "--initial-branch=trunk"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "--message", "x"]);
    git(&["rev-parse", "HEAD"])
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", stdout(output), stderr(output));
    stdout(output)
}

/// Until the location is as `fits` says; its status.
async fn becomes(lone: &Lone, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    until(what, 300, || async {
        let status = lone.status("shop").await?;
        if fits(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

fn is_well(status: &Value) -> bool {
    status["sync"] == "Synced" && status["health"] == "Healthy"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_project_is_added_changed_broken_rolled_back_and_removed_with_commands_alone() {
    if !prepared("the first day of a data engineer") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    let first = commit(&project, CODE);
    let lone = Lone::start(folder.path(), "process").await;
    lone.write_settings(&folder.path().join("work"));
    // Somebody else's location, so that the removal in the end is not that of the last one.
    lone.write_config("other", "name: other\ngit_url: https://github.com/codeloc-samples/none.git\nmodule: other\n");
    let daemon = lone.daemon(1);

    let added = done(&lone.codeloc("add", &[project.to_str().unwrap(), "--name", "shop"]));
    assert_eq!(added, "shop: Adds code location shop\n");
    let config = std::fs::read_to_string(folder.path().join("repos/shop/config.yml")).unwrap();
    assert!(config.contains("branch: trunk\npython_file: shop/definitions.py\n"), "{config}");
    let made = becomes(&lone, "the project runs", is_well).await;
    let listed = done(&lone.codeloc("list", &[]));
    let row: Vec<&str> = listed.lines().find(|line| line.starts_with("shop ")).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["shop", "Synced", "Healthy", &first[..8]], "{listed}");

    done(&lone.codeloc("update", &["shop", "--set", "environment=[{name: A, value: b}]"]));
    let changed = |status: &Value| is_well(status) && status["revision"] != made["revision"];
    becomes(&lone, "the changed config is in force", changed).await;

    commit(&project, &format!("{CODE}raise RuntimeError('broken on purpose')\n"));
    done(&lone.codeloc("sync", &["shop"]));
    let broken = becomes(&lone, "the broken commit is held", |status| status["health"] == "Degraded").await;
    assert!(broken["message"].as_str().unwrap().contains("RuntimeError: broken on purpose"), "{broken}");
    let told = done(&lone.codeloc("status", &["shop"]));
    assert!(told.contains("RolloutFailed") && told.contains("broken on purpose"), "{told}");
    assert!(done(&lone.codeloc("logs", &["shop"])).contains("broken on purpose"));

    // Whatever became of the one that saw the first commit serve.
    drop(daemon);
    let _daemon = lone.daemon(2);
    becomes(&lone, "the new daemon knows the location", |status| status["health"] == "Degraded").await;
    done(&lone.codeloc("rollback", &["shop"]));
    let back = becomes(&lone, "the first commit is back", is_well).await;
    assert_eq!(back["commit"], first.as_str());

    done(&lone.codeloc("remove", &["shop"]));
    until("all of it is gone", 120, || async {
        match lone.status("shop").await {
            Err(said) if said.starts_with("no shop in") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let happened = done(&lone.codeloc("events", &["--repository", "shop", "--json"]));
    for reason in ["CommitObserved", "ImageReady", "Applied", "RolloutFailed", "Healthy", "Removed"] {
        assert!(happened.contains(&format!("\"reason\":\"{reason}\"")), "no {reason} in\n{happened}");
    }
}

/// `make` with programs that only tell what they were asked: `cargo` fails, so that a test notices it.
fn make(words: &[&str]) -> Output {
    let mut make = command("make");
    make.current_dir(root()).env_remove("MAKEFLAGS").args(["CARGO=false", "PYTHON=echo"]).args(words);
    make.output().unwrap()
}

#[test]
fn targets_name_a_missing_variable_before_anything_compiles() {
    for (target, variable) in [
        ("add-repo", "REPO_URL"),
        ("update-repo", "REPO_NAME"),
        ("remove-repo", "REPO_NAME"),
        ("repo-logs", "REPO_NAME"),
        ("dev-add-repo", "REPO_PATH"),
    ] {
        let output = make(&[target]);
        let told = stderr(&output);
        assert!(told.contains(&format!("{target} needs {variable}, as in: make {target} {variable}=")), "{told}");
        assert!(!output.status.success() && !told.contains("Error 1"), "{told}");
    }
}

#[test]
fn dev_with_repos_runs_the_samples_when_it_is_bare() {
    let samples = root().join("repos").display().to_string();
    for (words, configs) in [(&[][..], samples.as_str()), (&["REPOS=/elsewhere"], "/elsewhere")] {
        let output = make(&[&["CARGO=true", "dev-with-repos"], words].concat());
        assert!(stdout(&output).contains(&format!("deploy/local/run.py --repos {configs}\n")), "{output:?}");
    }
}

#[test]
fn make_run_prepares_only_what_it_uses() {
    let told = "import sys; sys.path.insert(0, 'deploy/local'); sys.dont_write_bytecode = True; import prepare
for step in ('make_environment', 'add_package', 'make_policies', 'make_repository'):
    setattr(prepare, step, lambda *what, step=step: print(step, *(getattr(one, 'repository', one) for one in what)))
prepare.prepare(for_tests=False)";
    let output = command("python3").args(["-c", told]).current_dir(root()).output().unwrap();
    insta::assert_snapshot!(done(&output), @"
    make_environment tools
    make_environment dagster
    add_package
    make_repository orders
    make_repository nightly-report
    make_repository platform-monorepo
    ");
}

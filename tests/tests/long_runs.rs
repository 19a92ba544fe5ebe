//! Runs outlive their location, with real processes: in each of three locations a run is in progress while the location is rolled out
//! again, renamed or removed.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod e2e {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use codeloc_tests::processes::{prepared, wait_for};
    use codeloc_tests::stack::{Stack, edit, settled};
    use serde_json::{Value, json};
    use tokio::time::Instant;

    /// The git repository of each location, and the file with its definitions.
    const CODE: [(&str, &str, &str); 3] = [
        ("orders", "orders", "orders/definitions.py"),
        ("inventory", "platform-monorepo", "pipelines/inventory/src/inventory/definitions.py"),
        ("nightly-report", "nightly-report", "nightly_report/definitions.py"),
    ];

    /// How long the runs last at least, in seconds: set when the test is compiled. Without it, they end as soon as everything else is done.
    const SECONDS: Option<&str> = option_env!("CODELOC_TEST_RUN_SECONDS");

    /// A job that runs until a file exists.
    fn job(file: &Path) -> String {
        format!(
            r#"

@dg.op
def wait_for_file(context: dg.OpExecutionContext) -> None:
    import os
    import time

    print("the run has begun", flush=True)
    while not os.path.exists("{}"):
        time.sleep(1)
    print("the run has ended", flush=True)


@dg.job
def long_run() -> None:
    wait_for_file()


defs = dg.Definitions.merge(defs, dg.Definitions(jobs=[long_run]))
"#,
            file.display()
        )
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn runs_survive_rollout_rename_and_removal_of_their_location() {
        if !prepared("the stack of `make run`") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut stack = Stack::new(folder.path());
        stack.start();
        stack.wait_until_healthy(400).await;
        let file = |name: &str| folder.path().join(format!("end-{name}"));
        add_the_job(&stack, file).await;
        let mut runs = BTreeMap::new();
        for (name, ..) in CODE {
            runs.insert(name, stack.launch(name, "long_run", json!([])).await.unwrap());
        }
        for (name, run) in &runs {
            wait_for(&format!("the run of {name} has begun"), 180, || async {
                let events = stack.run_events(run).await;
                if events.contains("ExecutionStepStartEvent") { Ok(()) } else { Err(events) }
            })
            .await;
        }
        let begun = Instant::now();

        // One removal after the other: to lose two of three configs at once needs a confirmation.
        remove(&stack, "nightly-report").await;
        rename(&stack, "inventory", "stock").await;
        change_the_memory(&stack, "orders").await;
        stack.wait_for_sweeps(3).await;

        let least = SECONDS.map_or(0, |seconds| seconds.parse().expect("a number of seconds"));
        while begun.elapsed() < Duration::from_secs(least) {
            stack.wait_for_sweeps(1).await;
        }
        for (name, run) in &runs {
            assert_eq!(stack.run_status(run).await.unwrap(), "STARTED", "{name}: {}", stack.run_events(run).await);
            std::fs::write(file(name), "").unwrap();
        }
        for (name, run) in &runs {
            stack.wait_for_success(run).await;
            let output = output(&stack, name, run).await;
            assert!(output.contains("the run has begun") && output.contains("the run has ended"), "{name}: {output}");
        }
        for name in ["nightly-report", "inventory"] {
            wait_for(&format!("{name} is deleted after its run"), 180, || async {
                stack.location(name).await.map_or(Ok(()), |status| Err(format!("{status:#}")))
            })
            .await;
            let output = output(&stack, name, &runs[name]).await;
            assert!(output.contains("the run has ended"), "it stays in S3: {output}");
        }
    }

    /// Pushes a commit with the job to each repository, and waits until Dagster shows it.
    async fn add_the_job(stack: &Stack, file: impl Fn(&str) -> PathBuf) {
        let mut commits = BTreeMap::new();
        for (name, repository, definitions) in CODE {
            let commit = stack.push(repository, "Add a long run", |folder| {
                let definitions = folder.join(definitions);
                let text = std::fs::read_to_string(&definitions).unwrap() + &job(&file(name));
                std::fs::write(definitions, text).unwrap();
            });
            commits.insert(name, commit);
        }
        for (name, commit) in commits {
            let serves = |status: &Value| settled(status) && status["commit"] == commit.as_str();
            stack.wait_for_status(name, "the new commit serves", 400, serves).await;
        }
    }

    async fn remove(stack: &Stack, name: &str) {
        std::fs::remove_dir_all(stack.config(name).parent().unwrap()).unwrap();
        wait_for_its_runs(stack, name).await;
    }

    async fn rename(stack: &Stack, name: &str, other: &str) {
        let (from, to) = (stack.config(name), stack.config(other));
        let text =
            std::fs::read_to_string(&from).unwrap().replace(&format!("name: {name}\n"), &format!("name: {other}\n"));
        std::fs::create_dir(to.parent().unwrap()).unwrap();
        std::fs::write(to, text).unwrap();
        std::fs::remove_dir_all(from.parent().unwrap()).unwrap();
        wait_for_its_runs(stack, name).await;
        stack.wait_for_status(other, "the new name serves", 240, settled).await;
    }

    async fn change_the_memory(stack: &Stack, name: &str) {
        let before = stack.location(name).await.unwrap();
        edit(&stack.config(name), "memory: 512", "memory: 1024");
        let changed = |status: &Value| settled(status) && status["revision"] != before["revision"];
        stack.wait_for_status(name, "the new memory is rolled out", 240, changed).await;
    }

    async fn wait_for_its_runs(stack: &Stack, name: &str) {
        let waits =
            |status: &Value| status["message"].as_str().is_some_and(|message| message.contains("waiting for 1 run"));
        stack.wait_for_status(name, "it waits for its run", 180, waits).await;
    }

    /// What the run has printed, from Dagster's compute logs in S3.
    async fn output(stack: &Stack, location: &str, run: &Value) -> String {
        let prefix = format!("repos/{location}/logs/storage/{}/compute_logs/", run.as_str().unwrap_or_default());
        let mut output = String::new();
        for key in stack.keys(&prefix).await.unwrap() {
            output += &stack.object(&key).await;
        }
        output
    }
}

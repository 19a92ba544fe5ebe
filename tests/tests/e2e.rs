//! The stack of `make run`: real git, uv, images, code servers and Dagster webserver.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

mod e2e {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Duration;

    use codeloc_tests::interceptor::{Interceptor, Moment};
    use codeloc_tests::processes::{Call, prepared, root, stderr, stdout, wait_for};
    use codeloc_tests::sandbox::Sandbox;
    use codeloc_tests::stack::{Stack, edit, settled};
    use serde_json::{Value, json};

    const NAMES: [&str; 3] = ["inventory", "nightly-report", "orders"];
    const NONE: [(&str, &str); 0] = [];
    // The time limits below are for a busy machine.

    /// Operation and resource of each call, without the hash in the family of a run task definition.
    fn names(calls: &[Call]) -> Vec<(&str, &str)> {
        calls
            .iter()
            .map(|call| {
                let resource = call.resource.as_deref().unwrap_or_default();
                (call.operation.as_str(), resource.find("_run_").map_or(resource, |at| &resource[..at + "_run".len()]))
            })
            .collect()
    }

    fn operations(calls: &[Call]) -> Vec<String> {
        calls.iter().map(|call| call.operation.clone()).collect()
    }

    fn text(value: &Value) -> String {
        value.as_str().unwrap_or_default().to_owned()
    }

    /// The phases share one stack, because its start takes most of the time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deployment_follows_its_commits() {
        if !prepared("the stack of `make run`") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut stack = Stack::new(folder.path());
        stack.start();
        all_locations_are_healthy_and_loaded(&mut stack).await;
        a_run_uses_the_role_of_its_location(&stack).await;
        a_memory_change_rolls_out_one_location_only(&stack).await;
        code_that_does_not_import_is_held(&stack).await;
        invalid_yaml_freezes_its_location_only(&stack).await;
        a_removed_config_deletes_everything_except_data(&stack).await;
        a_restart_changes_nothing(&mut stack).await;
    }

    async fn all_locations_are_healthy_and_loaded(stack: &mut Stack) {
        let statuses = stack.wait_until_healthy(400).await;
        let found: Vec<String> = statuses.iter().map(|status| text(&status["name"])).collect();
        assert_eq!(found, NAMES);
        for status in &statuses {
            assert!(text(&status["platform"]).starts_with("host"), "{status:#}");
            let shown = stack.shown_location(&text(&status["name"])).await.unwrap();
            assert_eq!((shown.kind.as_str(), shown.server_id), ("RepositoryLocation", text(&status["revision"])));
        }
        // Entries use DNS names, as in AWS.
        for name in NAMES {
            assert!(
                stack.workspace().contains(&format!("/{name}-service.dagster.internal\"")),
                "{}",
                stack.workspace()
            );
        }
    }

    async fn a_run_uses_the_role_of_its_location(stack: &Stack) {
        let mark = stack.mark().await;
        let run = stack.launch("orders", "refresh_orders", json!([])).await.unwrap();
        stack.wait_for_success(&run).await;
        let run = text(&run);
        let changes = stack.mutating_since(mark).await;
        let found = |operation: &str| -> Vec<String> {
            let calls = changes.iter().filter(|call| call.operation == operation);
            calls.map(|call| call.resource.clone().unwrap_or_default()).collect()
        };
        let started = found("RunTask");
        let [family] = started.as_slice() else { panic!("one task: {started:?}") };
        assert!(family.starts_with("codeloc-local-orders_run_"), "{family}");

        // Outputs and logs are below the prefix of the location only.
        let objects = found("PutObject");
        for place in [
            "dagster-platform/repos/orders/assets/raw_orders",
            &format!("dagster-platform/repos/orders/logs/storage/{run}/compute_logs/"),
        ] {
            assert!(objects.iter().any(|object| object.starts_with(place)), "{place}: {objects:?}");
        }
        assert!(objects.iter().all(|object| object.starts_with("dagster-platform/repos/orders/")), "{objects:?}");

        let ecs = "AmazonEC2ContainerServiceV20141113";
        let of_family = json!({"cluster": "dagster", "family": family, "desiredStatus": "STOPPED"});
        let tasks = wait_for("its task has stopped", 60, || async {
            let tasks = stack.aws(&format!("{ecs}.ListTasks"), of_family.clone()).await["taskArns"].clone();
            if tasks == json!([]) { Err("it still runs".to_owned()) } else { Ok(tasks) }
        })
        .await;
        let described = json!({"cluster": "dagster", "tasks": tasks, "include": ["TAGS"]});
        let task = stack.aws(&format!("{ecs}.DescribeTasks"), described).await["tasks"][0].clone();
        assert_eq!(task["containers"][0]["exitCode"], 0, "{task:#}");
        let status = stack.location("orders").await.unwrap();
        assert_eq!(task["containers"][0]["image"], status["image"], "the location's image");
        let tags = task["tags"].as_array().unwrap();
        for (key, value) in [("codeloc:location", "orders"), ("dagster/run_id", &run)] {
            assert!(tags.contains(&json!({"key": key, "value": value})), "{tags:?}");
        }
        let definition = json!({"taskDefinition": family});
        let definition = stack.aws(&format!("{ecs}.DescribeTaskDefinition"), definition).await;
        let role = text(&definition["taskDefinition"]["taskRoleArn"]);
        assert!(role.ends_with(":role/codeloc-local/codeloc-local-orders"), "{role}");
        let group = json!({"logGroupName": "/codeloc-local/locations/orders", "logStreamNamePrefix": "runs/"});
        let streams = stack.aws("Logs_20140328.DescribeLogStreams", group).await;
        assert_eq!(streams["logStreams"].as_array().map(Vec::len), Some(1), "{streams:#}");

        // A job cannot use the role of another location.
        let mark = stack.mark().await;
        let neighbour = "arn:aws:iam::123456789012:role/codeloc-local/codeloc-local-inventory";
        let overrides = json!({"taskRoleArn": neighbour}).to_string();
        let tags = json!([{"key": "ecs/task_overrides", "value": overrides}]);
        let refused = stack.launch("orders", "refresh_orders", tags).await.unwrap_err();
        assert_eq!(refused["__typename"], "PythonError", "{refused}");
        assert!(text(&refused["message"]).contains("ecs/task_overrides, which is not allowed"), "{refused}");
        assert_eq!(operations(&stack.mutating_since(mark).await), Vec::<String>::new());
    }

    async fn a_memory_change_rolls_out_one_location_only(stack: &Stack) {
        let before = stack.location("orders").await.unwrap();
        let file = || (stack.workspace(), std::fs::metadata(stack.workspace_file()).unwrap().modified().unwrap());
        let (workspace, mark) = (file(), stack.mark().await);
        edit(&stack.config("orders"), "memory: 512", "memory: 1024");
        let after = stack
            .wait_for_status("orders", "the new memory is rolled out", 180, |status| {
                settled(status) && status["revision"] != before["revision"]
            })
            .await;
        assert_eq!(after["serving"], after["revision"]);
        assert_eq!(after["image"], before["image"], "the image is not built again");
        let shown = stack.shown_location("orders").await.unwrap();
        assert_eq!((shown.kind.as_str(), &shown.server_id), ("RepositoryLocation", &text(&after["revision"])));
        stack.wait_for_sweeps(2).await;
        assert_eq!(
            names(&stack.mutating_since(mark).await),
            [
                ("RegisterTaskDefinition", "codeloc-local-orders"),
                ("UpdateService", "orders-service"),
                ("RegisterTaskDefinition", "codeloc-local-orders_run"),
            ],
            "one rollout, and no other call"
        );
        assert_eq!(file(), workspace, "the workspace is not rewritten");
    }

    async fn code_that_does_not_import_is_held(stack: &Stack) {
        let good = stack.location("orders").await.unwrap();
        let mark = stack.mark().await;
        let assets = |folder: &Path| folder.join("orders/assets.py");
        let broken = stack.push("orders", "Need what is not there", |folder| {
            edit(&assets(folder), "import dagster as dg", "import dagster as dg\nimport a_module_nobody_has");
        });
        let held = stack
            .wait_for_status("orders", "the broken commit is held", 240, |status| {
                status["health"] == "Degraded" && status["commit"] == broken.as_str()
            })
            .await;
        let message = text(&held["message"]);
        assert!(message.contains("DagsterImportError"), "Dagster's own error: {message}");
        assert!(message.contains("No module named 'a_module_nobody_has'"), "{message}");
        assert_eq!(held["serving"], good["revision"]);
        assert_ne!(held["revision"], good["revision"]);
        let reported = stack.status(&["orders"]);
        assert!(stdout(&reported).contains("a_module_nobody_has"), "{}{}", stdout(&reported), stderr(&reported));

        let rollout = operations(&stack.mutating_since(mark).await);
        assert_eq!(rollout.iter().filter(|operation| *operation == "UpdateService").count(), 1, "{rollout:?}");
        let tasks = stack.task_count("orders").await;
        let mark = stack.mark().await;
        stack.wait_for_sweeps(4).await;
        assert_eq!(names(&stack.mutating_since(mark).await), NONE, "codeloc does not retry a failed revision");
        assert_eq!(stack.task_count("orders").await, tasks, "no task is started");
        let shown = stack.shown_location("orders").await.unwrap();
        assert_eq!((shown.kind.as_str(), shown.server_id), ("RepositoryLocation", text(&good["revision"])));

        let healed = stack.push("orders", "Do without it", |folder| {
            edit(&assets(folder), "import a_module_nobody_has", "\nFIXED = True");
        });
        let after = stack
            .wait_for_status("orders", "a good commit heals it", 240, |status| {
                settled(status) && status["commit"] == healed.as_str()
            })
            .await;
        let shown = stack.shown_location("orders").await.unwrap();
        assert_eq!((shown.kind.as_str(), shown.server_id), ("RepositoryLocation", text(&after["revision"])));
    }

    async fn invalid_yaml_freezes_its_location_only(stack: &Stack) {
        let path = stack.config("inventory");
        let good = std::fs::read_to_string(&path).unwrap();
        let (workspace, mark) = (stack.workspace(), stack.mark().await);
        std::fs::write(&path, format!("{good}\nscaling: [\n")).unwrap();
        let frozen = stack
            .wait_for_status("inventory", "the config is refused", 120, |status| status["sync"] == "Unknown")
            .await;
        assert!(text(&frozen["message"]).contains("config.yml"), "{frozen:#}");
        assert_eq!(frozen["health"], "Healthy", "the running revision is healthy: {frozen:#}");
        stack.wait_for_sweeps(2).await;
        assert_eq!(names(&stack.mutating_since(mark).await), NONE);
        assert_eq!(stack.workspace(), workspace);
        assert_eq!(stack.shown_location("inventory").await.unwrap().kind, "RepositoryLocation");
        std::fs::write(&path, good).unwrap();
        stack.wait_for_status("inventory", "the config is good again", 30, settled).await;
        assert_eq!(names(&stack.mutating_since(mark).await), NONE);
    }

    async fn a_removed_config_deletes_everything_except_data(stack: &Stack) {
        stack.put_object("repos/orders/kept.txt", "data").await;
        let mark = stack.mark().await;
        let published = stack.workspace();
        let folder = stack.config("orders").parent().unwrap().to_owned();
        std::fs::remove_dir_all(folder).unwrap();
        let unpublished = wait_for("the workspace entry is deleted", 120, || async {
            let now = stack.workspace();
            let modified = std::fs::metadata(stack.workspace_file()).unwrap().modified().unwrap();
            if now == published { Err(now) } else { Ok(modified) }
        })
        .await;
        assert!(!stack.workspace().contains("orders"), "{}", stack.workspace());
        wait_for("the location is deleted", 180, || async {
            match stack.location("orders").await {
                Ok(status) => Err(format!("{status:#}")),
                Err(_) => Ok(()),
            }
        })
        .await;
        let calls = stack.mutating_since(mark).await;
        let first = calls.first().expect("deleting takes calls");
        let unpublished = unpublished.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(unpublished <= first.time, "the workspace entry is deleted first: {unpublished} > {first:?}");
        let order = [
            "DeregisterScalableTarget",
            "DeleteService",
            "DeleteService",
            "DeregisterTaskDefinition",
            "DeleteRolePolicy",
            "DeleteRole",
            "DeleteRepository",
            "DeleteLogGroup",
        ];
        let mut operations = operations(&calls);
        operations.dedup_by(|later, earlier| later == earlier && later == "DeregisterTaskDefinition");
        assert_eq!(operations, order, "{:#?}", names(&calls));
        assert_eq!((calls[1].service.as_str(), calls[2].service.as_str()), ("ecs", "servicediscovery"));
        assert!(stack.shown_location("orders").await.is_err(), "Dagster does not show it");
        assert_eq!(stack.object("repos/orders/kept.txt").await, "data");
    }

    async fn a_restart_changes_nothing(stack: &mut Stack) {
        let workspace = stack.workspace();
        let before: Vec<Value> = serde_json::from_slice(&stack.status(&[]).stdout).unwrap();
        stack.stop();
        stack.start();
        let after = stack.wait_until_healthy(300).await;
        stack.wait_for_sweeps(2).await;
        // localcloud restarted too, so its list has only the calls of the new daemon.
        assert_eq!(names(&stack.mutating_since(0).await), NONE);
        assert_eq!(stack.workspace(), workspace);
        let facts = |statuses: &[Value]| -> Vec<[String; 3]> {
            statuses.iter().map(|one| ["name", "revision", "image"].map(|key| text(&one[key]))).collect()
        };
        assert_eq!(facts(&after), facts(&before));
        for status in &after {
            let shown = stack.shown_location(&text(&status["name"])).await.unwrap();
            assert_eq!((shown.kind.as_str(), shown.server_id), ("RepositoryLocation", text(&status["revision"])));
        }
    }

    /// The moments at which the daemon is killed. `crash.rs` kills it at every call, without a real process.
    const CRASHES: [(&str, Moment); 3] = [
        ("_V20150921.CreateRepository", Moment::AfterCall),
        (".RegisterTaskDefinition", Moment::AfterCall),
        ("AmazonEC2ContainerServiceV20141113.CreateService", Moment::BeforeCall),
    ];

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_first_converge_completes_after_a_kill_at_any_moment() {
        if !prepared("a daemon that is killed and restarted five times") {
            return;
        }
        let work = tempfile::tempdir().unwrap();
        // Two kills during the build, with an empty cache.
        let killed_building = {
            let round = Round::begin(work.path()).await;
            let mut daemon = round.sandbox.daemon(0);
            wait_for("packages are installed", 300, || {
                daemon.check();
                let sandbox = &round.sandbox;
                async move {
                    let message = text(&sandbox.status("orders").await?["message"]);
                    if message.contains("installing") { Ok(()) } else { Err(message) }
                }
            })
            .await;
            daemon.kill();
            let mut daemon = round.sandbox.daemon(1);
            wait_for("layers are pushed", 300, || {
                daemon.check();
                let pushing = round.sandbox.pushing();
                async move { if pushing { Ok(()) } else { Err("the registry is empty".to_owned()) } }
            })
            .await;
            daemon.kill();
            round.end("a kill in the build").await
        };
        let undisturbed = {
            let round = Round::begin(work.path()).await;
            let applied = round.sandbox.codeloc("apply", &["--timeout", "120"]);
            assert!(applied.status.success(), "{}{}", stdout(&applied), stderr(&applied));
            assert_eq!(stdout(&applied), "orders: Synced, Healthy: in sync\n");
            round.plan_is_empty("apply");
            round.plan_shows_a_change_of_memory();
            round.end("nothing").await
        };
        assert_eq!(killed_building, undisturbed);
        for (call, moment) in CRASHES {
            let mut round = Round::begin(work.path()).await;
            let interceptor = Interceptor::start(round.sandbox.cloud_port()).await;
            interceptor.hold(call, moment);
            round.sandbox.set_aws_port(interceptor.port());
            round.sandbox.write_settings(work.path());
            let mut daemon = round.sandbox.daemon(0);
            let held = tokio::time::timeout(Duration::from_secs(180), interceptor.held()).await;
            assert!(held.is_ok(), "{call} was never called:\n{}", daemon.log());
            daemon.kill();
            let what = format!("a kill at {call}, {moment:?}");
            assert_eq!(round.end(&what).await, undisturbed, "after {what}");
        }
    }

    fn sample() -> std::path::PathBuf {
        root().join("repos/orders/config.yml")
    }

    /// A first converge of one location in a new localcloud.
    struct Round {
        sandbox: Sandbox,
        _folder: tempfile::TempDir,
    }

    impl Round {
        async fn begin(work: &Path) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let sandbox = Sandbox::start(folder.path(), "process").await;
            sandbox.write_config("orders", &std::fs::read_to_string(sample()).unwrap());
            sandbox.write_settings(work);
            Self { sandbox, _folder: folder }
        }

        fn plan_is_empty(&self, what: &str) {
            let plan = self.sandbox.codeloc("plan", &[]);
            let printed = (plan.status.code(), stdout(&plan));
            let nothing = "No changes. AWS matches the configuration.\n".to_owned();
            assert_eq!(printed, (Some(0), nothing), "after {what}: {}", stderr(&plan));
        }

        /// Plans a change without applying it.
        fn plan_shows_a_change_of_memory(&self) {
            let config = std::fs::read_to_string(sample()).unwrap();
            self.sandbox.write_config("orders", &config.replace("memory: 512", "memory: 1024"));
            let plan = self.sandbox.codeloc("plan", &[]);
            let text = stdout(&plan);
            assert_eq!(plan.status.code(), Some(2), "{text}{}", stderr(&plan));
            for line in [
                "  + task definition codeloc-local-orders: no equal revision is registered",
                "      memory: 512 -> 1024",
                "  ~ ECS service orders-service: does not run the desired revision",
                "codeloc-local-orders:1 -> (known after apply)",
                "3 steps in 1 of 1 location.",
            ] {
                assert!(text.contains(line), "no {line:?} in:\n{text}");
            }
            self.sandbox.write_config("orders", &config);
        }

        /// Starts the daemon, lets it converge, and returns all resources.
        async fn end(self, what: &str) -> BTreeMap<&'static str, Vec<String>> {
            let mut daemon = self.sandbox.daemon(9);
            wait_for(&format!("orders is healthy after {what}"), 300, || {
                daemon.check();
                let sandbox = &self.sandbox;
                async move {
                    let status = sandbox.status("orders").await?;
                    if settled(&status) { Ok(()) } else { Err(format!("{status:#}")) }
                }
            })
            .await;
            self.plan_is_empty(what);
            assert_eq!(self.sandbox.published(), ["\"orders\""]);
            self.sandbox.inventory().await
        }
    }
}

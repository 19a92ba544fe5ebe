//! The whole stack, as `make run` starts it: localcloud, codeloc and Dagster, with the three samples.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::SWEEP_CALL;
use crate::processes::{Call, Process, Web, binary, command, free_ports, git, root, run, stderr, stdout, wait_for};

/// `make run` with its own folder and ports.
#[derive(Debug)]
pub struct Stack {
    pub web: Web,
    /// Holds `repos/` and `state/`.
    folder: PathBuf,
    cloud_port: u16,
    codeloc_port: u16,
    web_port: u16,
    dns_port: u16,
    process: Option<Process>,
    starts: u32,
}

impl Stack {
    /// Copies the configs of `repos/`; starts nothing.
    pub fn new(folder: &Path) -> Self {
        let copied = run("cp", &["-R", &text(&root().join("repos")), &text(&folder.join("repos"))]);
        assert!(copied.status.success(), "{}", stderr(&copied));
        std::fs::create_dir(folder.join("state")).expect("create a folder");
        let [cloud_port, codeloc_port, web_port] = free_ports();
        let dns_port = free_udp_port();
        let folder = folder.to_owned();
        Self { web: Web::default(), folder, cloud_port, codeloc_port, web_port, dns_port, process: None, starts: 0 }
    }

    /// Starts all processes. Dagster resolves locations by DNS name, as in AWS.
    pub fn start(&mut self) {
        self.starts += 1;
        let mut run = command("python3");
        run.arg(root().join("deploy/local/run.py"));
        run.arg("--state").arg(self.state()).arg("--repos").arg(self.folder.join("repos"));
        run.arg("--binaries").arg(binary("codeloc").parent().expect("a binary is in a folder"));
        let ports = [
            ("--cloud-port", self.cloud_port),
            ("--codeloc-port", self.codeloc_port),
            ("--web-port", self.web_port),
            ("--dns-port", self.dns_port),
        ];
        for (flag, port) in ports {
            run.arg(flag).arg(port.to_string());
        }
        for setting in ["reconcile-resync-seconds=3", "git-poll-seconds=1"] {
            run.arg("--set").arg(setting);
        }
        self.process = Some(Process::start(&mut run, self.folder.join(format!("run-{}.log", self.starts))));
    }

    /// Stops all processes, as Ctrl-C does.
    pub fn stop(&mut self) {
        self.process = None;
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub fn config(&self, name: &str) -> PathBuf {
        self.folder.join("repos").join(name).join("config.yml")
    }

    pub fn workspace_file(&self) -> PathBuf {
        self.state().join("run/workspace.yaml")
    }

    pub fn workspace(&self) -> String {
        std::fs::read_to_string(self.workspace_file()).expect("read workspace.yaml")
    }

    /// The log of the daemon since its last start.
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.state().join("run/logs/codeloc.log")).unwrap_or_default()
    }

    /// `codeloc status --json` with more arguments.
    pub fn status(&self, arguments: &[&str]) -> Output {
        let server = format!("http://127.0.0.1:{}", self.codeloc_port);
        run(binary("codeloc"), &[&["status", "--json", "--server", &server], arguments].concat())
    }

    /// Waits until the daemon reports all locations as healthy.
    pub async fn wait_until_healthy(&mut self, seconds: u64) -> Vec<Value> {
        let web = self.web.clone();
        let url = format!("http://127.0.0.1:{}/healthz", self.codeloc_port);
        let process = self.process.as_mut().expect("the stack was started");
        wait_for("the daemon answers", 180, || {
            process.check();
            let (web, url) = (web.clone(), url.clone());
            async move { web.client.get(&url).send().await.map(drop).map_err(|error| error.to_string()) }
        })
        .await;
        let output = self.status(&["--wait", "--timeout", &seconds.to_string()]);
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
        serde_json::from_slice(&output.stdout).expect("status --json prints JSON")
    }

    /// The status of one location from the API.
    pub async fn location(&self, name: &str) -> Result<Value, String> {
        let all = self.web.get(&format!("http://127.0.0.1:{}/v1/locations", self.codeloc_port)).await?;
        let found = all.as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).cloned();
        found.ok_or_else(|| format!("no {name} in {all}"))
    }

    /// Waits until the status of a location is `expected`, and returns it.
    pub async fn wait_for_status(
        &self,
        name: &str,
        what: &str,
        seconds: u64,
        expected: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("{name}: {what}"), seconds, || async {
            let status = self.location(name).await?;
            if expected(&status) { Ok(status) } else { Err(format!("{status:#}")) }
        })
        .await
    }

    pub async fn calls(&self) -> Vec<Call> {
        self.web.calls(self.cloud_port, 0).await.expect("localcloud answers")
    }

    /// The number of the last call.
    pub async fn mark(&self) -> u64 {
        self.calls().await.last().map_or(0, |call| call.sequence)
    }

    pub async fn mutating_since(&self, mark: u64) -> Vec<Call> {
        let calls = self.web.calls(self.cloud_port, mark).await.expect("localcloud answers");
        let lease = |call: &Call| call.resource.as_deref().is_some_and(|one| one.ends_with("/lease.json"));
        calls.into_iter().filter(|call| call.mutating && !lease(call)).collect()
    }

    /// Waits for this number of sweeps.
    pub async fn wait_for_sweeps(&self, sweeps: usize) {
        let mark = self.mark().await;
        wait_for("the daemon sweeps", 180, || async {
            let calls = self.web.calls(self.cloud_port, mark).await?;
            let seen = calls.iter().filter(|call| call.operation == SWEEP_CALL).count();
            if seen >= sweeps { Ok(()) } else { Err(format!("{seen} of {sweeps}")) }
        })
        .await;
    }

    pub async fn aws(&self, target: &str, body: Value) -> Value {
        self.web.aws(self.cloud_port, target, body).await.expect("localcloud answers")
    }

    /// The number of tasks of a location, with the stopped tasks that ECS still lists.
    pub async fn task_count(&self, name: &str) -> usize {
        let mut count = 0;
        for status in ["RUNNING", "STOPPED"] {
            let body =
                json!({"cluster": "dagster", "family": format!("codeloc-local-{name}"), "desiredStatus": status});
            let answer = self.aws("AmazonEC2ContainerServiceV20141113.ListTasks", body).await;
            count += answer["taskArns"].as_array().expect("a list of tasks").len();
        }
        count
    }

    pub async fn put_object(&self, key: &str, body: &'static str) {
        let url = format!("http://127.0.0.1:{}/dagster-platform/{key}", self.cloud_port);
        let answer = self.web.client.put(url).body(body).send().await.expect("localcloud answers");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    pub async fn object(&self, key: &str) -> String {
        let url = format!("http://127.0.0.1:{}/dagster-platform/{key}", self.cloud_port);
        let answer = self.web.client.get(url).send().await.expect("localcloud answers");
        assert!(answer.status().is_success(), "{answer:?}");
        answer.text().await.expect("an object has a body")
    }

    /// The keys of the objects below a prefix.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, String> {
        let url = format!("http://127.0.0.1:{}/dagster-platform?list-type=2&prefix={prefix}", self.cloud_port);
        let answer = self.web.client.get(url).send().await.map_err(|error| error.to_string())?;
        let listed = answer.text().await.map_err(|error| error.to_string())?;
        let keys = listed.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        Ok(keys.map(str::to_owned).collect())
    }

    pub async fn graphql(&self, query: &str, variables: Value) -> Result<Value, String> {
        let url = format!("http://127.0.0.1:{}/graphql", self.web_port);
        let request = self.web.client.post(url).json(&json!({"query": query, "variables": variables}));
        let answer: Value =
            request.send().await.map_err(|error| error.to_string())?.json().await.map_err(|error| error.to_string())?;
        match answer.get("errors") {
            None => Ok(answer["data"].clone()),
            Some(errors) => Err(errors.to_string()),
        }
    }

    /// Launches a job as Dagster's UI does. Returns the id of the run, or the error.
    pub async fn launch(&self, location: &str, job: &str, tags: Value) -> Result<Value, Value> {
        let query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }";
        let data = self.graphql(query, json!({})).await.expect("the webserver answers");
        let repositories = data["repositoriesOrError"]["nodes"].as_array().expect("a list of repositories");
        let repository = repositories.iter().find(|one| one["location"]["name"] == location);
        let repository = repository.unwrap_or_else(|| panic!("no {location} in {data}"));
        let mutation = "mutation($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }";
        let selector = json!({
            "repositoryLocationName": location, "repositoryName": repository["name"], "jobName": job,
        });
        let metadata = json!({"tags": tags});
        let parameters = json!({"selector": selector, "runConfigData": {}, "executionMetadata": metadata});
        let answer = self.graphql(mutation, json!({"parameters": parameters})).await.expect("the webserver answers");
        match &answer["launchRun"] {
            launched if launched["__typename"] == "LaunchRunSuccess" => Ok(launched["run"]["runId"].clone()),
            refused => Err(refused.clone()),
        }
    }

    pub async fn run_status(&self, run: &Value) -> Result<String, String> {
        let query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }";
        let data = self.graphql(query, json!({"id": run})).await?;
        Ok(data["runOrError"]["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a run has succeeded.
    pub async fn wait_for_success(&self, run: &Value) {
        let status = wait_for("the run ends", 180, || async {
            let status = self.run_status(run).await?;
            if ["SUCCESS", "FAILURE", "CANCELED"].contains(&status.as_str()) { Ok(status) } else { Err(status) }
        })
        .await;
        assert_eq!(status, "SUCCESS", "{}", self.run_events(run).await);
    }

    /// The log of a run, for the message of a failed test.
    pub async fn run_events(&self, run: &Value) -> String {
        let query = "query($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
            __typename ... on MessageEvent { message } ... on ErrorEvent { error { message stack
                cause { message } } } } } } }";
        let data = self.graphql(query, json!({"id": run})).await.unwrap_or_else(Value::String);
        let events = data["logsForRun"]["events"].as_array().cloned().unwrap_or_else(|| vec![data.clone()]);
        let events: Vec<String> = events.iter().map(|event| format!("{event:#}")).collect();
        events.join("\n")
    }

    /// The locations that the webserver shows.
    pub async fn shown(&self) -> Result<Vec<Shown>, String> {
        let query = "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
            __typename ... on RepositoryLocation { serverId } ... on PythonError { message } } } } } }";
        let data = self.graphql(query, json!({})).await?;
        let entries = data["workspaceOrError"]["locationEntries"].as_array().cloned().unwrap_or_default();
        let entry = |entry: Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let location = &entry["locationOrLoadError"];
            Shown {
                name: text(&entry["name"]),
                kind: text(&location["__typename"]),
                server_id: text(&location["serverId"]),
            }
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    pub async fn shown_location(&self, name: &str) -> Result<Shown, String> {
        let all = self.shown().await?;
        all.iter().find(|shown| shown.name == name).cloned().ok_or_else(|| format!("no {name} in {all:?}"))
    }

    /// Commits and pushes a change to `main` of a sample repository.
    pub fn push(&self, repository: &str, message: &str, edit: impl FnOnce(&Path)) -> String {
        let bare = self.state().join("git").join(format!("{repository}.git"));
        let work = tempfile::tempdir().expect("a temporary folder");
        let git = |arguments: &[&str]| git(work.path(), arguments);
        git(&["clone", "--quiet", &text(&bare), "."]);
        edit(work.path());
        git(&["commit", "--quiet", "--all", "--message", message]);
        git(&["push", "--quiet", "origin", "main"]);
        git(&["rev-parse", "HEAD"])
    }
}

/// A location as the webserver shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub name: String,
    pub kind: String,
    pub server_id: String,
}

/// Whether this status of the API is in sync and healthy.
pub fn settled(status: &Value) -> bool {
    status["sync"] == "Synced" && status["health"] == "Healthy"
}

/// Replaces a text that the file must contain.
pub fn edit(path: &Path, from: &str, to: &str) {
    let before = std::fs::read_to_string(path).expect("read the file");
    assert!(before.contains(from), "{before}");
    std::fs::write(path, before.replace(from, to)).expect("write the file");
}

fn free_udp_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("find a free port");
    socket.local_addr().expect("the socket has an address").port()
}

fn text(path: &Path) -> String {
    path.to_str().expect("test folders have plain names").to_owned()
}

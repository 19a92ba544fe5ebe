//! Runs of locations, as Dagster starts them: each is a task of the run definition that a code server of its location passed on when
//! the run was created. A run can wait in Dagster's queue, run for hours, and be retried.
//!
//! [`Runs::advance`] starts and ends the runs that are due. It fails when a run lost something that it needs: its definition at the
//! start; and for as long as it lives, its roles with what they allowed at the start, its image and its log group.

mod needs;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use localcloud::LocalCloud;
use localcloud::model::Cloud;
use localcloud::model::ecs::task::Task;
use localcloud::model::ecs::task_definition::Definition;
use serde_json::{Value, json};
use tokio::time::Instant;

use needs::Needs;
pub use needs::{deployed, lacks, named};

/// How long Dagster waits before it launches a run again whose task stopped for a transient reason.
const RELAUNCH: Duration = Duration::from_secs(60);
/// Parts of the stop reasons of AWS that are transient.
const TRANSIENT: [&str; 5] =
    ["network interface", "EphemeralStorage", "i/o timeout", "service discovery", "insufficient free addresses"];

/// All runs that are not over. Clones share them.
#[derive(Clone)]
pub struct Runs {
    cloud: Arc<LocalCloud>,
    all: Arc<Mutex<Vec<Run>>>,
}

/// A run that is to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// The time in the queue.
    pub waits: Duration,
    /// The time from its start to its end.
    pub lasts: Duration,
    /// How often Dagster runs it again after its end, each time with the definition that is then current.
    pub retries: u32,
}

impl NewRun {
    /// A run that starts at once.
    pub fn lasting(lasts: Duration) -> Self {
        Self { waits: Duration::ZERO, lasts, retries: 0 }
    }

    /// The same run after a time in the queue.
    #[must_use]
    pub fn queued(self, waits: Duration) -> Self {
        Self { waits, ..self }
    }
}

struct Run {
    location: String,
    new: NewRun,
    /// The name that the launcher passes to `RunTask`.
    family: String,
    starts: Instant,
    state: State,
}

enum State {
    Queued,
    Running { task: String, ends: Instant, needs: Box<Needs> },
    Over,
}

impl Runs {
    pub fn new(cloud: Arc<LocalCloud>) -> Self {
        Self { cloud, all: Arc::default() }
    }

    /// Creates a run of a location. An error if no code server of the location runs.
    pub fn create(&self, location: &str, new: NewRun) -> Result<(), String> {
        let family = self.cloud.with_cloud(|cloud| family(cloud, location));
        let family = family.ok_or_else(|| format!("no code server of {location} runs"))?;
        let starts = Instant::now() + new.waits;
        self.all().push(Run { location: location.to_owned(), new, family, starts, state: State::Queued });
        self.advance()
    }

    /// Starts, checks and ends runs.
    ///
    /// # Errors
    /// What a run lost.
    pub fn advance(&self) -> Result<(), String> {
        let now = Instant::now();
        let mut all = self.all();
        for run in all.iter_mut() {
            run.advance(&self.cloud, now)
                .map_err(|lost| format!("a run of {} ({}): {lost}", run.location, run.family))?;
        }
        all.retain(|run| !matches!(run.state, State::Over));
        Ok(())
    }

    /// Lets time pass and checks the runs every second.
    ///
    /// # Panics
    /// If a run lost something that it needs.
    pub async fn pass(&self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.advance().unwrap_or_else(|lost| panic!("{lost}"));
        }
    }

    /// Whether a location has a run that is queued or runs.
    pub fn are_unfinished(&self, location: &str) -> bool {
        self.all().iter().any(|run| run.location == location)
    }

    /// The number of running tasks of runs.
    pub fn running(&self) -> usize {
        self.all().iter().filter(|run| matches!(run.state, State::Running { .. })).count()
    }

    /// Ends the runs of a location, as a user does who cancels them.
    pub fn cancel(&self, location: &str) {
        let mut all = self.all();
        for run in all.iter().filter(|run| run.location == location) {
            if let State::Running { task, .. } = &run.state {
                stop(&self.cloud, task);
            }
        }
        all.retain(|run| run.location != location);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Run>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn advance(&mut self, cloud: &LocalCloud, now: Instant) -> Result<(), String> {
        match &self.state {
            State::Queued if now >= self.starts => self.start(cloud, now),
            State::Running { ends, task, .. } if now >= *ends => {
                stop(cloud, task);
                self.end(cloud, now);
                Ok(())
            }
            State::Running { task, needs, .. } => {
                let stopped = cloud.with_cloud(|cloud| {
                    let task = cloud.ecs.tasks.get(task).filter(|task| task.last_status != "STOPPED");
                    task.is_some().then(|| needs.missing(cloud)).ok_or(())
                });
                match stopped {
                    Ok(Some(missing)) => Err(missing),
                    Ok(None) => Ok(()),
                    Err(()) => self.stopped(cloud, now),
                }
            }
            State::Queued | State::Over => Ok(()),
        }
    }

    fn start(&mut self, cloud: &LocalCloud, now: Instant) -> Result<(), String> {
        let input = json!({
            "cluster": "dagster",
            "taskDefinition": self.family,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-a"], "securityGroups": ["sg-a"]}},
        });
        let answer = match call(cloud, "RunTask", &input) {
            Ok(answer) => answer,
            // The SDK of the launcher retries.
            Err(refused) if refused.contains("Throttling") => return Ok(()),
            Err(refused) => return Err(format!("RunTask was refused: {refused}")),
        };
        let task = answer["tasks"][0]["taskArn"].as_str().unwrap_or_default().to_owned();
        let needs = cloud.with_cloud(|cloud| {
            let definition = cloud.ecs.tasks.get(&task).and_then(|task| cloud.ecs.definition(&task.definition));
            definition.map(|definition| Needs::of(cloud, definition))
        });
        let needs = Box::new(needs.ok_or("RunTask started no task")?);
        if let Some(lacks) = cloud.with_cloud(|cloud| needs.lacks_prefix(cloud)) {
            return Err(lacks);
        }
        self.state = State::Running { task, ends: now + self.new.lasts, needs };
        self.advance(cloud, now)
    }

    /// The task ended before its time, or did not start.
    fn stopped(&mut self, cloud: &LocalCloud, now: Instant) -> Result<(), String> {
        let State::Running { task, .. } = &self.state else { return Ok(()) };
        let stopped = cloud.with_cloud(|cloud| {
            let task = cloud.ecs.tasks.get(task)?;
            Some((task.exit_code, task.stopped_reason.clone().unwrap_or_default()))
        });
        match stopped {
            Some((None, reason)) if TRANSIENT.iter().any(|part| reason.contains(part)) => {
                (self.starts, self.state) = (now + RELAUNCH, State::Queued);
            }
            Some((None, reason)) => return Err(format!("its task did not start: {reason}")),
            Some((Some(_), _)) | None => self.end(cloud, now),
        }
        Ok(())
    }

    /// A retry is another run: it has the definition that the location's code server passes on now.
    fn end(&mut self, cloud: &LocalCloud, now: Instant) {
        self.state = State::Over;
        if self.new.retries == 0 {
            return;
        }
        if let Some(family) = cloud.with_cloud(|cloud| family(cloud, &self.location)) {
            self.new.retries -= 1;
            (self.family, self.starts, self.state) = (family, now + self.new.waits, State::Queued);
        }
    }
}

fn stop(cloud: &LocalCloud, task: &str) {
    // A task that stopped meanwhile is refused.
    let _ = call(cloud, "StopTask", &json!({"cluster": "dagster", "task": task}));
}

/// A call to ECS without latency, faults and record, so that runs do not change the times of other calls.
fn call(cloud: &LocalCloud, operation: &str, input: &Value) -> Result<Value, String> {
    let signature = "AWS4-HMAC-SHA256 Credential=dagster/20260101/eu-central-1/ecs/aws4_request";
    let request = Request::post("/")
        .header("x-amz-target", format!("AmazonEC2ContainerServiceV20141113.{operation}"))
        .header("authorization", signature)
        .body(Bytes::from(input.to_string()))
        .expect("a valid request");
    let answer = cloud.call(&request);
    let text = String::from_utf8_lossy(answer.response.body()).into_owned();
    match answer.refused {
        Some(code) => Err(format!("{code}: {text}")),
        None => Ok(serde_json::from_str(&text).expect("an answer is JSON")),
    }
}

/// The family of the run definition that the newest healthy code server of a location passes to the launcher.
pub fn family(cloud: &Cloud, location: &str) -> Option<String> {
    let name = format!("codeloc-{location}");
    let serves = |task: &&Task| task.family == name && task.last_status == "RUNNING" && task.health == "HEALTHY";
    let newest = cloud.ecs.tasks.values().filter(serves).max_by_key(|task| task.times.started)?;
    let context = variable(cloud.ecs.definition(&newest.definition)?, "DAGSTER_CONTAINER_CONTEXT")?;
    let context: Value = serde_json::from_str(context).ok()?;
    context["ecs"]["task_definition_arn"].as_str().map(str::to_owned)
}

/// The value of a variable of the only container.
fn variable<'a>(definition: &'a Definition, name: &str) -> Option<&'a str> {
    let container = definition.containers().first()?;
    container["environment"].as_array()?.iter().find(|pair| pair["name"] == name)?["value"].as_str()
}

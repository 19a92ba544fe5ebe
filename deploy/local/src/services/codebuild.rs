//! `CodeBuild`: projects and their builds. Buildspecs are not run. A test ends a build with
//! [`CodeBuild::end`](crate::model::codebuild::CodeBuild::end); without [`Rules::builds`](crate::model::rules::Rules::builds) each build fails.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::Cloud;
use crate::model::codebuild::{Build, End};
use crate::protocol::api_error::{ApiError, Reply};
use crate::protocol::aws_service::AwsService;
use crate::protocol::fields::Fields;

/// How long an idempotency token returns the same build (`CodeBuild` API reference, `StartBuild`).
const TOKEN_LIFETIME_MS: u64 = 5 * 60 * 1000;
/// The time limit of a project without one, in minutes, and the limits that a build can have.
const TIMEOUT_MINUTES: u64 = 60;
const TIMEOUTS: std::ops::RangeInclusive<u64> = 5..=2160;

pub fn run(cloud: &mut Cloud, operation: &str, input: &Value) -> Reply {
    match operation {
        "CreateProject" => {
            let name = input.need("name")?.to_owned();
            if !cloud.codebuild.projects.insert(name.clone()) {
                let message = format!("Project already exists: {name}");
                return Err(ApiError::new("ResourceAlreadyExistsException", message));
            }
            Ok(json!({"project": {"name": name}}))
        }
        "BatchGetProjects" => {
            let (found, missing): (Vec<&str>, Vec<&str>) =
                input.texts("names").into_iter().partition(|name| cloud.codebuild.projects.contains(*name));
            let projects: Vec<Value> = found.into_iter().map(|name| json!({"name": name})).collect();
            Ok(json!({"projects": projects, "projectsNotFound": missing}))
        }
        "StartBuild" => start_build(cloud, input),
        "BatchGetBuilds" => batch_get_builds(cloud, input),
        "StopBuild" => stop_build(cloud, input),
        _ => Err(AwsService::CodeBuild.unknown(operation)),
    }
}

fn start_build(cloud: &mut Cloud, input: &Value) -> Reply {
    let project = input.need("projectName")?.to_owned();
    if !cloud.codebuild.projects.contains(&project) {
        let (region, account) = (&cloud.rules.region, &cloud.rules.account);
        let message = format!("Project cannot be found: arn:aws:codebuild:{region}:{account}:project/{project}");
        return Err(ApiError::new("ResourceNotFoundException", message));
    }
    let variables: BTreeMap<String, String> = input
        .items("environmentVariablesOverride")
        .iter()
        .map(|one| Ok((one.need("name")?.to_owned(), one.text("value").unwrap_or_default().to_owned())))
        .collect::<Result<_, ApiError>>()?;
    let timeout_minutes = match input.number("timeoutInMinutesOverride") {
        None => TIMEOUT_MINUTES,
        Some(minutes) => u64::try_from(minutes).ok().filter(|minutes| TIMEOUTS.contains(minutes)).ok_or_else(|| {
            ApiError::new("InvalidInputException", "Invalid timeout in minutes: it must be between 5 and 2160")
        })?,
    };
    let build = Build {
        buildspec: input.text("buildspecOverride").unwrap_or_default().to_owned(),
        variables,
        token: input.text("idempotencyToken").map(str::to_owned),
        started_at: cloud.now(),
        timeout_minutes,
        queued: false,
        end: (!cloud.rules.builds).then(|| End::Failed("localcloud does not run buildspecs".to_owned())),
        project,
    };
    let young = |other: &Build| cloud.now().millis().saturating_sub(other.started_at.millis()) < TOKEN_LIFETIME_MS;
    let same = cloud.codebuild.builds.iter().find(|(_, other)| {
        other.project == build.project && build.token.is_some() && other.token == build.token && young(other)
    });
    if let Some((id, other)) = same {
        if other.buildspec != build.buildspec || other.variables != build.variables {
            return Err(ApiError::new(
                "InvalidInputException",
                "The idempotency token was used with other parameters a moment ago",
            ));
        }
        return Ok(json!({"build": shown(cloud, id, other)}));
    }
    let id = format!("{}:{}", build.project, cloud.draw_uuid());
    let answer = json!({"build": shown(cloud, &id, &build)});
    cloud.codebuild.builds.insert(id, build);
    Ok(answer)
}

fn batch_get_builds(cloud: &mut Cloud, input: &Value) -> Reply {
    let ids = input.texts("ids");
    if ids.is_empty() || ids.len() > 100 {
        return Err(ApiError::new("InvalidInputException", "Invalid number of build IDs: 1 to 100"));
    }
    let (found, missing): (Vec<&str>, Vec<&str>) =
        ids.into_iter().partition(|id| cloud.codebuild.builds.contains_key(*id));
    let builds: Vec<Value> = found.into_iter().map(|id| shown(cloud, id, &cloud.codebuild.builds[id])).collect();
    Ok(json!({"builds": builds, "buildsNotFound": missing}))
}

/// Stopping a build that has ended changes nothing.
fn stop_build(cloud: &mut Cloud, input: &Value) -> Reply {
    let id = input.need("id")?;
    let now = cloud.now();
    let Some(build) = cloud.codebuild.builds.get_mut(id) else {
        return Err(ApiError::new("ResourceNotFoundException", format!("Build {id} does not exist")));
    };
    if build.end_by(now).is_none() {
        build.end = Some(End::Stopped);
    }
    let build = build.clone();
    Ok(json!({"build": shown(cloud, id, &build)}))
}

fn shown(cloud: &Cloud, id: &str, build: &Build) -> Value {
    let (region, account) = (&cloud.rules.region, &cloud.rules.account);
    let end = build.end_by(cloud.now());
    let status = match &end {
        None => "IN_PROGRESS",
        Some(End::Succeeded) => "SUCCEEDED",
        Some(End::Failed(_)) => "FAILED",
        Some(End::TimedOut) => "TIMED_OUT",
        Some(End::Stopped) => "STOPPED",
    };
    let phases = match &end {
        Some(End::Failed(message)) => {
            let context = json!({"statusCode": "COMMAND_EXECUTION_ERROR", "message": message});
            json!([{"phaseType": "BUILD", "phaseStatus": "FAILED", "contexts": [context]}])
        }
        _ => json!([]),
    };
    let phase = match &end {
        Some(_) => "COMPLETED",
        None if build.queued => "QUEUED",
        None => "BUILD",
    };
    json!({
        "id": id,
        "arn": format!("arn:aws:codebuild:{region}:{account}:build/{id}"),
        "projectName": build.project,
        "buildStatus": status,
        "currentPhase": phase,
        "buildComplete": end.is_some(),
        "timeoutInMinutes": build.timeout_minutes,
        "startTime": build.started_at.epoch_seconds(),
        "phases": phases,
    })
}

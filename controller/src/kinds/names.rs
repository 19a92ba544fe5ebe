//! The names derived from a repository's name. Every cleaner asks for these prefixes besides the ownership tag.
//!
//! Lengths: a repository's name has at most 40 characters and a deployment's id at most 20, so that the longest of
//! them, the role (64) and the Cloud Map label (63), always fit.

/// Longest deployment id; see the module's text.
pub const DEPLOYMENT_LENGTH: usize = 20;

const SERVICE_SUFFIX: &str = "-service";

/// The ECS service and the Cloud Map service have one name: it is the location's host.
pub fn service(repository: &str) -> String {
    format!("{repository}{SERVICE_SUFFIX}")
}

pub fn repository_of_service(service: &str) -> Option<&str> {
    service.strip_suffix(SERVICE_SUFFIX).filter(|name| !name.is_empty())
}

pub fn log_group(deployment: &str, repository: &str) -> String {
    format!("{}{repository}", log_group_prefix(deployment))
}

pub fn log_group_prefix(deployment: &str) -> String {
    format!("/{deployment}/locations/")
}

pub fn image_repository(deployment: &str, repository: &str) -> String {
    format!("{}{repository}", image_repository_prefix(deployment))
}

pub fn image_repository_prefix(deployment: &str) -> String {
    format!("{deployment}/")
}

pub fn task_family(deployment: &str, repository: &str) -> String {
    format!("{}{repository}", task_family_prefix(deployment))
}

pub fn task_family_prefix(deployment: &str) -> String {
    format!("{deployment}-")
}

/// What a run definition's family has between the location and the hash of what it says: no location's name has an underscore.
const RUN: &str = "_run_";

/// A family for each content, so that its name says what it says: a queued run keeps the one of the moment it was created, and one
/// that has to be registered again is still the one that code servers name.
pub fn run_family(deployment: &str, repository: &str, hash: &str) -> String {
    format!("{}{hash}", run_family_prefix(deployment, repository))
}

pub fn run_family_prefix(deployment: &str, repository: &str) -> String {
    format!("{}{RUN}", task_family(deployment, repository))
}

/// The repository of a family without the deployment's prefix, and the hash where it is a run's.
pub fn repository_of_family(family: &str) -> (&str, Option<&str>) {
    match family.split_once(RUN) {
        Some((repository, hash)) => (repository, Some(hash)),
        None => (family, None),
    }
}

pub fn role(deployment: &str, repository: &str) -> String {
    format!("{deployment}-{repository}")
}

/// No location's name has an underscore. With the longest names of deployment and location it is one character short of IAM's 64.
const EXECUTION: &str = "_x";

pub fn execution_role(deployment: &str, repository: &str) -> String {
    format!("{}{EXECUTION}", role(deployment, repository))
}

/// The repository of a role without the deployment's prefix, and whether it is the one that starts its tasks.
pub fn repository_of_role(role: &str) -> (&str, bool) {
    role.strip_suffix(EXECUTION).map_or((role, false), |repository| (repository, true))
}

/// Roles have a path of their own, so that the controller's own permissions can be limited to it.
pub fn role_path(deployment: &str) -> String {
    format!("/{deployment}/")
}

/// Application Auto Scaling's id of an ECS service.
pub fn scaling_resource(cluster: &str, repository: &str) -> String {
    format!("service/{cluster}/{}", service(repository))
}

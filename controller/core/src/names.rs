//! The names derived from a repository's name. Every cleaner asks for these prefixes besides the ownership tag.
//!
//! Lengths: a repository's name has at most 40 characters and a deployment's id at most 20. Each of these names fits what AWS takes
//! then, so that neither a config nor the settings can ask for one that it refuses.

/// Longest deployment id; see the module's text.
pub const DEPLOYMENT_LENGTH: usize = 20;

const SERVICE_SUFFIX: &str = "-service";

/// Of a service of the longest name that a config may have.
pub const LONGEST_SERVICE: usize = 40 + SERVICE_SUFFIX.len();

/// The ECS service and the Cloud Map service have one name: it is the location's host.
pub fn service(location: &str) -> String {
    format!("{location}{SERVICE_SUFFIX}")
}

pub fn location_of_service(service: &str) -> Option<&str> {
    service.strip_suffix(SERVICE_SUFFIX).filter(|name| !name.is_empty())
}

/// What makes the same request twice one service in Cloud Map. With a slash, which neither part has, no two locations of an account
/// share one.
pub fn creator_request(deployment: &str, location: &str) -> String {
    format!("{deployment}/{location}")
}

/// What the controller keeps for itself in the platform's bucket: its lease, and what builds learn.
pub fn own_prefix(deployment: &str) -> String {
    format!("codeloc/{deployment}")
}

pub fn log_group(deployment: &str, location: &str) -> String {
    format!("{}{location}", log_group_prefix(deployment))
}

pub fn log_group_prefix(deployment: &str) -> String {
    format!("/{deployment}/locations/")
}

pub fn image_repository(deployment: &str, location: &str) -> String {
    format!("{}{location}", image_repository_prefix(deployment))
}

pub fn image_repository_prefix(deployment: &str) -> String {
    format!("{deployment}/")
}

pub fn task_family(deployment: &str, location: &str) -> String {
    format!("{}{location}", task_family_prefix(deployment))
}

pub fn task_family_prefix(deployment: &str) -> String {
    format!("{deployment}-")
}

/// What a run definition's family has between the location and the hash of what it says: no location's name has an underscore.
const RUN: &str = "_run_";

/// A family for each content, so that its name says what it says: a queued run keeps the one of the moment it was created, and one
/// that has to be registered again is still the one that code servers name.
pub fn run_family(deployment: &str, location: &str, hash: &str) -> String {
    format!("{}{hash}", run_family_prefix(deployment, location))
}

pub fn run_family_prefix(deployment: &str, location: &str) -> String {
    format!("{}{RUN}", task_family(deployment, location))
}

/// The repository of a family without the deployment's prefix, and the hash where it is a run's.
pub fn repository_of_family(family: &str) -> (&str, Option<&str>) {
    match family.split_once(RUN) {
        Some((location, hash)) => (location, Some(hash)),
        None => (family, None),
    }
}

pub fn role(deployment: &str, location: &str) -> String {
    format!("{deployment}-{location}")
}

/// No location's name has an underscore. With the longest names of deployment and location it is one character short of IAM's 64.
const EXECUTION: &str = "_x";

pub fn execution_role(deployment: &str, location: &str) -> String {
    format!("{}{EXECUTION}", role(deployment, location))
}

/// The repository of a role without the deployment's prefix, and whether it is the one that starts its tasks.
pub fn location_of_role(role: &str) -> (&str, bool) {
    role.strip_suffix(EXECUTION).map_or((role, false), |location| (location, true))
}

/// Roles have a path of their own, so that the controller's own permissions can be limited to it.
pub fn role_path(deployment: &str) -> String {
    format!("/{deployment}/")
}

/// Application Auto Scaling's id of an ECS service.
pub fn scaling_resource(cluster: &str, location: &str) -> String {
    format!("service/{cluster}/{}", service(location))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_fit_what_aws_takes() {
        let (deployment, name) = ("d".repeat(DEPLOYMENT_LENGTH), "r".repeat(40));
        assert!(codeloc_crds::LocationName::new(&name).is_ok());
        assert!(codeloc_crds::LocationName::new(&format!("{name}r")).is_err());
        assert_eq!(service(&name).len(), LONGEST_SERVICE);
        let hash = "f".repeat(16);
        // By the API references of the services.
        let limits = [
            ("IAM role", role(&deployment, &name), 64),
            ("IAM role that starts tasks", execution_role(&deployment, &name), 64),
            ("IAM path", role_path(&deployment), 512),
            ("ECS service", service(&name), 255),
            ("label in DNS", service(&name), 63),
            ("Cloud Map's CreatorRequestId", creator_request(&deployment, &name), 64),
            ("log group", log_group(&deployment, &name), 512),
            ("ECR repository", image_repository(&deployment, &name), 256),
            ("task definition family", task_family(&deployment, &name), 255),
            ("family of runs", run_family(&deployment, &name, &hash), 255),
            ("scalable target", scaling_resource(&"c".repeat(255), &name), 1600),
        ];
        for (what, name, most) in limits {
            assert!(name.len() <= most, "{what}: {name} has {} of {most} characters", name.len());
        }
    }
}

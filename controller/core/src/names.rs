//! The names of AWS resources, which codeloc derives from the names of the deployment and the location.
//!
//! Guarantees: a location's name has at most 40 characters and a deployment's id at most 20, so AWS accepts every one of these names.

use codeloc_crds::LocationName;

/// The maximum length of a deployment's id.
pub const DEPLOYMENT_LENGTH: usize = 20;

const SERVICE_SUFFIX: &str = "-service";

/// The length of the service name of a location whose name has the maximum length.
pub const LONGEST_SERVICE: usize = 40 + SERVICE_SUFFIX.len();

/// The name of both the ECS service and the Cloud Map service, and the host part of the location's address.
pub fn service(location: &LocationName) -> String {
    format!("{location}{SERVICE_SUFFIX}")
}

/// Nothing for a service that no location can have.
pub fn location_of_service(service: &str) -> Option<LocationName> {
    location(service.strip_suffix(SERVICE_SUFFIX)?)
}

/// The location of the name of a resource without the prefix. Nothing for a name that codeloc gives to no resource.
pub fn location(name: &str) -> Option<LocationName> {
    LocationName::new(name).ok()
}

/// The idempotency key of a Cloud Map service, by its name. Neither part contains a slash, so it is unique in the account.
pub fn creator_request(deployment: &str, service: &str) -> String {
    format!("{deployment}/{}", service.strip_suffix(SERVICE_SUFFIX).unwrap_or(service))
}

/// The S3 prefix of codeloc's own objects: the lease and the build cache.
pub fn own_prefix(deployment: &str) -> String {
    format!("codeloc/{deployment}")
}

pub fn log_group(deployment: &str, location: &LocationName) -> String {
    format!("{}{location}", log_group_prefix(deployment))
}

pub fn log_group_prefix(deployment: &str) -> String {
    format!("/{deployment}/locations/")
}

pub fn image_repository(deployment: &str, location: &LocationName) -> String {
    format!("{}{location}", image_repository_prefix(deployment))
}

pub fn image_repository_prefix(deployment: &str) -> String {
    format!("{deployment}/")
}

pub fn task_family(deployment: &str, location: &LocationName) -> String {
    format!("{}{location}", task_family_prefix(deployment))
}

pub fn task_family_prefix(deployment: &str) -> String {
    format!("{deployment}-")
}

/// The family of isolated builds. `DEPLOYMENT-build` would be the family of a location with the name `build`.
pub fn build_family(deployment: &str) -> String {
    format!("{deployment}_build")
}

/// Separates location and hash in the family of a run definition. A location's name has no underscore.
const RUN: &str = "_run_";

/// The family of a run definition with this content hash. A queued run keeps its definition, and codeloc registers a lost one again under
/// the name that code servers pass on.
pub fn run_family(deployment: &str, location: &LocationName, hash: &str) -> String {
    format!("{}{hash}", run_family_prefix(deployment, location))
}

pub fn run_family_prefix(deployment: &str, location: &LocationName) -> String {
    format!("{}{RUN}", task_family(deployment, location))
}

/// The location of a family without the deployment's prefix, and the hash of a run definition. Nothing for a family that no location can
/// have.
pub fn location_of_family(family: &str) -> Option<(LocationName, Option<&str>)> {
    let (name, hash) = match family.split_once(RUN) {
        Some((name, hash)) => (name, Some(hash)),
        None => (family, None),
    };
    Some((location(name)?, hash))
}

pub fn role(deployment: &str, location: &LocationName) -> String {
    format!("{}{location}", role_prefix(deployment))
}

pub fn role_prefix(deployment: &str) -> String {
    format!("{deployment}-")
}

/// A location's name has no underscore. Short, because IAM accepts 64 characters: the longest name has 63.
const EXECUTION: &str = "_x";

pub fn execution_role(deployment: &str, location: &LocationName) -> String {
    format!("{}{EXECUTION}", role(deployment, location))
}

/// The location of a role without the deployment's prefix, and whether it is the execution role. Nothing for a role that no location can
/// have.
pub fn location_of_role(role: &str) -> Option<(LocationName, bool)> {
    let (name, executes) = role.strip_suffix(EXECUTION).map_or((role, false), |name| (name, true));
    Some((location(name)?, executes))
}

/// The path of all roles, to which an administrator can limit codeloc's permissions.
pub fn role_path(deployment: &str) -> String {
    format!("/{deployment}/")
}

/// The id of an ECS service in Application Auto Scaling.
pub fn scaling_resource(cluster: &str, location: &LocationName) -> String {
    format!("service/{cluster}/{}", service(location))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::NAME;

    #[test]
    fn aws_accepts_the_longest_names() {
        let (deployment, name) = ("d".repeat(DEPLOYMENT_LENGTH), LocationName::new(&"r".repeat(40)).unwrap());
        assert!(LocationName::new(&format!("{name}r")).is_err());
        assert_eq!(service(&name).len(), LONGEST_SERVICE);
        let hash = "f".repeat(16);
        // From the API references of the services.
        let limits = [
            ("IAM role", role(&deployment, &name), 64),
            ("IAM execution role", execution_role(&deployment, &name), 64),
            ("IAM path", role_path(&deployment), 512),
            ("ECS service", service(&name), 255),
            ("DNS label", service(&name), 63),
            ("Cloud Map CreatorRequestId", creator_request(&deployment, &service(&name)), 64),
            ("log group", log_group(&deployment, &name), 512),
            ("ECR repository", image_repository(&deployment, &name), 256),
            ("task definition family", task_family(&deployment, &name), 255),
            ("run definition family", run_family(&deployment, &name, &hash), 255),
            ("scalable target", scaling_resource(&"c".repeat(255), &name), 1600),
        ];
        for (kind, name, limit) in limits {
            assert!(name.len() <= limit, "{kind}: {name} has {} of {limit} characters", name.len());
        }
    }

    #[test]
    fn the_location_is_in_the_names() {
        let name = &*NAME;
        assert_eq!(location_of_service(&service(name)).as_ref(), Some(name));
        assert_eq!(location_of_service("-service"), None);
        let family = run_family("codeloc", name, "abc");
        let family = family.strip_prefix(&task_family_prefix("codeloc")).unwrap();
        assert_eq!(location_of_family(family), Some((name.clone(), Some("abc"))));
        assert_eq!(location_of_family("orders"), Some((name.clone(), None)));
        assert_eq!(location_of_role("orders"), Some((name.clone(), false)));
        assert_eq!(location_of_role("orders_x"), Some((name.clone(), true)));
    }
}

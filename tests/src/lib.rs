//! Shared test support. [`TestDeployment`] runs a deployment in one process: the real controller and AWS SDK on an in-process
//! localcloud. Under tokio's paused clock, a day takes seconds. Git, builder, code servers and webserver are simulated.

mod deployment;
mod fakes;
pub mod imports;
pub mod interceptor;
pub mod moto;
mod normalized;
pub mod policies;
pub mod processes;
pub mod runs;
pub mod sandbox;
pub mod simulation;
pub mod stack;

use std::path::PathBuf;

use codeloc::settings::Settings;
use codeloc_aws::resources::role::PAGE;
use codeloc_crds::LocationName;

pub use deployment::{Simulated, TestDaemon, TestDeployment};
pub use fakes::{Branches, Builds, CloudCodeServer, CloudWebserver, built_image, commit_id};
pub use normalized::normalized;

/// The shortest valid config.
pub fn config(name: &str) -> String {
    format!("name: {name}\ngit_url: https://git.test/{name}.git\nmodule: {}.definitions\n", name.replace('-', "_"))
}

/// The name of a location.
pub fn location_name(name: &str) -> LocationName {
    LocationName::new(name).expect("a valid name")
}

/// Names for this number of locations.
pub fn names(number: usize) -> Vec<String> {
    (0..number).map(|number| format!("location{number:04}")).collect()
}

/// A call that only sweeps make: once per page of [`PAGE`] roles.
pub const SWEEP_CALL: &str = "GetAccountAuthorizationDetails";

/// How often a sweep of this number of locations makes [`SWEEP_CALL`].
pub fn role_pages(locations: usize) -> usize {
    locations.div_ceil(usize::try_from(PAGE).expect("a page has roles"))
}

/// The settings of a test deployment.
pub fn settings(workspace_file: PathBuf) -> Settings {
    let mut settings = Settings::default();
    "platform".clone_into(&mut settings.aws.bucket);
    settings.aws.subnets = vec!["subnet-a".to_owned()];
    settings.aws.security_groups = vec!["sg-a".to_owned()];
    "arn:aws:iam::123456789012:role/execution".clone_into(&mut settings.aws.execution_role_arn);
    settings.dagster.workspace_file = workspace_file;
    settings
}

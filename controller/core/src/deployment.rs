//! The part of AWS that all locations of a deployment share.

use std::collections::BTreeMap;

use crate::ids::Arn;

/// codeloc reads it at startup from the settings and from AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// This deployment's id: the value of the ownership tag and the prefix of every name.
    pub id: String,
    /// `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: String,
    pub account: String,
    pub region: String,
    pub cluster: String,
    /// Cloud Map namespace: id, and its DNS name.
    pub namespace_id: String,
    pub namespace: String,
    pub bucket: String,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub assign_public_ip: bool,
    pub execution_role_arn: Arn,
    pub permissions_boundary: Option<Arn>,
    pub log_retention_days: i32,
    /// Days for which codeloc keeps an image that no definition names.
    pub image_grace_days: u32,
    /// Hours for which codeloc waits for the runs of a removed location before it deletes what they use.
    pub run_wait_hours: u32,
    /// The code server's port.
    pub port: u16,
    pub address: Address,
    /// Variables of every code server and run.
    pub environment: BTreeMap<String, String>,
    /// Variables of every code server and run that ECS fills from secrets: the ARN by variable.
    pub secrets: BTreeMap<String, String>,
    /// Whether codeloc builds images for its own machine instead of the config's architecture.
    pub host_platform: bool,
}

/// How Dagster reaches a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// By a name with `{service}` and `{namespace}` in it; the default is `{service}.{namespace}`.
    Dns { template: String },
    /// By the address in Cloud Map, for a Dagster that cannot use the DNS of the VPC.
    Discovered,
}

//! What all locations of a deployment share: the place in AWS where they live.

use std::collections::BTreeMap;

/// Read once at start, from the settings and from AWS itself.
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
    pub execution_role_arn: String,
    pub permissions_boundary: Option<String>,
    pub log_retention_days: i32,
    /// Days for which an image stays that nothing names.
    pub image_grace_days: u32,
    /// The code server's port.
    pub port: u16,
    pub address: Address,
    /// Variables of every code server and run, and those that ECS fills from secrets: see the settings of the same names.
    pub environment: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, String>,
    /// Whether images are built for this machine instead of the config's architecture.
    pub host_platform: bool,
}

/// How Dagster reaches a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// By name. `{service}` and `{namespace}` are filled in; `{service}.{namespace}` unless set.
    Dns { template: String },
    /// By the address that Cloud Map has, for a Dagster outside the VPC's DNS.
    Discovered,
}

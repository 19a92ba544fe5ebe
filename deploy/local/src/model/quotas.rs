//! Quotas: the maximum number of resources in an account. A growing fleet reaches them before it reaches a rate limit.
//!
//! The vCPU quota of Fargate is not included: AWS adjusts it to the usage of the account.

/// The maximum number of each resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Of an account. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
    pub roles: usize,
    /// Managed policies attached to one role, from the same page.
    pub policies_of_role: usize,
    /// Of an account and region. <https://docs.aws.amazon.com/cloud-map/latest/dg/cloud-map-limits.html>
    pub namespaces: usize,
    /// Instances of all services of a namespace, from the same page.
    pub instances_of_namespace: usize,
    /// AWS does not raise this quota; from the same page.
    pub instances_of_registry: usize,
    /// ACTIVE and DRAINING ones. <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/service-quotas.html>
    pub services_of_cluster: usize,
    /// Addresses of a subnet. The largest subnet is a /16, and AWS reserves five addresses.
    /// <https://docs.aws.amazon.com/vpc/latest/userguide/subnet-sizing.html>
    pub addresses: usize,
    /// Scalable targets of ECS services.
    /// <https://docs.aws.amazon.com/autoscaling/application/userguide/application-auto-scaling-quotas.html>
    pub scalable_targets: usize,
    /// AWS does not raise this quota; from the same page.
    pub policies_of_target: usize,
    /// `CloudWatch` alarms. Each target-tracking policy creates two.
    /// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html>
    pub alarms: usize,
    /// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html>
    pub log_groups: usize,
    /// <https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html>
    pub image_repositories: usize,
}

impl Quotas {
    /// The default quotas of an account.
    pub const fn aws() -> Self {
        Self {
            roles: 1_000,
            policies_of_role: 10,
            namespaces: 50,
            instances_of_namespace: 2_000,
            instances_of_registry: 1_000,
            services_of_cluster: 5_000,
            addresses: 65_531,
            scalable_targets: 3_000,
            policies_of_target: 50,
            alarms: 5_000,
            log_groups: 1_000_000,
            image_repositories: 100_000,
        }
    }

    /// No quotas, for fleets beyond the defaults.
    pub const fn lifted() -> Self {
        Self {
            roles: usize::MAX,
            policies_of_role: usize::MAX,
            namespaces: usize::MAX,
            instances_of_namespace: usize::MAX,
            instances_of_registry: usize::MAX,
            services_of_cluster: usize::MAX,
            addresses: usize::MAX,
            scalable_targets: usize::MAX,
            policies_of_target: usize::MAX,
            alarms: usize::MAX,
            log_groups: usize::MAX,
            image_repositories: usize::MAX,
        }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self::aws()
    }
}

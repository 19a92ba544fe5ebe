//! Operations that share one token bucket in AWS.

use crate::operation::mutates;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    TaskDefinitionsModify,
    TaskDefinitionsRead,
    ServicesModify,
    ServicesRead,
    TasksRead,
    EcsTags,
    CloudMapList,
    CloudMapModify,
    CloudMapRead,
    IamWrite,
    IamRead,
    IamAccount,
    LogsCreate,
    LogsModify,
    LogsRead,
    LogsEvents,
    LogsSearch,
    EcrWrite,
    EcrRead,
    ScalingWrite,
    ScalingRead,
    Other,
}

impl Family {
    pub(super) const ALL: [Self; 22] = [
        Self::TaskDefinitionsModify,
        Self::TaskDefinitionsRead,
        Self::ServicesModify,
        Self::ServicesRead,
        Self::TasksRead,
        Self::EcsTags,
        Self::CloudMapList,
        Self::CloudMapModify,
        Self::CloudMapRead,
        Self::IamWrite,
        Self::IamRead,
        Self::IamAccount,
        Self::LogsCreate,
        Self::LogsModify,
        Self::LogsRead,
        Self::LogsEvents,
        Self::LogsSearch,
        Self::EcrWrite,
        Self::EcrRead,
        Self::ScalingWrite,
        Self::ScalingRead,
        Self::Other,
    ];

    /// The label of the family in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TaskDefinitionsModify => "TaskDefinitionsModify",
            Self::TaskDefinitionsRead => "TaskDefinitionsRead",
            Self::ServicesModify => "ServicesModify",
            Self::ServicesRead => "ServicesRead",
            Self::TasksRead => "TasksRead",
            Self::EcsTags => "EcsTags",
            Self::CloudMapList => "CloudMapList",
            Self::CloudMapModify => "CloudMapModify",
            Self::CloudMapRead => "CloudMapRead",
            Self::IamWrite => "IamWrite",
            Self::IamRead => "IamRead",
            Self::IamAccount => "IamAccount",
            Self::LogsCreate => "LogsCreate",
            Self::LogsModify => "LogsModify",
            Self::LogsRead => "LogsRead",
            Self::LogsEvents => "LogsEvents",
            Self::LogsSearch => "LogsSearch",
            Self::EcrWrite => "EcrWrite",
            Self::EcrRead => "EcrRead",
            Self::ScalingWrite => "ScalingWrite",
            Self::ScalingRead => "ScalingRead",
            Self::Other => "Other",
        }
    }

    /// The family of an operation, written as in IAM policies: `service:Operation`.
    pub fn of(operation: &str) -> Self {
        let (service, name) = operation.split_once(':').unwrap_or(("", operation));
        let reads = !mutates(operation);
        match (service, name) {
            ("ecs", "RegisterTaskDefinition" | "DeregisterTaskDefinition" | "DeleteTaskDefinitions") => {
                Self::TaskDefinitionsModify
            }
            ("ecs", "DescribeTaskDefinition" | "ListTaskDefinitions") => Self::TaskDefinitionsRead,
            ("ecs", "CreateService" | "UpdateService" | "DeleteService") => Self::ServicesModify,
            ("ecs", "DescribeServices" | "ListServices" | "ListServiceDeployments" | "DescribeServiceRevisions") => {
                Self::ServicesRead
            }
            ("ecs", "DescribeTasks" | "ListTasks") => Self::TasksRead,
            ("ecs", "TagResource" | "UntagResource" | "ListTagsForResource") => Self::EcsTags,
            ("servicediscovery", "ListServices" | "ListNamespaces") => Self::CloudMapList,
            ("servicediscovery", "ListInstances" | "GetService" | "GetOperation") => Self::CloudMapRead,
            ("servicediscovery", _) => Self::CloudMapModify,
            ("iam", "GetAccountAuthorizationDetails") => Self::IamAccount,
            ("iam", _) if reads => Self::IamRead,
            ("iam", _) => Self::IamWrite,
            ("logs", "CreateLogGroup" | "DeleteLogGroup") => Self::LogsCreate,
            ("logs", "DescribeLogGroups" | "DescribeLogStreams" | "ListTagsForResource") => Self::LogsRead,
            ("logs", "GetLogEvents") => Self::LogsEvents,
            // Only people's reads of logs use it, so they never delay reconciling.
            ("logs", "FilterLogEvents") => Self::LogsSearch,
            ("logs", _) => Self::LogsModify,
            ("ecr", _) if reads => Self::EcrRead,
            ("ecr", _) => Self::EcrWrite,
            ("application-autoscaling", _) if reads => Self::ScalingRead,
            ("application-autoscaling", _) => Self::ScalingWrite,
            _ => Self::Other,
        }
    }

    /// The burst in calls and the rate in calls per second before the first refusal.
    #[expect(clippy::match_same_arms, reason = "each figure is next to its own source")]
    pub(super) const fn initial(self) -> (f64, f64) {
        match self {
            // AWS support, in aws-actions/amazon-ecs-deploy-task-definition#502: 20 at once, then one a second.
            Self::TaskDefinitionsModify => (20.0, 1.0),
            // ECS, request throttling: bursts as documented; rates from memory.
            Self::TaskDefinitionsRead => (50.0, 20.0),
            Self::ServicesModify => (50.0, 5.0),
            Self::ServicesRead | Self::TasksRead => (100.0, 20.0),
            // aws-cloud-map-mcs-controller-for-k8s limits itself to these.
            Self::CloudMapList => (10.0, 2.0),
            Self::CloudMapModify => (50.0, 5.0),
            Self::CloudMapRead => (100.0, 50.0),
            // CloudWatch Logs quotas: 5 or 10 a second.
            Self::LogsCreate | Self::LogsModify | Self::LogsRead => (10.0, 5.0),
            // CloudWatch Logs quotas: an estimate, at least 10 a second.
            Self::LogsEvents => (10.0, 10.0),
            // AWS support, on throttling of CloudWatch Logs: 5 a second.
            Self::LogsSearch => (5.0, 5.0),
            // AWS gives no figures for these. A cautious start costs seconds, once.
            Self::EcsTags | Self::IamWrite | Self::ScalingWrite => (20.0, 5.0),
            Self::IamRead => (40.0, 10.0),
            Self::IamAccount => (5.0, 1.0),
            Self::EcrWrite => (10.0, 5.0),
            Self::EcrRead | Self::ScalingRead => (20.0, 10.0),
            Self::Other => (50.0, 20.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_listed_at_its_number() {
        for (index, family) in Family::ALL.into_iter().enumerate() {
            assert_eq!(family as usize, index);
        }
    }

    #[test]
    fn names_are_distinct_and_stable() {
        for family in Family::ALL {
            assert_eq!(family.name(), format!("{family:?}"), "renaming a variant must not rename the metric's label");
        }
    }

    #[test]
    fn operations_that_aws_counts_together_share_a_family() {
        for (operation, family) in [
            ("ecs:DeregisterTaskDefinition", Family::TaskDefinitionsModify),
            ("ecs:ListTaskDefinitions", Family::TaskDefinitionsRead),
            ("iam:GetAccountAuthorizationDetails", Family::IamAccount),
            ("iam:GetRole", Family::IamRead),
            ("iam:TagRole", Family::IamWrite),
            ("ecr:BatchGetImage", Family::EcrRead),
            ("ecr:BatchDeleteImage", Family::EcrWrite),
            ("logs:PutRetentionPolicy", Family::LogsModify),
            ("logs:GetLogEvents", Family::LogsEvents),
            ("logs:FilterLogEvents", Family::LogsSearch),
            ("s3:GetObject", Family::Other),
        ] {
            assert_eq!(Family::of(operation), family, "{operation}");
        }
    }
}

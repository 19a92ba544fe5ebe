//! The AWS services that localcloud has, and how the protocol of each differs.

use super::api_error::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AwsService {
    AutoScaling,
    CloudMap,
    CodeBuild,
    Ecr,
    Ecs,
    Iam,
    Logs,
    S3,
    Sts,
}

impl AwsService {
    pub const fn name(self) -> &'static str {
        match self {
            Self::AutoScaling => "application-autoscaling",
            Self::CloudMap => "servicediscovery",
            Self::CodeBuild => "codebuild",
            Self::Ecr => "ecr",
            Self::Ecs => "ecs",
            Self::Iam => "iam",
            Self::Logs => "logs",
            Self::S3 => "s3",
            Self::Sts => "sts",
        }
    }

    /// By the part before the dot in `X-Amz-Target`.
    pub fn by_target(prefix: &str) -> Option<Self> {
        match prefix {
            "AnyScaleFrontendService" => Some(Self::AutoScaling),
            "Route53AutoNaming_v20170314" => Some(Self::CloudMap),
            "CodeBuild_20161006" => Some(Self::CodeBuild),
            "AmazonEC2ContainerRegistry_V20150921" => Some(Self::Ecr),
            "AmazonEC2ContainerServiceV20141113" => Some(Self::Ecs),
            "Logs_20140328" => Some(Self::Logs),
            _ => None,
        }
    }

    pub fn by_query_version(version: &str) -> Option<Self> {
        match version {
            "2010-05-08" => Some(Self::Iam),
            "2011-06-15" => Some(Self::Sts),
            _ => None,
        }
    }

    /// The XML namespace of a query service.
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
            _ => "https://iam.amazonaws.com/doc/2010-05-08/",
        }
    }

    /// IAM and STS have one endpoint for all regions.
    pub const fn is_global(self) -> bool {
        matches!(self, Self::Iam | Self::Sts)
    }

    pub const fn speaks_xml(self) -> bool {
        matches!(self, Self::Iam | Self::Sts | Self::S3)
    }

    /// The error code of the service for invalid input.
    pub const fn invalid_input(self) -> &'static str {
        match self {
            Self::AutoScaling => "ValidationException",
            Self::CloudMap => "InvalidInput",
            Self::CodeBuild => "InvalidInputException",
            Self::Ecr | Self::Ecs | Self::Logs => "InvalidParameterException",
            Self::Iam | Self::Sts => "ValidationError",
            Self::S3 => "InvalidArgument",
        }
    }

    /// The error for a denied action.
    pub fn denied(self, operation: &str) -> ApiError {
        let code = if self.speaks_xml() || self == Self::S3 { "AccessDenied" } else { "AccessDeniedException" };
        let message = format!("User is not authorized to perform: {}:{operation}", self.name());
        ApiError::new(code, message).with_status(403)
    }

    /// The error for an operation that localcloud does not implement.
    pub fn unknown(self, operation: &str) -> ApiError {
        let code = if self.speaks_xml() { "InvalidAction" } else { "UnknownOperationException" };
        ApiError::new(code, format!("localcloud does not implement {}:{operation}", self.name()))
    }

    /// The error for a throttled call, as the service words it.
    pub fn throttled(self) -> ApiError {
        match self {
            Self::S3 => ApiError::new("SlowDown", "Please reduce your request rate.").with_status(503),
            Self::Iam | Self::Sts => ApiError::new("Throttling", "Rate exceeded"),
            Self::CloudMap => ApiError::new("RequestLimitExceeded", "Rate exceeded"),
            Self::AutoScaling | Self::CodeBuild | Self::Ecr | Self::Ecs | Self::Logs => {
                ApiError::new("ThrottlingException", "Rate exceeded")
            }
        }
    }
}

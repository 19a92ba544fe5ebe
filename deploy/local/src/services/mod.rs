//! One room per AWS service: its data, its operations, its refusals.

pub mod autoscaling;
pub mod cloudmap;
pub mod codebuild;
pub mod ecr;
pub mod ecs;
pub mod iam;
pub mod logs;
pub mod s3;
pub mod sts;

use serde_json::Value;

use crate::cloud::Cloud;
use crate::fault::{Fault, Reply};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
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

impl Service {
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

    /// By what stands before the dot in `X-Amz-Target`.
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

    /// IAM and STS answer for every region.
    pub const fn is_global(self) -> bool {
        matches!(self, Self::Iam | Self::Sts)
    }

    pub const fn speaks_xml(self) -> bool {
        matches!(self, Self::Iam | Self::Sts | Self::S3)
    }

    /// The code each service uses for input it cannot accept.
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
}

impl Service {
    /// The refusal of a call that nobody is allowed.
    pub fn denied(self, operation: &str) -> Fault {
        let code = if self.speaks_xml() || self == Self::S3 { "AccessDenied" } else { "AccessDeniedException" };
        let message = format!("User is not authorized to perform: {}:{operation}", self.name());
        Fault::new(code, message).with_status(403)
    }

    /// The refusal of a call for its rate, as each service words it.
    pub fn throttled(self) -> Fault {
        match self {
            Self::S3 => Fault::new("SlowDown", "Please reduce your request rate.").with_status(503),
            Self::Iam | Self::Sts => Fault::new("Throttling", "Rate exceeded"),
            Self::CloudMap => Fault::new("RequestLimitExceeded", "Rate exceeded"),
            Self::AutoScaling | Self::CodeBuild | Self::Ecr | Self::Ecs | Self::Logs => {
                Fault::new("ThrottlingException", "Rate exceeded")
            }
        }
    }
}

/// Runs an operation of any service but S3, whose answers are not documents.
pub fn run(cloud: &mut Cloud, service: Service, operation: &str, input: &Value) -> Reply {
    match service {
        Service::AutoScaling => autoscaling::run(cloud, operation, input),
        Service::CloudMap => cloudmap::run(cloud, operation, input),
        Service::CodeBuild => codebuild::run(cloud, operation, input),
        Service::Ecr => ecr::run(cloud, operation, input),
        Service::Ecs => ecs::run(cloud, operation, input),
        Service::Iam => iam::run(cloud, operation, input),
        Service::Logs => logs::run(cloud, operation, input),
        Service::Sts => sts::run(cloud, operation, input),
        Service::S3 => Err(unknown(service, operation)),
    }
}

/// An operation that AWS may have and localcloud has not.
pub fn unknown(service: Service, operation: &str) -> Fault {
    let code = if service.speaks_xml() { "InvalidAction" } else { "UnknownOperationException" };
    Fault::new(code, format!("localcloud does not answer {}:{operation}", service.name()))
}

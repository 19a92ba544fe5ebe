//! The input of a driver to run a task, and its reports.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One task to start.
#[derive(Clone, Debug)]
pub struct Launch {
    pub task_arn: String,
    pub family: String,
    pub containers: Vec<Container>,
    /// If set, the task stops for this reason before it runs.
    pub stops: Option<TransientStop>,
}

/// Transient reasons for which AWS stops a task before it runs. The next task can succeed. ECS counts the task as failed.
///
/// AWS publishes no list. The texts are those that Dagster's `EcsRunLauncher` and Airflow's `EcsRunTaskOperator` search for in
/// `stoppedReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransientStop {
    NetworkInterface,
    EphemeralStorage,
    PullTimeout,
    ServiceDiscovery,
    FreeAddresses,
}

impl TransientStop {
    pub const ALL: [Self; 5] = [
        Self::NetworkInterface,
        Self::EphemeralStorage,
        Self::PullTimeout,
        Self::ServiceDiscovery,
        Self::FreeAddresses,
    ];

    /// The task's `stoppedReason`.
    pub fn reason(self, launch: &Launch) -> String {
        match self {
            Self::NetworkInterface => "Timeout waiting for network interface provisioning to complete.".to_owned(),
            Self::EphemeralStorage => "Timeout waiting for EphemeralStorage provisioning to complete.".to_owned(),
            Self::PullTimeout => {
                let image = launch.containers.first().map_or("", |container| container.image.as_str());
                let host = image.split('/').next().unwrap_or_default();
                format!(
                    "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref \
                     {image}: failed to do request: Head \"https://{host}/v2/\": dial tcp: i/o timeout"
                )
            }
            Self::ServiceDiscovery => "Task failed to start: service discovery registration failed.".to_owned(),
            Self::FreeAddresses => "Unexpected EC2 error while attempting to Create Network Interface: \
                                    InsufficientFreeAddressesInSubnet: the subnet has insufficient free addresses"
                .to_owned(),
        }
    }

    /// Whether the container has started before: ECS registers a task between the start of its container and RUNNING, in the state
    /// ACTIVATING.
    /// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-lifecycle-explanation.html>
    pub fn is_after_start(self) -> bool {
        self == Self::ServiceDiscovery
    }

    /// From the launch until the stop. A guess: timeouts take minutes, a full subnet fails at once.
    pub const fn after(self) -> Duration {
        match self {
            Self::NetworkInterface | Self::EphemeralStorage => Duration::from_secs(180),
            Self::PullTimeout => Duration::from_secs(60),
            Self::ServiceDiscovery => Duration::from_secs(20),
            Self::FreeAddresses => Duration::from_secs(2),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    /// `registry/repository@sha256:…` or `registry/repository:tag`.
    pub image: String,
    pub entry_point: Vec<String>,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub working_directory: Option<String>,
    /// The port that the task registers in Cloud Map, and that the health check uses.
    pub port: Option<u16>,
    pub log: Option<LogTarget>,
    /// Between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct LogTarget {
    pub group: String,
    pub stream: String,
}

/// A report of a driver about a task.
#[derive(Clone, Debug)]
pub enum Report {
    /// Image and address are ready, and the container starts: PROVISIONING to PENDING.
    Pulled {
        task_arn: String,
    },
    /// The container runs at this address. `port` is set if it differs from the requested port.
    Running {
        task_arn: String,
        address: Ipv4Addr,
        port: Option<u16>,
    },
    /// The task's port accepts connections: container health is HEALTHY.
    Healthy {
        task_arn: String,
    },
    Log {
        group: String,
        stream: String,
        line: String,
    },
    /// The task ended by itself or was stopped. `exit_code` is absent if it never ran.
    Exited {
        task_arn: String,
        exit_code: Option<i32>,
        reason: String,
    },
}

/// Repository and reference of an image. The host is ignored: every image comes from the registry of localcloud.
pub fn split(image: &str) -> (&str, &str) {
    let path = match image.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => image,
    };
    if let Some((tagged, digest)) = path.split_once('@') {
        return (tagged.split_once(':').map_or(tagged, |(name, _)| name), digest);
    }
    path.split_once(':').unwrap_or((path, "latest"))
}

/// The message of ECS for an image that does not exist.
pub fn missing_image(image: &str) -> String {
    format!(
        "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref {image}: {image}: \
         not found"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_name_splits_into_repository_and_reference() {
        for (image, expected) in [
            ("127.0.0.1:4566/team/orders@sha256:ab", ("team/orders", "sha256:ab")),
            ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/orders:v1", ("orders", "v1")),
            ("localhost/orders:v1@sha256:ab", ("orders", "sha256:ab")),
            ("team/orders", ("team/orders", "latest")),
        ] {
            assert_eq!(split(image), expected);
        }
    }
}

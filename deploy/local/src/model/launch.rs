//! What a driver gets to run a task, and what it reports.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// One task to start: all that `RunTask` or a service's scheduler settled.
#[derive(Clone, Debug)]
pub struct Launch {
    pub task_arn: String,
    pub family: String,
    pub containers: Vec<Container>,
    /// It is not to run at all: it stops so.
    pub stops: Option<TransientStop>,
}

/// Why AWS stops a task before it runs though nothing is wrong with it: the next one may well run. To ECS it has failed like
/// any other task.
///
/// The words are those that others look for in `stoppedReason` (Dagster's `EcsRunLauncher`, Airflow's `EcsRunTaskOperator`);
/// AWS publishes no list.
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

    /// From the launch until the stop. A guess but for its order: timeouts take minutes, a full subnet tells at once.
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
    /// The port the task registers with in Cloud Map and is checked on.
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

/// What a driver says of a task it was given.
#[derive(Clone, Debug)]
pub enum Report {
    /// Image at hand, address settled, container about to start: PROVISIONING to PENDING.
    Pulled {
        task_arn: String,
    },
    /// The container runs: its own address, and the port it was given where that is not the one asked for.
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
    /// Ended by itself or because it was stopped. `exit_code` is absent when it never ran (image not found).
    Exited {
        task_arn: String,
        exit_code: Option<i32>,
        reason: String,
    },
}

/// Repository and reference of an image. Every image comes from our registry, whatever its host is called.
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

/// ECS's words for an image that its registry does not have.
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
    fn an_image_is_read_as_repository_and_reference_whatever_its_host() {
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

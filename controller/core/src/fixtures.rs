//! The deployment, location and images of this crate's tests.

use std::sync::LazyLock;

use codeloc_crds::{
    Architecture, CodePointer, GitReference, Health as HealthLimits, Location, LocationName, Resources, Scaling,
};

use crate::deployment::{Address, Deployment};
use crate::desired::{Desired, DesiredLocation};
use crate::ids::Commit;
use crate::image::{Image, ImageStatus, Load, LoadTarget};

pub static NAME: LazyLock<LocationName> = LazyLock::new(|| LocationName::new("orders").unwrap());

pub fn deployment() -> Deployment {
    Deployment {
        id: "codeloc".to_owned(),
        partition: "aws".to_owned(),
        account: "123456789012".to_owned(),
        region: "eu-central-1".to_owned(),
        cluster: "dagster".to_owned(),
        namespace_id: "ns-1".to_owned(),
        namespace: "dagster.internal".to_owned(),
        bucket: "platform".to_owned(),
        subnets: vec!["subnet-a".to_owned()],
        security_groups: vec!["sg-a".to_owned()],
        assign_public_ip: false,
        execution_role_arn: "arn:aws:iam::123456789012:role/execution".into(),
        permissions_boundary: None,
        log_retention_days: 30,
        image_grace_days: 7,
        run_wait_hours: 24,
        port: 4000,
        address: Address::Dns { template: "{service}.{namespace}".to_owned() },
        environment: [].into(),
        secrets: [].into(),
        host_platform: false,
    }
}

pub fn location(memory: u32, max_capacity: u32, tag: Option<String>) -> Location {
    Location {
        name: NAME.clone(),
        git_url: "https://github.com/acme/orders.git".to_owned(),
        reference: GitReference::Branch("main".to_owned()),
        subdirectory: None,
        code: CodePointer::Module("orders.definitions".to_owned()),
        attribute: None,
        python_version: None,
        image: None,
        image_policy: codeloc_crds::ImagePolicy::Pinned,
        dependencies: None,
        dockerfile: None,
        build_commands: vec![],
        resources: Resources { cpu: 256, memory, architecture: Architecture::Arm64 },
        run_resources: None,
        s3_prefix: "repos/orders".to_owned(),
        secrets: [].into(),
        access: codeloc_crds::Access::default(),
        environment: [("LEVEL".to_owned(), "1".to_owned())].into(),
        scaling: Scaling { min_capacity: 1, max_capacity, cpu_threshold: 70, memory_threshold: 80 },
        health: HealthLimits { start_seconds: 120, load_seconds: 120 },
        tags: tag.map(|tag| ("team".to_owned(), tag)).into_iter().collect(),
        adopt: false,
        mode: codeloc_crds::Mode::Enforce,
        protect: false,
    }
}

pub fn image(version: u8) -> Image {
    Image {
        reference: format!("registry/codeloc/orders@sha256:{version:064x}"),
        commit: Some(Commit::from(format!("{version:040x}"))),
        load: Load {
            target: LoadTarget::Module("orders.definitions".to_owned()),
            working_directory: "/opt/codeloc/code".to_owned(),
        },
        notes: vec![],
    }
}

/// A location with a valid config and this image.
pub fn present(config: &Location, image: &Image) -> Desired {
    with_image(config, ImageStatus::Ready(image.clone()))
}

pub fn with_image(config: &Location, image: ImageStatus) -> Desired {
    Desired::Present(Box::new(DesiredLocation { config: config.clone().into(), image, commit: None }))
}

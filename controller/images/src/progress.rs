//! The steps of a build, for the status page.

use std::fmt;

/// What a build does now. `Display` gives the text that users see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    FetchingCommit,
    /// Other builds of this machine run first.
    Waiting,
    /// `requirements` counts lines, not the packages that they resolve to.
    Resolving {
        requirements: usize,
    },
    Installing {
        packages: usize,
    },
    PackingPackages,
    PackingCode,
    Uploading,
    UploadingLayer {
        done_mib: u64,
        total_mib: u64,
    },
    /// An isolated build: what it builds, or what it does now.
    Isolated(String),
    /// A text of the program or service that builds a Dockerfile.
    Dockerfile(String),
}

/// Receives each step of a build.
pub type OnProgress<'a> = dyn Fn(Progress) + Send + Sync + 'a;

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FetchingCommit => formatter.write_str("fetching the commit"),
            Self::Waiting => formatter.write_str("waiting for another build to end"),
            Self::Resolving { requirements: 1 } => formatter.write_str("resolving 1 requirement"),
            Self::Resolving { requirements } => write!(formatter, "resolving {requirements} requirements"),
            Self::Installing { packages: 1 } => formatter.write_str("installing 1 package"),
            Self::Installing { packages } => write!(formatter, "installing {packages} packages"),
            Self::PackingPackages => formatter.write_str("packing the packages"),
            Self::PackingCode => formatter.write_str("packing the code"),
            Self::Uploading => formatter.write_str("uploading the image"),
            Self::UploadingLayer { done_mib, total_mib } => {
                write!(formatter, "uploading a layer: {done_mib} of {total_mib} MiB")
            }
            Self::Isolated(text) => write!(formatter, "isolated build: {text}"),
            Self::Dockerfile(text) => formatter.write_str(text),
        }
    }
}

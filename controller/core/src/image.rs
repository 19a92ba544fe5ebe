//! An image, and how Dagster loads the code in it.

use codeloc_crds::CodePointer;

/// Where the code lies in every image.
pub const CODE_FOLDER: &str = "/opt/codeloc/code";

/// A pushed image, and how its code is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `target@sha256:…`
    pub reference: String,
    /// What it was built from; absent where it was built elsewhere.
    pub commit: Option<String>,
    pub load: Load,
}

/// How `dagster api grpc` is pointed at the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub target: LoadTarget,
    /// Absolute path inside the image.
    pub working_directory: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadTarget {
    Module(String),
    /// Absolute path inside the image.
    File(String),
}

/// How far codeloc is on the way from a config to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageStatus {
    Ready(Image),
    /// The last known image, and why codeloc cannot look for a newer one.
    Stale {
        image: Image,
        reason: String,
    },
    /// codeloc has asked for the commit or the image.
    Resolving(String),
    /// The branch, tag or commit could not be resolved.
    Unresolved(String),
    /// The build's progress.
    Building(String),
    Failed(String),
}

impl ImageStatus {
    /// The image to run; absent while there is none.
    pub fn image(&self) -> Option<&Image> {
        match self {
            Self::Ready(image) | Self::Stale { image, .. } => Some(image),
            Self::Resolving(_) | Self::Unresolved(_) | Self::Building(_) | Self::Failed(_) => None,
        }
    }
}

/// How an image that was not built here is loaded: as the config says, from the folder that every image has.
pub fn load_of_given_image(code: &CodePointer) -> Load {
    let target = match code {
        CodePointer::Module(module) => LoadTarget::Module(module.clone()),
        CodePointer::PythonFile(file) => LoadTarget::File(format!("{CODE_FOLDER}/{}", file.trim_start_matches("./"))),
    };
    Load { target, working_directory: CODE_FOLDER.to_owned() }
}

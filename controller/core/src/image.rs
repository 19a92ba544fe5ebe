//! A container image, and how Dagster loads the code in it.

use codeloc_crds::CodePointer;

use crate::ids::Commit;

/// The folder of the code in every image.
pub const CODE_FOLDER: &str = "/opt/codeloc/code";

/// A pushed image, and how Dagster loads its code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `target@sha256:…`
    pub reference: String,
    /// The commit that codeloc built it from; absent for an image of the config.
    pub commit: Option<Commit>,
    pub load: Load,
    /// What the repository has and the image does not use.
    pub notes: Vec<String>,
}

/// The arguments of `dagster api grpc`.
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

/// The progress from a config to an image.
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

impl Image {
    /// The reference and the notes, for people.
    pub fn described(&self) -> String {
        std::iter::once(&self.reference).chain(&self.notes).map(String::as_str).collect::<Vec<_>>().join("; ")
    }
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

/// How Dagster loads an image that codeloc did not build: as the config says, from [`CODE_FOLDER`].
pub fn load_of_given_image(code: &CodePointer) -> Load {
    let target = match code {
        CodePointer::Module(module) => LoadTarget::Module(module.clone()),
        CodePointer::PythonFile(file) => LoadTarget::File(format!("{CODE_FOLDER}/{}", file.trim_start_matches("./"))),
    };
    Load { target, working_directory: CODE_FOLDER.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_given_image_is_below_the_code_folder() {
        let load = load_of_given_image(&CodePointer::PythonFile("./src/app.py".to_owned()));
        assert_eq!(load.target, LoadTarget::File("/opt/codeloc/code/src/app.py".to_owned()));
        assert_eq!(load.working_directory, CODE_FOLDER);
        let load = load_of_given_image(&CodePointer::Module("app".to_owned()));
        assert_eq!(load.target, LoadTarget::Module("app".to_owned()));
    }
}

//! The operator's settings for builds. Every setting that changes an image is part of its tag.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use oci_client::Reference;

use crate::disk::disk_error;
use crate::error::BuildError;
use crate::requirements::base_set;

/// Settings of an [`OciBuilder`](crate::OciBuilder).
#[derive(Clone, Debug)]
pub struct BuildSettings {
    /// Temporary files, git repositories, uv's cache, locks and packed layers. It may be lost at any time; then builds are
    /// slower.
    pub work: PathBuf,
    /// The `uv` program.
    pub uv: PathBuf,
    /// The interpreter that uv uses. If its minor version is that of the image, the layer contains `.pyc` files.
    pub python: Option<PathBuf>,
    /// The minor version of images whose config names none.
    pub default_python: String,
    pub base_image: BaseImage,
    /// Requirements of every image, for example `dagster==1.13.27`.
    pub requirements: Vec<String>,
    /// A constraints file that applies to every resolution.
    pub constraints: Option<PathBuf>,
    /// The package index to use instead of `PyPI`. It may contain credentials, so uv gets it as an environment variable.
    pub index_url: Option<String>,
    /// Further indexes, which come before the default one and which projects may name.
    pub indexes: Vec<PackageIndex>,
    /// The only index of a package or of a pattern such as `acme-*`, by name.
    pub exclusive_packages: BTreeMap<String, String>,
    /// A folder of wheels. Without `index_url` it is the only source of packages, for an air-gapped platform.
    pub find_links: Option<PathBuf>,
    /// The oldest glibc that images run on, for example `manylinux_2_28`.
    pub glibc_floor: String,
    pub platform: Platform,
    pub compression: Compression,
    pub limits: Limits,
    /// The maximum number of concurrent builds on this machine. Builds of Dockerfiles do not count.
    pub parallel: usize,
    /// The time limit of one run of uv.
    pub uv_timeout: Duration,
    /// How long a read from a registry may receive nothing. An upload may take this long plus its time at 256 KiB/s.
    pub registry_timeout: Duration,
}

impl BuildSettings {
    /// The default settings for a work folder.
    pub fn new(work: PathBuf) -> Self {
        Self {
            work,
            uv: PathBuf::from("uv"),
            python: None,
            default_python: "3.12".to_owned(),
            base_image: BaseImage::Scratch,
            requirements: Vec::new(),
            constraints: None,
            index_url: None,
            indexes: Vec::new(),
            exclusive_packages: BTreeMap::new(),
            find_links: None,
            glibc_floor: "manylinux_2_28".to_owned(),
            platform: Platform::Requested,
            compression: Compression::Zstd,
            limits: Limits::default(),
            parallel: 2,
            uv_timeout: Duration::from_mins(10),
            registry_timeout: Duration::from_mins(1),
        }
    }

    /// Checks everything that can be checked without a build. Errors are terminal.
    pub fn check(&self) -> Result<(), BuildError> {
        if self.platform == Platform::Host && self.python.is_none() {
            return Err(BuildError::terminal(
                "build.platform is `host`, which needs a Python interpreter; set build.compile_python",
            ));
        }
        base_set(&self.requirements)?;
        self.check_indexes()?;
        self.constraints_text()
            .map_err(|error| BuildError::terminal("cannot read build.constraints").caused_by(error))?;
        if let BaseImage::Reference(text) = &self.base_image {
            base_reference(text)?;
        }
        Ok(())
    }

    fn check_indexes(&self) -> Result<(), BuildError> {
        for index in &self.indexes {
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
            if index.name.is_empty() || !index.name.chars().all(is_plain) {
                return Err(BuildError::terminal(format!(
                    "build.indexes has the name `{}`; use letters, digits, `-` and `_`",
                    index.name
                )));
            }
            if !["https://", "http://"].iter().any(|scheme| index.url.starts_with(scheme))
                || index.url.contains([' ', '@'])
            {
                return Err(BuildError::terminal(format!(
                    "build.indexes.{} is not the URL of a package index; write https://HOST/PATH, and credentials into build.index_credentials",
                    index.name
                )));
            }
        }
        match self.exclusive_packages.values().find(|name| self.indexes.iter().all(|index| index.name != **name)) {
            Some(name) => Err(BuildError::terminal(format!(
                "build.exclusive_packages names the index {name}, which build.indexes does not have"
            ))),
            None => Ok(()),
        }
    }

    /// The text of the constraints file.
    pub(super) fn constraints_text(&self) -> Result<Option<String>, BuildError> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| disk_error(path, error));
        self.constraints.as_ref().map(read).transpose()
    }

    /// Makes every path absolute, because uv runs in temporary folders. A program name without a folder stays as it is.
    pub(super) fn with_absolute_paths(mut self) -> std::io::Result<Self> {
        let paths = [Some(&mut self.work), self.find_links.as_mut(), self.constraints.as_mut()];
        let programs = [Some(&mut self.uv), self.python.as_mut()];
        let with_folder = programs.into_iter().flatten().filter(|program| program.components().count() > 1);
        for path in paths.into_iter().flatten().chain(with_folder) {
            *path = std::path::absolute(&*path)?;
        }
        Ok(self)
    }
}

/// A package index of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageIndex {
    pub name: String,
    /// Without credentials.
    pub url: String,
    /// A file with one line `USER:PASSWORD`.
    pub credentials: Option<PathBuf>,
}

/// The image below codeloc's two layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseImage {
    /// No image, for runtimes that bring their own Python.
    Scratch,
    /// An image with a Python environment in `/opt/codeloc/env`. If it is a tag that moves, new images use the new one; an image that
    /// a location runs stays.
    Reference(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// The architecture and Python of the request.
    Requested,
    /// The architecture of this machine, and the version of [`BuildSettings::python`] unless the request names another one.
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Level 3. Measured on 739 MiB of packages: 9 s (gzip: 30 s), and a smaller result.
    Zstd,
    /// Level 6, for runtimes and lazy loaders that support only gzip.
    Gzip,
}

/// Limits of a commit, its packages and the caches.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub files: usize,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one path.
    pub path: usize,
    /// Bytes of all installed packages together, and of each file in them: a wheel of a few kilobytes can contain gigabytes
    /// of zeros.
    pub packages: u64,
    /// Bytes on disk of all caches together: git repositories, packed layers and uv's cache.
    pub caches: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 50_000, bytes: 512 << 20, path: 1024, packages: 8 << 30, caches: 10 << 30 }
    }
}

/// Parses the reference of a base image.
pub(super) fn base_reference(text: &str) -> Result<Reference, BuildError> {
    Reference::from_str(text).map_err(|error| {
        BuildError::terminal(format!("build.base_image {text} is not an image reference")).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_indexes_are_checked() {
        let check = |name: &str, url: &str, exclusive: &str| {
            let mut settings = BuildSettings::new(PathBuf::from("work"));
            settings.indexes = vec![PackageIndex { name: name.to_owned(), url: url.to_owned(), credentials: None }];
            settings.exclusive_packages = [("acme-*".to_owned(), exclusive.to_owned())].into();
            settings.check().map_err(|error| error.to_string())
        };
        check("acme", "https://host/simple", "acme").unwrap();
        assert!(check("a b", "https://host/simple", "a b").unwrap_err().contains("the name `a b`"));
        let secret = check("acme", "https://me:hunter2@host/simple", "acme").unwrap_err();
        assert!(secret.contains("index_credentials") && !secret.contains("hunter2"), "{secret}");
        assert!(check("acme", "https://host/simple", "other").unwrap_err().contains("the index other"));
    }

    #[test]
    fn paths_become_absolute_and_program_names_stay() {
        let mut settings = BuildSettings::new(PathBuf::from("work"));
        assert_eq!(settings.clone().with_absolute_paths().unwrap().uv, PathBuf::from("uv"));
        settings.uv = PathBuf::from(".local/uv");
        settings.python = Some(PathBuf::from("/usr/bin/python3"));
        settings.find_links = Some(PathBuf::from("wheels"));
        let here = std::path::absolute(".").unwrap();
        let settings = settings.with_absolute_paths().unwrap();
        assert_eq!(settings.work, here.join("work"));
        assert_eq!(settings.uv, here.join(".local/uv"));
        assert_eq!(settings.find_links, Some(here.join("wheels")));
        assert_eq!(settings.python, Some(PathBuf::from("/usr/bin/python3")));
    }
}

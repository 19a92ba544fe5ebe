//! What an operator decides about builds; everything here that can change an image is part of its tag.

use std::{path::PathBuf, time::Duration};

use super::BuildError;
use super::dependencies::{base_set, constraints};
use super::oci::base_reference;

/// Settings of an [`OciBuilder`](super::OciBuilder).
#[derive(Clone, Debug)]
pub struct BuildSettings {
    /// Spool, git caches, uv's cache, resolved locks and packed layers. May be lost at any time: builds get slower only.
    pub work: PathBuf,
    /// The `uv` program.
    pub uv: PathBuf,
    /// An interpreter. uv runs on it, and where its minor version is the image's, `.pyc` files go into the layer.
    pub python: Option<PathBuf>,
    pub base_image: BaseImage,
    /// Requirements every image gets, for example `dagster==1.13.27`.
    pub requirements: Vec<String>,
    /// A constraints file of the platform, applied to every resolution.
    pub constraints: Option<PathBuf>,
    /// The package index in place of `PyPI`. May carry credentials: it reaches uv through the environment only.
    pub index_url: Option<String>,
    /// A folder of wheels. Without `index_url` nothing else is asked (an air-gapped platform).
    pub find_links: Option<PathBuf>,
    /// The oldest glibc that images run on, for example `manylinux_2_28`.
    pub glibc_floor: String,
    pub platform: Platform,
    pub compression: Compression,
    pub limits: Limits,
    /// Builds that run at the same time.
    pub parallel: usize,
    /// Time limit of one run of uv.
    pub uv_timeout: Duration,
    /// Time limit of one silent read from a registry; uploads have it on top of what 256 KiB a second take.
    pub registry_timeout: Duration,
}

impl BuildSettings {
    /// Settings that need no decision, around a work folder.
    pub fn new(work: PathBuf) -> Self {
        Self {
            work,
            uv: PathBuf::from("uv"),
            python: None,
            base_image: BaseImage::Scratch,
            requirements: Vec::new(),
            constraints: None,
            index_url: None,
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
}

impl BuildSettings {
    /// What can be said of them before anything is built. Errors are [`BuildError::Terminal`].
    pub fn check(&self) -> Result<(), BuildError> {
        if self.platform == Platform::Host && self.python.is_none() {
            return Err(BuildError::Terminal(
                "images for this machine need its Python: set build.compile_python".to_owned(),
            ));
        }
        base_set(&self.requirements)?;
        constraints(self.constraints.as_deref())
            .map_err(|error| BuildError::Terminal(format!("build.constraints cannot be read: {error}")))?;
        if let BaseImage::Reference(text) = &self.base_image {
            base_reference(text)?;
        }
        Ok(())
    }

    /// With every path absolute: uv runs in folders of its own. A bare program name stays one.
    pub(super) fn rooted(mut self) -> std::io::Result<Self> {
        let paths = [Some(&mut self.work), self.find_links.as_mut(), self.constraints.as_mut()];
        let programs = [Some(&mut self.uv), self.python.as_mut()];
        let with_folder = programs.into_iter().flatten().filter(|program| program.components().count() > 1);
        for path in paths.into_iter().flatten().chain(with_folder) {
            *path = std::path::absolute(&*path)?;
        }
        Ok(self)
    }
}

/// What lies below our two layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseImage {
    /// Nothing: for runners that bring their own Python.
    Scratch,
    /// An image whose `/opt/codeloc/env` is a Python environment, best named by digest: a tag that moves is not noticed
    /// until something else asks for a new image.
    Reference(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// The architecture and Python of the request.
    Requested,
    /// This machine's own architecture and the Python of [`BuildSettings::python`], whatever is requested.
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Level 3. Measured on 739 MiB of packages: 9 s, against 30 s of gzip, and smaller.
    Zstd,
    /// Level 6, for runtimes and lazy loaders that know nothing else.
    Gzip,
}

/// Bounds on what a commit may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub files: usize,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one path.
    pub path: usize,
    /// Bytes of all installed packages together, and so of any one file of them: a wheel of a few kilobytes can hold
    /// gigabytes of zeros.
    pub packages: u64,
    /// Bytes on disk of all that builds keep for the next ones, together: git's caches, packed layers and uv's cache.
    pub caches: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { files: 50_000, bytes: 512 << 20, path: 1024, packages: 8 << 30, caches: 10 << 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_program_names_stay() {
        let mut settings = BuildSettings::new(PathBuf::from("work"));
        assert_eq!(settings.clone().rooted().unwrap().uv, PathBuf::from("uv"));
        settings.uv = PathBuf::from(".local/uv");
        settings.python = Some(PathBuf::from("/usr/bin/python3"));
        settings.find_links = Some(PathBuf::from("wheels"));
        let here = std::path::absolute(".").unwrap();
        let settings = settings.rooted().unwrap();
        assert_eq!(settings.work, here.join("work"));
        assert_eq!(settings.uv, here.join(".local/uv"));
        assert_eq!(settings.find_links, Some(here.join("wheels")));
        assert_eq!(settings.python, Some(PathBuf::from("/usr/bin/python3")));
    }
}

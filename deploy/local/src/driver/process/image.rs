//! A pushed image as a folder: its layers over a virtual environment of the machine's Python.
//!
//! Every layer is unpacked once (`layers/HEX`), and every image is assembled once (`images/HEX/rootfs`). Both are renamed into
//! place when complete, and reused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::Deserialize;

use super::layer::{self, LayerError, Share};
use super::python::{self, PythonError};
use crate::model::launch::split;
use crate::registry::{Descriptor, Document, Manifest, Registry};

/// Annotation of codeloc's layers: `dependencies` or `code`. Layers of the base have none.
const LAYER: &str = "codeloc.layer";
/// Label of the Python version of the environment: `3.N`.
const PYTHON: &str = "codeloc.python";
const ENVIRONMENT: &str = "opt/codeloc/env";
/// The folder of codeloc's own package in base images.
const PLATFORM: &str = "opt/codeloc/platform";

#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error("failed to resolve ref {0}: not found")]
    NotFound(String),
    #[error("cannot read the manifest of {image}: {why}")]
    Manifest { image: String, why: String },
    #[error("{image} has no label {PYTHON} in its config: only images built by codeloc can run as processes")]
    Foreign { image: String },
    #[error("the blob {0} is not in the registry")]
    BlobMissing(String),
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error("{python} cannot create a virtual environment: {output}")]
    Environment { python: PathBuf, output: String },
    #[error("layer {digest}: {source}")]
    Layer { digest: String, source: LayerError },
    #[error("cannot use {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { path, source }
}

/// An image ready to run, with the defaults of its config.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) rootfs: PathBuf,
    pub(super) entry_point: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) working_directory: String,
}

impl Image {
    /// The programs of the environment, first in PATH.
    pub(super) fn programs(&self) -> PathBuf {
        self.rootfs.join(ENVIRONMENT).join("bin")
    }

    pub(super) fn python(&self) -> PathBuf {
        self.programs().join("python")
    }
}

#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
    #[serde(default)]
    config: Defaults,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Defaults {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

/// Assembles images.
pub(super) struct Store {
    folder: PathBuf,
    registry: Arc<Registry>,
    search_path: OsString,
    pythons: Vec<PathBuf>,
    platform: Option<PathBuf>,
}

impl Store {
    pub(super) fn new(
        folder: &Path,
        registry: Arc<Registry>,
        search_path: OsString,
        pythons: Vec<PathBuf>,
        platform: Option<PathBuf>,
    ) -> Self {
        Self { folder: folder.to_owned(), registry, search_path, pythons, platform }
    }

    /// Assembles the folder of an image from the registry. Blocks while layers are unpacked. Not for concurrent
    /// calls.
    pub(super) fn prepare(&self, image: &str) -> Result<Image, ImageError> {
        let (name, reference) = split(image);
        let (manifest, document) = self.resolve(image, name, reference)?;
        let unreadable = |why: String| ImageError::Manifest { image: image.to_owned(), why };
        let config = document.config.as_ref().ok_or_else(|| unreadable("it has no config".to_owned()))?;
        let config = fs::read(self.blob(&config.digest)?).map_err(|error| unreadable(error.to_string()))?;
        let config: Config = serde_json::from_slice(&config).map_err(|error| unreadable(error.to_string()))?;
        if let Some(architecture) = config.architecture.as_deref().filter(|found| *found != architecture()) {
            tracing::warn!(
                image,
                architecture,
                "the image has another architecture than this machine: its compiled modules do not load"
            );
        }
        let defaults = config.config;
        let python = defaults.labels.as_ref().and_then(|labels| labels.get(PYTHON));
        let python = python.ok_or_else(|| ImageError::Foreign { image: image.to_owned() })?;
        let rootfs = self.rootfs(&manifest.digest, &document.layers, python)?;
        self.link_platform(&rootfs)?;
        let pairs = defaults.env.unwrap_or_default();
        Ok(Image {
            rootfs,
            entry_point: defaults.entrypoint.unwrap_or_default(),
            command: defaults.cmd.unwrap_or_default(),
            environment: pairs
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            working_directory: defaults.working_dir.unwrap_or_default(),
        })
    }

    /// The manifest of an image. An index resolves to the manifest for this machine, or else to its first.
    fn resolve(&self, image: &str, name: &str, reference: &str) -> Result<(Manifest, Document), ImageError> {
        let read = |reference: &str| {
            let not_found = || ImageError::NotFound(image.to_owned());
            let manifest = self.registry.manifest(name, reference).ok_or_else(not_found)?;
            let (document, _) = Document::parse(&manifest.bytes, Some(&manifest.media_type))
                .map_err(|why| ImageError::Manifest { image: image.to_owned(), why })?;
            Ok((manifest, document))
        };
        let (manifest, document) = read(reference)?;
        let ours = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|platform| platform.architecture == architecture())
        };
        match document.manifests.iter().find(ours).or_else(|| document.manifests.first()) {
            Some(entry) => read(&entry.digest),
            None => Ok((manifest, document)),
        }
    }

    fn rootfs(&self, digest: &str, layers: &[Descriptor], python: &str) -> Result<PathBuf, ImageError> {
        let images = self.folder.join("images");
        let place = images.join(hex_of(digest));
        let rootfs = place.join("rootfs");
        if rootfs.join(ENVIRONMENT).join("bin/python").exists() {
            return Ok(rootfs);
        }
        // The image is new, or its Python was removed from the machine.
        if place.exists() {
            fs::remove_dir_all(&place).map_err(at(&place))?;
        }
        let python = python::find(python, &self.search_path, &self.pythons)?;
        fs::create_dir_all(&images).map_err(at(&images))?;
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&images).map_err(at(&images))?;
        let building = partial.path().join("rootfs");
        self.make_environment(&python, &building.join(ENVIRONMENT))?;
        for descriptor in layers {
            let share = match descriptor.annotations.get(LAYER).map(String::as_str) {
                Some("dependencies") => Share::Linked,
                Some("code") => Share::Copied,
                Some(_) | None => continue,
            };
            let layer = self.layer(descriptor)?;
            layer::overlay(&layer, &building, share).map_err(of(descriptor))?;
        }
        fs::rename(partial.path(), &place).map_err(at(&place))?;
        Ok(rootfs)
    }

    /// Links the package that the base image has. The link may be of an earlier run with another folder.
    fn link_platform(&self, rootfs: &Path) -> Result<(), ImageError> {
        let Some(platform) = &self.platform else { return Ok(()) };
        let link = rootfs.join(PLATFORM);
        if fs::read_link(&link).is_ok_and(|target| target == *platform) {
            return Ok(());
        }
        layer::clear(&link).map_err(|source| ImageError::Layer { digest: PLATFORM.to_owned(), source })?;
        std::os::unix::fs::symlink(platform, &link).map_err(at(&link))
    }

    /// Creates a virtual environment in place of the base image. It is moved afterwards; this breaks only its
    /// `activate` scripts, which are not used.
    fn make_environment(&self, python: &Path, target: &Path) -> Result<(), ImageError> {
        let output = Command::new(python)
            .args(["-I", "-m", "venv", "--without-pip"])
            .arg(target)
            .env("PATH", &self.search_path)
            .stdin(Stdio::null())
            .output()
            .map_err(at(python))?;
        if output.status.success() {
            return Ok(());
        }
        let output = [output.stdout, output.stderr].concat();
        let output = String::from_utf8_lossy(&output).trim().to_owned();
        Err(ImageError::Environment { python: python.to_owned(), output })
    }

    /// The folder of a layer, unpacked if necessary.
    fn layer(&self, descriptor: &Descriptor) -> Result<PathBuf, ImageError> {
        let layers = self.folder.join("layers");
        let place = layers.join(hex_of(&descriptor.digest));
        if place.is_dir() {
            return Ok(place);
        }
        let blob = self.blob(&descriptor.digest)?;
        fs::create_dir_all(&layers).map_err(at(&layers))?;
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&layers).map_err(at(&layers))?;
        layer::unpack(&blob, &descriptor.media_type, partial.path()).map_err(of(descriptor))?;
        fs::rename(partial.path(), &place).map_err(at(&place))?;
        Ok(place)
    }

    fn blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        self.registry.blob(digest).ok_or_else(|| ImageError::BlobMissing(digest.to_owned()))
    }
}

fn of(descriptor: &Descriptor) -> impl FnOnce(LayerError) -> ImageError {
    let digest = descriptor.digest.clone();
    move |source| ImageError::Layer { digest, source }
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// The architecture of this machine, as image configs name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

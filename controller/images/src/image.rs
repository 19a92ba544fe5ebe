//! Image config and manifest as bytes. Pure: they depend on the layers, the base image and the commit only.

use std::collections::BTreeMap;

use codeloc_core::ids::{Commit, Digest};
use codeloc_core::image::{Load, LoadTarget};
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use serde_json::{Map, Value, json};

use crate::digest::sha256;
use crate::error::BuildError;
use crate::layer::Layer;
use crate::uv::Target;

/// The folder of the Python environment in the base image. codeloc installs packages into it.
pub const ENVIRONMENT_FOLDER: &str = "/opt/codeloc/env";
/// The manifest annotation of codeloc's layers: `dependencies` or `code`.
pub const LAYER_ANNOTATION: &str = "codeloc.layer";

const LABEL_PYTHON: &str = "codeloc.python";
/// Interpreter and C library of a base image, such as `cp312-glibc2.36`.
const LABEL_ABI: &str = "codeloc.abi";
/// The base image has codeloc's own package in a folder that locations do not hide.
const LABEL_PLATFORM: &str = "codeloc.platform";
const LABEL_COMMIT: &str = "codeloc.commit";
const LABEL_LOCATION: &str = "codeloc.location";
const LABEL_LOAD: &str = "codeloc.load";
/// The key of the request without the digest of the base image; only if the setting names the base image by a tag.
const LABEL_REQUEST: &str = "codeloc.request";
/// A JSON list of the notes; only if there are some.
const LABEL_NOTES: &str = "codeloc.notes";
const LABEL_WORKING_DIRECTORY: &str = "codeloc.working-directory";
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image below codeloc's layers.
pub(super) struct Base {
    pub layers: Vec<OciDescriptor>,
    pub config: Vec<u8>,
}

/// The parts of an image.
pub(super) struct Assembly<'a> {
    pub base: Option<&'a Base>,
    pub dependencies: &'a Layer,
    pub code: &'a Layer,
    pub load: &'a Load,
    pub notes: &'a [String],
    pub architecture: &'a str,
    pub python: &'a str,
    pub location: &'a str,
    pub commit: &'a Commit,
    /// Seconds since 1970.
    pub commit_time: i64,
    /// The key of the request, if the tag of the base image can move.
    pub request_key: Option<&'a str>,
}

/// The small files of an image, which are pushed last.
pub(super) struct Assembled {
    pub config: Vec<u8>,
    pub config_digest: Digest,
    pub manifest: Vec<u8>,
}

impl Assembly<'_> {
    pub(super) fn assemble(&self) -> Result<Assembled, BuildError> {
        let config = self.config()?;
        let config_digest = sha256(&config);
        let mut layers: Vec<OciDescriptor> = self.base.map(|base| base.layers.clone()).unwrap_or_default();
        for layer in &mut layers {
            layer.media_type = oci_media_type(&layer.media_type);
        }
        for (name, layer) in [("dependencies", self.dependencies), ("code", self.code)] {
            layers.push(OciDescriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size: layer.size.cast_signed(),
                annotations: Some(BTreeMap::from([(LAYER_ANNOTATION.to_owned(), name.to_owned())])),
                ..OciDescriptor::default()
            });
        }
        let manifest = OciImageManifest {
            schema_version: 2,
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            config: OciDescriptor {
                media_type: IMAGE_CONFIG_MEDIA_TYPE.to_owned(),
                digest: config_digest.to_string(),
                size: config.len().cast_signed() as i64,
                ..OciDescriptor::default()
            },
            layers,
            subject: None,
            artifact_type: None,
            annotations: None,
        };
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|error| BuildError::terminal("cannot write the manifest").caused_by(error))?;
        Ok(Assembled { config, config_digest, manifest })
    }

    fn config(&self) -> Result<Vec<u8>, BuildError> {
        let invalid = || {
            BuildError::terminal(
                "the config of the base image is not a valid image config; set another build.base_image",
            )
        };
        let mut document: Map<String, Value> = match self.base {
            Some(base) => serde_json::from_slice(&base.config).map_err(|_| invalid())?,
            None => Map::new(),
        };
        let created = jiff::Timestamp::from_second(self.commit_time)
            .map_err(|error| BuildError::terminal("the time of the commit is out of range").caused_by(error))?
            .to_string();

        let mut config = take_object(&mut document, "config").ok_or_else(invalid)?;
        let variables = config.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
        config.insert("Env".to_owned(), environment(&variables));
        config.insert("WorkingDir".to_owned(), json!(self.load.working_directory));
        let mut labels = take_object(&mut config, "Labels").ok_or_else(invalid)?;
        let load = match &self.load.target {
            LoadTarget::Module(module) => format!("module:{module}"),
            LoadTarget::File(path) => format!("file:{path}"),
        };
        for (label, value) in [
            (LABEL_PYTHON, self.python),
            (LABEL_COMMIT, self.commit),
            (LABEL_LOCATION, self.location),
            (LABEL_LOAD, &load),
            (LABEL_WORKING_DIRECTORY, &self.load.working_directory),
        ] {
            labels.insert(label.to_owned(), json!(value));
        }
        if !self.notes.is_empty() {
            labels.insert(LABEL_NOTES.to_owned(), json!(json!(self.notes).to_string()));
        }
        if let Some(key) = self.request_key {
            labels.insert(LABEL_REQUEST.to_owned(), json!(key));
        }
        config.insert("Labels".to_owned(), Value::Object(labels));

        let mut diff_ids = match document.get("rootfs").map(|rootfs| &rootfs["diff_ids"]) {
            None => Vec::new(),
            Some(ids) => ids.as_array().ok_or_else(invalid)?.clone(),
        };
        if diff_ids.len() != self.base.map_or(0, |base| base.layers.len()) {
            return Err(invalid());
        }
        diff_ids.extend([json!(self.dependencies.diff_id), json!(self.code.diff_id)]);
        let mut history = document.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
        for name in ["dependencies", "code"] {
            history.push(json!({"created": created, "created_by": format!("codeloc {name}")}));
        }

        document.insert("created".to_owned(), json!(created));
        document.insert("architecture".to_owned(), json!(self.architecture));
        document.insert("os".to_owned(), json!("linux"));
        document.insert("config".to_owned(), Value::Object(config));
        document.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
        document.insert("history".to_owned(), Value::Array(history));
        Ok(Value::Object(document).to_string().into_bytes())
    }
}

/// Removes and returns the object under a key: empty if it is absent or null, `None` if it is not an object.
fn take_object(document: &mut Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    match document.shift_remove(key) {
        None | Some(Value::Null) => Some(Map::new()),
        Some(Value::Object(object)) => Some(object),
        Some(_) => None,
    }
}

/// The variables of the base image, with codeloc's environment first in `PATH`.
fn environment(variables: &[Value]) -> Value {
    let own = format!("{ENVIRONMENT_FOLDER}/bin");
    let mut all: Vec<String> = variables.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match all.iter_mut().find(|variable| variable.starts_with("PATH=")) {
        Some(path) if path["PATH=".len()..].split(':').next() == Some(&own) => {}
        Some(path) => *path = format!("PATH={own}:{}", &path["PATH=".len()..]),
        None => all.insert(0, format!("PATH={own}:{SEARCH_PATH}")),
    }
    // Python must not search the working directory first: a file `types.py` of the code would replace Python's own module.
    if !all.iter().any(|variable| variable.starts_with("PYTHONSAFEPATH=")) {
        all.push("PYTHONSAFEPATH=1".to_owned());
    }
    json!(all)
}

/// The OCI name of one of Docker's media types. The formats are equal, and an OCI manifest must use OCI names.
fn oci_media_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar".to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
        other => other.to_owned(),
    }
}

/// Checks that packages of a target work on a base image, by its architecture and by the labels of codeloc's base images. A
/// base image without labels is accepted. Therefore a new base image either fits the existing layers or is refused.
pub(super) fn check_base(config: &[u8], target: &Target) -> Result<(), String> {
    let document: Value = serde_json::from_slice(config).map_err(|_| "its config is not JSON".to_owned())?;
    let labels = &document["config"]["Labels"];
    let mismatch = |property: &str, actual: &str, required: &str| {
        Err(format!("it has {property} {actual}, and the packages need {required}"))
    };
    match document["architecture"].as_str() {
        Some(actual) if actual != target.architecture => return mismatch("architecture", actual, target.architecture),
        _ => {}
    }
    match labels[LABEL_PYTHON].as_str() {
        Some(actual) if actual != target.python => return mismatch("Python", actual, &target.python),
        _ => {}
    }
    let variables = document["config"]["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if variables.into_iter().any(|variable| variable.contains("codeloc_dagster")) && labels[LABEL_PLATFORM].is_null() {
        return Err("an older version of codeloc built it; build it again from deploy/images/code-location".to_owned());
    }
    let Some((interpreter, library)) = labels[LABEL_ABI].as_str().and_then(|abi| abi.split_once('-')) else {
        return Ok(());
    };
    let required = format!("cp{}", target.python.replace('.', ""));
    if interpreter != required {
        return mismatch("the interpreter", interpreter, &required);
    }
    let Some(floor) = target.platform.as_deref().and_then(|platform| platform.split_once("-manylinux_")) else {
        return Ok(());
    };
    let version = |text: &str, dot: char| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once(dot)?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let has = library.strip_prefix("glibc").and_then(|text| version(text, '.'));
    match (has, version(floor.1, '_')) {
        (Some(actual), Some(required)) if actual >= required => Ok(()),
        _ => mismatch("the C library", library, &format!("glibc{} or newer", floor.1.replace('_', "."))),
    }
}

/// Whether an image config is of an image that codeloc built for the request with this key.
pub(super) fn is_for_request(config: &[u8], key: &str) -> bool {
    serde_json::from_slice::<Value>(config).is_ok_and(|document| document["config"]["Labels"][LABEL_REQUEST] == key)
}

/// Reads [`Load`] and the notes from an image config that codeloc wrote.
pub(super) fn read_labels(config: &[u8]) -> Option<(Load, Vec<String>)> {
    let document: Value = serde_json::from_slice(config).ok()?;
    let labels = &document["config"]["Labels"];
    let notes = labels[LABEL_NOTES].as_str().and_then(|notes| serde_json::from_str(notes).ok()).unwrap_or_default();
    let target = match labels[LABEL_LOAD].as_str()?.split_once(':')? {
        ("module", module) => LoadTarget::Module(module.to_owned()),
        ("file", path) => LoadTarget::File(path.to_owned()),
        _ => return None,
    };
    Some((Load { target, working_directory: labels[LABEL_WORKING_DIRECTORY].as_str()?.to_owned() }, notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::expect_terminal;

    fn layer(name: &str) -> Layer {
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
        Layer {
            digest: Digest::from(format!("sha256:{name}")),
            diff_id: Digest::from(format!("sha256:{name}-diff")),
            size: 7,
            media_type,
        }
    }

    fn assembled(base: Option<&Base>) -> (Value, Value, Load) {
        let load =
            Load { target: LoadTarget::Module("a.b".to_owned()), working_directory: "/opt/codeloc/code".to_owned() };
        let (dependencies, code) = (layer("dependencies"), layer("code"));
        let assembly = Assembly {
            base,
            dependencies: &dependencies,
            code: &code,
            load: &load,
            notes: &["a note".to_owned()],
            architecture: "arm64",
            python: "3.12",
            location: "demo",
            commit: &Commit::from("c0ffee"),
            commit_time: 1_700_000_000,
            request_key: None,
        };
        let assembled = assembly.assemble().unwrap();
        assert_eq!(read_labels(&assembled.config), Some((load.clone(), vec!["a note".to_owned()])));
        (serde_json::from_slice(&assembled.config).unwrap(), serde_json::from_slice(&assembled.manifest).unwrap(), load)
    }

    #[test]
    fn a_base_image_must_fit_the_packages() {
        let target = Target {
            python: "3.12".to_owned(),
            architecture: "arm64",
            platform: Some("aarch64-manylinux_2_28".to_owned()),
            compiler: None,
        };
        let checked = |architecture: &str, python: &str, abi: &str| {
            let labels = json!({"codeloc.python": python, "codeloc.abi": abi});
            let config = json!({"architecture": architecture, "config": {"Labels": labels}});
            check_base(config.to_string().as_bytes(), &target)
        };
        assert_eq!(checked("arm64", "3.12", "cp312-glibc2.28"), Ok(()));
        assert_eq!(checked("arm64", "3.12", "cp312-glibc2.36"), Ok(()));
        for (architecture, python, abi, expected) in [
            ("amd64", "3.12", "cp312-glibc2.36", "it has architecture amd64, and the packages need arm64"),
            ("arm64", "3.13", "cp313-glibc2.36", "it has Python 3.13, and the packages need 3.12"),
            ("arm64", "3.12", "cp312t-glibc2.36", "it has the interpreter cp312t, and the packages need cp312"),
            (
                "arm64",
                "3.12",
                "cp312-glibc2.17",
                "it has the C library glibc2.17, and the packages need glibc2.28 or newer",
            ),
            (
                "arm64",
                "3.12",
                "cp312-musl1.2",
                "it has the C library musl1.2, and the packages need glibc2.28 or newer",
            ),
        ] {
            assert_eq!(checked(architecture, python, abi), Err(expected.to_owned()));
        }
        let unlabelled = json!({"config": {}}).to_string();
        assert_eq!(check_base(unlabelled.as_bytes(), &target), Ok(()));
    }

    #[test]
    fn a_base_image_of_an_older_version_is_refused() {
        let target = Target { python: "3.12".to_owned(), architecture: "arm64", platform: None, compiler: None };
        let config = |labels: Value| {
            let variables = ["DAGSTER_DEFAULT_IO_MANAGER_MODULE=codeloc_dagster.platform_io"];
            json!({"architecture": "arm64", "config": {"Env": variables, "Labels": labels}}).to_string()
        };
        assert!(check_base(config(json!({})).as_bytes(), &target).unwrap_err().contains("build it again"));
        check_base(config(json!({"codeloc.platform": "1"})).as_bytes(), &target).unwrap();
    }

    #[test]
    fn an_image_without_a_base_has_two_layers_and_its_labels() {
        let (config, manifest, _) = assembled(None);
        insta::assert_json_snapshot!([config, manifest]);
    }

    #[test]
    fn a_base_keeps_its_settings_and_lends_its_layers() {
        let base_layer = OciDescriptor {
            media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
            digest: "sha256:base".to_owned(),
            size: 9,
            ..OciDescriptor::default()
        };
        let base_config = json!({
            "architecture": "arm64", "os": "linux", "created": "x",
            "config": {"User": "1000", "Env": ["A=b", "PATH=/usr/bin"], "Labels": {"theirs": "kept"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:base-diff"]},
            "history": [{"created_by": "theirs"}],
        });
        let base = Base { layers: vec![base_layer.clone()], config: base_config.to_string().into_bytes() };
        let (config, manifest, _) = assembled(Some(&base));
        insta::assert_json_snapshot!([config, manifest]);
        let invalid = Base { layers: vec![base_layer.clone(), base_layer], config: base.config };
        let (dependencies, code, load) = (
            layer("d"),
            layer("c"),
            Load { target: LoadTarget::Module("a".to_owned()), working_directory: "/".to_owned() },
        );
        let assembly = Assembly {
            base: Some(&invalid),
            dependencies: &dependencies,
            code: &code,
            load: &load,
            notes: &["a note".to_owned()],
            architecture: "arm64",
            python: "3.12",
            location: "demo",
            commit: &Commit::from("c0ffee"),
            commit_time: 0,
            request_key: None,
        };
        assert!(expect_terminal(assembly.assemble().map(|_| ())).contains("base image"));
    }
}
